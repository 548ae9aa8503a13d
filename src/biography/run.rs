//! Stage after stage, each once: a stage that is finished is read, one that was stopped goes on, and what several methods need is trained for the first.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::ask::Asked;
use super::protocol::{Protocol, Setup, expansion_to_base_rate};
use super::routers::RouterAnswers;
use super::stage::Stage;
use super::world::World;
use crate::baseline::Method;
use crate::checkpoint::{Dtype, atomic};
use crate::error::{Error, IoContext, Result};
use crate::export;
use crate::model::Block;
use crate::recipe::{self, MethodKind, Recipe};
use crate::train::metrics::{self, METRICS_FILE, Record};
use crate::train::session::{self, Event, Start};
use crate::train::{Foundation, RunFolder, build};

/// A benchmark in its folder.
pub struct Benchmark {
    /// What was chosen.
    pub setup: Setup,
    /// Every number of it.
    pub protocol: Protocol,
    /// Tasks after Task 0.
    pub tasks: u64,
    /// Methods, in the order of the figure.
    pub methods: Vec<MethodKind>,
    /// `[STAGE:]KEY=VALUE`: changes to recipes.
    pub set: Vec<String>,
    world: World,
    asked: Vec<Asked>,
}

impl Benchmark {
    /// Opens or makes the benchmark in the folder `out`, without training anything.
    ///
    /// # Errors
    /// [`Error::Usage`] where the folder holds another one, there are too few people, or a change names no stage; and whatever writing returns.
    pub fn open(
        out: &Path,
        setup: Setup,
        methods: Vec<MethodKind>,
        tasks: u64,
        set: Vec<String>,
        check_stop: &(dyn Fn() -> Result<()> + Sync),
    ) -> Result<Self> {
        let protocol = setup.protocol(tasks)?;
        atomic::create_folders(out)?;
        let world = World::open(out, &setup, &protocol, tasks, check_stop)?;
        let asked = (0..=tasks)
            .map(|task| Asked::new(&world, task, protocol.asked(task), protocol.asked_at_end, &setup.attributes))
            .collect::<Result<_>>()?;
        let benchmark = Self { setup, protocol, tasks, methods, set, world, asked };
        let groups: Vec<String> = benchmark.stages().into_iter().flat_map(|stage| [stage.group(), stage.name()]).collect();
        for change in &benchmark.set {
            if let (Some(group), _) = split(change)
                && !groups.iter().any(|known| known == group)
            {
                let mut known = groups.clone();
                known.sort();
                known.dedup();
                return Err(Error::usage(format!("--set {change}: there is no stage {group}; there are {}", known.join(", "))));
            }
        }
        Ok(benchmark)
    }

    /// The folder.
    pub fn out(&self) -> &Path {
        &self.world.out
    }

    /// All stages, in their order.
    pub fn stages(&self) -> Vec<Stage> {
        Stage::all(&self.methods, self.tasks)
    }

    /// The run folder of a stage.
    pub fn run_folder(&self, stage: Stage) -> PathBuf {
        self.out().join("runs").join(stage.name())
    }

    /// The plain model that a stage leaves.
    pub fn model_folder(&self, stage: Stage) -> PathBuf {
        self.out().join("models").join(stage.name())
    }

    /// Writes the recipe of a stage and reads it back with the changes that concern it.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the key that is wrong.
    pub fn recipe(&self, stage: Stage) -> Result<Recipe> {
        let folder = self.out().join("recipes");
        atomic::create_folders(&folder)?;
        let path = folder.join(format!("{}.toml", stage.name()));
        let text = stage.recipe(&self.setup, &self.protocol, self.world.question_lengths[stage.task() as usize]);
        atomic::write_file(&path, |file| file.write_all(text.as_bytes()).at(&path))?;
        Recipe::load(&path, &changes(&self.set, stage))
    }

    /// Trains what is not finished of a stage, with a gate where it has several heads, and leaves its model where a later stage or a reader needs it.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after a stop, with everything saved; and whatever training returns.
    pub fn run(&self, stage: Stage, stop: &AtomicBool, watch: &mut dyn FnMut(Event)) -> Result<()> {
        let recipe = self.recipe(stage)?;
        let folder = self.run_folder(stage);
        if !self.finished(stage, &recipe)? {
            let foundation = Foundation::open(&recipe.model.path)?;
            let (steps, routers) = (recipe.train.schedule.steps, recipe.routers.clone());
            let asked = &self.asked[..=stage.task() as usize];
            let mut also = |model: &crate::model::Model, step: u64, check_stop: &dyn Fn() -> Result<()>| {
                let most = if step >= steps { u64::MAX } else { self.protocol.asked_along };
                let mut numbers = Vec::new();
                for asked in asked {
                    numbers.extend(asked.ask(model, most, &routers, check_stop)?);
                }
                Ok(numbers)
            };
            let trained = session::train_measured(recipe.clone(), foundation, &folder, Start::Resume, stop, watch, Some(&mut also));
            trained.map_err(|error| match error {
                Error::Interrupted(message) => {
                    let message = message.lines().next().unwrap_or_default();
                    Error::Interrupted(format!("{}: {message}\n  hint: the same command goes on", stage.name()))
                }
                Error::Usage(message) => Error::Usage(format!("{}: {message}", stage.name())),
                Error::Numeric(message) => Error::Numeric(format!("{}: {message}", stage.name())),
                other => other,
            })?;
        }
        let stopped = || match stop.load(Ordering::Relaxed) {
            true => Err(Error::Interrupted("between two stages; everything is saved\n  hint: the same command goes on".into())),
            false => Ok(()),
        };
        stopped()?;
        if matches!(stage, Stage::Task(kind, _) if kind.widens()) && RouterAnswers::read(&folder)?.is_none() {
            RouterAnswers::make(&folder, &self.asked[..=stage.task() as usize], &mut |phase, done, of, what| {
                watch(Event::Gate(phase, done, of, what));
                stopped()
            })?;
        }
        self.leave_model(stage)
    }

