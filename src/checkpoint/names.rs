//! The name of every tensor, base and expansion, in one place.

use crate::grow::Module;
use crate::model::Block;

/// The input embedding's module.
pub const EMBED_TOKENS: &str = "model.embed_tokens";
/// The final norm's module.
pub const NORM: &str = "model.norm";
/// The output projection's module.
pub const LM_HEAD: &str = "lm_head";

/// The `model_type` of a widened model in a folder for `transformers`.
pub const WIDENED: &str = "treering";

/// One of the seven linear modules of a decoder layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Projection {
    /// `self_attn.q_proj`.
    Q,
    /// `self_attn.k_proj`.
    K,
    /// `self_attn.v_proj`.
    V,
    /// `self_attn.o_proj`.
    O,
    /// `mlp.gate_proj`.
    Gate,
    /// `mlp.up_proj`.
    Up,
    /// `mlp.down_proj`.
    Down,
}

impl Projection {
    /// All seven, in the order a layer computes them.
    pub const ALL: [Self; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// The path inside a layer, as Hugging Face spells it.
    pub fn path(self) -> &'static str {
        match self {
            Self::Q => "self_attn.q_proj",
            Self::K => "self_attn.k_proj",
            Self::V => "self_attn.v_proj",
            Self::O => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }

    /// The module's own name, as `peft` has it in `target_modules`: `q_proj` and so on.
    pub fn name(self) -> &'static str {
        let path = self.path();
        path.rsplit_once('.').map_or(path, |(_, name)| name)
    }

    /// The projection of a module's own name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|projection| projection.name() == name)
    }

    /// The half of the layer it belongs to.
    pub fn module(self) -> Module {
        match self {
            Self::Q | Self::K | Self::V | Self::O => Module::Attention,
            Self::Gate | Self::Up | Self::Down => Module::Ffn,
        }
    }
}

/// The module of a layer's projection, for example `model.layers.3.self_attn.q_proj`.
pub fn projection(layer: usize, projection: Projection) -> String {
    format!("model.layers.{layer}.{}", projection.path())
}

/// A norm of a decoder layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Norm {
    /// `input_layernorm`, before attention.
    Input,
    /// `post_attention_layernorm`: before the feed-forward network, or where a family normalises what modules write, behind attention.
    PostAttention,
    /// `post_feedforward_layernorm`, behind the feed-forward network.
    PostFeedforward,
    /// `self_attn.q_norm`.
    Query,
    /// `self_attn.k_norm`.
    Key,
}

impl Norm {
    /// The path inside a layer, as Hugging Face spells it.
    pub fn path(self) -> &'static str {
        match self {
            Self::Input => "input_layernorm",
            Self::PostAttention => "post_attention_layernorm",
            Self::PostFeedforward => "post_feedforward_layernorm",
            Self::Query => "self_attn.q_norm",
            Self::Key => "self_attn.k_norm",
        }
    }
}

/// The module of a layer's norm, for example `model.layers.3.input_layernorm`.
pub fn norm(layer: usize, norm: Norm) -> String {
    format!("model.layers.{layer}.{}", norm.path())
}

/// The base weight of a module.
pub fn weight(module: &str) -> String {
    format!("{module}.weight")
}

/// The base bias of a module.
pub fn bias(module: &str) -> String {
    format!("{module}.bias")
}

/// The weight that `block` adds to `module`: `{module}.base_to_expansion.weight` and so on for the blocks of a widened
/// matrix, `{module}.lora_A.weight` and `{module}.lora_B.weight` for adapters, `{module}.expansion.weight` for norms, embedding and head,
/// and the base's own weight for [`Block::Base`].
pub fn block_weight(module: &str, block: Block) -> String {
    match block {
        Block::Base => weight(module),
        Block::ExpansionToBase | Block::BaseToExpansion | Block::ExpansionToExpansion | Block::LoraA | Block::LoraB => {
            format!("{module}.{}.weight", block.as_str())
        }
        Block::ExpansionNorm | Block::ExpansionEmbedding | Block::ExpansionHead => format!("{module}.expansion.weight"),
    }
}

/// The weight over ring `ring` (counted from 1) that a ring around it adds to `module`: beside the one over the base, a block of its W21.
pub fn ring_weight(module: &str, ring: usize) -> String {
    format!("{module}.ring_{ring}_to_expansion.weight")
}

