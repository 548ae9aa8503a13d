//! The folder of a run: what it was told, where it ran, what it wrote down, and its checkpoints.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::checkpoint::{self, State};
use super::environment::Environment;
use super::metrics::{Cut, METRICS_FILE, Metrics};
use crate::checkpoint::atomic;
use crate::error::{Error, IoContext, Result};
use crate::hub;
use crate::model::Parameter;
use crate::recipe::Recipe;

/// What the run does: its recipe, resolved.
pub const RECIPE_FILE: &str = "recipe.toml";
/// Where and with what the run was started, each time.
pub const ENVIRONMENT_FILE: &str = "environment.json";
const LOCK_FILE: &str = "run.lock";
const CHECKPOINTS_FOLDER: &str = "checkpoints";

/// How long a lock may be held on: by a process that was killed a moment ago and is being cleared away, and by what another thread of ours starts as a
/// process of its own, until that has let go of our files.
const PATIENCE: Duration = Duration::from_secs(1);

/// A run folder that this process alone writes to, as long as the value lives.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Released by the system when the process ends, however it ends.
    _lock: File,
}

/// Where a run goes on.
#[derive(Debug, Clone)]
pub struct ResumePoint {
    /// The checkpoint's folder.
    pub path: PathBuf,
    /// Its state.
    pub state: State,
}

