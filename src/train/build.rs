//! From a recipe, or a run, to a model.

use std::path::{Path, PathBuf};

use super::checkpoint;
use super::run_folder::RunFolder;
use crate::baseline::Method;
use crate::checkpoint::{BaseCheckpoint, Config};
use crate::error::{Error, Result};
use crate::grow;
use crate::grow::layout::{self, Expected};
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
/// Whatever reading the base returns, and [`Error::Usage`] where the method's sizes do not fit it.
pub fn start(recipe: &Recipe, base: &BaseCheckpoint, progress: &(dyn Fn(usize, usize) -> Result<()> + Sync)) -> Result<Model> {
    match recipe.method(base.config())? {
        Method::Expansion(growth) => {
            let mut model = Model::from_base(base, recipe.model.dtype, false)?;
            let parameters = grow::initialise(base, &growth, recipe.method.init, recipe.method.seed, progress)?;
            model.widen(growth, parameters)?;
            Ok(model)
        }
        Method::Baseline(baseline) => Model::from_baseline(base, recipe.model.dtype, &baseline),
    }
}

/// The model as it stood at a checkpoint, read from the folder `path`.
///
/// # Errors
/// [`Error::File`] where the checkpoint belongs to another base or another model.
pub fn restore(recipe: &Recipe, base: &BaseCheckpoint, path: &Path) -> Result<Model> {
    let expected = expected_parameters(recipe, base.config())?;
    let parameters = checkpoint::load_trained(path, &expected)?;
    match recipe.method(base.config())? {
        Method::Expansion(growth) => {
            let mut model = Model::from_base(base, recipe.model.dtype, false)?;
            model.widen(growth, parameters)?;
            Ok(model)
        }
        Method::Baseline(baseline) => {
            let mut model = Model::from_baseline(base, recipe.model.dtype, &baseline)?;
            model.set_parameters(parameters).map_err(|error| Error::file(path.join(checkpoint::TRAINED_FILE), error))?;
            Ok(model)
        }
    }
}

/// Checks that a checkpoint was trained on this base.
///
/// # Errors
/// [`Error::File`] with both hashes.
pub fn check_base(state: &checkpoint::State, path: &Path, base_sha256: &str, base_path: &Path) -> Result<()> {
    if state.base.sha256 == base_sha256 {
        return Ok(());
    }
    Err(Error::file(
        path.join(checkpoint::STATE_FILE),
        format!(
            "trained on a base with SHA-256 {}, but {} has {base_sha256}: the base was changed or is another one\n  hint: it was at {} then",
            state.base.sha256,
            base_path.display(),
            state.base.path.display()
        ),
    ))
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
    let RunCheckpoint { recipe, base, path, step } = open_checkpoint(run, step, base_path)?;
    let model = restore(&recipe, &base, &path)?;
    Ok(TrainedRun { recipe, base, model, step })
}

/// A checkpoint of a run, checked to be whole and on its own base, before any weight is read.
pub struct RunCheckpoint {
    /// The run's recipe, resolved.
    pub recipe: Recipe,
    /// Its base.
    pub base: BaseCheckpoint,
    /// The checkpoint's folder.
    pub path: PathBuf,
    /// Updates made by then.
    pub step: u64,
}

/// As [`open_run`], without building the model.
///
/// # Errors
/// As [`open_run`].
pub fn open_checkpoint(run: &Path, step: Option<u64>, base_path: Option<&Path>) -> Result<RunCheckpoint> {
    let recipe = RunFolder::recipe(run)?.ok_or_else(|| Error::usage(format!("{}: no run is here (no recipe.toml)", run.display())))?;
    let path = RunFolder::checkpoint(run, step)?;
    let state = checkpoint::load_state(&path)?;
    let base_path = base_path.unwrap_or(&recipe.model.path);
    let base = BaseCheckpoint::open(base_path)?;
    check_base(&state, &path, &base.sha256()?, base_path)?;
    Ok(RunCheckpoint { recipe, base, path, step: state.step })
}
