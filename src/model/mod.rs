//! The decoder: a frozen or trained Llama-family base, and the expansion beside it.

pub mod parameter;

use crate::checkpoint::{BaseCheckpoint, Config};
use crate::data::batch::Batch;
use crate::error::Result;
use crate::grow::sizes::Growth;
pub use parameter::{Block, Gradients, Parameter};

/// Arithmetic of the matrix products; sums are always f32, trained weights are always kept in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Both operands f32.
    F32,
    /// Both operands rounded to bf16, products summed in f32.
    Bf16,
}

/// One way of turning hidden states into a next-token distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Head {
    /// A plain model's only head.
    Base,
    /// The base's logits, kept bit for bit.
    Preservation,
    /// The base's logits plus the expansion's.
    Adaptation,
}

/// Summed loss of a batch.
#[derive(Debug, Clone, Copy, Default)]
pub struct BatchLoss {
    /// Negative log-likelihood summed over the counted targets, in nats.
    pub nll: f64,
    /// Number of counted targets.
    pub targets: usize,
}

/// Per-token results of a forward pass, one entry a head in the order of [`Model::heads`].
#[derive(Debug, Clone, Default)]
pub struct Scores {
    /// Log-probability (nats) of each target, `[batch, seq]`; 0 where the target is ignored.
    pub log_probs: Vec<Vec<f32>>,
    /// Whether the target was the head's most probable token, `[batch, seq]`.
    pub correct: Vec<Vec<bool>>,
    /// Hidden state of the base stream behind each head, before the final norm, `[batch, seq, hidden_size]`; empty unless asked for.
    pub hidden: Vec<Vec<f32>>,
}

/// Keys and values of the tokens seen so far, for every stream.
pub struct Cache;

/// A language model: what `train`, `eval` and `generate` see.
pub struct Model;

impl Model {
    /// Reads a base; its weights are frozen, or with `train_base` are trained parameters (method `full`).
    ///
    /// # Errors
    /// Missing tensors and wrong shapes, by name.
    pub fn from_base(_checkpoint: &BaseCheckpoint, _precision: Precision, _train_base: bool) -> Result<Self> {
        todo!()
    }

    /// Adds an expansion whose parameters were made by [`crate::grow`] or read from a checkpoint.
    ///
    /// # Errors
    /// Missing, surplus or misshapen parameters, by name.
    pub fn widen(&mut self, _growth: Growth, _parameters: Vec<Parameter>) -> Result<()> {
        todo!()
    }

    /// The base's configuration.
    pub fn config(&self) -> &Config {
        todo!()
    }

    /// The growth, where the model has been widened.
    pub fn growth(&self) -> Option<&Growth> {
        todo!()
    }

    /// The heads this model has: `[Base]`, or `[Preservation, Adaptation]` once widened.
    pub fn heads(&self) -> &'static [Head] {
        todo!()
    }

    /// Trained parameters.
    pub fn parameters(&self) -> &[Parameter] {
        todo!()
    }

    /// Trained parameters, to be updated in place (same lengths).
    pub fn parameters_mut(&mut self) -> &mut [Parameter] {
        todo!()
    }

    /// Forward and backward of one batch: adds `scale ×` the gradient of the *summed* negative log-likelihood to `gradients`.
    /// With `recompute`, layers keep only their inputs and are run again in the backward pass.
    ///
    /// # Errors
    /// A token outside the vocabulary.
    pub fn loss_and_gradients(&self, _batch: &Batch, _gradients: &mut Gradients, _scale: f32, _recompute: bool) -> Result<BatchLoss> {
        todo!()
    }

    /// Forward of one batch through every head, with nothing kept.
    ///
    /// # Errors
    /// A token outside the vocabulary.
    pub fn score(&self, _batch: &Batch, _with_hidden: bool) -> Result<Scores> {
        todo!()
    }

    /// An empty cache for up to `capacity` tokens of one sequence.
    pub fn new_cache(&self, _capacity: usize) -> Cache {
        todo!()
    }

    /// Appends `tokens` to the sequence and returns the logits of the last position, `[vocab_size]`, for each head in the order of [`Model::heads`].
    ///
    /// # Errors
    /// A token outside the vocabulary, or a full cache.
    pub fn step(&self, _cache: &mut Cache, _tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
        todo!()
    }
}
