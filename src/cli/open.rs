//! Opening whatever a person names as a model: a Hugging Face folder, a GGUF file, a run, one of its checkpoints, an expansion, or a PEFT adapter.

use std::path::{Path, PathBuf};

use treering::baseline::{Baseline, peft};
use treering::checkpoint::BaseCheckpoint;
use treering::data::{Encode, Encoder};
use treering::hub::{self, HubName};
use treering::model::{Model, Parameter, Precision};
use treering::recipe::Recipe;
use treering::route::{Gate, Recall, Router};
use treering::tokenizer::Tokenizer;
pub(super) use treering::train::foundation::{Moved, Place, RingSource, place};
use treering::train::{Foundation, build};
use treering::{Error, Result};

/// Arithmetic, as it is chosen on the command line.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Dtype {
    /// Both operands f32
    F32,
    /// Both operands rounded to bf16, sums in f32
    Bf16,
}

impl From<Dtype> for Precision {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::Bf16,
        }
    }
}

/// Which of a run's checkpoints, and where what it stands on is now.
#[derive(Debug, clap::Args)]
pub(super) struct At {
    /// The run's checkpoint of this step [default: the newest]
    #[arg(long, value_name = "STEP")]
    pub step: Option<u64>,
    /// Where the base is now, if it has moved since the run or expansion was made
    #[arg(long, value_name = "MODEL")]
    base: Option<PathBuf>,
    /// Where an earlier ring is now, if it has moved: a run, a checkpoint or an expansion; once for each ring, from the innermost out
    #[arg(long = "ring-path", value_name = "RING")]
    rings: Vec<PathBuf>,
}

impl At {
    /// The base that was named, if one was.
    pub fn base(&self) -> Option<&Path> {
        self.base.as_deref()
    }

    /// Refuses what does not belong to the place that was found at `model`.
    pub fn check(&self, model: &Path, place: &Place) -> Result<()> {
        if self.step.is_some() && !matches!(place, Place::Run(..)) {
            return Err(Error::usage(format!("--step chooses a run's checkpoint, and {} is no run", model.display())));
        }
        if !self.rings.is_empty() && matches!(place, Place::Model | Place::Adapter) {
            return Err(Error::usage(format!("--ring-path says where an earlier ring is, and {} stands on none", model.display())));
        }
        Ok(())
    }

    /// What has moved.
    pub fn moved(&self) -> Moved<'_> {
        Moved { base: self.base.as_deref(), rings: &self.rings }
    }
}

/// What is to be opened, and how.
#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    /// A Hugging Face folder, a .gguf file, a run folder, one of its checkpoints, an expansion of `grow`, or a PEFT adapter; or hf://OWNER/NAME
    model: PathBuf,
    #[command(flatten)]
    at: At,
    /// Arithmetic of the matrix products [default: the run's own; f32 for a model]
    #[arg(long, value_enum)]
    dtype: Option<Dtype>,
}

/// A model that is ready to be asked.
pub struct OpenedModel {
    /// The model.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// What it is, in words.
    pub description: String,
    /// The checkpoint's step, where it is a run's.
    pub step: Option<u64>,
    /// The run's recipe.
    pub recipe: Option<Recipe>,
    /// The base.
    pub base: BaseCheckpoint,
    /// What was trained on the base, where that is no expansion.
    pub baseline: Option<Baseline>,
    /// The base that speaks beside it as the preservation head; none unless a router was asked for, by the command or by the run's recipe.
    pub beside: Option<PathBuf>,
    /// The folder of the trained values: a checkpoint, an expansion or an adapter; its gate and recall, where they were made, are the model's.
    pub values: Option<PathBuf>,
}

impl OpenedModel {
    /// As the model that stands beside the base at this path.
    fn pair_with(mut self, base: PathBuf) -> Self {
        self.description = format!(
            "{}, beside its base {}: a pair, whose preservation head is the base and whose adaptation head the fine-tuned model, at the cost of both",
            self.description,
            base.display()
        );
        self.beside = Some(base);
        self
    }

    /// With the folder of its trained values, and the gate that lies there.
    fn with_values(mut self, folder: &Path) -> Result<Self> {
        if let Some(gate) = Gate::load(folder)? {
            self.model.set_gate(gate);
        }
        self.values = Some(folder.to_path_buf());
        Ok(self)
    }
}

impl ModelArgs {
    /// The path as it was given.
    pub fn path(&self) -> &Path {
        &self.model
    }

    /// The base that was named, if one was.
    pub fn base(&self) -> Option<&Path> {
        self.at.base.as_deref()
    }

