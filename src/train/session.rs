//! From a recipe to a run: everything is opened and checked in the order in which it can go wrong, then trained.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::build;
use super::foundation::Foundation;
use super::measure::Suite;
use super::metrics::{EvalRecord, Record, TrainRecord};
use super::run_folder::RunFolder;
use super::trainer::{Hooks, Outcome, Trainer};
use crate::data::{Encode, Encoder, Progress, Skipped, TokenCache, TrainStream};
use crate::error::{Error, Result};
use crate::eval::leading_token;
use crate::model::Model;
use crate::recipe::Recipe;

/// Whether a run is a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// A new run; a folder that holds one is refused.
    New,
    /// From the newest checkpoint, or as a new run where there is none yet.
    Resume,
    /// From the checkpoint of this step; newer ones are set aside.
    ResumeFrom(u64),
}

/// What happens in a run, for whoever watches.
#[derive(Debug)]
pub enum Event<'a> {
    /// A corpus is being tokenised.
    Corpus(&'a Progress),
    /// Documents of the corpus of this name could not be read and are left out.
    Skipped(&'a str, &'a Skipped),
    /// The model is being built: for a new expansion, the directions of this many of this many of the base's matrices are found.
    Building(usize, usize),
    /// A newer checkpoint was set aside.
    SetAside(&'a Path),
    /// Training starts after this many steps of this many.
    Begin(u64, u64),
    /// A step was made.
    Step(&'a TrainRecord),
    /// This many tokens of this many are scored.
    Measuring(u64, u64),
    /// This many items of this many of the tasks are done.
    Asking(u64, u64),
    /// A measurement was made.
    Evaluation(&'a EvalRecord),
    /// What a router asks is made, or the router asked: what is being done, how much of it, of how much, and on what.
    Gate(&'static str, u64, u64, &'a str),
}

/// Trains as `recipe` says on what [`Foundation::open`] found at its `model.path` into the folder `out`, and tells `watch`. When `stop` becomes true, the step is finished and saved.
///
/// # Errors
/// Whatever is wrong with the recipe, the base, a corpus or the folder, before anything is trained; then as [`Trainer::run`].
pub fn train(
    recipe: Recipe,
    foundation: Foundation,
    out: &Path,
    start: Start,
    stop: &AtomicBool,
    watch: &mut dyn FnMut(Event),
) -> Result<Outcome> {
    train_measured(recipe, foundation, out, start, stop, watch, None)
}

/// What measures a model after so many steps beside the held-out corpora, and returns numbers by name. It is given what to ask for whether to stop.
pub type Also<'a> = &'a mut dyn FnMut(&Model, u64, &dyn Fn() -> Result<()>) -> Result<Vec<(String, f64)>>;

/// As [`train`], with another measurement beside that of the held-out corpora.
///
/// # Errors
/// As [`train`].
pub fn train_measured(
    recipe: Recipe,
    foundation: Foundation,
    out: &Path,
    start: Start,
    stop: &AtomicBool,
    watch: &mut dyn FnMut(Event),
    mut also: Option<Also<'_>>,
) -> Result<Outcome> {
    if start == Start::New {
        RunFolder::refuse_existing(out)?;
    }
    let base = &foundation.base;
    let mut recipe = recipe.resolve(base.config())?;
    Foundation::check_method(base.config(), foundation.rings.len(), &recipe.method(base.config())?)?;
    let tokenizer = base.tokenizer()?;
    let bos = leading_token(&tokenizer)?;
    let encoder = Encoder::new(tokenizer)?;
    let check_stop = || if stop.load(Ordering::Relaxed) { Err(Error::Interrupted("no step was made".into())) } else { Ok(()) };
    let cache = token_cache(out);
    let mut on_corpus = |progress: &Progress| {
        watch(Event::Corpus(progress));
        check_stop()
    };
    let stream = TrainStream::new(&recipe.data.stream, Path::new(""), &cache, &encoder, recipe.train.seed, &mut on_corpus)?;
    let suite = Suite::open(&recipe, base, &encoder, bos, &cache, &mut on_corpus)?;
    let sources = recipe.data.stream.train.iter().map(|source| source.path.as_str());
    let skipped = sources.zip(stream.caches().map(TokenCache::skipped)).filter(|(_, skipped)| skipped.documents > 0);
    skipped.chain(suite.skipped()).for_each(|(name, skipped)| watch(Event::Skipped(name, skipped)));
    let mut standing = foundation.standing()?;
    if foundation.rings.is_empty() {
        standing.base.path.clone_from(&recipe.model.path);
    }

    let folder = RunFolder::open(out)?;
    let point = match start {
        Start::New => {
            // Again, now that nobody else can begin one.
            RunFolder::refuse_existing(out)?;
            None
        }
        Start::Resume => folder.resume_point(None)?,
        Start::ResumeFrom(step) => folder.resume_point(Some(step))?,
    };
    watch(Event::Building(0, 0));
    let model = match &point {
        Some(point) => {
            foundation.check(&point.state, &point.path)?;
            if let Some(started) = RunFolder::recipe(out)? {
                started.check_resumable(&recipe, point.state.step)?;
                recipe = recipe.settled(started.method.sink_layers);
            }
            let model = build::restore(&recipe, &foundation, &point.path)?;
            for path in folder.set_aside_newer(point.state.step)? {
                watch(Event::SetAside(&path));
            }
            folder.keep_newest(recipe.train.keep_checkpoints)?;
            model
        }
        None => build_watched(&recipe, &foundation, &check_stop, watch)?,
    };
    // The values of the rings within are in the model now.
    drop(foundation);
    check_stop()?;

    let steps = recipe.train.schedule.steps;
    let mut trainer = Trainer::new(recipe, model, stream, folder, standing, encoder.fingerprint(), point.as_ref())?;
    watch(Event::Begin(point.as_ref().map_or(0, |point| point.state.step), steps));
    let tasks_folder = out.join("suites");
    let watch = RefCell::new(watch);
    let mut hooks = Hooks {
        stop,
        evaluate: None,
        on_record: Box::new(|record| {
            (watch.borrow_mut())(match record {
                Record::Train(record) => Event::Step(record),
                Record::Eval(record) => Event::Evaluation(record),
            })
        }),
    };
    if !suite.is_empty() || also.is_some() {
        hooks.evaluate = Some(Box::new(|model, step| {
            let results = suite.evaluate(model, &mut |tokens| {
                (watch.borrow_mut())(Event::Measuring(tokens, suite.tokens()));
                check_stop()
            })?;
            let mut numbers: Vec<(String, f64)> = results.iter().flat_map(|(group, result)| result.metrics(group)).collect();
            numbers.extend(suite.evaluate_tasks(model, step, &tasks_folder, &mut |done, total| {
                (watch.borrow_mut())(Event::Asking(done, total));
                check_stop()
            })?);
            if let Some(also) = also.as_mut() {
                numbers.extend(also(model, step, &check_stop)?);
            }
            Ok(numbers)
        }));
    }
    trainer.run(&mut hooks)
}

/// [`build::start`] on a thread of its own, so that it can be watched and stopped.
fn build_watched(
    recipe: &Recipe,
    foundation: &Foundation,
    check_stop: &(dyn Fn() -> Result<()> + Sync),
    watch: &mut dyn FnMut(Event),
) -> Result<Model> {
    let (done, total) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let note = |made, of| {
        done.fetch_max(made, Ordering::Relaxed);
        total.store(of, Ordering::Relaxed);
        check_stop()
    };
    std::thread::scope(|scope| {
        let building = scope.spawn(|| build::start(recipe, foundation, &note));
        while !building.is_finished() {
            watch(Event::Building(done.load(Ordering::Relaxed), total.load(Ordering::Relaxed)));
            std::thread::park_timeout(Duration::from_millis(20));
        }
        building.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Tokenised corpora lie beside the runs, which share them.
pub fn token_cache(out: &Path) -> PathBuf {
    out.parent().unwrap_or(Path::new("")).join("token-cache")
}
