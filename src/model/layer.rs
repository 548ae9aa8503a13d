//! Weights of a decoder layer, of the base and of each ring, and the layer's forward pass over all streams.

use super::Model;
use super::cache::{KeyValues, Slots};
use crate::checkpoint::names::Projection;
use crate::ops::sequence::{Heads, Sequence};
use crate::ops::tape::{Tape, Var, Vector, Weight};
use crate::ops::tensor::Tensor;
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
    /// What is added to the base's own weight in the adapted copy of its stream, where there is something. Only the first ring has it.
    pub(super) adapter: Option<Adapter>,
}

/// The norms of one stream in a layer.
#[derive(Debug)]
pub(super) struct Norms {
    /// The attention's and the feed-forward network's: of what they read, or where the family has post-norms, of what they write.
    pub(super) residual: [Vector; 2],
    /// Of queries and keys.
    pub(super) query_key: Option<[Vector; 2]>,
}

impl Norms {
    /// All of them, one by one.
    pub(super) fn each_mut(&mut self) -> impl Iterator<Item = &mut Vector> {
        self.residual.iter_mut().chain(self.query_key.iter_mut().flatten())
    }
}

/// A decoder layer of the base; the seven linear modules in the order of [`Projection::ALL`].
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) norms: Norms,
    pub(super) linear: [Linear; 7],
}

/// A ring's part of a decoder layer.
#[derive(Debug)]
pub(super) struct RingLayer {
    pub(super) norms: Norms,
    pub(super) widened: [Widened; 7],
}

impl RingLayer {
    /// Whether the base stream is changed by the ring in this layer.
    pub(super) fn adapts(&self) -> bool {
        self.widened.iter().any(|w| w.expansion_to_base.is_some())
    }
}

/// What linear modules that stand beside one another read.
struct Inputs {
    streams: Streams,
    /// The first ring's stream as the base stream gets it; absent where the base stream gets nothing of it here.
    to_base: Option<Var>,
}

/// The base stream, then the stream of each ring; fewer of them are those of the model that had fewer rings.
pub(super) type Streams = Vec<Var>;

/// What the rows of the streams see of one another: those of the base stream, which [may carry](Model::streams) a copy, and those of the rings'.
#[derive(Debug, Clone)]
pub(super) struct StreamSequences {
    pub(super) base: Arc<Sequence>,
    pub(super) rings: Arc<Sequence>,
}

