//! Where gradients flow: the one pass over the layers that work and memory are counted from.

use crate::baseline::{Baseline, Method, Part};
use crate::checkpoint::names::Projection;
use crate::checkpoint::{Config, QueryKeyNorm};
use crate::grow::layout;
use crate::grow::{Growth, Module, Sizes};
use crate::model::Block;
use crate::model::build::{added_shape, projection_shape};

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
    /// Whether norms stand behind attention and feed-forward network rather than before them.
    pub post_norms: bool,
    /// Whether queries and keys are normalised.
    pub query_key_norm: bool,
    /// Whether the residual stream carries a gradient into the layer, into the feed-forward half, and out of the layer.
    pub live: [bool; 3],
    /// Whether a gradient flows through the attention.
    pub live_attention: bool,
    /// Whether a gradient flows through `silu(gate) ∘ up`.
    pub live_ffn: bool,
    /// Values a token that are kept as inputs of trained matrices.
    pub inputs: u64,
}

/// One layer.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    /// Tokens that a query looks back over; all of them where there is none.
    pub window: Option<usize>,
    pub products: Vec<Product>,
    pub base: Stream,
    /// The rings' streams, from the innermost out.
    pub rings: Vec<Stream>,
}

impl Layer {
    /// All streams.
    pub fn streams(&self) -> impl Iterator<Item = &Stream> {
        std::iter::once(&self.base).chain(&self.rings)
    }
}

/// Follows the gradients through every layer. Under an expansion the base stream carries one only from the first trained W12 on, and the
/// expansion stream everywhere, because its embedding is trained, and the streams of rings within nowhere; under a baseline the one stream carries one from the first trained parameter on.
pub(super) fn layers(config: &Config, rings: &[Growth], method: &Method) -> Vec<Layer> {
    match method {
        Method::Expansion(growth) => widened(config, rings, growth),
        Method::Baseline(baseline) => plain(config, baseline),
    }
}

fn widened(config: &Config, inner: &[Growth], growth: &Growth) -> Vec<Layer> {
    let mut live = false;
    let added = |sizes, projection| added_shape(config, sizes, projection).map(|n| n as u64);
    (0..config.num_hidden_layers)
        .map(|layer| {
            let trains = |module| growth.placement.trains(layer, module);
            let entry = live;
            let attention = entry || trains(Module::Attention);
            let ffn = attention || trains(Module::Ffn);
            live = ffn;
            let (mut products, mut low_rank) = (Vec::new(), 0);
            for projection in Projection::ALL {
                let base_shape = projection_shape(config, projection).map(|n| n as u64);
                let live_input = input_is_live(projection, entry, attention, attention, ffn);
                products.push(Product { block: Block::Base, values: base_shape[0] * base_shape[1], trained: false, live_input });
                let rows = added(&growth.sizes, projection)[0];
                for (index, ring) in inner.iter().enumerate() {
                    let [out, width] = added(&ring.sizes, projection);
                    let within: u64 = inner[..=index].iter().map(|ring| added(&ring.sizes, projection)[1]).sum();
                    let mut push = |block, values, trained| products.push(Product { block, values, trained, live_input: false });
                    push(Block::BaseToExpansion, base_shape[1] * out, false);
                    push(Block::ExpansionToExpansion, within * out, false);
                    if ring.placement.trains(layer, projection.module()) {
                        push(Block::ExpansionToBase, base_shape[0] * width, false);
                    }
                    push(Block::BaseToExpansion, rows * width, true);
                }
                for block in layout::widened_blocks(growth, layer, projection) {
                    let [out, width] = layout::block_shape(config, growth, projection, block);
                    // What the expansion or an adapter's A has made always carries a gradient.
                    let live_input = !matches!(block, Block::BaseToExpansion | Block::LoraA) || live_input;
                    low_rank += if block == Block::LoraB { width as u64 } else { 0 };
                    products.push(Product { block, values: (out * width) as u64, trained: true, live_input });
                }
            }
            let base = Stream { live: [entry, attention, ffn], live_attention: attention, live_ffn: ffn, ..stream(config) };
            let of_ring = |growth: &Growth, live: bool| Stream {
                live: [live; 3],
                live_attention: live,
                live_ffn: live,
                ..ring(config, &growth.sizes)
            };
            let streams = inner.iter().map(|ring| of_ring(ring, false)).chain([of_ring(growth, true)]);
            // All of them are inputs of trained matrices.
            let read = |stream: Stream| Stream { inputs: all_inputs(&stream), ..stream };
            let mut base = read(base);
            base.inputs += low_rank;
            // There W12 does not read quite what W22 reads.
            let apart = |module| layer < growth.placement.sink_layers && trains(module);
            let width = |projection| added(&growth.sizes, projection)[1];
            base.inputs += if apart(Module::Attention) { width(Projection::O) } else { 0 };
            base.inputs += if apart(Module::Ffn) { width(Projection::Gate) + width(Projection::Down) } else { 0 };
            Layer { window: config.window(layer), products, base, rings: streams.map(read).collect() }
        })
        .collect()
}

