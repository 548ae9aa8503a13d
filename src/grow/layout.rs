//! Which parameters a growth makes, with their names, blocks and shapes: the one list that initialisation, files and plans share.

use crate::checkpoint::Config;
use crate::checkpoint::names::{self, Projection};
use crate::error::{Error, Result};
use crate::grow::sizes::{Growth, Module, Sizes};
use crate::model::Block;

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
    fn new(module: &str, block: Block, shape: &[usize]) -> Self {
        Self { name: names::block_weight(module, block), block, shape: shape.to_vec() }
    }

    /// Number of values.
    ///
    /// # Errors
    /// [`Error::Usage`] where it cannot be counted.
    pub fn count(&self) -> Result<usize> {
        self.shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n)).ok_or_else(|| too_large(&self.name))
    }
}

/// `[out, in]` of a projection of the base.
pub fn base_shape(config: &Config, projection: Projection) -> [usize; 2] {
    let (hidden, ffn) = (config.hidden_size, config.intermediate_size);
    let heads = |count: usize| count.saturating_mul(config.head_dim);
    match projection {
        Projection::Q => [heads(config.num_attention_heads), hidden],
        Projection::K | Projection::V => [heads(config.num_key_value_heads), hidden],
        Projection::O => [hidden, heads(config.num_attention_heads)],
        Projection::Gate | Projection::Up => [ffn, hidden],
        Projection::Down => [hidden, ffn],
    }
}

/// `[out, in]` that a projection of the expansion adds: the shape of its W22.
pub fn expansion_shape(config: &Config, sizes: &Sizes, projection: Projection) -> [usize; 2] {
    let (hidden, ffn) = (sizes.hidden_size, sizes.intermediate_size);
    let heads = |count: usize| count.saturating_mul(config.head_dim);
    match projection {
        Projection::Q => [heads(sizes.num_attention_heads), hidden],
        Projection::K | Projection::V => [heads(sizes.num_key_value_heads), hidden],
        Projection::O => [hidden, heads(sizes.num_attention_heads)],
        Projection::Gate | Projection::Up => [ffn, hidden],
        Projection::Down => [hidden, ffn],
    }
}

/// `[out, in]` of one block of a widened projection.
pub fn block_shape(config: &Config, sizes: &Sizes, projection: Projection, block: Block) -> [usize; 2] {
    let (base, expansion) = (base_shape(config, projection), expansion_shape(config, sizes, projection));
    match block {
        Block::ExpansionToBase => [base[0], expansion[1]],
        Block::BaseToExpansion => [expansion[0], base[1]],
        Block::ExpansionToExpansion => expansion,
        _ => base,
    }
}

/// The blocks of a projection that hold parameters: W12 (where it is trained), W21, W22.
pub fn widened_blocks(growth: &Growth, layer: usize, projection: Projection) -> Vec<Block> {
    let mut blocks = vec![Block::BaseToExpansion, Block::ExpansionToExpansion];
    if growth.placement.trains(layer, projection.module()) {
        blocks.insert(0, Block::ExpansionToBase);
    }
    blocks
}

/// Every parameter of an expansion, in the order of the forward pass.
///
/// # Paper
/// Section 3.1; an expansion has no biases (docs/decisions/0003).
pub fn expansion_parameters(config: &Config, growth: &Growth) -> Vec<Expected> {
    let sizes = &growth.sizes;
    let hidden = sizes.hidden_size;
    let mut all = vec![Expected::new(names::EMBED_TOKENS, Block::ExpansionEmbedding, &[config.vocab_size, hidden])];
    for layer in 0..config.num_hidden_layers {
        for projection in Projection::ALL {
            match projection {
                Projection::Q => all.push(Expected::new(&names::input_layernorm(layer), Block::ExpansionNorm, &[hidden])),
                Projection::Gate => all.push(Expected::new(&names::post_attention_layernorm(layer), Block::ExpansionNorm, &[hidden])),
                _ => {}
            }
            let module = names::projection(layer, projection);
            for block in widened_blocks(growth, layer, projection) {
                all.push(Expected::new(&module, block, &block_shape(config, sizes, projection, block)));
            }
        }
    }
    all.push(Expected::new(names::NORM, Block::ExpansionNorm, &[hidden]));
    all.push(Expected::new(names::LM_HEAD, Block::ExpansionHead, &[config.vocab_size, hidden]));
    all
}

/// Every parameter of the base itself, in the order of the forward pass: what the method `full` trains.
pub fn base_parameters(config: &Config) -> Vec<Expected> {
    let hidden = config.hidden_size;
    let mut all = vec![Expected::new(names::EMBED_TOKENS, Block::Base, &[config.vocab_size, hidden])];
    for layer in 0..config.num_hidden_layers {
        for projection in Projection::ALL {
            match projection {
                Projection::Q => all.push(Expected::new(&names::input_layernorm(layer), Block::Base, &[hidden])),
                Projection::Gate => all.push(Expected::new(&names::post_attention_layernorm(layer), Block::Base, &[hidden])),
                _ => {}
            }
            let module = names::projection(layer, projection);
            let shape = base_shape(config, projection);
            all.push(Expected::new(&module, Block::Base, &shape));
            let biased = if projection.module() == Module::Attention { config.attention_bias } else { config.mlp_bias };
            if biased {
                all.push(Expected { name: names::bias(&module), block: Block::Base, shape: vec![shape[0]] });
            }
        }
    }
    all.push(Expected::new(names::NORM, Block::Base, &[hidden]));
    if !config.tie_word_embeddings {
        all.push(Expected::new(names::LM_HEAD, Block::Base, &[config.vocab_size, hidden]));
    }
    all
}

/// Number of parameters of an expansion.
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
    for block in [Block::ExpansionToBase, Block::BaseToExpansion, Block::ExpansionToExpansion] {
        if name.strip_suffix(".weight").and_then(|stem| stem.strip_suffix(block.as_str())).is_some_and(|stem| stem.ends_with('.')) {
            return block;
        }
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