impl StreamSequences {
    /// The same for all streams.
    pub(super) fn same(sequence: &Arc<Sequence>) -> Self {
        Self { base: sequence.clone(), rings: sequence.clone() }
    }
}

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
        sequences: &StreamSequences,
        cache: Option<Slots<'_>>,
    ) -> Streams {
        let h = self.half_input(tape, index, 0, &streams);
        let h = self.inputs(tape, index, Projection::Q, h, sequences);
        let [q, k, v] = [Projection::Q, Projection::K, Projection::V].map(|p| self.project(tape, index, p, &h, sequences, None));
        let mut caches = cache.into_iter().flatten();
        let attended: Streams = q
            .into_iter()
            .zip(k)
            .zip(v)
            .enumerate()
            .map(|(stream, ((q, k), v))| {
                let found = self.attend(tape, [index, stream], (q, k, v), sequences, caches.next());
                if stream == 0 { self.with_sink(tape, index, found, &h.streams, sequences) } else { found }
            })
            .collect();
        drop(h);
        let streams = self.half_output(tape, index, Projection::O, attended, &streams, sequences);

        let h = self.half_input(tape, index, 1, &streams);
        let h = self.inputs(tape, index, Projection::Gate, h, sequences);
        let [gate, up] = [Projection::Gate, Projection::Up].map(|p| self.project(tape, index, p, &h, sequences, None));
        drop(h);
        let channels: Streams = gate.into_iter().zip(up).map(|(gate, up)| tape.swiglu(gate, up)).collect();
        self.half_output(tape, index, Projection::Down, channels, &streams, sequences)
    }

    /// What half `half` of a layer reads of the streams: all of each normalised, or as it is where the family has post-norms.
    fn half_input<'m>(&'m self, tape: &mut Tape<'m>, index: usize, half: usize, streams: &[Var]) -> Streams {
        if self.config.family.has_post_norms() { streams.to_vec() } else { self.norms(tape, streams, self.residual_norms(index, half)) }
    }

    /// The streams after a half of a layer, whose last projection writes to them: what it writes is normalised where the family has post-norms.
    fn half_output<'m>(
        &'m self,
        tape: &mut Tape<'m>,
        index: usize,
        projection: Projection,
        read: Streams,
        streams: &[Var],
        sequences: &StreamSequences,
    ) -> Streams {
        let read = self.inputs(tape, index, projection, read, sequences);
        if !self.config.family.has_post_norms() {
            return self.project(tape, index, projection, &read, sequences, Some(streams));
        }
        let written = self.project(tape, index, projection, &read, sequences, None);
        drop(read);
        let half = usize::from(projection == Projection::Down);
        let normed = self.norms(tape, &written, self.residual_norms(index, half));
        drop(written);
        streams.iter().zip(normed).map(|(x, y)| tape.add(x, y)).collect()
    }

    /// What `projection` reads, and its neighbours: all streams, and of the first ring's what reaches the base stream.
    fn inputs<'m>(
        &'m self,
        tape: &mut Tape<'m>,
        index: usize,
        projection: Projection,
        streams: Streams,
        sequences: &StreamSequences,
    ) -> Inputs {
        let to_base = streams.get(1).filter(|_| self.writes(index, projection));
        let to_base = to_base.map(|g| self.without_sink(tape, index, projection, g.clone(), sequences));
        Inputs { streams, to_base }
    }

    /// Whether the first ring adds to the base stream in `projection` of layer `index`.
    fn writes(&self, index: usize, projection: Projection) -> bool {
        self.rings.first().is_some_and(|ring| ring.layers[index].widened[projection as usize].expansion_to_base.is_some())
    }

    /// Whether in layer `index` the base stream's row of a document's first position stays the base's in its adapted copy too.
    fn keeps_sink(&self, index: usize) -> bool {
        self.rings.first().is_some_and(|ring| index < ring.growth.placement.sink_layers)
    }

    /// What is written to the base stream of `x`, of the rows of rings: nothing at the first position where that is kept. What others see of it, its key and
    /// its value, is adapted as theirs are.
    fn without_sink<'m>(&self, tape: &mut Tape<'m>, index: usize, projection: Projection, x: Var, sequences: &StreamSequences) -> Var {
        let seen = matches!(projection, Projection::Q | Projection::K | Projection::V);
        if seen || !self.keeps_sink(index) { x } else { tape.with_first_rows(x, &sequences.rings, None) }
    }

    /// What the base stream's attention found, given what it read: where the first position is kept and values are adapted, the base's own value there, for
    /// it sees only itself.
    fn with_sink<'m>(&'m self, tape: &mut Tape<'m>, index: usize, attended: Var, read: &[Var], sequences: &StreamSequences) -> Var {
        let adapted = read.len() > 1 && self.writes(index, Projection::V);
        let kept = adapted && self.keeps_sink(index);
        let first = if kept { tape.first_rows(&read[0], &sequences.rings) } else { None };
        let Some(first) = first else { return attended };
        let Linear { weight, bias, .. } = &self.layers[index].linear[Projection::V as usize];
        let value = tape.linear(first.value().rows(), &[(&first, weight)], bias.as_ref(), None);
        let heads = self.attention_heads(index, 0);
        let of_heads: Vec<f32> = value
            .value()
            .data()
            .chunks_exact(heads.dim)
            .flat_map(|head| std::iter::repeat_n(head, heads.query / heads.key_value))
            .flatten()
            .copied()
            .collect();
        tape.with_first_rows(attended, &sequences.rings, Some(&of_heads))
    }

    /// A layer's norms of the base stream and of each ring's.
    fn layer_norms(&self, index: usize) -> impl Iterator<Item = &Norms> {
        std::iter::once(&self.layers[index].norms).chain(self.rings.iter().map(move |ring| &ring.layers[index].norms))
    }

    fn residual_norms(&self, index: usize, half: usize) -> impl Iterator<Item = &Vector> {
        self.layer_norms(index).map(move |norms| &norms.residual[half])
    }

    /// Every stream normalised by itself, each with its own weight.
    pub(super) fn norms<'m>(&self, tape: &mut Tape<'m>, streams: &[Var], weights: impl Iterator<Item = &'m Vector>) -> Streams {
        let eps = self.config.rms_norm_eps as f32;
        streams.iter().zip(weights).map(|(x, weight)| tape.rms_norm(x, weight, eps)).collect()
    }

    /// One widened linear module over the normalised streams, plus bias and residuals: block by block the lower triangle, and of the first ring W12 and
    /// what stands beside it. The preserved copy that the base stream may carry is neither read by the rings nor written to.
    fn project<'m>(
        &'m self,
        tape: &mut Tape<'m>,
        index: usize,
        projection: Projection,
        inputs: &Inputs,
        sequences: &StreamSequences,
        residuals: Option<&[Var]>,
    ) -> Streams {
        let Inputs { streams: inputs, to_base } = inputs;
        let linear = &self.layers[index].linear[projection as usize];
        let rings = self.rings.iter().map(|ring| &ring.layers[index].widened[projection as usize]);
        // The base's own adapter, or the first ring's. Either is for the adapted rows alone, behind the preserved copy where there is one.
        let of_ring = rings.clone().zip(&inputs[1..]).find_map(|(ring, _)| ring.adapter.as_ref());
        let low_rank = linear.adapter.as_ref().or(of_ring).map(|adapter| {
            let low = self.low_rank(tape, adapter, sequences.rings.positions.len(), &inputs[0]);
            (self.without_sink(tape, index, projection, low, sequences), &adapter.b)
        });
        let mut products = vec![(&inputs[0], &linear.weight)];
        products.extend(low_rank.iter().map(|(h, b)| (h, *b)));
        products.extend(to_base.iter().zip(rings.clone().filter_map(|ring| ring.expansion_to_base.as_ref())));
        let mut outputs = Vec::with_capacity(inputs.len());
        outputs.push(tape.linear(inputs[0].value().rows(), &products, linear.bias.as_ref(), residuals.map(|r| &r[0])));
        for (stream, ring) in (1..inputs.len()).zip(rings) {
            let products: Vec<_> = inputs.iter().zip(&ring.reads).collect();
            outputs.push(tape.linear(inputs[stream].value().rows(), &products, None, residuals.map(|r| &r[stream])));
        }
        outputs
    }

    /// `scaling · A dropout(h)` of the last `rows` rows: what an adapter's B is multiplied by.
    fn low_rank<'m>(&self, tape: &mut Tape<'m>, adapter: &'m Adapter, rows: usize, h: &Var) -> Var {
        let dropped = match self.adapters.dropout {
            Some(dropout) => &tape.dropout(h, dropout, adapter.number),
            None => h,
        };
        let low = tape.linear(rows, &[(dropped, &adapter.a)], None, None);
        tape.scale(low, self.adapters.scaling)
    }

    /// Norms of queries and keys, rotary embedding and attention of one stream, over the cached keys and values too where there are some.
    fn attend<'m>(
        &'m self,
        tape: &mut Tape<'m>,
        [index, stream]: [usize; 2],
        (mut q, mut k, v): (Var, Var, Var),
        sequences: &StreamSequences,
        cache: Option<Vec<&mut KeyValues>>,
    ) -> Var {
        let sequence = if stream == 0 { &sequences.base } else { &sequences.rings };
        let heads = self.attention_heads(index, stream);
        if let Some([of_q, of_k]) = self.layer_norms(index).nth(stream).and_then(|norms| norms.query_key.as_ref()) {
            let eps = self.config.rms_norm_eps as f32;
            (q, k) = (tape.rms_norm(&q, of_q, eps), tape.rms_norm(&k, of_k, eps));
        }
        let q = tape.rope(q, &self.rope, sequence);
        let k = tape.rope(k, &self.rope, sequence);
        match cache {
            None => tape.attention(q, k, v, heads, sequence),
            Some(parts) => {
                let mut out = Tensor::scratch(q.value().rows(), q.value().cols());
                let [of_q, of_kv] = [heads.query, heads.key_value].map(|n| q.value().rows() / parts.len() * n * heads.dim);
                let rows =
                    q.value().data().chunks_exact(of_q).zip(k.value().data().chunks_exact(of_kv)).zip(v.value().data().chunks_exact(of_kv));
                for ((part, ((q, k), v)), out) in parts.into_iter().zip(rows).zip(out.data_mut().chunks_exact_mut(of_q)) {
                    part.attend(q, k, v, heads, out);
                }
                tape.constant(out)
            }
        }
    }

    /// The attention heads of a layer's base stream (0) or of a ring's, counted from 1.
    fn attention_heads(&self, index: usize, stream: usize) -> Heads {
        let c = &self.config;
        let (query, key_value) = match stream.checked_sub(1).map(|ring| self.rings[ring].growth.sizes) {
            None => (c.num_attention_heads, c.num_key_value_heads),
            Some(sizes) => (sizes.num_attention_heads, sizes.num_key_value_heads),
        };
        Heads { query, key_value, dim: c.head_dim, window: c.window(index) }
    }
}
