//! `treering biography generate`: the data set as files.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;

use treering::data::biography::People;
use treering::data::biography::dataset::{self, Dataset, Format};
use treering::report::{Align, Table};
use treering::{Error, Result};

use crate::cli::growth::{bytes, grouped};
use crate::cli::progress::Display;
use crate::cli::train::stop_on_signals;

/// Arguments of `treering biography generate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many people
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    people: u64,
    /// Biographies of each
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    copies: u64,
    /// Seed of all of it: the same one gives the same files
    #[arg(long, default_value_t = 42, value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    seed: u64,
    /// Where the files are written
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Formats: jsonl, parquet, or both
    #[arg(long, value_name = "FORMAT,…", value_delimiter = ',', default_value = "jsonl,parquet")]
    format: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Where stderr is no terminal, write a line about progress every ten seconds
    #[arg(long, short)]
    verbose: bool,
}

/// Generates.
pub fn run(args: Args) -> Result<()> {
    let started = Instant::now();
    if let Some(unknown) = args.format.iter().find(|name| !Format::ALL.iter().any(|format| format.as_str() == **name)) {
        return Err(Error::usage(format!("--format: `{unknown}` is neither `jsonl` nor `parquet`")));
    }
    let formats: Vec<Format> = Format::ALL.into_iter().filter(|format| args.format.iter().any(|name| name == format.as_str())).collect();
    let people = People::generate(args.people, args.seed)?;
    let stop = stop_on_signals()?;
    let mut display = Display::new(args.verbose);
    let written = dataset::write(&args.out, &people, args.copies, &formats, &mut |done, total| {
        display.phase("writing", done, total, "");
        if stop.load(Ordering::Relaxed) {
            Err(Error::Interrupted("no half file is left; the same command starts again".into()))
        } else {
            Ok(())
        }
    });
    display.finish();
    let dataset = written?;
    if args.json {
        return crate::cli::print(serde_json::json!(dataset));
    }
    crate::cli::print(text(&args, &dataset, started.elapsed().as_secs_f64()))
}

fn text(args: &Args, dataset: &Dataset, seconds: f64) -> String {
    let mut table = Table::new([("file", Align::Left), ("rows", Align::Right), ("size", Align::Right), ("SHA-256", Align::Left)]);
    for file in &dataset.files {
        table.row([file.name.clone(), grouped(file.rows), bytes(file.bytes), file.sha256[..16].to_owned()]);
    }
    format!(
        "{} people with {} biographies each, seed {}, in {} ({seconds:.1} s)\n\n{}",
        grouped(dataset.people),
        dataset.copies,
        dataset.seed,
        args.out.display(),
        table.to_text().trim_end()
    )
}
