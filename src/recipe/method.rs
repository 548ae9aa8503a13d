//! The `[method]` table: what is trained, and the defaults of each kind.

use serde::{Deserialize, Serialize};

use super::read;
use crate::baseline::Lora;
use crate::checkpoint::Config;
use crate::error::Result;
use crate::grow::{Initialisation, Module, Placement};
use crate::model::Block;
use crate::train::schedule::LearningRates;

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MethodKind {
    /// An expansion that never changes the base stream.
    ///
    /// # Paper
    /// SCALE-Preserve.
    ScalePreserve,
    /// An expansion that adds to the base stream in chosen layers and modules.
    ///
    /// # Paper
    /// SCALE-Adapt.
    ScaleAdapt,
    /// Trained as [`MethodKind::ScaleAdapt`], with a router between the two heads.
    ///
    /// # Paper
    /// SCALE-Route.
    ScaleRoute,
    /// All of the base, and no expansion: full fine-tuning, to compare with.
    Full,
    /// The base above its lowest layers, to compare with.
    Freeze,
    /// Low-rank adapters, to compare with.
    Lora,
    /// Inserted copies of layers, to compare with.
    LlamaPro,
}

impl MethodKind {
    /// All kinds with the names used in recipes.
    pub const ALL: [(&'static str, Self); 7] = [
        ("scale-preserve", Self::ScalePreserve),
        ("scale-adapt", Self::ScaleAdapt),
        ("scale-route", Self::ScaleRoute),
        ("full", Self::Full),
        ("freeze", Self::Freeze),
        ("lora", Self::Lora),
        ("llama-pro", Self::LlamaPro),
    ];

    /// The name used in recipes, files and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ScalePreserve => "scale-preserve",
            Self::ScaleAdapt => "scale-adapt",
            Self::ScaleRoute => "scale-route",
            Self::Full => "full",
            Self::Freeze => "freeze",
            Self::Lora => "lora",
            Self::LlamaPro => "llama-pro",
        }
    }

    /// Whether W12 is trained, in the layers and modules that the recipe chooses.
    pub fn adapts(self) -> bool {
        matches!(self, Self::ScaleAdapt | Self::ScaleRoute)
    }

    /// Where W12 is trained unless told otherwise; `None` for methods that do not widen.
    pub fn placement(self, config: &Config) -> Option<Placement> {
        match self {
            Self::ScalePreserve => Some(Placement::preserve(config)),
            Self::ScaleAdapt => Some(Placement::adapt(config)),
            Self::ScaleRoute => Some(Placement::route()),
            _ => None,
        }
    }

    /// The rank of low-rank parts beside W12 unless a recipe says otherwise.
    pub fn default_rank(self) -> usize {
        if self == Self::ScaleRoute { Placement::route().r } else { 0 }
    }

    /// Gives low-rank parts of rank `r` beside W12 their rate where a recipe has none.
    pub(super) fn rate_low_rank_parts(self, rates: &mut LearningRates, r: usize) -> Result<()> {
        read::check_low_rank_rates(rates, r)?;
        // Where a router holds forgetting and the sink is kept they gain by the full rate (docs/experiments.md); else they are as timid as W12.
        let rate = if self == Self::ScaleRoute { rates.learning_rate } else { rates.of(Block::ExpansionToBase) };
        for block in [Block::LoraA, Block::LoraB].into_iter().filter(|_| r > 0) {
            rates.by_block.entry(block).or_insert(rate);
        }
        Ok(())
    }

    /// What W12 learns at unless a recipe says otherwise, where everything else learns at `learning_rate`.
    ///
    /// It alone changes the base stream, on which all else is built: at the full rate it flies apart. Where a router holds forgetting it need not be
    /// as timid as where the adaptation head alone speaks (docs/experiments.md).
    pub fn expansion_to_base_rate(self, learning_rate: f64) -> f64 {
        learning_rate * if self == Self::ScaleRoute { 0.3 } else { 0.1 }
    }

    /// Whether the model is widened.
    pub fn widens(self) -> bool {
        !matches!(self, Self::Full | Self::Freeze | Self::Lora | Self::LlamaPro)
    }
}

/// The `[method]` table. What is `None` depends on the base, see [`super::Recipe::resolve`].
#[derive(Debug, Clone, PartialEq)]
pub struct MethodConfig {
    /// What is trained.
    pub kind: MethodKind,
    /// Added width of the residual stream.
    pub hidden_size: Option<usize>,
    /// Added query heads.
    pub num_attention_heads: Option<usize>,
    /// Added key/value heads.
    pub num_key_value_heads: Option<usize>,
    /// Added width of the feed-forward network.
    pub intermediate_size: Option<usize>,
    /// What W21 and W22 start from.
    pub init: Initialisation,
    /// The lowest layers whose W12 stays zero (`scale-adapt`, `scale-route`).
    pub preserved_layers: Option<usize>,
    /// The modules whose W12 is trained above them (`scale-adapt`, `scale-route`).
    pub modules: Option<Vec<Module>>,
    /// Rank of the low-rank parts beside every W12 (`scale-adapt`, `scale-route`); 0 for none.
    pub r: Option<usize>,
    /// The lowest layers in which the adapted copy keeps a document's first position (`scale-adapt`, `scale-route`). Where it is left open it is
    /// [measured](super::Recipe::measures_sink) when training starts.
    pub sink_layers: Option<usize>,
    /// The adapters (`lora`).
    pub lora: Option<Lora>,
    /// How many of the lowest layers are frozen (`freeze`).
    pub frozen_layers: Option<usize>,
    /// Whether the input embedding is frozen (`freeze`).
    pub frozen_embedding: bool,
    /// Groups of layers that are followed by a copy (`llama-pro`).
    pub groups: Option<usize>,
    /// Seed of the expansion's random values, of the adapters' and of their dropout.
    pub seed: u64,
}

impl MethodConfig {
    /// Keys of what a method that trains W12 has beside the paper's placement, where they are not given: a run's recipe gives them.
    pub fn open_keys(&self) -> impl Iterator<Item = &'static str> {
        let keys = [("r", self.r.is_none()), ("sink_layers", self.sink_layers.is_none())];
        keys.into_iter().filter(|(_, open)| *open && self.kind.adapts()).map(|(key, _)| key)
    }
}
