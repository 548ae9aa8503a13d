//! Softmax over the keys, tile by tile, with a running maximum and sum.

use super::product::Product;
use super::{KEYS, SERIAL, Sequences, Shape, Shared, Tile, with_scratch};
use crate::ops::math::{LANES, exp2, max, sum_lanes};
use crate::simd_fn;
use rayon::prelude::*;

/// Rows (queries times query heads of a group) of a task: they share the packing of each key tile.
const TASK_ROWS: usize = 384;
/// Rows whose scores are held at once: they stay in the first-level cache between the two products.
const BLOCK_ROWS: usize = 48;

/// `out = softmax(q kᵀ / √head_dim, masked) v`, and the base-2 logarithm of each softmax's denominator where the backward will want it.
/// Row `i` of a sequence sees keys `starts[i] ..= past + i` (from key 0 without `starts`).
///
/// # Shapes
/// `q`, `out` `[batch, query_len, heads * head_dim]`; `k`, `v` `[batch, past + query_len, kv_heads * head_dim]`;
/// `starts [batch, query_len]`; `lse [batch, query_len, heads]`.
pub fn forward(
    shape: &Shape,
    q: &[f32],
    k: Sequences<'_>,
    v: Sequences<'_>,
    starts: Option<&[u32]>,
    out: &mut [f32],
    lse: Option<&mut [f32]>,
) {
    shape.check(q, k, v, starts);
    assert_eq!(out.len(), q.len());
    assert!(lse.as_ref().is_none_or(|lse| lse.len() * shape.head_dim == q.len()));
    let (out, lse) = (Shared::new(out), lse.map(Shared::new));
    let sequences = shape.batch * shape.kv_heads;
    let queries = queries_per_task(shape);
    let tiles = shape.query_len.div_ceil(queries);
    let run = |task: usize| {
        // Later queries see more keys: the largest tasks come first.
        let (tile, sequence) = (tiles - 1 - task / sequences, task % sequences);
        let tile = Tile::new(shape, starts, sequence / shape.kv_heads, sequence % shape.kv_heads, tile * queries, queries);
        forward_tile(shape, &tile, q, k, v, &out, lse.as_ref());
    };
    let tasks = tiles * sequences;
    if tasks <= 1 || shape.query_values() * shape.key_len() < SERIAL {
        (0..tasks).for_each(run);
    } else {
        (0..tasks).into_par_iter().with_max_len(1).for_each(run);
    }
}

/// Queries of a task; fewer where there would not be enough tasks for the threads. (No result depends on it.)
fn queries_per_task(shape: &Shape) -> usize {
    let wanted = 2 * rayon::current_num_threads();
    let mut queries = (TASK_ROWS / shape.group()).max(16);
    while queries > 16 && shape.query_len.div_ceil(queries) * shape.batch * shape.kv_heads < wanted {
        queries /= 2;
    }
    queries
}

fn forward_tile(shape: &Shape, tile: &Tile<'_>, q: &[f32], k: Sequences<'_>, v: Sequences<'_>, out: &Shared<'_>, lse: Option<&Shared<'_>>) {
    let (d, group, rows, product) = (shape.head_dim, tile.group, tile.rows(), Product::current());
    let (width, block_queries) = (group * d, (BLOCK_ROWS / group).max(1));
    let packed = [product.packed_len(d, KEYS), product.packed_len(KEYS, d)];
    let lengths = [rows * d, block_queries * group * KEYS, rows * d];
    with_scratch(lengths, [rows, rows], packed, |[queries, scores, sums], [maxima, totals], [k_memory, v_memory]| {
        let scale = shape.query_scale();
        for (i, to) in queries.chunks_exact_mut(width).enumerate() {
            let from = &q[shape.query_at(tile.batch, tile.first + i, tile.kv_head)..][..width];
            to.iter_mut().zip(from).for_each(|(to, from)| *to = from * scale);
        }
        sums.fill(0.0);
        maxima.fill(f32::NEG_INFINITY);
        totals.fill(0.0);
        for (base, keys) in tile.key_tiles() {
            let k_tile = product.pack_transposed(k.head(tile.batch, base, tile.kv_head, d), k.row_stride, d, keys, k_memory);
            let v_tile = product.pack(v.head(tile.batch, base, tile.kv_head, d), v.row_stride, keys, d, v_memory);
            for first in (0..tile.queries).step_by(block_queries) {
                let block = tile.block(first, block_queries);
                let seen = (block.end + block.queries - 1).saturating_sub(base).min(keys);
                if seen == 0 || block.start() >= base + keys {
                    continue;
                }
                let (at, rows) = (first * group, block.rows());
                product.multiply((rows, seen, d), (&queries[at * d..], d), k_tile, (scores, KEYS), false);
                let sums = &mut sums[at * d..][..rows * d];
                let (maxima, totals) = (&mut maxima[at..][..rows], &mut totals[at..][..rows]);
                softmax_rows(&block, base, seen, &mut scores[..rows * KEYS], sums, d, maxima, totals);
                product.multiply((rows, d, seen), (scores, KEYS), v_tile, (sums, d), true);
            }
        }
        for i in 0..tile.queries {
            let at = shape.query_at(tile.batch, tile.first + i, tile.kv_head);
            // SAFETY: the values of one query and one group of heads belong to one task only.
            let to = unsafe { out.part(at, width) };
            for (g, to) in to.chunks_exact_mut(d).enumerate() {
                let r = i * group + g;
                let inverse = 1.0 / totals[r];
                to.iter_mut().zip(&sums[r * d..]).for_each(|(to, sum)| *to = sum * inverse);
            }
            if let Some(lse) = lse {
                // SAFETY: as above.
                let to = unsafe { lse.part(at / d, group) };
                for (to, r) in to.iter_mut().zip(i * group..) {
                    *to = maxima[r] + totals[r].log2();
                }
            }
        }
    });
}

simd_fn! {
    /// Turns scores into `2^(score - maximum)`, exactly 0 where masked, and brings what was summed before to the new maximum.
    /// The rows see at most the first `seen` keys of the tile.
    fn softmax_rows(
        tile: &Tile<'_>,
        base: usize,
        seen: usize,
        scores: &mut [f32],
        sums: &mut [f32],
        d: usize,
        maxima: &mut [f32],
        totals: &mut [f32],
    ) {
        let (scores, _) = scores.as_chunks_mut::<KEYS>();
        for (r, row) in scores.iter_mut().enumerate() {
            let (start, end) = tile.visible(r, base);
            // Lanes beyond what any row sees would only add zeros.
            let row = &mut row[..seen.next_multiple_of(LANES)];
            row[..start].fill(f32::NEG_INFINITY);
            row[end..].fill(f32::NEG_INFINITY);
            let before = maxima[r];
            let here = max(row);
            let now = if here > before { here } else { before };
            // A row that has seen nothing yet has no maximum to subtract; all its terms are 2^-∞ = 0.
            let subtract = if now == f32::NEG_INFINITY { 0.0 } else { now };
            let mut lanes = [0.0; LANES];
            let (blocks, _) = row.as_chunks_mut::<LANES>();
            for x in blocks {
                for i in 0..LANES {
                    x[i] = exp2(x[i] - subtract);
                    lanes[i] += x[i];
                }
            }
            let shrink = exp2(before - subtract);
            totals[r] = totals[r] * shrink + sum_lanes(lanes);
            maxima[r] = now;
            if shrink != 1.0 {
                for s in &mut sums[r * d..][..d] {
                    *s *= shrink;
                }
            }
        }
    }
}
