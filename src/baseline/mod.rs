//! The methods that widening is compared with: a plain model of which all or a part is trained, or adapters beside it, on the same loop.
//!
//! 1. [`Freeze`]: the lowest layers and the input embedding stay as they are.
//! 2. [`Lora`]: low-rank adapters beside frozen matrices; [`peft`] keeps them as the library `peft` does.
//! 3. [`LlamaPro`]: copies of layers, put between the frozen ones, start as the identity and are all that is trained.
//!
//! A [`Baseline`] says which parameters are trained and where a layer of the trained model comes from; [`crate::model::Model`],
//! [`crate::grow::plan`] and [`crate::export`] ask it and nothing else.

mod freeze;
mod llama_pro;
mod lora;
pub mod peft;
#[cfg(test)]
mod tests;

use serde::Serialize;

pub use freeze::Freeze;
pub use llama_pro::LlamaPro;
pub(crate) use lora::merge;
pub use lora::{Lora, MAX_RANK, Whole};

use crate::checkpoint::Config;
use crate::checkpoint::names::{Norm, Projection};
use crate::error::Result;
use crate::grow::layout::{self, Expected};
use crate::grow::sizes::Growth;

/// What is trained on a base.
#[derive(Debug, Clone, PartialEq)]
pub enum Method {
    /// An expansion beside it.
    Expansion(Growth),
    /// The base itself, a part of it, or adapters.
    Baseline(Baseline),
}

impl Method {
    /// The growth, where there is one.
    pub fn growth(&self) -> Option<&Growth> {
        match self {
            Self::Expansion(growth) => Some(growth),
            Self::Baseline(_) => None,
        }
    }

    /// The baseline, where it is one.
    pub fn baseline(&self) -> Option<&Baseline> {
        match self {
            Self::Expansion(_) => None,
            Self::Baseline(baseline) => Some(baseline),
        }
    }
}

/// A method that trains a plain model, or adapters on one.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Baseline {
    /// All of the base: full fine-tuning.
    Full,
    /// The base above its lowest layers.
    Freeze(Freeze),
    /// Low-rank adapters.
    Lora(Lora),
    /// Inserted copies of layers.
    LlamaPro(LlamaPro),
}

/// A part of a plain model that is trained, or not, as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The input embedding, and the output projection where the two are tied.
    Embedding,
    /// A layer of the trained model, norms and biases included.
    Layer(usize),
    /// The final norm.
    Norm,
    /// An output projection of its own.
    Head,
}

/// Where a layer of the trained model comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// The base's layer.
    pub layer: usize,
    /// Whether it is a copy that starts as the identity: then `o_proj` and `down_proj` are zero, biases included. Where a family normalises what they
    /// write, those norms' weights are zero in their place: behind a norm even the smallest step of `o_proj` would be felt in full.
    pub copy: bool,
}

impl Source {
    /// Whether a projection starts at zero here, in a model of `config`.
    pub fn is_zero(self, config: &Config, projection: Projection) -> bool {
        self.copy && !config.family.has_post_norms() && matches!(projection, Projection::O | Projection::Down)
    }

    /// Whether the weight of a norm starts at zero here, in a model of `config`.
    pub fn is_zero_norm(self, config: &Config, norm: Norm) -> bool {
        self.copy && config.family.has_post_norms() && config.family.residual_norms().contains(&norm)
    }
}

impl Baseline {
    /// The method's name in recipes.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Freeze(_) => "freeze",
            Self::Lora(_) => "lora",
            Self::LlamaPro(_) => "llama-pro",
        }
    }

    /// Checks that it fits a base of `config`.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] naming the key, and what would fit.
    pub fn validate(&self, config: &Config) -> Result<()> {
        match self {
            Self::Full => Ok(()),
            Self::Freeze(freeze) => freeze.validate(config),
            Self::Lora(lora) => lora.validate(config),
            Self::LlamaPro(pro) => pro.validate(config),
        }
    }

    /// The configuration of the trained model on a base of `config`: a plain model's of the same family.
    pub fn model_config(&self, config: &Config) -> Config {
        match self {
            Self::LlamaPro(pro) => {
                let num_hidden_layers = config.num_hidden_layers + pro.groups;
                // A copy looks back as far as its original does.
                let sees_all = |&layer: &usize| config.full_attention_layers.contains(&pro.source(config, layer).layer);
                let full_attention_layers = (0..num_hidden_layers).filter(sees_all).collect();
                Config { num_hidden_layers, full_attention_layers, ..config.clone() }
            }
            _ => config.clone(),
        }
    }

    /// Where layer `layer` of the trained model comes from, on a base of `config`.
    pub fn source(&self, config: &Config, layer: usize) -> Source {
        match self {
            Self::LlamaPro(pro) => pro.source(config, layer),
            _ => Source { layer, copy: false },
        }
    }

    /// Whether a part of the trained model is trained, on a base of `config`.
    pub fn trains(&self, config: &Config, part: Part) -> bool {
        match (self, part) {
            (Self::Full, _) => true,
            (Self::Freeze(freeze), Part::Embedding) => !freeze.frozen_embedding,
            (Self::Freeze(freeze), Part::Layer(layer)) => layer >= freeze.frozen_layers,
            (Self::Freeze(_), Part::Norm | Part::Head) => true,
            (Self::Lora(lora), part) => lora.trains(part),
            (Self::LlamaPro(pro), Part::Layer(layer)) => pro.source(config, layer).copy,
            (Self::LlamaPro(_), _) => false,
        }
    }

    /// The adapter of a projection, where it has one.
    pub fn adapter(&self, projection: Projection) -> Option<&Lora> {
        match self {
            Self::Lora(lora) if lora.target_modules.contains(&projection) => Some(lora),
            _ => None,
        }
    }

    /// Whether adapters drop a share of their inputs.
    pub fn has_dropout(&self) -> bool {
        matches!(self, Self::Lora(lora) if lora.lora_dropout > 0.0)
    }

    /// Whether the output projection is trained, on a base of `config`.
    pub fn trains_head(&self, config: &Config) -> bool {
        self.trains(config, if config.tie_word_embeddings { Part::Embedding } else { Part::Head })
    }

    /// Every trained parameter on a base of `config`, in the order of [`crate::model::Model::parameters`].
    pub fn parameters(&self, config: &Config) -> Vec<Expected> {
        let model = self.model_config(config);
        let when = |part: Part, all: Vec<Expected>| if self.trains(config, part) { all } else { Vec::new() };
        let mut trained = when(Part::Embedding, layout::embedding_parameters(&model));
        for layer in 0..model.num_hidden_layers {
            trained.extend(when(Part::Layer(layer), layout::layer_parameters(&model, layer)));
            if let Self::Lora(lora) = self {
                trained.extend(lora.pairs(config, layer));
            }
        }
        trained.extend(when(Part::Norm, layout::norm_parameters(&model)));
        trained.extend(when(Part::Head, layout::head_parameters(&model)));
        trained
    }
}
