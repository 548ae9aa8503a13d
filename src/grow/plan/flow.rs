//! Where gradients flow: the one pass over the layers that work and memory are counted from.

use crate::checkpoint::Config;
use crate::checkpoint::names::Projection;
use crate::grow::layout;
use crate::grow::sizes::{Growth, Module};
use crate::model::Block;
use crate::model::build::projection_shape;

/// One matrix product of a layer, for one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Product {
    pub block: Block,
    /// Values of the matrix.
    pub values: u64,
    /// Whether its matrix is trained.
    pub trained: bool,
    /// Whether its input carries a gradient.
    pub live_input: bool,
}

/// One stream in one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stream {
    /// Width of the residual stream.
    pub hidden: u64,
    /// Width of the queries.
    pub query: u64,
    /// Width of the keys, and of the values.
    pub key_value: u64,
    /// Query heads.
    pub heads: u64,
    /// Width of the feed-forward network.
    pub ffn: u64,
    /// Whether the residual stream carries a gradient into the layer, into the feed-forward half, and out of the layer.
    pub live: [bool; 3],
    /// Whether a gradient flows through the attention.
    pub live_attention: bool,
    /// Whether a gradient flows through `silu(gate) ∘ up`.
    pub live_ffn: bool,
}

/// One layer.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub products: Vec<Product>,
    pub base: Stream,
    pub expansion: Option<Stream>,
}

/// Follows the gradients through every layer. The base stream carries one only from the first trained W12 on, or everywhere under `full`;
/// the expansion stream everywhere, because its embedding is trained.
pub(super) fn layers(config: &Config, growth: Option<&Growth>) -> Vec<Layer> {
    let full = growth.is_none();
    let mut live = full;
    (0..config.num_hidden_layers)
        .map(|layer| {
            let trains = |module| growth.is_some_and(|g| g.placement.trains(layer, module));
            let entry = live;
            let attention = entry || trains(Module::Attention);
            let ffn = attention || trains(Module::Ffn);
            live = ffn;
            let base_live = |projection| match projection {
                Projection::Q | Projection::K | Projection::V => entry,
                Projection::O | Projection::Gate | Projection::Up => attention,
                Projection::Down => ffn,
            };
            let mut products = Vec::new();
            for projection in Projection::ALL {
                let [out, width] = projection_shape(config, projection);
                let live_input = base_live(projection);
                products.push(Product { block: Block::Base, values: (out * width) as u64, trained: full, live_input });
                let Some(growth) = growth else { continue };
                for block in layout::widened_blocks(growth, layer, projection) {
                    let [out, width] = layout::block_shape(config, &growth.sizes, projection, block);
                    let live_input = block != Block::BaseToExpansion || live_input;
                    products.push(Product { block, values: (out * width) as u64, trained: true, live_input });
                }
            }
            let base = Stream {
                hidden: config.hidden_size as u64,
                query: config.query_size() as u64,
                key_value: config.key_value_size() as u64,
                heads: config.num_attention_heads as u64,
                ffn: config.intermediate_size as u64,
                live: [entry, attention, ffn],
                live_attention: attention,
                live_ffn: ffn,
            };
            let expansion = growth.map(|growth| Stream {
                hidden: growth.sizes.hidden_size as u64,
                query: (growth.sizes.num_attention_heads * config.head_dim) as u64,
                key_value: (growth.sizes.num_key_value_heads * config.head_dim) as u64,
                heads: growth.sizes.num_attention_heads as u64,
                ffn: growth.sizes.intermediate_size as u64,
                live: [true; 3],
                live_attention: true,
                live_ffn: true,
            });
            Layer { products, base, expansion }
        })
        .collect()
}
