//! Softmax over the keys, tile by tile, with a running maximum and sum.

use super::{KEYS, SERIAL, Sequences, Shape, Shared, Tile, with_scratch};
use crate::ops::gemm::{View, gemm_serial};
use crate::ops::math::{LANES, exp, max, sum_lanes};
use crate::simd_fn;
use rayon::prelude::*;

/// `out = softmax(q kᵀ / √head_dim, masked) v`, and the logarithm of each softmax's denominator where the backward will want it.
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
    let tiles = shape.query_len.div_ceil(shape.queries());
    let run = |task: usize| {
        // Later queries see more keys: the largest tasks come first.
        let (tile, rest) = (tiles - 1 - task / (shape.batch * shape.kv_heads), task % (shape.batch * shape.kv_heads));
        let tile = Tile::new(shape, starts, rest / shape.kv_heads, rest % shape.kv_heads, tile * shape.queries());
        forward_tile(shape, &tile, q, k, v, &out, lse.as_ref());
    };
    let tasks = tiles * shape.batch * shape.kv_heads;
    if tasks <= 1 || shape.query_values() * shape.key_len() < SERIAL {
        (0..tasks).for_each(run);
    } else {
        (0..tasks).into_par_iter().with_max_len(1).for_each(run);
    }
}

fn forward_tile(
    shape: &Shape,
    tile: &Tile<'_>,
    q: &[f32],
    k: Sequences<'_>,
    v: Sequences<'_>,
    out: &Shared<'_>,
    lse: Option<&Shared<'_>>,
) {
    let (d, rows) = (shape.head_dim, tile.rows());
    with_scratch([rows * d, rows * KEYS, rows * d, rows, rows], |[queries, scores, sums, maxima, totals]| {
        let width = tile.group * d;
        let scale = shape.scale();
        for (i, to) in queries.chunks_exact_mut(width).enumerate() {
            let from = &q[shape.query_at(tile.batch, tile.first + i, tile.kv_head)..][..width];
            to.iter_mut().zip(from).for_each(|(to, from)| *to = from * scale);
        }
        sums.fill(0.0);
        maxima.fill(f32::NEG_INFINITY);
        totals.fill(0.0);
        for (base, keys) in tile.key_tiles() {
            let k_tile = View::rows(k.head(tile.batch, base, tile.kv_head, d), k.row_stride);
            let v_tile = View::rows(v.head(tile.batch, base, tile.kv_head, d), v.row_stride);
            gemm_serial(rows, keys, d, View::rows(queries, d), k_tile.t(), scores, KEYS, false);
            softmax_rows(tile, base, scores, sums, d, maxima, totals);
            gemm_serial(rows, d, keys, View::rows(scores, KEYS), v_tile, sums, d, true);
        }
        for i in 0..tile.queries {
            // SAFETY: the values of one query and one group of heads belong to one tile only.
            let to = unsafe { out.part(shape.query_at(tile.batch, tile.first + i, tile.kv_head), width) };
            for (g, to) in to.chunks_exact_mut(d).enumerate() {
                let r = i * tile.group + g;
                let inverse = 1.0 / totals[r];
                to.iter_mut().zip(&sums[r * d..]).for_each(|(to, sum)| *to = sum * inverse);
            }
            if let Some(lse) = lse {
                let at = shape.query_at(tile.batch, tile.first + i, tile.kv_head) / d;
                // SAFETY: as above.
                let to = unsafe { lse.part(at, tile.group) };
                for (g, to) in to.iter_mut().enumerate() {
                    let r = i * tile.group + g;
                    *to = maxima[r] + totals[r].ln();
                }
            }
        }
    });
}

simd_fn! {
    /// Turns a tile's scores into `e^(score - maximum)`, exactly 0 where masked, and brings what was summed before to the new maximum.
    fn softmax_rows(tile: &Tile<'_>, base: usize, scores: &mut [f32], sums: &mut [f32], d: usize, maxima: &mut [f32], totals: &mut [f32]) {
        let (scores, _) = scores.as_chunks_mut::<KEYS>();
        for (r, row) in scores.iter_mut().enumerate() {
            let (start, end) = tile.visible(r, base);
            row[..start].fill(f32::NEG_INFINITY);
            row[end..].fill(f32::NEG_INFINITY);
            let before = maxima[r];
            let here = max(row);
            let now = if here > before { here } else { before };
            // A row that has seen nothing yet has no maximum to subtract; all its terms are e^-∞ = 0.
            let subtract = if now == f32::NEG_INFINITY { 0.0 } else { now };
            let mut lanes = [0.0; LANES];
            let (blocks, _) = row.as_chunks_mut::<LANES>();
            for x in blocks {
                for i in 0..LANES {
                    x[i] = exp(x[i] - subtract);
                    lanes[i] += x[i];
                }
            }
            let shrink = exp(before - subtract);
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
