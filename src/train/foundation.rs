//! What a ring stands on: a plain base and the finished rings around it, found from whatever path a person gives.

use std::path::{Path, PathBuf};

use super::checkpoint::{self, State};
use super::run_folder::RunFolder;
use crate::baseline::{Method, peft};
use crate::checkpoint::{BaseCheckpoint, Config};
use crate::error::{Error, IoContext, Result};
use crate::grow::file::{self, BaseReference, MANIFEST_FILE, Manifest};
use crate::grow::layout;
use crate::grow::ring::{self, Ring, RingReference, Standing};
use crate::grow::sizes::Growth;
use crate::hub::{self, HubName};
use crate::model::{Model, Precision};
use crate::recipe::Recipe;
use crate::route::Recall;

/// Kinds of things that hold a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A Hugging Face folder or a GGUF file.
    Model,
    /// A run's folder, and the step of the checkpoint that was named.
    Run(PathBuf, Option<u64>),
    /// An expansion's folder.
    Expansion,
    /// A PEFT adapter's folder.
    Adapter,
}

/// What is at `path`; `step` chooses a run's checkpoint.
///
/// # Errors
/// [`Error::Usage`] where nothing is there, and for a run whose recipe is none.
pub fn place(path: &Path, step: Option<u64>) -> Result<Place> {
    let path: &Path = &hub::local(path)?;
    if !path.exists() {
        let hint = "a model is a Hugging Face folder, a .gguf file, a run folder, an expansion's folder or a PEFT adapter's";
        return Err(Error::usage(format!("{}: nothing is here\n  hint: {hint}", path.display())));
    }
    if RunFolder::recipe(path)?.is_some() {
        return Ok(Place::Run(path.to_path_buf(), step));
    }
    if path.join(MANIFEST_FILE).exists() {
        return Ok(Place::Expansion);
    }
    if peft::is_adapter(path) {
        return Ok(Place::Adapter);
    }
    // RUN/checkpoints/step-000300
    let absolute = std::path::absolute(path).map_err(|error| Error::io(path, error))?;
    let named = absolute.file_name().and_then(checkpoint::step_of);
    match (named, absolute.parent().and_then(Path::parent)) {
        (Some(named), Some(run)) if RunFolder::recipe(run)?.is_some() => Ok(Place::Run(run.to_path_buf(), Some(step.unwrap_or(named)))),
        _ => Ok(Place::Model),
    }
}

/// Where things are now that were elsewhere when a run or an expansion was made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Moved<'a> {
    /// The plain base.
    pub base: Option<&'a Path>,
    /// The rings within, from the innermost out; those that are left out are where they were.
    pub rings: &'a [PathBuf],
}

/// A ring before its values are read.
pub struct RingSource {
    /// Its folder: an expansion's, or the checkpoint's of a run.
    pub path: PathBuf,
    /// What it stands on.
    pub standing: Standing,
    described: Described,
}

enum Described {
    Expansion(Box<Manifest>),
    Run(Box<Recipe>, Box<State>),
}

impl RingSource {
    /// What is at `path`, the checkpoint of `step` where it is a run's; `None` for a plain model, or where nothing is.
    ///
    /// # Errors
    /// [`Error::Usage`] where an adapter is there, and whatever reading a manifest or a checkpoint's state returns.
    pub fn at(path: &Path, step: Option<u64>) -> Result<Option<Self>> {
        let path: &Path = &hub::local(path)?;
        let absolute = |path: &Path| std::path::absolute(path).at(path);
        if !path.exists() {
            return Ok(None);
        }
        match place(path, step)? {
            Place::Model => Ok(None),
            Place::Adapter => Err(Error::usage(format!(
                "{}: is an adapter, and a ring grows around a model\n  hint: `treering export` merges the adapter into one",
                path.display()
            ))),
            Place::Expansion => {
                let manifest = file::load_manifest(path)?;
                let mut standing = manifest.standing();
                // As `grow` always has: a relative path starts at the folder.
                if HubName::of(&standing.base.path)?.is_none() {
                    standing.base.path = path.join(&standing.base.path);
                }
                for ring in &mut standing.rings {
                    if HubName::of(&ring.path)?.is_none() {
                        ring.path = path.join(&ring.path);
                    }
                }
                Ok(Some(Self { path: absolute(path)?, standing, described: Described::Expansion(Box::new(manifest)) }))
            }
            Place::Run(run, step) => {
                let recipe = RunFolder::recipe(&run)?.ok_or_else(|| Error::usage(format!("{}: no run is here", run.display())))?;
                let checkpoint = RunFolder::checkpoint(&run, step)?;
                let state = checkpoint::load_state(&checkpoint)?;
                let path = absolute(&checkpoint)?;
                Ok(Some(Self { path, standing: state.standing(), described: Described::Run(Box::new(recipe), Box::new(state)) }))
            }
        }
    }

