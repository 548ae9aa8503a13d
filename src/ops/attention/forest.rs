//! Attention in a forest: sequences that begin alike share the rows of their beginning.

use super::{Sequences, Shape, forward, window_starts};
use rayon::prelude::*;
use std::borrow::Cow;
use std::ops::Range;

/// Rows in a line that go on from other rows: the part of a sequence that it does not share with an earlier one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The rows before it in its sequence, in the order of the text.
    pub past: Vec<Range<usize>>,
    /// Its own.
    pub rows: Range<usize>,
}

impl Segment {
    /// Number of rows before it in its sequence.
    pub fn past_len(&self) -> usize {
        self.past.iter().map(ExactSizeIterator::len).sum()
    }
}

/// [`forward()`] for every segment over its past and itself. The segments follow one another and cover all rows.
/// A row's bits are those of its sequence alone. Queries look back over at most `window` keys, their own included, where there is one.
///
/// # Shapes
/// `q`, `out` `[rows, heads * head_dim]`; `k`, `v` `[rows, kv_heads * head_dim]`.
pub fn forward_forest(
    (heads, kv_heads, head_dim): (usize, usize, usize),
    q: &[f32],
    k: &[f32],
    v: &[f32],
    segments: &[Segment],
    window: Option<usize>,
    out: &mut [f32],
) {
    let (width, kv_width) = (heads * head_dim, kv_heads * head_dim);
    let (mut rest, mut at) = (out, 0);
    let mut parts = Vec::with_capacity(segments.len());
    for segment in segments {
        assert_eq!(segment.rows.start, at, "segments that do not follow one another");
        let (part, after) = std::mem::take(&mut rest).split_at_mut(segment.rows.len() * width);
        parts.push((segment, part));
        (rest, at) = (after, segment.rows.end);
    }
    assert!(rest.is_empty(), "rows without a segment");
    parts.into_par_iter().with_max_len(1).for_each(|(segment, out)| {
        let (keys, values) = (sequence(k, segment, kv_width), sequence(v, segment, kv_width));
        let (past, query_len) = (segment.past_len(), segment.rows.len());
        let shape = Shape { batch: 1, query_len, past, heads, kv_heads, head_dim };
        let q = &q[segment.rows.start * width..segment.rows.end * width];
        let packed = |x| Sequences::packed(x, past + query_len, kv_width);
        let starts = window_starts(&shape, None, window);
        forward(&shape, q, packed(&keys), packed(&values), starts.as_deref(), out, None);
    });
}

/// The rows of a segment's whole sequence, copied only where they do not lie in a line already.
fn sequence<'a>(x: &'a [f32], segment: &Segment, width: usize) -> Cow<'a, [f32]> {
    let rows = |range: &Range<usize>| &x[range.start * width..range.end * width];
    match segment.past.as_slice() {
        [] => Cow::Borrowed(rows(&segment.rows)),
        [past] if past.end == segment.rows.start => Cow::Borrowed(rows(&(past.start..segment.rows.end))),
        past => {
            let mut all = Vec::with_capacity((segment.past_len() + segment.rows.len()) * width);
            past.iter().chain([&segment.rows]).for_each(|range| all.extend_from_slice(rows(range)));
            Cow::Owned(all)
        }
    }
}
