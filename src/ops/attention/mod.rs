//! Causal grouped-query attention in tiles: no `tokens × tokens` matrix is kept, only one number a row and head.
//!
//! Keys are cut into tiles of `KEYS` counted from key 0, whatever the queries are; masked entries contribute exact zeros. So a row's bits
//! are the same in a long prefill, alone with a cache, or beside other sequences.
//!
//! # Paper
//! FlashAttention-2, <https://arxiv.org/abs/2307.08691>; grouped queries, <https://arxiv.org/abs/2305.13245>.

mod backward;
mod forest;
mod forward;
mod product;
#[cfg(test)]
mod tests;

pub use backward::{Saved, backward};
pub use forest::{Segment, forward_forest};
pub use forward::forward;

use std::borrow::Cow;
use std::cell::RefCell;
use std::marker::PhantomData;

/// Keys in a tile.
const KEYS: usize = 128;
/// Below this many multiplications everything runs on the calling thread.
const SERIAL: usize = 1 << 18;

/// Sizes of an attention: row `i` of a sequence sees keys `start ..= past + i`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Number of sequences.
    pub batch: usize,
    /// Queries a sequence.
    pub query_len: usize,
    /// Keys before the first query's own: tokens in the cache.
    pub past: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads, a divisor of `heads`.
    pub kv_heads: usize,
    /// Values a head.
    pub head_dim: usize,
}

impl Shape {
    /// Keys a sequence.
    pub fn key_len(&self) -> usize {
        self.past + self.query_len
    }

    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    fn scale(&self) -> f32 {
        (1.0 / (self.head_dim as f64).sqrt()) as f32
    }

    /// What queries are multiplied by, so that `2^score` is the softmax's numerator.
    fn query_scale(&self) -> f32 {
        (std::f64::consts::LOG2_E / (self.head_dim as f64).sqrt()) as f32
    }

    /// Length of everything that has a value for each query, head and dimension.
    fn query_values(&self) -> usize {
        self.batch * self.query_len * self.heads * self.head_dim
    }

    /// Where a query's values of one key/value head's group begin.
    fn query_at(&self, batch: usize, query: usize, kv_head: usize) -> usize {
        ((batch * self.query_len + query) * self.heads + kv_head * self.group()) * self.head_dim
    }

    fn check(&self, q: &[f32], k: Sequences<'_>, v: Sequences<'_>, starts: Option<&[u32]>) {
        assert!(self.kv_heads > 0 && self.head_dim > 0 && self.heads.is_multiple_of(self.kv_heads), "{self:?}");
        assert_eq!(q.len(), self.query_values(), "{self:?}");
        for s in [k, v] {
            let width = self.kv_heads * self.head_dim;
            let end = self.batch.saturating_sub(1) * s.batch_stride + self.key_len().saturating_sub(1) * s.row_stride + width;
            assert!(
                self.batch * self.query_len == 0 || (end <= s.data.len() && width <= s.row_stride),
                "{self:?}: keys or values too short"
            );
        }
        if let Some(starts) = starts {
            let ends = (0..self.batch).flat_map(|_| self.past..self.key_len());
            assert_eq!(starts.len(), self.batch * self.query_len);
            assert!(starts.iter().zip(ends).all(|(&s, end)| s as usize <= end), "a row that does not see itself");
        }
    }
}

/// First visible key of each query where queries look back over at most `window` keys, their own included, and not before `starts`;
/// `None` where every query sees all before it.
///
/// # Shapes
/// `starts`, result `[batch, query_len]`.
pub fn window_starts<'a>(shape: &Shape, starts: Option<&'a [u32]>, window: Option<usize>) -> Option<Cow<'a, [u32]>> {
    let Some(window) = window.filter(|&window| window < shape.key_len()) else { return starts.map(Cow::Borrowed) };
    let first = |row: usize| (shape.past + row % shape.query_len + 1).saturating_sub(window) as u32;
    let latest = |row: usize| starts.map_or(first(row), |starts| first(row).max(starts[row]));
    Some((0..shape.batch * shape.query_len).map(latest).collect())
}

/// Keys or values of every sequence, possibly inside larger buffers (a cache with room to grow).
#[derive(Debug, Clone, Copy)]
pub struct Sequences<'a> {
    /// The values; those of token `t` of sequence `b` begin at `b * batch_stride + t * row_stride`.
    pub data: &'a [f32],
    /// Distance between tokens.
    pub row_stride: usize,
    /// Distance between sequences.
    pub batch_stride: usize,
}

