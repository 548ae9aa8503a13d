//! Keys and values of the tokens seen so far, for every stream.

use crate::ops::attention::{self, Sequences, Shape};
use crate::ops::recorded::Heads;
use crate::ops::tensor::Tensor;

/// One stream's keys and values in one layer.
#[derive(Debug, Default)]
pub(super) struct KeyValues {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// One layer's keys and values, a stream each in the order of the streams.
pub(super) type LayerCache = Vec<KeyValues>;

/// Keys and values of one sequence: of the base stream and every ring's, and of the preserved copy of the base stream above the fork.
#[derive(Debug)]
pub struct Cache {
    pub(super) capacity: usize,
    pub(super) length: usize,
    pub(super) layers: Vec<LayerCache>,
    pub(super) preserved: Vec<LayerCache>,
}

impl Cache {
    pub(super) fn new(capacity: usize, layers: usize, streams: usize) -> Self {
        let empty = |streams| (0..layers).map(|_| (0..streams).map(|_| KeyValues::default()).collect()).collect();
        Self { capacity, length: 0, layers: empty(streams), preserved: empty(1) }
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
    /// `q [new, query * dim]`, `k`, `v [new, key_value * dim]`, result as `q`.
    pub(super) fn attend(&mut self, q: &Tensor, k: &Tensor, v: &Tensor, heads: Heads) -> Tensor {
        let past = self.keys.len() / (heads.key_value * heads.dim);
        self.keys.extend_from_slice(k.data());
        self.values.extend_from_slice(v.data());
        let total = past + q.rows();
        let shape = Shape { batch: 1, query_len: q.rows(), past, heads: heads.query, kv_heads: heads.key_value, head_dim: heads.dim };
        let mut out = Tensor::scratch(q.rows(), q.cols());
        let width = heads.key_value * heads.dim;
        let (keys, values) = (Sequences::packed(&self.keys, total, width), Sequences::packed(&self.values, total, width));
        let starts = attention::window_starts(&shape, None, heads.window);
        attention::forward(&shape, q.data(), keys, values, starts.as_deref(), out.data_mut(), None);
        out
    }
}
