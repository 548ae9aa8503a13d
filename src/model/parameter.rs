//! Trained parameters: named f32 tensors, and which block of the widened matrix each belongs to.

use std::fmt;

use rayon::prelude::*;

/// The block of `[[base, expansion_to_base], [base_to_expansion, expansion_to_expansion]]` (or beside it) that a parameter belongs to.
///
/// # Paper
/// Section 3: `W`, `W12`, `W21`, `W22`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Block {
    /// The pre-trained model's own weights (trained by `full` and `freeze`), and copies of them (by `llama-pro`).
    Base,
    /// W12: what the expansion adds to the base stream.
    ExpansionToBase,
    /// W21: what the expansion reads from the base stream.
    BaseToExpansion,
    /// W22: the expansion's own weights.
    ExpansionToExpansion,
    /// RMSNorm weights of the expansion stream.
    ExpansionNorm,
    /// `E_up`, the expansion's embedding.
    ExpansionEmbedding,
    /// `W_out_up`, the expansion's share of the logits.
    ExpansionHead,
    /// An adapter's A `[r, in]` (trained by `lora` only).
    #[serde(rename = "lora_A")]
    LoraA,
    /// An adapter's B `[out, r]` (trained by `lora` only).
    #[serde(rename = "lora_B")]
    LoraB,
}

impl Block {
    /// All blocks, in the order tables show them.
    pub const ALL: [Self; 9] = [
        Self::Base,
        Self::ExpansionToBase,
        Self::BaseToExpansion,
        Self::ExpansionToExpansion,
        Self::ExpansionNorm,
        Self::ExpansionEmbedding,
        Self::ExpansionHead,
        Self::LoraA,
        Self::LoraB,
    ];

    /// Whether it is a block of an expansion, rather than the base's or an adapter's.
    pub fn is_expansion(self) -> bool {
        !matches!(self, Self::Base | Self::LoraA | Self::LoraB)
    }

    /// The name used in recipes, files and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::ExpansionToBase => "expansion_to_base",
            Self::BaseToExpansion => "base_to_expansion",
            Self::ExpansionToExpansion => "expansion_to_expansion",
            Self::ExpansionNorm => "expansion_norm",
            Self::ExpansionEmbedding => "expansion_embedding",
            Self::ExpansionHead => "expansion_head",
            Self::LoraA => "lora_A",
            Self::LoraB => "lora_B",
        }
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A trained tensor: its values are f32 whatever the precision of the products.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Name in files, see [`crate::checkpoint::names`].
    pub name: String,
    /// The block it belongs to.
    pub block: Block,
    /// Row-major shape: `[out, in]` for matrices, `[n]` for norms and biases.
    pub shape: Vec<usize>,
    /// The values.
    pub value: Vec<f32>,
}

impl Parameter {
    /// Whether weight decay applies: to matrices, not to norms and biases.
    pub fn decays(&self) -> bool {
        self.shape.len() > 1
    }
}

/// Gradients of a model's trained parameters, in the order of [`crate::model::Model::parameters`].
#[derive(Debug, Clone, Default)]
pub struct Gradients {
    /// One buffer a parameter, of its length.
    pub values: Vec<Vec<f32>>,
}

impl Gradients {
    /// Zero gradients for `parameters`.
    pub fn zeros(parameters: &[Parameter]) -> Self {
        Self { values: parameters.iter().map(|p| vec![0.0; p.value.len()]).collect() }
    }

    /// Sets every gradient to zero.
    pub fn clear(&mut self) {
        // All at once: a fully trained model has hundreds of megabytes of them.
        self.values.par_iter_mut().flat_map(|v| v.par_chunks_mut(1 << 16)).for_each(|chunk| chunk.fill(0.0));
    }
}
