//! `treering biography run`: stage after stage, then the figure.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use treering::biography::{Benchmark, Results, figure};
use treering::report::page;
use treering::{Error, Result};

use super::Choice;
use crate::cli::compare::write;
use crate::cli::progress::Display;
use crate::cli::train::stop_on_signals;

/// Arguments of `treering biography run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    choice: Choice,
    /// Where everything is written; the same command goes on with what is there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print one JSON object (docs/biography.md)
    #[arg(long)]
    json: bool,
    /// Where stderr is no terminal, write a line about progress every ten seconds
    #[arg(long, short)]
    verbose: bool,
}

/// Runs the benchmark.
pub fn run(args: Args) -> Result<()> {
    let setup = args.choice.setup()?;
    let methods = args.choice.methods()?;
    let stop = stop_on_signals()?;
    let check_stop = || {
        if stop.load(Ordering::Relaxed) { Err(Error::Interrupted("nothing was trained; the same command goes on".into())) } else { Ok(()) }
    };
    let benchmark = Benchmark::open(&args.out, setup, methods, args.choice.tasks, args.choice.set.clone(), &check_stop)?;
    let mut display = Display::new(args.verbose);
    let trained = train(&benchmark, &stop, &mut display);
    display.finish();
    // Also of what a stop left: the page shows how far it is.
    let results = Results::read(&benchmark)?;
    let json = report(&benchmark, &results, &args.out)?;
    trained?;
    if args.json { crate::cli::print(json) } else { crate::cli::print(text(&benchmark, &results)) }
}

fn train(benchmark: &Benchmark, stop: &AtomicBool, display: &mut Display) -> Result<()> {
    let stages = benchmark.stages();
    for (index, &stage) in stages.iter().enumerate() {
        let mut begun = false;
        benchmark.run(stage, stop, &mut |event| {
            if !begun {
                begun = true;
                display.begin(&format!("{} of {}: {}", index + 1, stages.len(), stage.title()));
            }
            display.show(event);
        })?;
    }
    Ok(())
}

/// Writes the results as JSON, as a page, and the page's table as Markdown.
fn report(benchmark: &Benchmark, results: &Results, out: &Path) -> Result<String> {
    let json = serde_json::to_string(results).map_err(|error| Error::usage(format!("the results cannot be written as JSON: {error}")))?;
    write(&out.join("results.json"), &(json.clone() + "\n"))?;
    write(&out.join("biography.html"), &page::render_alone(&figure::preface(benchmark, results)))?;
    write(&out.join("biography.md"), &(results.table(benchmark).to_markdown().trim_end().to_owned() + "\n"))?;
    Ok(json)
}

fn text(benchmark: &Benchmark, results: &Results) -> String {
    let mut text = format!("Share of questions whose answer's first token is right\n\n{}\n", results.table(benchmark).to_text().trim_end());
    if results.tasks > 1 {
        text += &format!("\n{}\n", results.continual_table(benchmark).to_text().trim_end());
    }
    for finding in results.findings() {
        text += &format!("\n{finding}");
    }
    text + &format!("\nwritten: biography.html, biography.md and results.json in {}", benchmark.out().display())
}
