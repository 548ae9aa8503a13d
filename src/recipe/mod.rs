//! Recipes: from TOML to values that have been checked.
//!
//! Each part of the program owns its own configuration; a recipe puts them together. Unknown keys are refused, ranges are checked,
//! relative paths start at the recipe's folder, and every complaint names its key. [`Recipe::resolved_toml`] writes everything back, defaults included.

mod baseline;
mod compare;
mod method;
mod overrides;
mod read;
mod section;
mod suite;
#[cfg(test)]
mod tests;
mod write;

use std::path::{Path, PathBuf};

use crate::baseline::{Baseline, Freeze, LlamaPro, Lora, Method};
use crate::checkpoint::Config;
use crate::data::{HeldOutConfig, StreamConfig};
use crate::error::{Error, Result};
use crate::eval::suite::{Bos, Selection};
use crate::files::here;
use crate::grow::plan::Request;
use crate::grow::{Given, Growth};
use crate::hub;
use crate::model::Precision;
use crate::route::Router;
use crate::train::TrainConfig;
pub use method::{MethodConfig, MethodKind};
pub(crate) use overrides::value;
pub(crate) use section::suggestion;

/// The largest recipe that is read: they are written by hand.
const MAX_BYTES: u64 = 1 << 20;

/// More than any model or run has, small enough that products of two of them fit.
const MOST: u64 = 1 << 31;

/// Everything that defines a training run.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// The base.
    pub model: ModelConfig,
    /// What is added to it and what is trained.
    pub method: MethodConfig,
    /// What it is taught, and what it is measured on.
    pub data: DataConfig,
    /// How.
    pub train: TrainConfig,
    /// When and how it is measured.
    pub eval: EvalConfig,
    /// The `[route]` table: routers that are measured beside the heads; the first is the run's own. None without a second head.
    pub routers: Vec<Router>,
}

/// The `[model]` table.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// A Hugging Face folder, a GGUF file, something that stands on one, or an `hf://` name.
    pub path: PathBuf,
    /// Arithmetic of the matrix products.
    pub dtype: Precision,
}

/// The `[data]` table.
#[derive(Debug, Clone, PartialEq)]
pub struct DataConfig {
    /// What is trained on, and how it is cut into windows.
    pub stream: StreamConfig,
    /// Held-out corpora of what is to be learnt.
    pub learn: Vec<HeldOutConfig>,
    /// Held-out corpora of what is not to be forgotten.
    pub forget: Vec<HeldOutConfig>,
}

/// The `[eval]` table.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalConfig {
    /// Measures after every so many steps, beside the measurement after the last; 0 for that one only.
    pub every_steps: u64,
    /// Whether to measure before the first step.
    pub at_start: bool,
    /// Tokens a window.
    pub window: usize,
    /// Tokens from one window's start to the next's: each window scores its last `stride` tokens.
    pub stride: usize,
    /// Windows in one forward pass.
    pub batch_size: usize,
    /// Whether to measure representation forgetting.
    pub representation: bool,
    /// Multiple-choice tasks that are measured, too.
    pub suite: Option<SuiteConfig>,
}

/// The keys of `[eval]` about multiple-choice tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuiteConfig {
    /// Names of tasks and groups.
    pub suites: Vec<String>,
    /// The folder of their data.
    pub data: PathBuf,
    /// Items of each task; all where there is none.
    pub limit: Option<usize>,
    /// Examples before a question, as [`Selection::new`] reads them.
    pub few_shot: Vec<String>,
    /// Whether a token begins every prompt.
    pub bos: Bos,
}

impl SuiteConfig {
    /// The tasks, checked.
    ///
    /// # Errors
    /// As [`Selection::new`].
    pub fn selection(&self) -> Result<Selection> {
        Selection::new(self.suites.iter().map(String::as_str), self.few_shot.iter().map(String::as_str))
    }
}

