//! From a recipe, or a run, to a model.

use std::path::{Path, PathBuf};

use super::checkpoint;
use super::foundation::{Foundation, Moved};
use super::run_folder::RunFolder;
use crate::baseline::{Baseline, Method};
use crate::checkpoint::{BaseCheckpoint, Config};
use crate::error::{Error, Result};
use crate::grow;
use crate::grow::layout::{self, Expected};
use crate::grow::ring;
use crate::model::Model;
use crate::recipe::Recipe;

/// The parameters that a recipe trains on a base of `config`, in the order of [`Model::parameters`].
///
/// # Errors
/// [`Error::Usage`] where the method's sizes do not fit the base.
pub fn expected_parameters(recipe: &Recipe, config: &Config) -> Result<Vec<Expected>> {
    Ok(match recipe.method(config)? {
        Method::Expansion(growth) => layout::expansion_parameters(config, &growth),
        Method::Baseline(baseline) => baseline.parameters(config),
    })
}

/// The model that a recipe starts from. `progress` hears how many of how many matrices of the expansion are made, and can end it.
///
/// # Errors
/// Whatever reading the base returns, and [`Error::Usage`] where the method or its sizes do not fit it.
pub fn start(recipe: &Recipe, foundation: &Foundation, progress: &(dyn Fn(usize, usize) -> Result<()> + Sync)) -> Result<Model> {
    let (base, rings) = (&foundation.base, &foundation.rings);
    let method = recipe.method(base.config())?;
    Foundation::check_method(base.config(), rings.len(), &method)?;
    match method {
        Method::Expansion(mut growth) => {
            let mut model = foundation.model(recipe.model.dtype)?;
            if recipe.measures_sink() && !growth.placement.is_preserve(base.config()) {
                growth.placement.sink_layers = model.sink_layers();
            }
            let parameters = grow::initialise_ring(base, rings, &growth, recipe.method.init, recipe.method.seed, progress)?;
            model.widen(growth, parameters)?;
            Ok(model)
        }
        Method::Baseline(baseline) => paired(Model::from_baseline(base, recipe.model.dtype, &baseline)?, recipe, base, &baseline),
    }
}

/// The model, beside its base where the recipe has routers.
fn paired(model: Model, recipe: &Recipe, base: &BaseCheckpoint, baseline: &Baseline) -> Result<Model> {
    if recipe.is_pair() { model.beside_its_base(base, baseline) } else { Ok(model) }
}

/// The model as it stood at a checkpoint, read from the folder `path`.
///
/// # Errors
/// [`Error::File`] where the checkpoint belongs to another base or another model.
pub fn restore(recipe: &Recipe, foundation: &Foundation, path: &Path) -> Result<Model> {
    let base = &foundation.base;
    match recipe.method(base.config())? {
        Method::Expansion(growth) => {
            let expected = layout::ring_parameters(base.config(), &ring::sizes(&foundation.rings), &growth);
            let parameters = checkpoint::load_trained(path, &expected)?;
            let mut model = foundation.model(recipe.model.dtype)?;
            model.widen(growth, parameters)?;
            Ok(model)
        }
        Method::Baseline(baseline) => {
            let parameters = checkpoint::load_trained(path, &baseline.parameters(base.config()))?;
            let mut model = Model::from_baseline(base, recipe.model.dtype, &baseline)?;
            model.set_parameters(parameters).map_err(|error| Error::file(path.join(checkpoint::TRAINED_FILE), error))?;
            paired(model, recipe, base, &baseline)
        }
    }
}

/// A trained run, ready to be measured or asked.
pub struct TrainedRun {
    /// Its recipe, resolved.
    pub recipe: Recipe,
    /// Its base.
    pub base: BaseCheckpoint,
    /// The model as it stood at the checkpoint.
    pub model: Model,
    /// Updates made by then.
    pub step: u64,
}

/// Opens the run in the folder `run` at its newest checkpoint or the one of `step`. `base_path` stands in for the recipe's where the base has moved.
///
/// # Errors
/// [`Error::Usage`] where there is no run or checkpoint, and [`Error::File`] where one is damaged or the base has changed.
pub fn open_run(run: &Path, step: Option<u64>, base_path: Option<&Path>) -> Result<TrainedRun> {
    let RunCheckpoint { recipe, foundation, path, step } = open_checkpoint(run, step, Moved { base: base_path, rings: &[] })?;
    let model = restore(&recipe, &foundation, &path)?;
    Ok(TrainedRun { recipe, base: foundation.base, model, step })
}

/// A checkpoint of a run, checked to be whole and on what it was trained on, before its own weights are read.
pub struct RunCheckpoint {
    /// The run's recipe, resolved.
    pub recipe: Recipe,
    /// Its base, and the rings within the one that it trained.
    pub foundation: Foundation,
    /// The checkpoint's folder.
    pub path: PathBuf,
    /// Updates made by then.
    pub step: u64,
}

/// As [`open_run`], without building the model.
///
/// # Errors
/// As [`open_run`].
pub fn open_checkpoint(run: &Path, step: Option<u64>, moved: Moved<'_>) -> Result<RunCheckpoint> {
    let recipe = RunFolder::recipe(run)?.ok_or_else(|| Error::usage(format!("{}: no run is here (no recipe.toml)", run.display())))?;
    let path = RunFolder::checkpoint(run, step)?;
    let state = checkpoint::load_state(&path)?;
    let mut standing = state.standing();
    if standing.rings.is_empty() {
        standing.base.path.clone_from(&recipe.model.path);
    }
    let foundation = Foundation::reopen(&standing, &path.join(checkpoint::STATE_FILE), moved)?;
    foundation.check(&state, &path)?;
    Ok(RunCheckpoint { recipe, foundation, path, step: state.step })
}