    /// What it adds to a base of `config`.
    ///
    /// # Errors
    /// [`Error::Usage`] for a run that added nothing to its base's width.
    pub fn growth(&self, config: &Config) -> Result<Growth> {
        match &self.described {
            Described::Expansion(manifest) => Ok(manifest.growth.clone()),
            Described::Run(recipe, _) => match recipe.method(config)? {
                Method::Expansion(growth) => Ok(growth),
                Method::Baseline(baseline) => Err(Error::usage(format!(
                    "{}: was trained by `{}` and is no ring\n  hint: `treering export` writes it as a plain model, which can be grown",
                    self.path.display(),
                    baseline.as_str()
                ))),
            },
        }
    }

    /// The recipe that it was trained by, and the state it was left in; `None` for an expansion's folder, which says neither.
    pub fn trained(&self) -> Option<(&Recipe, &State)> {
        match &self.described {
            Described::Expansion(_) => None,
            Described::Run(recipe, state) => Some((recipe, state)),
        }
    }

    /// The file that says what it stands on.
    pub fn file(&self) -> PathBuf {
        match &self.described {
            Described::Expansion(_) => self.path.join(MANIFEST_FILE),
            Described::Run(..) => self.path.join(checkpoint::STATE_FILE),
        }
    }

    /// The description that it has, or would have as an expansion's folder, where its values are `ring`'s.
    pub fn manifest(&self, standing: Standing, ring: &Ring) -> Manifest {
        let (init, seed) = match &self.described {
            Described::Expansion(manifest) => (manifest.init, manifest.seed),
            Described::Run(recipe, _) => (recipe.method.init, recipe.method.seed),
        };
        Manifest::new(ring.growth.clone(), init, seed, standing, &ring.parameters)
    }
}

/// A plain base and the finished rings around it, from the innermost out.
pub struct Foundation {
    /// The base.
    pub base: BaseCheckpoint,
    /// The rings.
    pub rings: Vec<Ring>,
}

impl From<BaseCheckpoint> for Foundation {
    fn from(base: BaseCheckpoint) -> Self {
        Self { base, rings: Vec::new() }
    }
}

impl Foundation {
    /// Opens what a recipe's `model.path` names: a plain model, or a run, one of its checkpoints or an expansion with all that they stand on.
    ///
    /// # Errors
    /// As [`refuse_unfinished`]; whatever reading it returns; [`Error::File`] with both hashes where a base or a ring is not the one that something stands on.
    pub fn open(path: &Path) -> Result<Self> {
        refuse_unfinished(path)?;
        Self::open_at(path, None, Moved::default())
    }

    /// As [`Foundation::open`], at a run's checkpoint of `step`, with things that have moved.
    ///
    /// # Errors
    /// As [`Foundation::open`].
    pub fn open_at(path: &Path, step: Option<u64>, moved: Moved<'_>) -> Result<Self> {
        let Some(source) = RingSource::at(path, step)? else { return Ok(BaseCheckpoint::open(path)?.into()) };
        let mut foundation = Self::reopen(&source.standing, &source.file(), moved)?;
        foundation.add(&source)?;
        Ok(foundation)
    }

    /// Opens what something stands on, as `file` says. Rings are checked against their hashes; the base's is checked by whoever stands on it.
    ///
    /// # Errors
    /// As [`Foundation::open`], and [`Error::Usage`] where more rings have moved than there are.
    pub fn reopen(standing: &Standing, file: &Path, moved: Moved<'_>) -> Result<Self> {
        if moved.rings.len() > standing.rings.len() {
            return Err(Error::usage(format!("{} rings were named where it stands on {}", moved.rings.len(), standing.rings.len())));
        }
        let mut foundation = Self::from(BaseCheckpoint::open(moved.base.unwrap_or(&standing.base.path))?);
        for (index, reference) in standing.rings.iter().enumerate() {
            let path: &Path = &hub::local(moved.rings.get(index).unwrap_or(&reference.path))?;
            if !path.exists() {
                let message = format!("ring {} is not here any more\n  hint: --ring-path says where it is now", index + 1);
                return Err(Error::file(path, message));
            }
            let source = RingSource::at(path, None)?;
            let source = source.ok_or_else(|| Error::file(path, format!("is a plain model, where ring {} was", index + 1)))?;
            foundation.add(&source)?;
            ring::check_inner(file, &standing.rings[..=index], &foundation.rings)?;
        }
        Ok(foundation)
    }

    /// Adds the next ring, after it was checked to stand on this.
    ///
    /// # Errors
    /// [`Error::File`] with both hashes where it stands on another base or on other rings, or naming the tensor that does not fit.
    pub fn add(&mut self, source: &RingSource) -> Result<()> {
        let (config, sha256) = (self.base.config(), self.base.sha256()?);
        let parameters = match &source.described {
            Described::Expansion(_) => file::load_ring(&source.path, config, &sha256, &self.rings)?.parameters,
            Described::Run(_, state) => {
                self.check(state, &source.path)?;
                let expected = layout::ring_parameters(config, &ring::sizes(&self.rings), &source.growth(config)?);
                checkpoint::load_trained(&source.path, &expected)?
            }
        };
        let growth = source.growth(config)?;
        growth.placement.check_ring(config, self.rings.len())?;
        self.rings.push(Ring::new(source.path.clone(), growth, parameters));
        Ok(())
    }

