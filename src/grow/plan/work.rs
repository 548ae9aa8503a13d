//! Floating-point operations for each token, an addition and a multiplication counted as two.

use serde::Serialize;

use super::Request;
use super::flow::{Layer, Stream};
use crate::checkpoint::names::Projection;
use crate::model::Block;
use crate::model::build::projection_shape;

/// Operations of one pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Work {
    /// Matrix products of the decoder layers: what the method's cost table counts.
    pub layers: u64,
    /// Attention scores and their weighted sums, for the mean number of visible tokens.
    pub attention: u64,
    /// The output head.
    pub head: u64,
}

impl Work {
    /// The sum.
    pub fn total(&self) -> u64 {
        self.layers + self.attention + self.head
    }
}

/// Operations for each token trained on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Flops {
    /// The forward pass.
    pub forward: Work,
    /// The backward pass.
    pub backward: Work,
    /// The layers' second forward pass with `recompute`.
    pub recomputed: Work,
    /// Everything.
    pub total: u64,
    /// `forward.layers + backward.layers` by the method's cost table, `2N + 4·E21 + 6·E22` and so on, frozen rings counted as N is: without the head, the attention scores,
    /// the second pass of `recompute`, and the gradient that W21 hands down to a base stream that carries one.
    ///
    /// # Paper
    /// METHOD.md § 10, in docs/method.md.
    pub table: u64,
    /// The same for full fine-tuning of the base: `6N`.
    pub table_full: u64,
}

impl Flops {
    pub(super) fn count(request: &Request<'_>, layers: &[Layer]) -> Self {
        let (mut forward, mut backward, mut recomputed) = (Work::default(), Work::default(), Work::default());
        let mut table = 0;
        for layer in layers {
            let before = forward;
            for product in &layer.products {
                let once = 2 * product.values;
                forward.layers += once;
                let (input, weight) = (u64::from(product.live_input) * once, u64::from(product.trained) * once);
                backward.layers += input + weight;
                table += once + weight + if product.block == Block::BaseToExpansion { 0 } else { input };
            }
            for stream in layer.streams() {
                let once = attention(stream, request.sequence_length as u64, layer.window);
                forward.attention += once;
                // Five products rather than two: the scores again, then the gradients of values, weights, queries and keys.
                backward.attention += if stream.live_attention { once / 2 * 5 } else { 0 };
            }
            // A layer that no gradient reaches is not run again.
            let reached = layer.products.iter().any(|product| product.trained) || layer.streams().any(|stream| stream.live[0]);
            if request.recompute && reached {
                recomputed.layers += forward.layers - before.layers;
                recomputed.attention += forward.attention - before.attention;
            }
        }
        let vocab = request.config.vocab_size as u64;
        let base_live = layers.last().is_some_and(|layer| layer.base.live[2]);
        let mut head = |width: u64, trained: bool, live: bool| {
            let once = 2 * vocab * width;
            forward.head += once;
            backward.head += (u64::from(trained) + u64::from(live)) * once;
        };
        head(request.config.hidden_size as u64, request.trains_head(), base_live);
        for ring in request.rings {
            head(ring.sizes.hidden_size as u64, false, false);
        }
        if let Some(growth) = request.method.growth() {
            head(growth.sizes.hidden_size as u64, true, true);
        }
        let layer: u64 = Projection::ALL.iter().map(|&p| projection_shape(request.config, p).iter().product::<usize>() as u64).sum();
        let table_full = 6 * layer * request.config.num_hidden_layers as u64;
        Self { forward, backward, recomputed, total: forward.total() + backward.total() + recomputed.total(), table, table_full }
    }
}

/// Scores and weighted sums of one token, which sees half a window of the data on average where nothing narrower slides over it.
fn attention(stream: &Stream, sequence_length: u64, window: Option<usize>) -> u64 {
    let window = window.map_or(sequence_length, |window| (window as u64).min(sequence_length));
    // The first tokens see all before them, the rest `window` each.
    let seen = u128::from(window) * u128::from(2 * sequence_length - window + 1) / 2;
    (4 * u128::from(stream.query) * seen / u128::from(sequence_length)) as u64
}