fn plain(config: &Config, baseline: &Baseline) -> Vec<Layer> {
    let mut live = baseline.trains(config, Part::Embedding);
    let model = baseline.model_config(config);
    (0..model.num_hidden_layers)
        .map(|layer| {
            let trained = baseline.trains(config, Part::Layer(layer));
            let adapted = |projections: &[Projection]| projections.iter().any(|&p| baseline.adapter(p).is_some());
            let entry = live;
            // A trained norm's own gradient needs that of its output; without one before them, q, k and v read the stream itself.
            let normed = entry || trained;
            let read = entry || (trained && !config.family.has_post_norms());
            let attention = normed || adapted(&[Projection::Q, Projection::K, Projection::V]);
            let middle = attention || adapted(&[Projection::O]);
            let ffn = middle || adapted(&[Projection::Gate, Projection::Up]);
            live = ffn || adapted(&[Projection::Down]);
            let (mut products, mut inputs) = (Vec::new(), 0);
            let widths = stream(&model);
            for projection in Projection::ALL {
                let [out, width] = projection_shape(&model, projection);
                let live_input = input_is_live(projection, read, attention, middle, ffn);
                products.push(Product { block: Block::Base, values: (out * width) as u64, trained, live_input });
                if let Some(lora) = baseline.adapter(projection) {
                    let mut push = |block, values: usize, live_input| {
                        products.push(Product { block, values: values as u64, trained: true, live_input });
                    };
                    push(Block::LoraA, lora.r * width, live_input);
                    push(Block::LoraB, out * lora.r, true);
                    inputs += lora.r as u64;
                }
                // What a matrix and its neighbours read in common is kept once, but every dropout makes an input of its own.
                let dropped = baseline.adapter(projection).is_some_and(|lora| lora.lora_dropout > 0.0);
                let first = match projection {
                    Projection::Q => adapted(&[Projection::Q, Projection::K, Projection::V]),
                    Projection::Gate => adapted(&[Projection::Gate, Projection::Up]),
                    Projection::O | Projection::Down => adapted(&[projection]),
                    _ => false,
                };
                inputs += if dropped || (first && !baseline.has_dropout()) { width as u64 } else { 0 };
            }
            let inputs = if trained { all_inputs(&widths) } else { inputs };
            // A trained final norm needs the head's gradient whatever lies below it.
            let out = live || (layer + 1 == model.num_hidden_layers && baseline.trains(config, Part::Norm));
            let base = Stream { live: [entry, middle, out], live_attention: attention, live_ffn: ffn, inputs, ..widths };
            Layer { window: model.window(layer), products, base, rings: Vec::new() }
        })
        .collect()
}

/// Whether a projection's input carries a gradient, given what comes out of the first norm, of the attention's products, of the attention half and of
/// the feed-forward products.
fn input_is_live(projection: Projection, normed: bool, attention: bool, middle: bool, ffn: bool) -> bool {
    match projection {
        Projection::Q | Projection::K | Projection::V => normed,
        Projection::O => attention,
        Projection::Gate | Projection::Up => middle,
        Projection::Down => ffn,
    }
}

/// The base's stream in a layer where nothing is trained.
fn stream(config: &Config) -> Stream {
    Stream {
        hidden: config.hidden_size as u64,
        query: config.query_size() as u64,
        key_value: config.key_value_size() as u64,
        heads: config.num_attention_heads as u64,
        ffn: config.intermediate_size as u64,
        post_norms: config.family.has_post_norms(),
        query_key_norm: config.family.query_key_norm() != QueryKeyNorm::None,
        live: [false; 3],
        live_attention: false,
        live_ffn: false,
        inputs: 0,
    }
}

/// A ring's stream where nothing is trained.
fn ring(config: &Config, sizes: &Sizes) -> Stream {
    Stream {
        hidden: sizes.hidden_size as u64,
        query: (sizes.num_attention_heads * config.head_dim) as u64,
        key_value: (sizes.num_key_value_heads * config.head_dim) as u64,
        heads: sizes.num_attention_heads as u64,
        ffn: sizes.intermediate_size as u64,
        ..stream(config)
    }
}

/// The four distinct inputs of the seven products.
fn all_inputs(stream: &Stream) -> u64 {
    stream.hidden + stream.query + stream.hidden + stream.ffn
}
