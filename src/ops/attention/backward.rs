//! Gradients of the attention: the probabilities are computed again, tile by tile, from the saved logarithms.

use super::{KEYS, Sequences, Shape, Shared, Tile, with_scratch};
use crate::ops::gemm::{View, gemm_serial};
use crate::ops::math::{exp, sum2};
use crate::simd_fn;
use rayon::prelude::*;

/// What the forward was given and gave.
#[derive(Clone, Copy)]
pub struct Saved<'a> {
    /// Queries, `[batch, query_len, heads * head_dim]`.
    pub q: &'a [f32],
    /// Keys, `[batch, past + query_len, kv_heads * head_dim]`.
    pub k: Sequences<'a>,
    /// Values, like the keys.
    pub v: Sequences<'a>,
    /// First visible key of each query, `[batch, query_len]`.
    pub starts: Option<&'a [u32]>,
    /// The output, like the queries.
    pub out: &'a [f32],
    /// Logarithms of the denominators, `[batch, query_len, heads]`.
    pub lse: &'a [f32],
}

/// The gradients of [`forward`](super::forward); added to what is there with `accumulate`, written over it without.
/// The query heads of a group join in one fixed order.
///
/// # Shapes
/// `dout`, `dq` `[batch, query_len, heads * head_dim]`; `dk`, `dv` `[batch, past + query_len, kv_heads * head_dim]`.
pub fn backward(shape: &Shape, saved: Saved<'_>, dout: &[f32], dq: &mut [f32], dk: &mut [f32], dv: &mut [f32], accumulate: bool) {
    shape.check(saved.q, saved.k, saved.v, saved.starts);
    let key_values = shape.batch * shape.key_len() * shape.kv_heads * shape.head_dim;
    assert!(saved.out.len() == saved.q.len() && saved.lse.len() * shape.head_dim == saved.q.len());
    assert!(dout.len() == saved.q.len() && dq.len() == saved.q.len() && dk.len() == key_values && dv.len() == key_values);
    let task = Task { shape: *shape, saved, dout, dq: Shared::new(dq), dk: Shared::new(dk), dv: Shared::new(dv), accumulate };
    (0..shape.batch * shape.kv_heads)
        .into_par_iter()
        .with_max_len(1)
        .for_each(|i| task.run(i / shape.kv_heads, i % shape.kv_heads));
}

struct Task<'a> {
    shape: Shape,
    saved: Saved<'a>,
    dout: &'a [f32],
    dq: Shared<'a>,
    dk: Shared<'a>,
    dv: Shared<'a>,
    accumulate: bool,
}