    /// Whether a stage was trained and measured to its end, under this recipe.
    fn finished(&self, stage: Stage, recipe: &Recipe) -> Result<bool> {
        let folder = self.run_folder(stage);
        let Some(started) = RunFolder::recipe(&folder)? else { return Ok(false) };
        let steps = recipe.train.schedule.steps;
        let done = RunFolder::checkpoints(&folder)?.pop().map_or(0, |(step, _)| step);
        if done < steps || started.train.schedule.steps != steps {
            return Ok(false);
        }
        let foundation = Foundation::open(&recipe.model.path)?;
        let recipe = recipe.clone().resolve(foundation.base.config())?;
        started.check_finished(&recipe, done).map_err(|error| match error {
            Error::Usage(message) => Error::Usage(format!("{}: {message}", stage.name())),
            other => other,
        })?;
        let records = metrics::read(folder.join(METRICS_FILE))?;
        Ok(records.iter().any(|record| matches!(record, Record::Eval(eval) if eval.step >= steps)))
    }

    /// Writes what a stage trained as a plain model, where it is one and is not written yet. Rings are read from their runs.
    fn leave_model(&self, stage: Stage) -> Result<()> {
        let folder = self.model_folder(stage);
        if folder.exists() || matches!(stage, Stage::Task(kind, task) if kind.widens() || task == self.tasks) {
            return Ok(());
        }
        let run = build::open_run(&self.run_folder(stage), None, None)?;
        let Method::Baseline(baseline) = run.recipe.method(run.base.config())? else { return Ok(()) };
        export::plain(&folder, &run.base, &baseline, run.model.parameters(), Dtype::F32)
    }
}

/// The changes of `set` that concern a stage, as a recipe takes them. W12, whose rate the recipe of `scale-route` names, keeps its part of one that is
/// changed for the whole stage, as it does under `scale-adapt`, unless a change names its rate too.
pub(super) fn changes(set: &[String], stage: Stage) -> Vec<String> {
    let concerns = |change: &String| match split(change) {
        (None, change) => Some(change.to_owned()),
        (Some(group), change) => (group == stage.group() || group == stage.name()).then(|| change.to_owned()),
    };
    let mut changes: Vec<String> = set.iter().filter_map(concerns).collect();
    let assigned = || changes.iter().rev().filter_map(|change| change.split_once('=')).map(|(key, value)| (key.trim(), value.trim()));
    let own = format!("train.learning_rates.{}", Block::ExpansionToBase);
    if stage == Stage::Task(MethodKind::ScaleRoute, 1)
        && !assigned().any(|(key, _)| key == own || key == "train.learning_rates")
        && let Some(rate) = assigned().find(|(key, _)| *key == "train.learning_rate").and_then(|(_, rate)| number(rate))
    {
        changes.push(format!("{own}={:e}", expansion_to_base_rate(rate)));
    }
    changes
}

/// The number that an override gives its key.
fn number(text: &str) -> Option<f64> {
    let value = recipe::value(text);
    value.as_float().or_else(|| value.as_integer().map(|number| number as f64))
}

/// `GROUP:key=value` in its two parts. A key has no colon, a value may.
fn split(change: &str) -> (Option<&str>, &str) {
    let key = change.split('=').next().unwrap_or_default();
    match key.find(':') {
        Some(at) => (Some(&change[..at]), &change[at + 1..]),
        None => (None, change),
    }
}

#[cfg(test)]
mod tests {
    use super::super::protocol::Size;
    use super::*;

    #[test]
    fn a_rate_for_a_stage_moves_w12_too_unless_it_has_its_own() {
        let setup = Setup::new(Size::Quickstart);
        let protocol = setup.protocol(2).unwrap();
        let rates = |set: &[&str], stage: Stage| {
            let set: Vec<String> = set.iter().map(|&change| change.to_owned()).collect();
            let recipe = Recipe::parse(&stage.recipe(&setup, &protocol, 77), Path::new("/"), &changes(&set, stage)).unwrap();
            let rates = &recipe.train.learning_rates;
            // A tenth is not a binary number.
            (rates.learning_rate, (rates.of(Block::ExpansionToBase) * 1e12).round() / 1e12)
        };
        let (route, second) = (Stage::Task(MethodKind::ScaleRoute, 1), Stage::Task(MethodKind::ScaleRoute, 2));
        assert_eq!(rates(&[], route), (3e-3, 3e-4));
        assert_eq!(rates(&["scale-route:train.learning_rate=1e-3"], route), (1e-3, 1e-4));
        assert_eq!(rates(&["scale-route:train.learning_rate=1_0e-4"], route), (1e-3, 1e-4));
        assert_eq!(
            rates(&["scale-route-task-1:train.learning_rate = 1e-3", "train.learning_rate=2e-3"], route),
            (2e-3, 2e-4),
            "the last one counts"
        );
        assert_eq!(rates(&["scale-route:train.learning_rate=1e-3", "train.learning_rates.expansion_to_base=5e-4"], route), (1e-3, 5e-4));
        assert_eq!(rates(&["scale-adapt:train.learning_rate=1e-3"], route), (3e-3, 3e-4), "another method's");
        // What is further out has no W12, and a rate for it would be refused.
        assert_eq!(rates(&["scale-route:train.learning_rate=1e-3"], second).0, 1e-3);
        assert_eq!(rates(&["scale-adapt:train.learning_rate=1e-3"], Stage::Task(MethodKind::ScaleAdapt, 1)), (1e-3, 1e-4));
    }
}
