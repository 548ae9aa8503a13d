//! Variants of a recipe, trained one after another.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use crate::checkpoint::atomic;
use crate::error::{Error, IoContext, Result};
use crate::recipe::Recipe;
use crate::route::Router;
use crate::train::metrics::METRICS_FILE;
use crate::train::session::{self, Event, Start};
use crate::train::{Foundation, RunFolder, checkpoint, metrics};

/// A recipe under a name.
#[derive(Debug, Clone)]
pub struct Variant {
    /// Name of its run folder.
    pub name: String,
    /// What it trains, not resolved yet.
    pub recipe: Recipe,
}

/// How a variant ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Trained and measured to the end.
    Finished,
    /// A loss or a gradient was not finite; the message says where.
    Failed(String),
    /// Not asked for, and not finished by an earlier command.
    LeftOut,
}

/// What a variant that failed leaves in its run folder, so that it is not tried again.
pub const FAILED_FILE: &str = "failed.json";

/// Measures the default router too, where the recipe widens and names none: it costs next to nothing in the same pass.
pub fn with_router(mut recipe: Recipe) -> Recipe {
    if recipe.method.kind.widens() && recipe.routers.is_empty() {
        recipe.routers.push(Router::default());
    }
    recipe
}

/// Trains the `wanted` ones of `variants` in their order, each into `out` and its name, and tells `watch` the variant's index with each event. One that is
/// finished is not trained again, one that was stopped goes on from its checkpoint, and one whose loss is not finite is noted while the others go on.
///
/// # Errors
/// [`Error::Interrupted`] after a stop; [`Error::Usage`] where a folder holds a run of another recipe; and whatever else training returns.
pub fn run_all(
    variants: &[Variant],
    wanted: &dyn Fn(&Variant) -> bool,
    out: &Path,
    stop: &AtomicBool,
    watch: &mut dyn FnMut(usize, Event),
) -> Result<Vec<Ending>> {
    let mut endings = Vec::with_capacity(variants.len());
    for (index, variant) in variants.iter().enumerate() {
        if stop.load(Ordering::Relaxed) {
            return Err(interrupted(index, variants));
        }
        let folder = out.join(&variant.name);
        RunFolder::remember_hub(&folder)?;
        let foundation = Foundation::open(&variant.recipe.model.path)?;
        let recipe = variant.recipe.clone().resolve(foundation.base.config()).map_err(|error| named(&variant.name, error))?;
        if let Some(ending) = ending(&folder, &recipe, &foundation)? {
            endings.push(ending);
            continue;
        }
        if !wanted(variant) {
            endings.push(Ending::LeftOut);
            continue;
        }
        match session::train(recipe, foundation, &folder, Start::Resume, stop, &mut |event| watch(index, event)) {
            Ok(_) => endings.push(Ending::Finished),
            // Before there is a run, it is not a rate that is at fault.
            Err(Error::Numeric(message)) if RunFolder::recipe(&folder)?.is_some() => {
                note_failure(&folder, &message)?;
                endings.push(Ending::Failed(first_line(&message)));
            }
            Err(Error::Interrupted(_)) => return Err(interrupted(index, variants)),
            Err(error) => return Err(named(&variant.name, error)),
        }
    }
    Ok(endings)
}

/// How the run in `folder` ended under `recipe`; `None` where it is still to be trained.
///
/// # Errors
/// [`Error::Usage`] where the folder holds a run of another recipe, or one that was measured otherwise.
fn ending(folder: &Path, recipe: &Recipe, foundation: &Foundation) -> Result<Option<Ending>> {
    let Some(started) = RunFolder::recipe(folder)? else { return Ok(None) };
    let failure = folder.join(FAILED_FILE);
    let newest = RunFolder::checkpoints(folder)?.pop();
    let done = newest.as_ref().map_or(0, |(step, _)| *step);
    let refuse =
        |what: String| Error::usage(format!("{}: {what}\n  hint: choose another folder with --out, or remove this run", folder.display()));
    let (planned, asked) = (started.train.schedule.steps, recipe.train.schedule.steps);
    let other_steps = || refuse(format!("a run of {planned} steps is here, and {asked} are asked for"));
    if failure.exists() {
        if planned != asked {
            return Err(other_steps());
        }
        started.check_finished(recipe, done).map_err(|error| named(&folder.display().to_string(), error))?;
        let text = fs::read(&failure).at(&failure)?;
        let ending = serde_json::from_slice(&text).map_err(|error| Error::file(&failure, format!("no ending of a run: {error}")))?;
        return Ok(Some(ending));
    }
    let Some((_, checkpoint_path)) = newest else { return Ok(None) };
    if done < planned.min(asked) {
        // Training itself compares the recipes before it goes on.
        return Ok(None);
    }
    if planned != asked {
        return Err(other_steps());
    }
    started.check_finished(recipe, done).map_err(|error| named(&folder.display().to_string(), error))?;
    let measured = |r: &Recipe| (r.data.learn.clone(), r.data.forget.clone(), r.eval.window, r.eval.stride, r.routers.clone());
    if measured(&started) != measured(recipe) {
        return Err(refuse(
            "a finished run is here that was measured on other held-out corpora, other windows or with other routers".into(),
        ));
    }
    if started.model.path != recipe.model.path {
        let state = checkpoint::load_state(&checkpoint_path)?;
        foundation.check(&state, &checkpoint_path)?;
    }
    // A stop may have come between the last checkpoint and its measurement.
    let records = metrics::read(folder.join(METRICS_FILE))?;
    let evaluated = records.iter().any(|record| matches!(record, metrics::Record::Eval(eval) if eval.step >= asked));
    let nothing_to_measure = recipe.data.learn.is_empty() && recipe.data.forget.is_empty();
    Ok((evaluated || nothing_to_measure).then_some(Ending::Finished))
}

fn note_failure(folder: &Path, message: &str) -> Result<()> {
    let path: PathBuf = folder.join(FAILED_FILE);
    let ending = Ending::Failed(first_line(message));
    let text = serde_json::to_string(&ending).map_err(|error| Error::file(&path, format!("cannot be written as JSON: {error}")))? + "\n";
    atomic::write_file(&path, |file| file.write_all(text.as_bytes()).at(&path))
}

/// Without the hints, which are about a single run.
fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().to_owned()
}

fn interrupted(index: usize, variants: &[Variant]) -> Error {
    Error::Interrupted(format!(
        "{index} of {} runs are finished, and what was done of `{}` is saved\n  hint: the same command goes on",
        variants.len(),
        variants[index].name
    ))
}

/// `error` with the name of the variant before it, where it is about the recipe.
fn named(name: &str, error: Error) -> Error {
    match error {
        Error::Usage(message) => Error::Usage(format!("{name}: {message}")),
        other => other,
    }
}
