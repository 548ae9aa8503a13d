//! How much wider a model becomes, and which expansion-to-base blocks are trained.

use serde::{Deserialize, Serialize};

/// Added sizes. `num_attention_heads / num_key_value_heads` must equal the base's ratio; `head_dim` stays the base's.
///
/// # Paper
/// Section 3.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// Added width of the residual stream, `e`.
    pub hidden_size: usize,
    /// Added query heads, `He`.
    pub num_attention_heads: usize,
    /// Added key/value heads, `Ke`.
    pub num_key_value_heads: usize,
    /// Added width of the feed-forward network, `em`.
    pub intermediate_size: usize,
}

/// Which modules of a layer train their expansion-to-base block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Module {
    /// `q_proj`, `k_proj`, `v_proj`, `o_proj`.
    Attention,
    /// `gate_proj`, `up_proj`, `down_proj`.
    Ffn,
}

/// Where W12 is trained: in the chosen modules of every layer from `preserved_layers` up.
/// Preserve is `preserved_layers = num_hidden_layers`.
///
/// # Paper
/// Section 3.3 (`L_fp`) and Figures 6 and 7.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The lowest layers whose W12 stays zero.
    pub preserved_layers: usize,
    /// The modules whose W12 is trained above them.
    pub modules: Vec<Module>,
}

impl Placement {
    /// Whether `module` of `layer` trains its expansion-to-base block.
    pub fn trains(&self, layer: usize, module: Module) -> bool {
        layer >= self.preserved_layers && self.modules.contains(&module)
    }

    /// The first layer in which the base stream forks into a preserved and an adapted copy; `num_hidden_layers` when none does.
    pub fn fork_layer(&self, num_hidden_layers: usize) -> usize {
        if self.modules.is_empty() { num_hidden_layers } else { self.preserved_layers.min(num_hidden_layers) }
    }
}

/// Everything that defines the shape of a widened model beside its base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Growth {
    /// Added sizes.
    pub sizes: Sizes,
    /// Where W12 is trained.
    pub placement: Placement,
}