/// The ring that a name of [`ring_weight`] reads from.
pub fn ring_of(name: &str) -> Option<usize> {
    let digits = name.strip_suffix("_to_expansion.weight")?.rsplit_once(".ring_")?.1;
    digits.parse().ok().filter(|n: &usize| *n > 0 && n.to_string() == digits)
}

/// The name, in a folder that holds a whole widened model, of the tensor that ring `ring` (counted from 1) calls `name` in a file of its own:
/// `ring_K` stands before the block. Rings have tensors of the same names, so that each must be told from the others.
pub fn of_ring(name: &str, ring: usize) -> String {
    let mut parts: Vec<&str> = name.rsplitn(3, '.').collect();
    let number = format!("ring_{ring}");
    parts.insert(parts.len().min(2), &number);
    parts.reverse();
    parts.join(".")
}

/// Whether `name` is one of [`of_ring`].
pub fn is_of_a_ring(name: &str) -> bool {
    let ring = name.rsplit('.').nth(2).and_then(|part| part.strip_prefix("ring_"));
    ring.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()) && !digits.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_file_format() {
        let q = projection(3, Projection::Q);
        assert_eq!(weight(&q), "model.layers.3.self_attn.q_proj.weight");
        assert_eq!(bias(&q), "model.layers.3.self_attn.q_proj.bias");
        assert_eq!(block_weight(&q, Block::Base), weight(&q));
        assert_eq!(block_weight(&q, Block::BaseToExpansion), "model.layers.3.self_attn.q_proj.base_to_expansion.weight");
        assert_eq!(block_weight(&q, Block::ExpansionToExpansion), "model.layers.3.self_attn.q_proj.expansion_to_expansion.weight");
        assert_eq!(block_weight(&q, Block::ExpansionToBase), "model.layers.3.self_attn.q_proj.expansion_to_base.weight");
        for (of, path) in [
            (Norm::Input, "input_layernorm"),
            (Norm::PostAttention, "post_attention_layernorm"),
            (Norm::PostFeedforward, "post_feedforward_layernorm"),
            (Norm::Query, "self_attn.q_norm"),
            (Norm::Key, "self_attn.k_norm"),
        ] {
            assert_eq!(weight(&norm(3, of)), format!("model.layers.3.{path}.weight"));
            assert_eq!(block_weight(&norm(3, of), Block::ExpansionNorm), format!("model.layers.3.{path}.expansion.weight"));
        }
        assert_eq!(block_weight(NORM, Block::ExpansionNorm), "model.norm.expansion.weight");
        assert_eq!(block_weight(EMBED_TOKENS, Block::ExpansionEmbedding), "model.embed_tokens.expansion.weight");
        assert_eq!(block_weight(LM_HEAD, Block::ExpansionHead), "lm_head.expansion.weight");
        assert_eq!(ring_weight(&q, 2), "model.layers.3.self_attn.q_proj.ring_2_to_expansion.weight");
        assert_eq!((ring_of(&ring_weight(&q, 12)), ring_of(&block_weight(&q, Block::BaseToExpansion))), (Some(12), None));
        assert_eq!((ring_of("a.ring_0_to_expansion.weight"), ring_of("a.ring_01_to_expansion.weight")), (None, None));
        assert_eq!(of_ring(&ring_weight(&q, 1), 2), "model.layers.3.self_attn.q_proj.ring_2.ring_1_to_expansion.weight");
        assert_eq!(of_ring(&block_weight(LM_HEAD, Block::ExpansionHead), 10), "lm_head.ring_10.expansion.weight");
        assert!(is_of_a_ring("lm_head.ring_10.expansion.weight") && is_of_a_ring(&of_ring(&ring_weight(&q, 1), 2)));
        assert!(![&weight(&q), &ring_weight(&q, 2), "ring_1.x", "a.ring_.b.weight"].into_iter().any(is_of_a_ring));
    }

    #[test]
    fn four_projections_belong_to_attention_and_three_to_the_ffn() {
        let attention = Projection::ALL.iter().filter(|p| p.module() == Module::Attention).count();
        assert_eq!((attention, Projection::ALL.len() - attention), (4, 3));
        assert!(Projection::ALL.iter().all(|p| p.path().starts_with("self_attn") == (p.module() == Module::Attention)));
    }
}
