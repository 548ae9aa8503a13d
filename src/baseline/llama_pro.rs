//! LLaMA Pro: layers are copied, the copies start as the identity, and only they are trained.

use serde::Serialize;

use super::Source;
use crate::checkpoint::Config;
use crate::error::{Error, Result};

/// Layers that share a copy where a recipe does not say, as in the paper (32 layers in 8 groups).
const LAYERS_A_GROUP: usize = 4;

/// How many copies there are, and so where: the base's layers are cut into equal groups, and each is followed by a copy of its last layer.
///
/// # Paper
/// Wu et al., ACL 2024: block expansion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LlamaPro {
    /// Groups of the base's layers, and so copies; divides the number of layers.
    pub groups: usize,
}

impl LlamaPro {
    /// As many groups as divide the layers into groups of four, or of the next larger size that divides them.
    pub fn new(config: &Config) -> Self {
        let layers = config.num_hidden_layers.max(1);
        let groups = (1..=(layers / LAYERS_A_GROUP).max(1)).rev().find(|&groups| layers.is_multiple_of(groups));
        Self { groups: groups.unwrap_or(1) }
    }

    pub(super) fn validate(&self, config: &Config) -> Result<()> {
        let layers = config.num_hidden_layers;
        if self.groups == 0 || !layers.is_multiple_of(self.groups) {
            let fitting: Vec<String> = (1..=layers).filter(|n| layers.is_multiple_of(*n)).map(|n| n.to_string()).collect();
            return Err(Error::usage(format!(
                "groups: {} does not divide the base's {layers} layers (num_hidden_layers)\n  hint: one of {} does",
                self.groups,
                fitting.join(", ")
            )));
        }
        Ok(())
    }

    /// Where a layer of the trained model comes from.
    pub(super) fn source(&self, config: &Config, layer: usize) -> Source {
        // `validate` refuses no groups; whoever asks before gets an answer all the same.
        let size = config.num_hidden_layers / self.groups.max(1);
        let (group, within) = (layer / (size + 1), layer % (size + 1));
        Source { layer: group * size + within.min(size.saturating_sub(1)), copy: within == size }
    }
}