    /// Checks that the checkpoint in the folder `path` was trained on this.
    ///
    /// # Errors
    /// [`Error::File`] with both hashes.
    pub fn check(&self, state: &State, path: &Path) -> Result<()> {
        let base_sha256 = self.base.sha256()?;
        let state_path = path.join(checkpoint::STATE_FILE);
        if state.base.sha256 != base_sha256 {
            return Err(Error::file(
                state_path,
                format!(
                    "trained on a base with SHA-256 {}, but {} has {base_sha256}: the base was changed or is another one\n  hint: it was at {} then",
                    state.base.sha256,
                    self.base.path().display(),
                    state.base.path.display()
                ),
            ));
        }
        ring::check_inner(&state_path, &state.rings, &self.rings)
    }

    /// Checks that a method can be trained on this.
    ///
    /// # Errors
    /// [`Error::Usage`] where there are rings, and the method is another than `scale-preserve`.
    pub fn check_method(config: &Config, rings: usize, method: &Method) -> Result<()> {
        match method {
            Method::Expansion(growth) => growth.placement.check_ring(config, rings),
            Method::Baseline(baseline) if rings > 0 => Err(Error::usage(format!(
                "method.kind: `{}` trains a plain model, and model.path is one that was widened: only scale-preserve can be trained on it",
                baseline.as_str()
            ))),
            Method::Baseline(_) => Ok(()),
        }
    }

    /// What stands on this, stands on.
    ///
    /// # Errors
    /// Whatever reading the base for its hash returns.
    pub fn standing(&self) -> Result<Standing> {
        let base = BaseReference { path: hub::absolute(self.base.path()).at(self.base.path())?, sha256: self.base.sha256()? };
        Ok(Standing { base, rings: self.references() })
    }

    /// The rings by path and hash.
    pub fn references(&self) -> Vec<RingReference> {
        self.rings.iter().map(|ring| ring.reference.clone()).collect()
    }

    /// Gives `model` what its rings within were taught, for the router `recall`; training asks no such router and reads none of it.
    ///
    /// # Errors
    /// As [`Recall::load`].
    pub fn load_recalls(&self, model: &mut Model) -> Result<()> {
        for (index, ring) in self.rings.iter().enumerate() {
            model.set_recall(index, Recall::load(&ring.reference.path)?);
        }
        Ok(())
    }

    /// The frozen model.
    ///
    /// # Errors
    /// Missing tensors and wrong shapes, by name.
    pub fn model(&self, precision: Precision) -> Result<Model> {
        let mut model = Model::from_base(&self.base, precision, false)?;
        for ring in &self.rings {
            model.widen(ring.growth.clone(), ring.parameters.clone())?;
            model.freeze();
        }
        Ok(model)
    }
}

/// Refuses a run that has steps to go, for a ring to be grown around: its newest checkpoint will give way to newer ones, and the ring would stand on
/// nothing. A checkpoint that is named itself is taken as it is.
///
/// # Errors
/// [`Error::Usage`] saying what can be done.
pub fn refuse_unfinished(path: &Path) -> Result<()> {
    // A run is never fetched from the Hub.
    if HubName::of(path)?.is_some() {
        return Ok(());
    }
    if !path.exists() {
        return Ok(());
    }
    let Place::Run(run, None) = place(path, None)? else { return Ok(()) };
    let (Some(recipe), Some((step, _))) = (RunFolder::recipe(&run)?, RunFolder::checkpoints(&run)?.pop()) else { return Ok(()) };
    let steps = recipe.train.schedule.steps;
    if step < steps {
        return Err(Error::usage(format!(
            "{path}: is at step {step} of {steps}, and its checkpoints will give way to newer ones\n  hint: finish it with --resume; \
             or take the ring as it is with `treering rings export {path} --out RING`, and grow around that",
            path = path.display()
        )));
    }
    Ok(())
}

/// What a plan needs of what a recipe's `model.path` names: the base's configuration and what each ring added. No weight is read.
///
/// # Errors
/// As [`Foundation::open`], without the hashes.
pub fn outline(path: &Path) -> Result<(Config, Vec<Growth>)> {
    // Of a plain model on the Hub, nothing else is fetched.
    if let Some(config) = hub::configuration(path)? {
        return Ok((Config::from_file(config)?, Vec::new()));
    }
    let Some(source) = RingSource::at(path, None)? else { return Ok((BaseCheckpoint::open(path)?.config().clone(), Vec::new())) };
    let config = BaseCheckpoint::open(&source.standing.base.path)?.config().clone();
    let mut growths = Vec::with_capacity(source.standing.rings.len() + 1);
    for reference in &source.standing.rings {
        let inner = RingSource::at(&reference.path, None)?;
        let inner = inner.ok_or_else(|| Error::file(&reference.path, format!("is a plain model, where ring {} was", growths.len() + 1)))?;
        growths.push(inner.growth(&config)?);
    }
    growths.push(source.growth(&config)?);
    Ok((config, growths))
}