impl RunFolder {
    /// Makes the folder, or opens it where it is there, and locks it; what a killed run left half-written is removed.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Usage`] where another process trains in it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let checkpoints = path.join(CHECKPOINTS_FOLDER);
        atomic::create_folders(&checkpoints)?;
        let lock_path = path.join(LOCK_FILE);
        let lock = File::options().create(true).truncate(false).write(true).open(&lock_path).at(&lock_path)?;
        let started = Instant::now();
        let locked = loop {
            match lock.try_lock() {
                Err(TryLockError::WouldBlock) if started.elapsed() < PATIENCE => thread::sleep(PATIENCE / 50),
                locked => break locked,
            }
        };
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::usage(format!(
                    "{}: another treering is training in this folder\n  hint: wait for it, stop it, or choose another folder with --out",
                    path.display()
                )));
            }
            Err(TryLockError::Error(source)) => return Err(Error::io(lock_path, source)),
        }
        atomic::remove_leftovers(&checkpoints)?;
        atomic::remove_leftovers(&path)?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The recipe of the run in the folder at `path`, as it was resolved; `None` where no run has started.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Usage`] for one that was edited into something that is no recipe.
    pub fn recipe(path: &Path) -> Result<Option<Recipe>> {
        let recipe = path.join(RECIPE_FILE);
        if !recipe.exists() {
            return Ok(None);
        }
        let read = Recipe::load(&recipe, &[])?;
        // A run of before there were these keys has none of what they stand for, whatever is the default now.
        let before: Vec<String> = read.method.open_keys().map(|key| format!("method.{key}=0")).collect();
        if before.is_empty() { Ok(Some(read)) } else { Recipe::load(recipe, &before).map(Some) }
    }

    /// Takes `hf://` names for what they stood for when the run in the folder at `path` was started, if one was.
    ///
    /// # Errors
    /// [`Error::File`] where its `environment.json` cannot be read.
    pub fn remember_hub(path: &Path) -> Result<()> {
        let path = path.join(ENVIRONMENT_FILE);
        if !path.exists() {
            return Ok(());
        }
        let text = fs::read_to_string(&path).at(&path)?;
        let starts: Vec<Environment> =
            serde_json::from_str(&text).map_err(|e| Error::file(&path, format!("no list of environments: {e}")))?;
        // The first one's count: they are what the run was started with.
        starts.iter().rev().for_each(|start| hub::remember(&start.hub));
        Ok(())
    }

    /// The checkpoints of the run in the folder at `path`, oldest first.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn checkpoints(path: &Path) -> Result<Vec<(u64, PathBuf)>> {
        checkpoint::list(&path.join(CHECKPOINTS_FOLDER))
    }

    /// The newest checkpoint of the run in the folder at `path`, or the one of `step`, by its folder.
    ///
    /// # Errors
    /// [`Error::Usage`] where there is none, naming those that are.
    pub fn checkpoint(path: &Path, step: Option<u64>) -> Result<PathBuf> {
        let all = Self::checkpoints(path)?;
        let found = match step {
            None => all.last(),
            Some(step) => all.iter().find(|(s, _)| *s == step),
        };
        found.map(|(_, path)| path.clone()).ok_or_else(|| {
            let steps: Vec<String> = all.iter().map(|(step, _)| step.to_string()).collect();
            let which = step.map_or("checkpoint".into(), |step| format!("checkpoint of step {step}"));
            let have = if steps.is_empty() { "none".into() } else { steps.join(", ") };
            Error::usage(format!("{}: has no {which}; steps with one: {have}", path.display()))
        })
    }

    /// Refuses a folder that holds a run already; one that never took a step counts as none.
    ///
    /// # Errors
    /// [`Error::Usage`] saying how to go on with it or where else to go.
    pub fn refuse_existing(path: &Path) -> Result<()> {
        let has_metrics = fs::metadata(path.join(METRICS_FILE)).is_ok_and(|m| m.len() > 0);
        let has_checkpoints = path.join(CHECKPOINTS_FOLDER).is_dir() && !Self::checkpoints(path)?.is_empty();
        if has_metrics || has_checkpoints {
            return Err(Error::usage(format!(
                "{}: a run is here already\n  hint: --resume goes on with it, --out writes to another folder",
                path.display()
            )));
        }
        Ok(())
    }

    /// Where the run goes on: its newest checkpoint, or with `step` that one; `None` where there is no checkpoint yet.
    ///
    /// A newest checkpoint that is damaged is an error and not passed over: how much work to give up is for a person to say.
    ///
    /// # Errors
    /// [`Error::File`] naming what is damaged, and the steps that `--resume-from` could go back to.
    pub fn resume_point(&self, step: Option<u64>) -> Result<Option<ResumePoint>> {
        let all = Self::checkpoints(&self.path)?;
        if all.is_empty() && step.is_none() {
            return Ok(None);
        }
        let path = Self::checkpoint(&self.path, step)?;
        let state = checkpoint::load_state(&path).map_err(|error| {
            let others: Vec<String> = all.iter().filter(|(_, p)| *p != path).map(|(s, _)| s.to_string()).collect();
            let hint = match others.as_slice() {
                [] => "no other checkpoint is left; start a new run with --out".to_string(),
                others => format!("--resume-from STEP goes back to another checkpoint; there are {}", others.join(", ")),
            };
            match error {
                Error::File { path, message } => Error::file(path, format!("{message}\n  hint: {hint}")),
                Error::Io { path, source } => Error::file(path, format!("the checkpoint cannot be read: {source}\n  hint: {hint}")),
                other => other,
            }
        })?;
        Ok(Some(ResumePoint { path, state }))
    }

    /// Sets aside the checkpoints that are newer than `step`, so that they are not taken for this run's newest, and returns where they are now.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn set_aside_newer(&self, step: u64) -> Result<Vec<PathBuf>> {
        let mut set_aside = Vec::new();
        for (_, newer) in Self::checkpoints(&self.path)?.into_iter().filter(|(s, _)| *s > step) {
            let names = (0u32..).map(|n| newer.with_extension(if n == 0 { "set-aside".into() } else { format!("set-aside-{n}") }));
            for target in names.take_while(|_| newer.exists()) {
                if !target.exists() {
                    atomic::rename(&newer, &target)?;
                    set_aside.push(target);
                }
            }
        }
        Ok(set_aside)
    }

    /// Writes down the resolved recipe and where the run (re)starts, and opens the metrics, cut back to `from`; `None` starts anew.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn begin(&self, recipe: &Recipe, from: Option<&State>) -> Result<Metrics> {
        let path = self.path.join(ENVIRONMENT_FILE);
        let mut starts: Vec<Environment> = match fs::read_to_string(&path) {
            Ok(text) if from.is_some() => serde_json::from_str(&text).map_err(|e| {
                let hint = "it only tells where the run was made: delete it, and --resume begins a new one";
                Error::file(&path, format!("no list of environments: {e}\n  hint: {hint}"))
            })?,
            _ => Vec::new(),
        };
        starts.push(Environment::current(from.map_or(0, |state| state.step)));
        let text = serde_json::to_string_pretty(&starts).map_err(|e| Error::file(&path, e))? + "\n";
        atomic::write_file(&path, |out| out.write_all(text.as_bytes()).at(&path))?;
        let metrics = Metrics::open(&self.path, from.map(|state| Cut { step: state.step, evaluated: !state.evaluation_due }))?;
        // Last: a folder with a recipe is a run.
        let path = self.path.join(RECIPE_FILE);
        let text = recipe.resolved_toml();
        atomic::write_file(&path, |out| out.write_all(text.as_bytes()).at(&path))?;
        Ok(metrics)
    }

    /// Writes a checkpoint, then removes all but the newest `keep` (0 keeps all).
    ///
    /// # Errors
    /// [`Error::Io`]; earlier checkpoints are untouched then.
    pub fn save(&self, state: &State, parameters: &[Parameter], moments: &[Parameter], keep: usize) -> Result<PathBuf> {
        let folder = self.path.join(CHECKPOINTS_FOLDER);
        let path = folder.join(checkpoint::folder_name(state.step));
        checkpoint::save(&path, state, parameters, moments)?;
        self.keep_newest(keep)?;
        Ok(path)
    }

    /// Removes all checkpoints but the newest `keep` (0 keeps all): also what a run that was killed between a save and its removals left.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn keep_newest(&self, keep: usize) -> Result<()> {
        let folder = self.path.join(CHECKPOINTS_FOLDER);
        let all = checkpoint::list(&folder)?;
        let surplus = if keep == 0 { 0 } else { all.len().saturating_sub(keep) };
        for (_, old) in &all[..surplus] {
            atomic::remove_dir(old)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_let_go_of_in_a_moment_is_waited_for_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let first = RunFolder::open(folder.path()).unwrap();
        let error = RunFolder::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("another treering is training in this folder"), "{error}");
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(PATIENCE / 5);
                drop(first);
            });
            RunFolder::open(folder.path()).unwrap();
        });
    }
}
