//! Freezing the bottom: the lowest layers and the input embedding stay as they are, the rest is trained.

use serde::Serialize;

use crate::checkpoint::Config;
use crate::error::{Error, Result};

/// Layers frozen where a recipe does not say, fewer where the base has no more.
const FROZEN_LAYERS: usize = 3;

/// Which part of the base stays as it is.
///
/// # Paper
/// Freeze, as SCALE compares with it: the bottom three layers and the input embedding (after Zheng et al., ICLR 2025).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Freeze {
    /// How many of the lowest layers are frozen.
    pub frozen_layers: usize,
    /// Whether the input embedding is frozen, and with it the output projection where the two are tied.
    pub frozen_embedding: bool,
}

impl Freeze {
    /// What is frozen where a recipe does not say: three layers, or all but one, and the input embedding.
    pub fn new(config: &Config) -> Self {
        Self { frozen_layers: FROZEN_LAYERS.min(config.num_hidden_layers.saturating_sub(1)), frozen_embedding: true }
    }

    pub(super) fn validate(&self, config: &Config) -> Result<()> {
        if self.frozen_layers > config.num_hidden_layers {
            return Err(Error::usage(format!(
                "frozen_layers: {} is more than the base's {} layers (num_hidden_layers)",
                self.frozen_layers, config.num_hidden_layers
            )));
        }
        Ok(())
    }
}
