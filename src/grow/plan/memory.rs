//! Bytes by kind. The constants say how the compute core stores things; when it changes, they do.

use serde::Serialize;

use super::Request;
use super::flow::{Layer, Stream};
use crate::model::Precision;
use crate::ops::head::chunk_rows;

/// Trained weights, gradients and statistics of every norm and of the attention are f32.
const F32: u64 = 4;

/// Adam's two moments of every trained value.
const OPTIMIZER_BYTES: u64 = 2 * F32;

/// The program itself, its tokenizer and its threads.
const PROGRAM_BYTES: u64 = 32 << 20;

/// Bytes by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Weights that never change, packed for the products; what two models have in common once.
    pub frozen_weights: u64,
    /// Trained weights, f32.
    pub trained_weights: u64,
    /// Their gradients, f32.
    pub gradients: u64,
    /// AdamW's moments, f32.
    pub optimizer: u64,
    /// What the forward pass keeps for the backward pass.
    pub activations: u64,
    /// What lives for a moment only: one layer's temporaries, a chunk of logits, weights being packed.
    pub workspace: u64,
    /// The program, its tokenizer and its threads.
    pub program: u64,
    /// All of it: an estimate of the peak.
    pub peak: u64,
}

impl Memory {
    pub(super) fn estimate(request: &Request<'_>, layers: &[Layer], frozen: u64, trained: u64) -> Self {
        let tokens = (request.batch_size * request.sequence_length) as u64;
        let product = product_bytes(request.precision);
        // The embeddings of rings within are looked up and stay f32.
        let tables: u64 = request.rings.iter().map(|ring| (request.config.vocab_size * ring.sizes.hidden_size) as u64).sum();
        // Of the base beside what is trained, what that has not left as it was.
        let beside = if request.pair { request.config.parameter_count().saturating_sub(frozen) } else { 0 };
        let frozen_weights = (frozen + beside) * product + tables * (F32 - product);
        let kept = |layer: &Layer| layer.streams().map(|s| kept_bytes(s, product)).sum::<u64>();
        let widths: u64 = layers.first().map_or(0, |layer| layer.streams().map(|s| s.hidden).sum());
        let activations = tokens
            * if request.recompute {
                // Every layer's inputs, and all of the one layer that is being run again.
                layers.len() as u64 * widths * F32 + layers.iter().map(kept).max().unwrap_or(0)
            } else {
                layers.iter().map(kept).sum::<u64>() + widths * F32
            };
        let mut memory = Self {
            frozen_weights,
            trained_weights: trained * F32,
            gradients: trained * F32,
            optimizer: trained * OPTIMIZER_BYTES,
            activations,
            workspace: workspace_bytes(request, layers, tokens, product),
            program: PROGRAM_BYTES,
            peak: 0,
        };
        memory.peak = [
            memory.frozen_weights,
            memory.trained_weights,
            memory.gradients,
            memory.optimizer,
            memory.activations,
            memory.workspace,
            memory.program,
        ]
        .into_iter()
        .fold(0, u64::saturating_add);
        memory
    }
}

/// Bytes of an operand of a product.
fn product_bytes(precision: Precision) -> u64 {
    match precision {
        Precision::F32 => F32,
        Precision::Bf16 => 2,
    }
}

/// Bytes that one stream of one layer keeps for each token.
fn kept_bytes(stream: &Stream, product: u64) -> u64 {
    let &Stream { hidden, query, key_value, heads, ffn, post_norms, query_key_norm, live, live_attention, live_ffn, inputs } = stream;
    let inputs = inputs * product;
    // Norms before a half keep the stream as it comes in, those behind it what the half wrote.
    let live_norms = if post_norms { &live[1..] } else { &live[..2] };
    let norms = live_norms.iter().filter(|&&live| live).count() as u64 * (hidden + 1) * F32;
    // What is normalised before it is turned to its position is kept beside what comes out.
    let query_key = if query_key_norm && live_attention { (query + key_value + 2 * heads) * F32 } else { 0 };
    // The attention's result is an input of `o_proj` too: in f32 it is kept once for both.
    let result = if product == F32 { 0 } else { query };
    let attention = if live_attention { (query + 2 * key_value + result + heads) * F32 } else { 0 };
    let ffn = if live_ffn { 2 * ffn * F32 } else { 0 };
    inputs + norms + query_key + attention + ffn
}

fn workspace_bytes(request: &Request<'_>, layers: &[Layer], tokens: u64, product: u64) -> u64 {
    let Some(last) = layers.last() else { return 0 };
    let config = request.config;
    let vocab = config.vocab_size as u64;
    // A residual stream in and out, its norm, and gate, up and their product.
    let layer = tokens * last.streams().map(|s| (3 * s.hidden + 3 * s.ffn) * F32).sum::<u64>();
    let of_base = if request.trains_head() { config.hidden_size } else { 0 };
    let of_expansion = request.method.growth().map_or(0, |growth| growth.sizes.hidden_size);
    let logits = chunk_rows(tokens as usize, of_base + of_expansion) as u64 * vocab * F32;
    // Head weights are packed for the step where they are trained, and turned round where a gradient flows through them.
    let base_turned = u64::from(last.base.live[2]) + u64::from(request.trains_head());
    let expansion = request.method.growth().map_or(0, |growth| 2 * growth.sizes.hidden_size as u64);
    let head = vocab * (base_turned * config.hidden_size as u64 + expansion) * product;
    let seeds = tokens * last.streams().filter(|s| s.live[2]).map(|s| s.hidden * F32).sum::<u64>();
    layer + logits + head + seeds
}
