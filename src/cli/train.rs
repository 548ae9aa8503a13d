//! `treering train`: a recipe to a run folder.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use treering::checkpoint::BaseCheckpoint;
use treering::data::{Progress, TrainStream};
use treering::error::IoContext;
use treering::eval::leading_token;
use treering::grow::file::BaseReference;
use treering::recipe::Recipe;
use treering::report::{Align, Table};
use treering::train::measure::Suite;
use treering::train::metrics::{METRICS_FILE, Record};
use treering::train::{Hooks, Outcome, RunFolder, Trainer, build};
use treering::{Error, Result, train};

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
    trained_parameters: usize,
    /// Measurements by name, at the first and at the last step that was measured.
    first_evaluation: BTreeMap<String, Option<f64>>,
    last_evaluation: BTreeMap<String, Option<f64>>,
}

/// Trains.
pub fn run(args: Args) -> Result<()> {
    let stop = stop_on_signals()?;
    let display = RefCell::new(Display::new(args.verbose));
    let result = train(&args, &stop, &display);
    display.borrow().finish();
    let summary = result?;
    if args.json {
        let text = serde_json::to_string(&summary).map_err(|error| Error::usage(format!("the summary cannot be written as JSON: {error}")))?;
        super::print(text)
    } else {
        super::print(text_summary(&summary))
    }
}

fn train(args: &Args, stop: &AtomicBool, display: &RefCell<Display>) -> Result<Summary> {
    let recipe = Recipe::load(&args.recipe, &args.set)?;
    let out = args.out.clone().unwrap_or_else(|| Path::new("runs").join(args.recipe.file_stem().unwrap_or_default()));
    let resume = args.resume || args.resume_from.is_some();
    if !resume {
        RunFolder::refuse_existing(&out)?;
    }
    if let Some(threads) = recipe.train.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
        pool.map_err(|error| Error::usage(format!("train.threads: {threads} threads cannot be started: {error}")))?;
    }

    let base = BaseCheckpoint::open(&recipe.model.path)?;
    let recipe = recipe.resolve(base.config())?;
    let tokenizer = base.tokenizer()?;
    let check_stop = || if stop.load(Ordering::Relaxed) { Err(Error::Interrupted("nothing was trained yet".into())) } else { Ok(()) };
    let mut on_tokens = |progress: &Progress| {
        let what = if progress.waiting { "waiting for another process" } else { progress.corpus.as_str() };
        display.borrow_mut().phase_to("reading", progress.bytes_done, progress.bytes_total, what);
        check_stop()
    };
    let cache = token_cache(&out);
    let stream = TrainStream::new(&recipe.data.stream, Path::new(""), &cache, &tokenizer, recipe.train.seed, &mut on_tokens)?;
    let suite = Suite::open(&recipe, &base, &tokenizer, leading_token(&tokenizer)?, &cache, &mut on_tokens)?;

    let folder = RunFolder::open(&out)?;
    let point = if resume { folder.resume_point(args.resume_from)? } else { None };
    if !resume {
        RunFolder::refuse_existing(&out)?;
    }
    let sha256 = base.sha256()?;
    let model = match &point {
        Some(point) => {
            build::check_base(&point.state, &point.path, &sha256, &recipe.model.path)?;
            if let Some(started) = RunFolder::recipe(&out)? {
                started.check_resumable(&recipe, point.state.step)?;
            }
            for path in &point.set_aside {
                display.borrow().note(&format!("set aside: {}", path.display()));
            }
            build::restore(&recipe, &base, &point.path)?
        }
        None => build::start(&recipe, &base, &|_, _| {})?,
    };
    let trained_parameters = model.parameters().iter().map(|p| p.value.len()).sum();

    let steps = recipe.train.schedule.steps;
    let method = recipe.method.kind.as_str();
    let base = BaseReference { path: recipe.model.path.clone(), sha256 };
    let mut trainer = Trainer::new(recipe, model, stream, folder, base, tokenizer.sha256()?, point.as_ref())?;
    let from = point.as_ref().map_or(0, |point| point.state.step);
    display.borrow_mut().training(from, steps);
    let mut hooks = Hooks {
        stop,
        evaluate: (!suite.is_empty()).then(|| -> train::trainer::Evaluate<'_> {
            Box::new(|model, step| {
                display.borrow_mut().phase("measuring", suite.tokens());
                let results = suite.evaluate(model, &mut |tokens| {
                    display.borrow_mut().advance(tokens, "");
                    check_stop()
                });
                display.borrow_mut().training(step, steps);
                Ok(results?.iter().flat_map(|(group, result)| result.metrics(group)).collect())
            })
        }),
        on_record: Box::new(|record| match record {
            Record::Train(record) => display.borrow_mut().step(record),
            Record::Eval(record) => display.borrow_mut().evaluation(record),
        }),
    };
    let outcome = trainer.run(&mut hooks)?;

    let records = train::metrics::read(out.join(METRICS_FILE))?;
    let mut evaluations = records.into_iter().filter_map(|record| match record {
        Record::Eval(record) => Some(record.values),
        Record::Train(_) => None,
    });
    let first_evaluation = evaluations.next().unwrap_or_default();
    let last_evaluation = evaluations.next_back().unwrap_or_else(|| first_evaluation.clone());
    let tokens_per_second = outcome.tokens as f64 / outcome.wall_seconds.max(1e-9);
    Ok(Summary { run: out, method, outcome, tokens_per_second, trained_parameters, first_evaluation, last_evaluation })
}

/// Tokenised corpora lie beside the runs, which share them.
fn token_cache(out: &Path) -> PathBuf {
    out.parent().unwrap_or(Path::new("")).join("token-cache")
}

/// A flag that the first Ctrl-C (or SIGTERM) raises; the second one quits at once.
fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // In this order: the shutdown looks at the flag before the second line raises it.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop)).at("<signals>")?;
        signal_hook::flag::register(signal, Arc::clone(&stop)).at("<signals>")?;
    }
    Ok(stop)
}

fn text_summary(summary: &Summary) -> String {
    let outcome = &summary.outcome;
    let mut text = format!(
        "{}: {} steps, {} tokens at {:.0} tokens/s, {} trained parameters\n",
        summary.method, outcome.steps, outcome.tokens, summary.tokens_per_second, summary.trained_parameters
    );
    if let Some(loss) = outcome.loss {
        text += &format!("loss of the last step {loss:.4}\n");
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
