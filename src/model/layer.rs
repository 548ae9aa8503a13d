//! Weights of a decoder layer, of the base and of each ring, and the layer's forward pass over all streams.

use super::Model;
use super::cache::LayerCache;
use crate::checkpoint::names::Projection;
use crate::ops::recorded::{Heads, Sequence};
use crate::ops::tape::{Tape, Var, Vector, Weight};
use std::sync::Arc;

/// A linear module of the base.
#[derive(Debug)]
pub(super) struct Linear {
    pub(super) weight: Weight,
    pub(super) bias: Option<Vector>,
    pub(super) adapter: Option<Adapter>,
}

/// A low-rank adapter of a linear module.
#[derive(Debug)]
pub(super) struct Adapter {
    pub(super) a: Weight,
    pub(super) b: Weight,
    /// Tells its dropout from every other's.
    pub(super) number: u64,
}

/// A ring's blocks beside a linear module's base weight.
#[derive(Debug)]
pub(super) struct Widened {
    /// What its stream is made of: W21 over the base stream and, for an outer ring, over every ring within it, then W22 over itself.
    pub(super) reads: Vec<Weight>,
    /// Absent where it is zero: then the base stream is the base's, bit for bit, and nothing flows back through it. Only the first ring has it.
    pub(super) expansion_to_base: Option<Weight>,
}

/// A decoder layer of the base; the seven linear modules in the order of [`Projection::ALL`].
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) input_layernorm: Vector,
    pub(super) post_attention_layernorm: Vector,
    pub(super) linear: [Linear; 7],
}

/// A ring's part of a decoder layer.
#[derive(Debug)]
pub(super) struct RingLayer {
    pub(super) input_layernorm: Vector,
    pub(super) post_attention_layernorm: Vector,
    pub(super) widened: [Widened; 7],
}

impl RingLayer {
    /// Whether the base stream is changed by the ring in this layer.
    pub(super) fn adapts(&self) -> bool {
        self.widened.iter().any(|w| w.expansion_to_base.is_some())
    }
}

/// The base stream, then the stream of each ring; fewer of them are those of the model that had fewer rings.
pub(super) type Streams = Vec<Var>;

impl Model {
    /// Layer `index` over the base stream and as many rings' streams as are given.
    ///
    /// # Paper
    /// Section 3: the streams share positions and mask; heads, norms and FFN channels never mix before the output projections.
    pub(super) fn layer<'m>(
        &'m self,
        tape: &mut Tape<'m>,
        index: usize,
        streams: Streams,
        sequence: &Arc<Sequence>,
        cache: Option<&mut LayerCache>,
    ) -> Streams {
        let layer = &self.layers[index];
        let rings = || self.rings.iter().map(move |ring| &ring.layers[index]);

        let weights = std::iter::once(&layer.input_layernorm).chain(rings().map(|ring| &ring.input_layernorm));
        let h = self.norms(tape, &streams, weights);
        let [q, k, v] = [Projection::Q, Projection::K, Projection::V].map(|p| self.project(tape, index, p, &h, None));
        let mut caches = cache.into_iter().flatten();
        let attended: Streams = q
            .into_iter()
            .zip(k)
            .zip(v)
            .enumerate()
            .map(|(stream, ((q, k), v))| self.attend(tape, (q, k, v), self.attention_heads(stream), sequence, caches.next()))
            .collect();
        let streams = self.project(tape, index, Projection::O, &attended, Some(&streams));
        drop(attended);

        let weights = std::iter::once(&layer.post_attention_layernorm).chain(rings().map(|ring| &ring.post_attention_layernorm));
        let h = self.norms(tape, &streams, weights);
        let [gate, up] = [Projection::Gate, Projection::Up].map(|p| self.project(tape, index, p, &h, None));
        drop(h);
        let channels: Streams = gate.into_iter().zip(up).map(|(gate, up)| tape.swiglu(gate, up)).collect();
        self.project(tape, index, Projection::Down, &channels, Some(&streams))
    }

    /// Every stream normalised by itself, each with its own weight.
    pub(super) fn norms<'m>(&self, tape: &mut Tape<'m>, streams: &[Var], weights: impl Iterator<Item = &'m Vector>) -> Streams {
        let eps = self.config.rms_norm_eps as f32;
        streams.iter().zip(weights).map(|(x, weight)| tape.rms_norm(x, weight, eps)).collect()
    }

    /// One widened linear module over the normalised streams, plus bias and residuals: block by block the lower triangle, and W12 of the first ring.
    fn project<'m>(
        &'m self,
        tape: &mut Tape<'m>,
        index: usize,
        projection: Projection,
        inputs: &[Var],
        residuals: Option<&[Var]>,
    ) -> Streams {
        let linear = &self.layers[index].linear[projection as usize];
        let low_rank = linear.adapter.as_ref().map(|adapter| (self.low_rank(tape, adapter, &inputs[0]), &adapter.b));
        let mut products = vec![(&inputs[0], &linear.weight)];
        products.extend(low_rank.iter().map(|(h, b)| (h, *b)));
        let rings = self.rings.iter().map(|ring| &ring.layers[index].widened[projection as usize]);
        products.extend(rings.clone().zip(&inputs[1..]).filter_map(|(ring, g)| Some((g, ring.expansion_to_base.as_ref()?))));
        let mut outputs = Vec::with_capacity(inputs.len());
        outputs.push(tape.linear(&products, linear.bias.as_ref(), residuals.map(|r| &r[0])));
        for (stream, ring) in (1..inputs.len()).zip(rings) {
            let products: Vec<_> = inputs.iter().zip(&ring.reads).collect();
            outputs.push(tape.linear(&products, None, residuals.map(|r| &r[stream])));
        }
        outputs
    }

    /// `scaling · A dropout(h)`: what an adapter's B is multiplied by.
    fn low_rank<'m>(&self, tape: &mut Tape<'m>, adapter: &'m Adapter, h: &Var) -> Var {
        let dropped = match self.adapters.dropout {
            Some(dropout) => &tape.dropout(h, dropout, adapter.number),
            None => h,
        };
        let low = tape.linear(&[(dropped, &adapter.a)], None, None);
        tape.scale(low, self.adapters.scaling)
    }

    /// Rotary embedding and attention of one stream, over the cached keys and values too where there are some.
    fn attend<'m>(
        &'m self,
        tape: &mut Tape<'m>,
        (q, k, v): (Var, Var, Var),
        heads: Heads,
        sequence: &Arc<Sequence>,
        cache: Option<&mut super::cache::KeyValues>,
    ) -> Var {
        let q = tape.rope(q, &self.rope, sequence);
        let k = tape.rope(k, &self.rope, sequence);
        match cache {
            None => tape.attention(q, k, v, heads, sequence),
            Some(cache) => tape.constant(cache.attend(q.value(), k.value(), v.value(), heads)),
        }
    }

    /// The attention heads of the base stream (0) or of a ring's, counted from 1.
    fn attention_heads(&self, stream: usize) -> Heads {
        let c = &self.config;
        let (query, key_value) = match stream.checked_sub(1).map(|ring| self.rings[ring].growth.sizes) {
            None => (c.num_attention_heads, c.num_key_value_heads),
            Some(sizes) => (sizes.num_attention_heads, sizes.num_key_value_heads),
        };
        Heads { query, key_value, dim: c.head_dim }
    }
}