impl<'a> Sequences<'a> {
    /// Sequences one after the other, `[batch, tokens, width]`.
    pub fn packed(data: &'a [f32], tokens: usize, width: usize) -> Self {
        Self { data, row_stride: width, batch_stride: tokens * width }
    }

    /// One head's values from `token` on.
    fn head(&self, batch: usize, token: usize, kv_head: usize, head_dim: usize) -> &'a [f32] {
        &self.data[batch * self.batch_stride + token * self.row_stride + kv_head * head_dim..]
    }
}

/// The queries of one tile, for all query heads that share a key/value head. Its row `r` is query `r / group`, head `r % group` of the group.
#[derive(Clone, Copy)]
struct Tile<'a> {
    batch: usize,
    kv_head: usize,
    /// First query of the tile.
    first: usize,
    /// Number of queries.
    queries: usize,
    /// Query heads a key/value head.
    group: usize,
    /// Keys the tile's first query sees the end of: its own position plus one.
    end: usize,
    /// First visible key of each of the tile's queries.
    starts: Option<&'a [u32]>,
}

impl<'a> Tile<'a> {
    fn new(shape: &Shape, starts: Option<&'a [u32]>, batch: usize, kv_head: usize, first: usize, queries: usize) -> Self {
        let queries = queries.min(shape.query_len - first);
        let starts = starts.map(|s| &s[batch * shape.query_len + first..][..queries]);
        Self { batch, kv_head, first, queries, group: shape.group(), end: shape.past + first + 1, starts }
    }

    fn rows(&self) -> usize {
        self.queries * self.group
    }

    /// Some of the tile's queries, as a tile.
    fn block(&self, first: usize, queries: usize) -> Self {
        let queries = queries.min(self.queries - first);
        let starts = self.starts.map(|s| &s[first..][..queries]);
        Self { first: self.first + first, queries, end: self.end + first, starts, ..*self }
    }

    /// First key that any of the rows sees.
    fn start(&self) -> usize {
        self.starts.map_or(0, |s| s.iter().copied().min().unwrap_or(0) as usize)
    }

    /// First keys of the key tiles that any of the rows sees, and how many keys of each.
    fn key_tiles(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (start, end) = (self.start(), self.end + self.queries - 1);
        (start / KEYS * KEYS..end).step_by(KEYS).map(move |base| (base, KEYS.min(end - base)))
    }

    /// What row `r` sees of the key tile that begins at `base`.
    #[inline(always)]
    fn visible(&self, r: usize, base: usize) -> (usize, usize) {
        let query = r / self.group;
        let start = match self.starts {
            Some(starts) => starts[query] as usize,
            None => 0,
        };
        let end = (self.end + query).saturating_sub(base).min(KEYS);
        (start.saturating_sub(base).min(end), end)
    }
}

/// A buffer that parallel tasks write disjoint parts of.
struct Shared<'a> {
    data: *mut f32,
    len: usize,
    lifetime: PhantomData<&'a mut [f32]>,
}

// SAFETY: access is only through `part`, whose callers keep parts disjoint.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    fn new(data: &'a mut [f32]) -> Self {
        Self { data: data.as_mut_ptr(), len: data.len(), lifetime: PhantomData }
    }

    /// A part of the buffer.
    ///
    /// # Safety
    /// No other part that overlaps it is in use.
    #[allow(clippy::mut_from_ref)]
    unsafe fn part(&self, start: usize, len: usize) -> &mut [f32] {
        assert!(start + len <= self.len);
        // SAFETY: inside the buffer, which is borrowed mutably for as long as `self`; disjointness is the caller's.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), len) }
    }
}

/// Lends this thread's working memory in three groups of buffers, each on cache lines of its own; contents are left over from earlier.
fn with_scratch<const A: usize, const B: usize, const C: usize>(
    a: [usize; A],
    b: [usize; B],
    c: [usize; C],
    work: impl FnOnce([&mut [f32]; A], [&mut [f32]; B], [&mut [f32]; C]),
) {
    thread_local! {
        static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    const LINE: usize = 16;
    SCRATCH.with_borrow_mut(|buffer| {
        let lengths = a.iter().chain(&b).chain(&c);
        let needed = lengths.map(|n| n.next_multiple_of(LINE)).sum::<usize>() + LINE;
        if buffer.len() < needed {
            buffer.resize(needed, 0.0);
        }
        let offset = buffer.as_ptr().align_offset(64).min(LINE);
        let mut rest = &mut buffer[offset..];
        let mut next = |n: usize| {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(n.next_multiple_of(LINE));
            rest = after;
            &mut part[..n]
        };
        work(a.map(&mut next), b.map(&mut next), c.map(&mut next));
    });
}
