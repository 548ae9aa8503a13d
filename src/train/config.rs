//! The `[train]` table of a recipe, validated.

use crate::train::optimizer::AdamWConfig;
use crate::train::schedule::{LearningRates, Schedule};
use crate::train::spikes::SpikeConfig;

/// How a model is trained.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainConfig {
    /// Steps of the run and the shape of the learning rate over them.
    pub schedule: Schedule,
    /// Peak learning rates.
    pub learning_rates: LearningRates,
    /// The optimizer's constants.
    pub adamw: AdamWConfig,
    /// Windows in one forward pass.
    pub batch_size: usize,
    /// Forward passes whose gradients are added up to one step.
    pub gradient_accumulation: usize,
    /// Gradients are scaled down to this norm over all parameters; 0 leaves them alone.
    pub max_gradient_norm: f64,
    /// Which steps are left out as spikes; `None` for none.
    pub skip_spikes: Option<SpikeConfig>,
    /// Seed of the data's order, and of the expansion's random values unless `method.seed` is given.
    pub seed: u64,
    /// Whether the backward pass runs layers again rather than keeping what they computed.
    pub recompute: bool,
    /// A checkpoint after every so many steps, beside the one at the end; 0 for that one only.
    pub checkpoint_every_steps: u64,
    /// How many checkpoints are kept, the newest; 0 keeps all.
    pub keep_checkpoints: usize,
    /// Threads of the compute core; `None` for as many as the machine has.
    pub threads: Option<usize>,
}