    /// Where things are that have moved.
    pub fn moved(&self) -> Moved<'_> {
        self.at.moved()
    }

    /// Opens it.
    pub fn open(&self) -> Result<OpenedModel> {
        let place = place(&self.model, self.at.step)?;
        self.at.check(&self.model, &place)?;
        match place {
            Place::Model => self.open_model(),
            Place::Run(run, step) => self.open_run(&run, step),
            Place::Expansion => self.open_expansion(),
            Place::Adapter => self.open_adapter(),
        }
    }

    /// Opens it for these routers. A model with one head that was fine-tuned from a base is put beside it: the pair has two.
    pub fn open_for(&self, routers: &[Router]) -> Result<OpenedModel> {
        let opened = self.open()?;
        let Some(router) = routers.first().filter(|_| opened.model.heads().len() < 2) else { return Ok(opened) };
        let (beside, model) = match (&opened.baseline, &self.at.base) {
            (Some(baseline), _) => (opened.base.path().to_path_buf(), opened.model.beside_its_base(&opened.base, baseline)?),
            // A plain model was opened as its own base; which it was fine-tuned from is for the user to say.
            (None, None) => {
                return Err(Error::usage(format!(
                    "router `{router}`: {} has one head, and a router chooses between two\n  hint: --base MODEL puts it beside the model that it was \
                     fine-tuned from; training with a scale- method, or `treering grow`, gives a model a second head",
                    self.model.display()
                )));
            }
            (None, Some(path)) => {
                let base = BaseCheckpoint::open(path)?;
                let fingerprint = |tokenizer| Encoder::new(tokenizer).map(|encoder| encoder.fingerprint());
                if fingerprint(base.tokenizer()?)? != fingerprint(opened.tokenizer.clone())? {
                    return Err(Error::file(path, format!("its tokenizer is not that of {}, so they are no pair", self.model.display())));
                }
                let frozen = Model::from_base(&base, self.precision_of(None), false)?;
                (base.path().to_path_buf(), opened.model.beside(frozen)?)
            }
        };
        Ok(OpenedModel { model, ..opened }.pair_with(beside))
    }

    fn precision_of(&self, recipe: Option<&Recipe>) -> Precision {
        self.dtype.map(Into::into).or(recipe.map(|recipe| recipe.model.dtype)).unwrap_or(Precision::F32)
    }

    fn open_model(&self) -> Result<OpenedModel> {
        let base = BaseCheckpoint::open(&self.model)?;
        let model = Model::from_base(&base, self.dtype.map_or(Precision::F32, Into::into), false)?;
        let tokenizer = base.tokenizer()?;
        Ok(OpenedModel {
            model,
            tokenizer,
            description: self.model.display().to_string(),
            step: None,
            recipe: None,
            base,
            baseline: None,
            beside: None,
            values: None,
        })
    }

    fn open_run(&self, run: &Path, step: Option<u64>) -> Result<OpenedModel> {
        let build::RunCheckpoint { mut recipe, foundation, path, step } = build::open_checkpoint(run, step, self.moved())?;
        recipe.model.dtype = self.dtype.map_or(recipe.model.dtype, Into::into);
        let mut model = build::restore(&recipe, &foundation, &path)?;
        foundation.load_recalls(&mut model)?;
        model.set_recall(foundation.rings.len(), Recall::load(&path)?);
        let tokenizer = foundation.base.tokenizer()?;
        let description = format!("{} ({}, step {step})", run.display(), recipe.method.kind.as_str());
        let baseline = recipe.method(foundation.base.config())?.baseline().cloned();
        let pair = recipe.is_pair();
        let opened = OpenedModel {
            model,
            tokenizer,
            description,
            step: Some(step),
            recipe: Some(recipe),
            base: foundation.base,
            baseline,
            beside: None,
            values: None,
        };
        let beside = opened.base.path().to_path_buf();
        if pair { opened.pair_with(beside) } else { opened }.with_values(&path)
    }

    fn open_expansion(&self) -> Result<OpenedModel> {
        let foundation = Foundation::open_at(&self.model, None, self.moved())?;
        let mut model = foundation.model(self.dtype.map_or(Precision::F32, Into::into))?;
        foundation.load_recalls(&mut model)?;
        let base = foundation.base;
        let tokenizer = base.tokenizer()?;
        let description = format!("{} on {}", self.model.display(), base.path().display());
        OpenedModel { model, tokenizer, description, step: None, recipe: None, base, baseline: None, beside: None, values: None }
            .with_values(&self.model)
    }

    fn open_adapter(&self) -> Result<OpenedModel> {
        let (base, baseline, parameters) = adapter(&self.model, self.at.base.as_deref())?;
        let mut model = Model::from_baseline(&base, self.dtype.map_or(Precision::F32, Into::into), &baseline)?;
        model.set_parameters(parameters)?;
        model.set_recall(0, Recall::load(&self.model)?);
        let tokenizer = base.tokenizer()?;
        let description = format!("{} on {}", self.model.display(), base.path().display());
        OpenedModel { model, tokenizer, description, step: None, recipe: None, base, baseline: Some(baseline), beside: None, values: None }
            .with_values(&self.model)
    }
}

/// A PEFT adapter and its base, at `base_path` or where the adapter says.
pub(super) fn adapter(folder: &Path, base_path: Option<&Path>) -> Result<(BaseCheckpoint, Baseline, Vec<Parameter>)> {
    let folder: &Path = &hub::local(folder)?;
    let named = peft::load_config(folder)?.base;
    let hint = "--base says where the adapter's base is";
    let path = match (base_path, named) {
        (Some(path), _) => path.to_path_buf(),
        (None, Some(named)) if Path::new(&named).exists() => PathBuf::from(named),
        (None, named) => {
            // What `peft` writes of a base that it took from the Hub.
            let on_hub = named.as_deref().map(|named| format!("hf://{named}")).filter(|text| text.parse::<HubName>().is_ok());
            let hint = on_hub.map_or(hint.to_string(), |name| format!("{hint}; --base {name} fetches it"));
            let named = named.map_or("names no base".into(), |named| format!("names the base {named:?}, which is not here"));
            return Err(Error::usage(format!("{}: {named}\n  hint: {hint}", folder.join(peft::CONFIG_FILE).display())));
        }
    };
    let base = BaseCheckpoint::open(&path)?;
    let (lora, parameters) = peft::load(folder, &base)?;
    Ok((base, Baseline::Lora(lora), parameters))
}
