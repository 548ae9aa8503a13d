//! Which parameters a growth makes, with their names, blocks and shapes: the one list that initialisation, files and plans share.

use crate::checkpoint::Config;
use crate::checkpoint::names::{self, Projection};
use crate::error::{Error, Result};
use crate::grow::sizes::{Growth, Sizes};
use crate::model::Block;
use crate::model::build::{self, added_shape, projection_shape};

/// A parameter that a model of this kind must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Name in files.
    pub name: String,
    /// The block it belongs to.
    pub block: Block,
    /// Row-major shape.
    pub shape: Vec<usize>,
}

impl Expected {
    /// Number of values.
    ///
    /// # Errors
    /// [`Error::Usage`] where it cannot be counted.
    pub fn count(&self) -> Result<usize> {
        self.shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n)).ok_or_else(|| too_large(&self.name))
    }
}

/// `[out, in]` of one block of a widened projection.
pub fn block_shape(config: &Config, growth: &Growth, projection: Projection, block: Block) -> [usize; 2] {
    let (base, expansion) = (projection_shape(config, projection), added_shape(config, &growth.sizes, projection));
    match block {
        Block::ExpansionToBase => [base[0], expansion[1]],
        Block::BaseToExpansion => [expansion[0], base[1]],
        Block::ExpansionToExpansion => expansion,
        Block::LoraA => [growth.placement.r, base[1]],
        Block::LoraB => [base[0], growth.placement.r],
        _ => base,
    }
}

/// The blocks of a projection that hold parameters: W21, W22, W12 where it is trained, and the low-rank part beside it where there is one.
pub fn widened_blocks(growth: &Growth, layer: usize, projection: Projection) -> Vec<Block> {
    let mut blocks = vec![Block::BaseToExpansion, Block::ExpansionToExpansion];
    if growth.placement.trains(layer, projection.module()) {
        blocks.push(Block::ExpansionToBase);
    }
    if growth.placement.rank(layer, projection.module()).is_some() {
        blocks.extend([Block::LoraA, Block::LoraB]);
    }
    blocks
}

/// Every parameter of an expansion around a plain base, in the order of a widened [`crate::model::Model`]'s.
///
/// # Paper
/// Section 3.1; an expansion has no biases (docs/decisions/0003).
pub fn expansion_parameters(config: &Config, growth: &Growth) -> Vec<Expected> {
    ring_parameters(config, &[], growth)
}

/// Every parameter of the next ring around rings of these sizes, in the order of the model's.
pub fn ring_parameters(config: &Config, inner: &[Sizes], growth: &Growth) -> Vec<Expected> {
    build::ring_parameters(config, inner, growth).into_iter().map(|(name, block, shape)| Expected { name, block, shape }).collect()
}

/// Every parameter of the base itself, in the order of a [`crate::model::Model`] whose base is trained: what the method `full` trains.
pub fn base_parameters(config: &Config) -> Vec<Expected> {
    let layers = (0..config.num_hidden_layers).flat_map(|layer| layer_parameters(config, layer));
    embedding_parameters(config).into_iter().chain(layers).chain(norm_parameters(config)).chain(head_parameters(config)).collect()
}

fn base(module: &str, shape: &[usize]) -> Expected {
    Expected { name: names::weight(module), block: Block::Base, shape: shape.to_vec() }
}

/// The base's input embedding.
pub fn embedding_parameters(config: &Config) -> Vec<Expected> {
    vec![base(names::EMBED_TOKENS, &[config.vocab_size, config.hidden_size])]
}

/// Every parameter of one layer of the base.
pub fn layer_parameters(config: &Config, layer: usize) -> Vec<Expected> {
    let norm = |of| base(&names::norm(layer, of), &[config.norm_size(of)]);
    let mut all: Vec<Expected> = config.family.layer_norms().into_iter().map(norm).collect();
    for projection in Projection::ALL {
        let module = names::projection(layer, projection);
        let shape = projection_shape(config, projection);
        all.push(base(&module, &shape));
        if config.has_bias(projection) {
            all.push(Expected { name: names::bias(&module), block: Block::Base, shape: vec![shape[0]] });
        }
    }
    all
}

/// The base's final norm.
pub fn norm_parameters(config: &Config) -> Vec<Expected> {
    vec![base(names::NORM, &[config.hidden_size])]
}

/// The base's output projection, where it is not the embedding.
pub fn head_parameters(config: &Config) -> Vec<Expected> {
    if config.tie_word_embeddings { Vec::new() } else { vec![base(names::LM_HEAD, &[config.vocab_size, config.hidden_size])] }
}

/// Number of parameters of an expansion around a plain base.
///
/// # Errors
/// [`Error::Usage`] where their number, or their bytes in f32, cannot be counted.
pub fn parameter_count(config: &Config, growth: &Growth) -> Result<usize> {
    let sum = expansion_parameters(config, growth).iter().try_fold(0usize, |sum, expected| {
        sum.checked_add(expected.count()?).filter(|sum| sum.checked_mul(16).is_some()).ok_or_else(|| too_large(&expected.name))
    })?;
    Ok(sum)
}

/// The block that a tensor belongs to, by its name in files.
pub fn block_of(name: &str) -> Block {
    for block in [Block::ExpansionToBase, Block::BaseToExpansion, Block::ExpansionToExpansion, Block::LoraA, Block::LoraB] {
        if name.strip_suffix(".weight").and_then(|stem| stem.strip_suffix(block.as_str())).is_some_and(|stem| stem.ends_with('.')) {
            return block;
        }
    }
    if names::ring_of(name).is_some() {
        return Block::BaseToExpansion;
    }
    match name.strip_suffix(".expansion.weight") {
        Some(names::EMBED_TOKENS) => Block::ExpansionEmbedding,
        Some(names::LM_HEAD) => Block::ExpansionHead,
        Some(_) => Block::ExpansionNorm,
        None => Block::Base,
    }
}

fn too_large(name: &str) -> Error {
    Error::usage(format!("the expansion is too large to be counted, first at `{name}`: choose smaller sizes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grow::{Module, Placement};

    #[test]
    fn the_block_of_every_parameter_follows_from_its_name() {
        let mut config = Config::new(40, 24, 36, 3, 4);
        (config.num_key_value_heads, config.attention_bias, config.mlp_bias) = (2, true, true);
        let sizes = Sizes { hidden_size: 8, num_attention_heads: 2, num_key_value_heads: 1, intermediate_size: 12 };
        let growth = Growth { sizes, placement: Placement { r: 3, ..Placement::new(1, &Module::ALL) } };
        let all: Vec<Expected> = ring_parameters(&config, &[sizes; 2], &growth).into_iter().chain(base_parameters(&config)).collect();
        for Expected { name, block, .. } in &all {
            assert_eq!(block_of(name), *block, "{name}");
        }
        let names: std::collections::HashSet<&str> = all.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names.len(), all.len());
    }

    #[test]
    fn the_parameters_of_a_base_are_those_of_its_configuration() {
        for (bias, tied) in [(false, false), (true, true)] {
            let mut config = Config::new(40, 24, 36, 3, 4);
            (config.num_key_value_heads, config.attention_bias, config.mlp_bias, config.tie_word_embeddings) = (2, bias, bias, tied);
            let count: usize = base_parameters(&config).iter().map(|e| e.count().unwrap()).sum();
            assert_eq!(count as u64, config.parameter_count());
        }
    }
}