impl Task<'_> {
    /// One sequence and key/value head: all its tiles of queries one after the other, each against all keys it sees.
    fn run(&self, batch: usize, kv_head: usize) {
        let (shape, saved) = (&self.shape, &self.saved);
        let (d, rows, keys) = (shape.head_dim, shape.queries() * shape.group(), shape.key_len());
        let lengths = [rows * d, rows * d, rows * d, rows, rows, rows * KEYS, rows * KEYS, keys * d, keys * d];
        with_scratch(lengths, |[queries, douts, dqueries, lse, deltas, p, ds, dk, dv]| {
            dk.fill(0.0);
            dv.fill(0.0);
            for first in (0..shape.query_len).step_by(shape.queries()) {
                let tile = Tile::new(shape, saved.starts, batch, kv_head, first);
                let rows = tile.rows();
                self.load(&tile, queries, douts, lse, deltas);
                dqueries.fill(0.0);
                for (base, keys) in tile.key_tiles() {
                    let k_tile = View::rows(saved.k.head(batch, base, kv_head, d), saved.k.row_stride);
                    let v_tile = View::rows(saved.v.head(batch, base, kv_head, d), saved.v.row_stride);
                    gemm_serial(rows, keys, d, View::rows(queries, d), k_tile.t(), p, KEYS, false);
                    gemm_serial(rows, keys, d, View::rows(douts, d), v_tile.t(), ds, KEYS, false);
                    score_gradients(&tile, base, &mut p[..rows * KEYS], &mut ds[..rows * KEYS], lse, deltas);
                    let (p, ds) = (View::rows(p, KEYS), View::rows(ds, KEYS));
                    gemm_serial(keys, d, rows, p.t(), View::rows(douts, d), &mut dv[base * d..], d, true);
                    gemm_serial(keys, d, rows, ds.t(), View::rows(queries, d), &mut dk[base * d..], d, true);
                    gemm_serial(rows, d, keys, ds, k_tile, dqueries, d, true);
                }
                let width = tile.group * d;
                for (i, from) in dqueries.chunks_exact(width).enumerate().take(tile.queries) {
                    // SAFETY: the values of one query and one group of heads belong to one tile only.
                    let to = unsafe { self.dq.part(shape.query_at(batch, first + i, kv_head), width) };
                    store(to, from, shape.scale(), self.accumulate);
                }
            }
            for t in 0..shape.key_len() {
                let at = ((batch * shape.key_len() + t) * shape.kv_heads + kv_head) * d;
                // SAFETY: one task a sequence and key/value head.
                let (to_k, to_v) = unsafe { (self.dk.part(at, d), self.dv.part(at, d)) };
                // The queries were scaled, so the keys' gradients are already.
                store(to_k, &dk[t * d..][..d], 1.0, self.accumulate);
                store(to_v, &dv[t * d..][..d], 1.0, self.accumulate);
            }
        });
    }

    /// Gathers a tile's scaled queries, output gradients, logarithms and `Σ dout · out`.
    fn load(&self, tile: &Tile<'_>, queries: &mut [f32], douts: &mut [f32], lse: &mut [f32], deltas: &mut [f32]) {
        let (shape, d) = (&self.shape, self.shape.head_dim);
        let (width, scale) = (tile.group * d, shape.scale());
        for i in 0..tile.queries {
            let at = shape.query_at(tile.batch, tile.first + i, tile.kv_head);
            let (q, dout, out) = (&self.saved.q[at..][..width], &self.dout[at..][..width], &self.saved.out[at..][..width]);
            queries[i * width..][..width].iter_mut().zip(q).for_each(|(to, q)| *to = q * scale);
            douts[i * width..][..width].copy_from_slice(dout);
            lse[i * tile.group..][..tile.group].copy_from_slice(&self.saved.lse[at / d..][..tile.group]);
            for (delta, (dout, out)) in deltas[i * tile.group..].iter_mut().zip(dout.chunks_exact(d).zip(out.chunks_exact(d))) {
                *delta = sum2(dout, out, |a, b| a * b);
            }
        }
    }
}

fn store(to: &mut [f32], from: &[f32], scale: f32, accumulate: bool) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = if accumulate { *to + from * scale } else { from * scale };
    }
}

simd_fn! {
    /// From scores and `dout · v` to the probabilities (in place of the scores) and the gradients of the scores (in place of `dout · v`).
    fn score_gradients(tile: &Tile<'_>, base: usize, p: &mut [f32], ds: &mut [f32], lse: &[f32], deltas: &[f32]) {
        let (p_rows, ds_rows) = (p.as_chunks_mut::<KEYS>().0, ds.as_chunks_mut::<KEYS>().0);
        for (r, (p, ds)) in p_rows.iter_mut().zip(ds_rows).enumerate() {
            let (start, end) = tile.visible(r, base);
            p[..start].fill(f32::NEG_INFINITY);
            p[end..].fill(f32::NEG_INFINITY);
            // Beyond the last key there may be anything left over, even NaN, which 0 would not cancel.
            ds[..start].fill(0.0);
            ds[end..].fill(0.0);
            let (lse, delta) = (lse[r], deltas[r]);
            for i in 0..KEYS {
                p[i] = exp(p[i] - lse);
                ds[i] = p[i] * (ds[i] - delta);
            }
        }
    }
}
