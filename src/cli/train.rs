//! `treering train`: a recipe to a run folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::Serialize;
use treering::error::IoContext;
use treering::recipe::Recipe;
use treering::report::{Align, Table};
use treering::train::metrics::{self, METRICS_FILE, Record};
use treering::train::session::{self, Start};
use treering::train::{Foundation, Outcome, RunFolder};
use treering::{Error, Result};

use super::progress::Display;

/// Arguments of `treering train`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The recipe, a TOML file (docs/recipe.md)
    recipe: PathBuf,
    /// Change a key of the recipe, for example --set train.steps=100
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The run folder [default: runs/ and the recipe's name]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on from the newest checkpoint; starts the run where there is none yet
    #[arg(long)]
    resume: bool,
    /// Go on from the checkpoint of this step; newer ones are set aside
    #[arg(long, value_name = "STEP")]
    resume_from: Option<u64>,
    /// Skip and count documents of corpora that cannot be read (data.skip_bad_records)
    #[arg(long)]
    skip_bad_records: bool,
    /// Print the summary as one JSON object
    #[arg(long)]
    json: bool,
    /// Where stderr is no terminal, write a line about progress every ten seconds
    #[arg(long, short)]
    verbose: bool,
}

/// What the command prints at the end.
#[derive(Serialize)]
struct Summary {
    run: PathBuf,
    method: &'static str,
    #[serde(flatten)]
    outcome: Outcome,
    tokens_per_second: f64,
    /// Measurements by name, at the first and at the last step that was measured.
    first_evaluation: BTreeMap<String, Option<f64>>,
    last_evaluation: BTreeMap<String, Option<f64>>,
}

/// Trains.
pub fn run(args: Args) -> Result<()> {
    let stop = stop_on_signals()?;
    let mut display = Display::new(args.verbose);
    let result = train(&args, &stop, &mut display);
    display.finish();
    let summary = result?;
    if args.json { super::print(serde_json::json!(summary)) } else { super::print(text_summary(&summary)) }
}

fn train(args: &Args, stop: &AtomicBool, display: &mut Display) -> Result<Summary> {
    let mut set = args.set.clone();
    if args.skip_bad_records {
        set.push("data.skip_bad_records=true".into());
    }
    let recipe = Recipe::load(&args.recipe, &set)?;
    let out = args.out.clone().unwrap_or_else(|| Path::new("runs").join(args.recipe.file_stem().unwrap_or_default()));
    let start = match (args.resume_from, args.resume) {
        (Some(step), _) => Start::ResumeFrom(step),
        (None, true) => Start::Resume,
        (None, false) => Start::New,
    };
    start_threads(&recipe)?;
    let method = recipe.method.kind.as_str();
    if start != Start::New {
        RunFolder::remember_hub(&out)?;
    }
    let foundation = Foundation::open(&recipe.model.path)?;
    let outcome = session::train(recipe, foundation, &out, start, stop, &mut |event| display.show(event))?;

    let mut evaluations = metrics::read(out.join(METRICS_FILE))?.into_iter().filter_map(|record| match record {
        Record::Eval(record) => Some(record.values),
        Record::Train(_) => None,
    });
    let first_evaluation = evaluations.next().unwrap_or_default();
    let last_evaluation = evaluations.next_back().unwrap_or_else(|| first_evaluation.clone());
    let tokens_per_second = outcome.tokens as f64 / outcome.wall_seconds.max(1e-9);
    Ok(Summary { run: out, method, outcome, tokens_per_second, first_evaluation, last_evaluation })
}

/// As many threads as the recipe asks for; once a process.
pub(super) fn start_threads(recipe: &Recipe) -> Result<()> {
    if let Some(threads) = recipe.train.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
        pool.map_err(|error| Error::usage(format!("train.threads: {threads} threads cannot be started: {error}")))?;
    }
    Ok(())
}

/// A flag that the first Ctrl-C (or SIGTERM, or the terminal's end) raises; the second one quits at once.
///
/// A command that was started to outlive its terminal (`nohup`) goes on.
pub(super) fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    #[cfg_attr(not(unix), allow(unused_mut))]
    let mut signals = vec![signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM];
    #[cfg(unix)]
    if !is_ignored(signal_hook::consts::SIGHUP) {
        signals.push(signal_hook::consts::SIGHUP);
    }
    for signal in signals {
        // In this order: the shutdown looks at the flag before the second line raises it.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop)).at("<signals>")?;
        signal_hook::flag::register(signal, Arc::clone(&stop)).at("<signals>")?;
    }
    super::hub::stop_with(&stop);
    Ok(stop)
}

/// Whether whoever started this process had it ignore `signal`.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    // SAFETY: with no new action the call only fills in the old one, and all zeros are a valid value of the plain C structure.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

fn text_summary(summary: &Summary) -> String {
    let outcome = &summary.outcome;
    let mut text = format!(
        "{}: {} steps, {} tokens at {:.0} tokens/s, {} trained parameters\n",
        summary.method, outcome.steps, outcome.tokens, summary.tokens_per_second, outcome.trained_parameters
    );
    if let Some(loss) = outcome.loss {
        text += &format!("loss of the last step {loss:.4}\n");
    }
    if outcome.skipped_steps > 0 {
        text += &format!("{} steps were skipped as spikes\n", outcome.skipped_steps);
    }
    if outcome.skipped_records > 0 {
        text += &format!("{} documents could not be read and were skipped\n", outcome.skipped_records);
    }
    let mut table = Table::new([("perplexity", Align::Left), ("first", Align::Right), ("last", Align::Right)]);
    let show = |value: Option<&Option<f64>>| value.copied().flatten().map_or_else(|| "–".into(), |v| format!("{v:.2}"));
    for (name, value) in &summary.last_evaluation {
        if let Some(short) = name.strip_suffix("/perplexity") {
            table.row([short.to_string(), show(summary.first_evaluation.get(name)), show(Some(value))]);
        }
    }
    if !table.is_empty() {
        text += &format!("\n{}\n", table.to_text());
    }
    text + &format!("checkpoint: {}", outcome.checkpoint.display())
}
