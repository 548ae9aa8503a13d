//! `treering import`: what others trained, taken back.

use std::path::{Path, PathBuf};

use serde::Serialize;
use treering::baseline::{Baseline, peft};
use treering::checkpoint::BaseCheckpoint;
use treering::export::import::{Ground, Imported, import};
use treering::export::widened::Widened;
use treering::grow::file::BaseReference;
use treering::hub::{self, HubName};
use treering::report::{Align, Table};
use treering::{Error, Result};

use super::growth::{describe_baseline, grouped, json, listing};
use super::open::{self, Place};

/// Version of the JSON.
const FORMAT_VERSION: u32 = 1;

/// Arguments of `treering import`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A widened model that `export --to hf` wrote, also after it was trained further in transformers; or a PEFT LoRA adapter
    source: PathBuf,
    /// The new folder: an expansion with what is within it, or an adapter tied to its base; eval, generate, grow, train and export read it
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The base it was made from [default: where it says that was]
    #[arg(long, value_name = "MODEL", conflicts_with = "with_base")]
    base: Option<PathBuf>,
    /// Take the base from the widened model's folder, into DIR/base, where the original is not at hand
    #[arg(long)]
    with_base: bool,
    /// Print one JSON object (docs/format.md)
    #[arg(long)]
    json: bool,
}

/// What the command prints.
#[derive(Serialize)]
struct Report<'a> {
    format_version: u32,
    path: &'a Path,
    source: &'a Path,
    #[serde(flatten)]
    found: Found,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Found {
    Widened(Imported),
    Adapter(Adapter),
}

#[derive(Serialize)]
struct Adapter {
    base: BaseReference,
    r: usize,
    lora_alpha: f64,
    target_modules: Vec<&'static str>,
    parameter_count: u64,
    /// For people.
    #[serde(skip)]
    words: String,
}

/// Imports.
pub fn run(args: Args) -> Result<()> {
    let args = Args { source: hub::local(&args.source)?.into_owned(), ..args };
    let found = match open::place(&args.source, None)? {
        Place::Adapter => Found::Adapter(adapter(&args)?),
        Place::Model => match Widened::open(&args.source)? {
            Some(widened) => Found::Widened(rings(&args, &widened)?),
            None => return Err(own(&args.source, "is a plain model")),
        },
        Place::Run(..) => return Err(own(&args.source, "is a run")),
        Place::Expansion => return Err(own(&args.source, "is an expansion")),
    };
    let report = Report { format_version: FORMAT_VERSION, path: &args.out, source: &args.source, found };
    super::print(if args.json { json(&report)? } else { text(&report) })
}

/// For what needs no importing.
fn own(source: &Path, what: &str) -> Error {
    Error::usage(format!(
        "{}: {what}, which eval, generate, grow and train read as it is\n  hint: import takes a widened model that `treering export` wrote, or a PEFT adapter",
        source.display()
    ))
}

fn rings(args: &Args, widened: &Widened) -> Result<Imported> {
    if args.with_base {
        return import(&args.source, widened, &Ground::Own, &args.out);
    }
    let recorded = &widened.provenance.base.path;
    let path = args.base.as_ref().unwrap_or(recorded);
    if !path.exists() && HubName::of(path)?.is_none() {
        return Err(Error::usage(format!(
            "{}: the base that {} was made from is not here\n  hint: --base says where it is now; --with-base takes it from the folder",
            path.display(),
            args.source.display()
        )));
    }
    import(&args.source, widened, &Ground::Base(&BaseCheckpoint::open(path)?), &args.out)
}

/// Writes the adapter with its base's path and hash, so that it is known from now on.
fn adapter(args: &Args) -> Result<Adapter> {
    if args.with_base {
        return Err(Error::usage(format!("--with-base: an adapter holds no base; --base says where that of {} is", args.source.display())));
    }
    let (base, baseline, parameters) = open::adapter(&args.source, args.base.as_deref())?;
    let words = describe_baseline(&baseline, base.config()).1;
    let Baseline::Lora(lora) = baseline else { return Err(Error::usage(format!("{}: holds no LoRA adapter", args.source.display()))) };
    let path = hub::absolute(base.path()).map_err(|error| Error::io(base.path(), error))?;
    peft::save(&args.out, &lora, &base, &path, &parameters)?;
    Ok(Adapter {
        base: BaseReference { path, sha256: base.sha256()? },
        r: lora.r,
        lora_alpha: lora.lora_alpha,
        target_modules: lora.target_modules.iter().map(|p| p.name()).collect(),
        parameter_count: parameters.iter().map(|p| p.value.len() as u64).sum(),
        words,
    })
}

fn text(report: &Report) -> String {
    let title = report.path.display().to_string();
    let base = |base: &BaseReference| [("base", base.path.display().to_string()), ("SHA-256", base.sha256.clone())];
    match &report.found {
        Found::Adapter(adapter) => {
            let rows = [("adapters", adapter.words.clone()), ("parameters", grouped(adapter.parameter_count))];
            listing("import", title, base(&adapter.base).into_iter().chain(rows)).trim_end().to_string()
        }
        Found::Widened(imported) => {
            let mut table = Table::new([
                ("ring", Align::Right),
                ("head", Align::Left),
                ("parameters", Align::Right),
                ("since it was exported", Align::Left),
                ("SHA-256", Align::Left),
                ("path", Align::Left),
            ]);
            for ring in &imported.rings {
                let changed = match (ring.unchanged, imported.rounded) {
                    (true, _) => "unchanged",
                    (false, true) => "rounded to bf16, or trained",
                    (false, false) => "trained",
                };
                let path = ring.path.display().to_string();
                table.row([
                    ring.ring.to_string(),
                    ring.head.to_string(),
                    grouped(ring.parameter_count),
                    changed.into(),
                    ring.sha256.clone(),
                    path,
                ]);
            }
            let text = format!("{}\n{}", listing("import", title, base(&imported.base)), table.to_text());
            text.trim_end().to_string()
        }
    }
}
