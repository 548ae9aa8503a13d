//! Keys and values of the tokens seen so far, for every stream.

use crate::ops::attention::{self, Sequences, Shape};
use crate::ops::sequence::Heads;

/// One stream's keys and values in one layer.
#[derive(Debug, Default)]
pub(super) struct KeyValues {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// One layer's keys and values, a stream each in the order of the streams.
type LayerCache = Vec<KeyValues>;

/// Where a layer keeps the keys and values of each stream: of all its rows, or of the copy before them and of its own, in equal parts.
pub(super) type Slots<'a> = Vec<Vec<&'a mut KeyValues>>;

/// Keys and values of one sequence: of the base stream and every ring's, and of the preserved copy of the base stream above the fork.
#[derive(Debug)]
pub struct Cache {
    pub(super) capacity: usize,
    pub(super) length: usize,
    layers: Vec<LayerCache>,
    preserved: Vec<KeyValues>,
}

impl Cache {
    pub(super) fn new(capacity: usize, layers: usize, streams: usize) -> Self {
        let empty = |count| (0..count).map(|_| KeyValues::default()).collect();
        Self { capacity, length: 0, layers: (0..layers).map(|_| empty(streams)).collect(), preserved: empty(layers) }
    }

    /// The slots of layer `index`; with `copied` the base stream carries its preserved copy.
    pub(super) fn slots(&mut self, index: usize, copied: bool) -> Slots<'_> {
        let mut slots: Slots<'_> = self.layers[index].iter_mut().map(|own| vec![own]).collect();
        if copied {
            slots[0].insert(0, &mut self.preserved[index]);
        }
        slots
    }

    /// The slot of layer `index` of a base that has nothing but a preserved stream.
    pub(super) fn preserved(&mut self, index: usize) -> Slots<'_> {
        vec![vec![&mut self.preserved[index]]]
    }

    /// Tokens seen so far.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether no token has been seen.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Tokens that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

impl KeyValues {
    /// Appends the keys and values of new tokens and attends from their queries to everything so far that the heads look back over.
    ///
    /// # Shapes
    /// `q`, `out` `[new, query * dim]`, `k`, `v` `[new, key_value * dim]`.
    pub(super) fn attend(&mut self, q: &[f32], k: &[f32], v: &[f32], heads: Heads, out: &mut [f32]) {
        let past = self.keys.len() / (heads.key_value * heads.dim);
        self.keys.extend_from_slice(k);
        self.values.extend_from_slice(v);
        let new = q.len() / (heads.query * heads.dim);
        let total = past + new;
        let shape = Shape { batch: 1, query_len: new, past, heads: heads.query, kv_heads: heads.key_value, head_dim: heads.dim };
        let width = heads.key_value * heads.dim;
        let (keys, values) = (Sequences::packed(&self.keys, total, width), Sequences::packed(&self.values, total, width));
        let starts = attention::window_starts(&shape, None, heads.window);
        attention::forward(&shape, q, keys, values, starts.as_deref(), out, None);
    }
}
