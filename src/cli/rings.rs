//! `treering rings`: which rings a model has, and one of them written to a folder of its own.

use std::path::PathBuf;

use serde::Serialize;
use treering::grow::file::{self, BaseReference, Expansion, Manifest};
use treering::grow::{Growth, Ring};
use treering::model::Head;
use treering::report::{Align, Table};
use treering::route::Recall;
use treering::train::Foundation;
use treering::{Error, Result};

use super::growth::{grouped, json, listing};
use super::open::{At, RingSource};

/// Version of the JSON.
const FORMAT_VERSION: u32 = 1;

/// Arguments of `treering rings`.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Say which rings a model has, where each is, and which head speaks for it; to drop the newest, open the one before it
    List(ModelArgs),
    /// Write one ring to a folder of its own, which names the base and the rings it stands on by their hashes
    Export(ExportArgs),
}

#[derive(Debug, clap::Args)]
struct ModelArgs {
    /// A run folder, one of its checkpoints, or an expansion
    model: PathBuf,
    #[command(flatten)]
    at: At,
    /// Print one JSON object (docs/format.md)
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct ExportArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Which ring, counted from 1 [default: the newest]
    #[arg(long, value_name = "NUMBER")]
    ring: Option<usize>,
    /// The new folder
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// What `list` prints.
#[derive(Serialize)]
struct ListReport<'a> {
    format_version: u32,
    path: &'a PathBuf,
    base: BaseReference,
    rings: Vec<RingReport>,
}

#[derive(Serialize)]
struct RingReport {
    ring: usize,
    head: Head,
    path: PathBuf,
    sha256: String,
    growth: Growth,
    parameter_count: u64,
}

/// What `export` prints.
#[derive(Serialize)]
struct ExportReport<'a> {
    format_version: u32,
    path: &'a PathBuf,
    ring: usize,
    sha256: &'a str,
    manifest: &'a Manifest,
}

/// Lists or exports.
pub fn run(args: Args) -> Result<()> {
    match args.command {
        Command::List(args) => list(&args),
        Command::Export(args) => export(&args),
    }
}

fn open(args: &ModelArgs) -> Result<Foundation> {
    let foundation = Foundation::open_at(&args.model, args.at.step, args.at.moved())?;
    if foundation.rings.is_empty() {
        return Err(Error::usage(format!(
            "{}: is a plain model without rings\n  hint: `treering grow` and `treering train` with a scale- method add one",
            args.model.display()
        )));
    }
    Ok(foundation)
}

fn values(ring: &Ring) -> u64 {
    ring.parameters.iter().map(|p| p.value.len() as u64).sum()
}

fn list(args: &ModelArgs) -> Result<()> {
    let foundation = open(args)?;
    let heads = Head::of_rings(foundation.rings.len());
    let report = |(index, ring): (usize, &Ring)| RingReport {
        ring: index + 1,
        head: heads[index + 1],
        path: ring.reference.path.clone(),
        sha256: ring.reference.sha256.clone(),
        growth: ring.growth.clone(),
        parameter_count: values(ring),
    };
    let rings: Vec<RingReport> = foundation.rings.iter().enumerate().map(report).collect();
    let report = ListReport { format_version: FORMAT_VERSION, path: &args.model, base: foundation.standing()?.base, rings };
    if args.json {
        return super::print(json(&report)?);
    }
    let rows = [("base", report.base.path.display().to_string()), ("SHA-256", report.base.sha256.clone())];
    let mut table = Table::new([
        ("ring", Align::Right),
        ("head", Align::Left),
        ("parameters", Align::Right),
        ("expansion to base", Align::Left),
        ("SHA-256", Align::Left),
        ("path", Align::Left),
    ]);
    for ring in &report.rings {
        let adapts = if ring.growth.placement.is_preserve(foundation.base.config()) { "nowhere" } else { "trained" };
        let path = ring.path.display().to_string();
        table.row([ring.ring.to_string(), ring.head.to_string(), grouped(ring.parameter_count), adapts.into(), ring.sha256.clone(), path]);
    }
    let text = format!("{}\n{}", listing("rings", args.model.display().to_string(), rows), table.to_text());
    super::print(text.trim_end())
}

fn export(args: &ExportArgs) -> Result<()> {
    let foundation = open(&args.model)?;
    let count = foundation.rings.len();
    let number = args.ring.unwrap_or(count);
    if number == 0 || number > count {
        return Err(Error::usage(format!("--ring {number}: this model has {count} rings, counted from 1")));
    }
    let ring = &foundation.rings[number - 1];
    let gone = || Error::usage(format!("{}: is no ring any more", ring.reference.path.display()));
    let source = RingSource::at(&ring.reference.path, None)?.ok_or_else(gone)?;
    let mut standing = foundation.standing()?;
    standing.rings.truncate(number - 1);
    let manifest = source.manifest(standing, ring);
    let expansion = Expansion { manifest, parameters: ring.parameters.clone() };
    file::save(&args.out, &expansion)?;
    // What it was taught goes where it goes; a gate belongs to the heads that it was trained between.
    if let Some(recall) = Recall::load(&ring.reference.path)? {
        recall.save(&args.out)?;
    }
    let sha256 = &ring.reference.sha256;
    let report = ExportReport { format_version: FORMAT_VERSION, path: &args.out, ring: number, sha256, manifest: &expansion.manifest };
    if args.model.json {
        return super::print(json(&report)?);
    }
    let rows = [("from", ring.reference.path.display().to_string()), ("parameters", grouped(values(ring))), ("SHA-256", sha256.clone())];
    super::print(listing(format!("ring {number}").as_str(), args.out.display().to_string(), rows).trim_end())
}
