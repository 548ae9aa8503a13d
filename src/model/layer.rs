//! Weights of a decoder layer, base and expansion, and the layer's forward pass over both streams.

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

/// The blocks beside a linear module's base weight.
#[derive(Debug)]
pub(super) struct Widened {
    pub(super) base_to_expansion: Weight,
    pub(super) expansion_to_expansion: Weight,
    /// Absent where it is zero: then the base stream is the base's, bit for bit, and nothing flows back through it.
    pub(super) expansion_to_base: Option<Weight>,
}

/// A decoder layer of the base; the seven linear modules in the order of [`Projection::ALL`].
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) input_layernorm: Vector,
    pub(super) post_attention_layernorm: Vector,
    pub(super) linear: [Linear; 7],
}

/// The expansion of a decoder layer.
#[derive(Debug)]
pub(super) struct ExpansionLayer {
    pub(super) input_layernorm: Vector,
    pub(super) post_attention_layernorm: Vector,
    pub(super) widened: [Widened; 7],
}

impl ExpansionLayer {
    /// Whether the base stream is changed by the expansion in this layer.
    pub(super) fn adapts(&self) -> bool {
        self.widened.iter().any(|w| w.expansion_to_base.is_some())
    }
}

/// Base stream and expansion stream.
pub(super) type Streams = (Var, Option<Var>);

impl Model {
    /// Layer `index` over the base stream and, where given, the expansion stream.
    ///
    /// # Paper
    /// Section 3: the streams share positions and mask; heads, norms and FFN channels never mix before the output projections.
    pub(super) fn layer<'m>(
        &'m self,
        tape: &mut Tape<'m>,
        index: usize,
        (x, z): Streams,
        sequence: &Arc<Sequence>,
        mut cache: Option<&mut LayerCache>,
    ) -> Streams {
        let layer = &self.layers[index];
        let wide = z.as_ref().and(self.expansion.as_ref()).map(|e| &e.layers[index]);
        let eps = self.config.rms_norm_eps as f32;

        let h = self.norms(tape, (&x, &z), &layer.input_layernorm, wide.map(|w| &w.input_layernorm), eps);
        let [q, k, v] =
            [Projection::Q, Projection::K, Projection::V].map(|p| self.project(tape, layer, wide, p, (&h.0, h.1.as_ref()), None));
        let base = self.attend(tape, (q.0, k.0, v.0), self.heads_of_base(), sequence, cache.as_mut().map(|c| &mut c.base));
        let expansion = match (q.1, k.1, v.1) {
            (Some(q), Some(k), Some(v)) => {
                Some(self.attend(tape, (q, k, v), self.heads_of_expansion(), sequence, cache.as_mut().map(|c| &mut c.expansion)))
            }
            _ => None,
        };
        let (x, z) = self.project(tape, layer, wide, Projection::O, (&base, expansion.as_ref()), Some((&x, z.as_ref())));

        let h = self.norms(tape, (&x, &z), &layer.post_attention_layernorm, wide.map(|w| &w.post_attention_layernorm), eps);
        let [gate, up] = [Projection::Gate, Projection::Up].map(|p| self.project(tape, layer, wide, p, (&h.0, h.1.as_ref()), None));
        drop(h);
        let base = tape.swiglu(gate.0, up.0);
        let expansion = gate.1.zip(up.1).map(|(gate, up)| tape.swiglu(gate, up));
        self.project(tape, layer, wide, Projection::Down, (&base, expansion.as_ref()), Some((&x, z.as_ref())))
    }

    fn norms<'m>(
        &self,
        tape: &mut Tape<'m>,
        (x, z): (&Var, &Option<Var>),
        weight: &'m Vector,
        expansion: Option<&'m Vector>,
        eps: f32,
    ) -> Streams {
        (tape.rms_norm(x, weight, eps), z.as_ref().zip(expansion).map(|(z, w)| tape.rms_norm(z, w, eps)))
    }

    /// One widened linear module: `[[W, W12], [W21, W22]]` over `(h, g)`, plus bias and residuals.
    fn project<'m>(
        &self,
        tape: &mut Tape<'m>,
        layer: &'m Layer,
        wide: Option<&'m ExpansionLayer>,
        projection: Projection,
        (h, g): (&Var, Option<&Var>),
        residual: Option<(&Var, Option<&Var>)>,
    ) -> Streams {
        let linear = &layer.linear[projection as usize];
        let low_rank = linear.adapter.as_ref().map(|adapter| (self.low_rank(tape, adapter, h), &adapter.b));
        let mut products = vec![(h, &linear.weight)];
        products.extend(low_rank.iter().map(|(h, b)| (h, *b)));
        let widened = wide.map(|w| &w.widened[projection as usize]).zip(g);
        if let Some((widened, g)) = widened
            && let Some(weight) = &widened.expansion_to_base
        {
            products.push((g, weight));
        }
        let base = tape.linear(&products, linear.bias.as_ref(), residual.map(|r| r.0));
        let expansion = widened.map(|(widened, g)| {
            let products = [(h, &widened.base_to_expansion), (g, &widened.expansion_to_expansion)];
            tape.linear(&products, None, residual.and_then(|r| r.1))
        });
        (base, expansion)
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

    pub(super) fn heads_of_base(&self) -> Heads {
        let c = &self.config;
        Heads { query: c.num_attention_heads, key_value: c.num_key_value_heads, dim: c.head_dim }
    }

    pub(super) fn heads_of_expansion(&self) -> Heads {
        let sizes = self.expansion.as_ref().map(|e| e.growth.sizes);
        Heads {
            query: sizes.map_or(0, |s| s.num_attention_heads),
            key_value: sizes.map_or(0, |s| s.num_key_value_heads),
            dim: self.config.head_dim,
        }
    }
}