impl Recipe {
    /// Reads a recipe file; relative paths in it start at its folder. `overrides` are `key=value` pairs that change it before it is checked.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, and [`Error::Usage`] naming the key that is wrong.
    pub fn load(path: impl AsRef<Path>, overrides: &[String]) -> Result<Self> {
        let path = path.as_ref();
        let size = std::fs::metadata(path).map_err(|e| Error::io(path, e))?.len();
        if size > MAX_BYTES {
            return Err(Error::usage(format!("{}: {size} bytes is no recipe; the largest that is read has {MAX_BYTES}", path.display())));
        }
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let text = String::from_utf8(bytes).map_err(|e| Error::usage(format!("{}: not UTF-8 text: {}", path.display(), e.utf8_error())))?;
        // `recipes/a.toml` has the folder `recipes`, `a.toml` the folder ``, which is where we are.
        let folder = path.parent().unwrap_or(Path::new(""));
        let folder = std::path::absolute(here(folder)).map_err(|e| Error::io(path, e))?;
        Self::parse(&text, &folder, overrides).map_err(|error| match error {
            Error::Usage(message) => Error::Usage(format!("{}: {message}", path.display())),
            other => other,
        })
    }

    /// Reads a recipe from text; relative paths in it start at `folder`.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the key that is wrong.
    pub fn parse(text: &str, folder: &Path, overrides: &[String]) -> Result<Self> {
        let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error.span().map(|span| text[..span.start.min(text.len())].lines().count().max(1));
            let place = line.map(|n| format!("line {n}: ")).unwrap_or_default();
            Error::usage(format!("{place}{}", error.message()))
        })?;
        for assignment in overrides {
            overrides::apply(&mut table, assignment)?;
        }
        read::recipe(table, folder)
    }

    /// Puts commits in place of the branches and tags of `hf://` names: what is written down means the same later.
    fn pin(&mut self) -> Result<()> {
        if let Some(path) = self.model.path.to_str() {
            self.model.path = hub::pinned(path)?.into();
        }
        let DataConfig { stream, learn, forget } = &mut self.data;
        let paths = stream.train.iter_mut().map(|source| &mut source.path);
        for path in paths.chain(learn.iter_mut().chain(forget).map(|corpus| &mut corpus.path)) {
            *path = hub::pinned(path)?;
        }
        Ok(())
    }

    /// Fills in what depends on the base: added sizes ([`crate::grow::Sizes::suggested`] where none are given), and where W12 is trained.
    ///
    /// # Errors
    /// [`Error::Usage`] where windows are longer than the base's context, or the sizes do not fit it, with sizes that would.
    pub fn resolve(mut self, config: &Config) -> Result<Self> {
        for (key, length) in [("data.sequence_length", self.data.stream.sequence_length), ("eval.window", self.eval.window)] {
            let context = config.max_position_embeddings;
            if length > context {
                return Err(Error::usage(format!(
                    "{key}: {length} tokens are more than the model's context of {context} (max_position_embeddings)"
                )));
            }
        }
        self.pin()?;
        let trained = self.method(config)?;
        match &trained {
            Method::Baseline(Baseline::Freeze(freeze)) => self.method.frozen_layers = Some(freeze.frozen_layers),
            Method::Baseline(Baseline::LlamaPro(pro)) => self.method.groups = Some(pro.groups),
            _ => {}
        }
        if let Method::Expansion(growth) = trained {
            let method = &mut self.method;
            method.hidden_size = Some(growth.sizes.hidden_size);
            method.num_attention_heads = Some(growth.sizes.num_attention_heads);
            method.num_key_value_heads = Some(growth.sizes.num_key_value_heads);
            method.intermediate_size = Some(growth.sizes.intermediate_size);
            if method.kind.adapts() {
                method.preserved_layers = Some(growth.placement.preserved_layers);
                method.modules = Some(growth.placement.modules);
                method.r = Some(growth.placement.r);
                method.kind.rate_low_rank_parts(&mut self.train.learning_rates, growth.placement.r)?;
                if !self.measures_sink() {
                    self.method.sink_layers = Some(growth.placement.sink_layers);
                }
            }
        }
        Ok(self)
    }

    /// Whether it leaves open in which layers the base's attention sink is kept: [`Model::sink_layers`](crate::model::Model::sink_layers) says it then.
    pub fn measures_sink(&self) -> bool {
        self.method.kind == MethodKind::ScaleRoute && self.method.sink_layers.is_none()
    }

    /// The recipe with what it leaves to measuring as it was found for a run: its [`MethodConfig::sink_layers`].
    pub fn settled(mut self, sink_layers: Option<usize>) -> Self {
        self.method.sink_layers = if self.measures_sink() { sink_layers } else { self.method.sink_layers };
        self
    }

    /// The growth this recipe asks for on a base of `config`; `None` for a method that does not widen.
    ///
    /// # Errors
    /// [`Error::Usage`] where the sizes do not fit the base, with sizes that would.
    pub fn growth(&self, config: &Config) -> Result<Option<Growth>> {
        let method = &self.method;
        let Some(default) = method.kind.placement(config) else { return Ok(None) };
        let given = Given {
            hidden_size: method.hidden_size,
            num_attention_heads: method.num_attention_heads,
            num_key_value_heads: method.num_key_value_heads,
            intermediate_size: method.intermediate_size,
            preserved_layers: method.preserved_layers,
            modules: method.modules.clone(),
            r: method.r,
            sink_layers: method.sink_layers,
        };
        let growth = Growth::complete(config, default, &given).map_err(|error| match error {
            Error::Usage(message) => Error::Usage(format!("method.{message}")),
            other => other,
        })?;
        Ok(Some(growth))
    }

    /// Whether the trained model, which has one head, stands beside its base, so that the recipe's routers choose between the two.
    pub fn is_pair(&self) -> bool {
        !self.method.kind.widens() && !self.routers.is_empty()
    }

    /// Whether a preservation and an adaptation head are measured: of a widened model, and of a [pair](Recipe::is_pair).
    pub fn has_two_heads(&self) -> bool {
        self.method.kind.widens() || self.is_pair()
    }

    /// The router that speaks for what was trained unless told otherwise: that of `scale-route` and of a [pair](Recipe::is_pair). Under the other methods
    /// the adaptation head speaks, and routers are measured beside it.
    pub fn own_router(&self) -> Option<Router> {
        self.routers.first().copied().filter(|_| self.method.kind == MethodKind::ScaleRoute || self.is_pair())
    }

    /// What is to be planned for this recipe on a base of `config` with `rings` around it; `method` is what [`Recipe::method`] makes of that base.
    pub fn request<'a>(&self, config: &'a Config, rings: &'a [Growth], method: &'a Method) -> Request<'a> {
        Request {
            config,
            rings,
            method,
            name: Some(self.method.kind.as_str()),
            precision: self.model.dtype,
            batch_size: self.train.batch_size,
            sequence_length: self.data.stream.sequence_length,
            recompute: self.train.recompute,
            pair: self.is_pair(),
        }
    }

    /// What this recipe trains on a base of `config`.
    ///
    /// # Errors
    /// [`Error::Usage`] where the sizes, layers or groups do not fit the base, with what would.
    pub fn method(&self, config: &Config) -> Result<Method> {
        let method = &self.method;
        if let Some(growth) = self.growth(config)? {
            return Ok(Method::Expansion(growth));
        }
        let baseline = match method.kind {
            MethodKind::Freeze => Baseline::Freeze(Freeze {
                frozen_layers: method.frozen_layers.unwrap_or(Freeze::new(config).frozen_layers),
                frozen_embedding: method.frozen_embedding,
            }),
            MethodKind::Lora => Baseline::Lora(method.lora.clone().unwrap_or_else(|| Lora::new(method.seed))),
            MethodKind::LlamaPro => Baseline::LlamaPro(LlamaPro { groups: method.groups.unwrap_or(LlamaPro::new(config).groups) }),
            _ => Baseline::Full,
        };
        baseline.validate(config).map_err(baseline::named)?;
        Ok(Method::Baseline(baseline))
    }

    /// The whole recipe as TOML, with every default written out and every path absolute; [`Recipe::parse`] reads it back to an equal one.
    pub fn resolved_toml(&self) -> String {
        write::table(self).to_string()
    }
}
