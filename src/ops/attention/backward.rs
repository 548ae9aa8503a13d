//! Gradients of the attention: the probabilities are computed again, tile by tile, from the saved logarithms.
//!
//! Scores are held with a line a key, so that they are left operands of the keys' and values' gradients as they are.

use super::product::Product;
use super::{KEYS, Sequences, Shape, Shared, Tile, with_scratch};
use crate::ops::math::{exp2, sum2};
use crate::ops::transpose::transpose;
use crate::simd_fn;
use rayon::prelude::*;

/// Rows (queries times query heads of a group) of a tile, at most: two panels of the widest kernel.
const ROWS: usize = 128;

/// Base-2 logarithm below which a probability is taken for none, 2^36 times less than what its row's sum is rounded by, and the size below which a score's
/// gradient is. Attention that looks at hardly anything but the first position is full of such, where gradients are small the latter are denormal, and
/// on those every multiplication takes the processor a hundred times as long.
const LEAST_SCORE: f32 = -60.0;
const LEAST_GRADIENT: f32 = 1e-30;

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
    /// Base-2 logarithms of the denominators, `[batch, query_len, heads]`.
    pub lse: &'a [f32],
}

/// The gradients of [`forward`](fn@super::forward); added to what is there with `accumulate`, written over it without.
/// The query heads of a group join in one fixed order.
///
/// # Shapes
/// `dout`, `dq` `[batch, query_len, heads * head_dim]`; `dk`, `dv` `[batch, past + query_len, kv_heads * head_dim]`.
pub fn backward(shape: &Shape, saved: Saved<'_>, dout: &[f32], dq: &mut [f32], dk: &mut [f32], dv: &mut [f32], accumulate: bool) {
    shape.check(saved.q, saved.k, saved.v, saved.starts);
    let key_values = shape.batch * shape.key_len() * shape.kv_heads * shape.head_dim;
    assert!(saved.out.len() == saved.q.len() && saved.lse.len() * shape.head_dim == saved.q.len());
    assert!(dout.len() == saved.q.len() && dq.len() == saved.q.len() && dk.len() == key_values && dv.len() == key_values);
    let (dq, dk, dv) = (Shared::new(dq), Shared::new(dk), Shared::new(dv));
    let task = Task { shape: *shape, saved, dout, dq, dk, dv, accumulate, product: Product::current() };
    (0..shape.batch * shape.kv_heads).into_par_iter().with_max_len(1).for_each(|i| task.run(i / shape.kv_heads, i % shape.kv_heads));
}

struct Task<'a> {
    shape: Shape,
    saved: Saved<'a>,
    dout: &'a [f32],
    dq: Shared<'a>,
    dk: Shared<'a>,
    dv: Shared<'a>,
    accumulate: bool,
    product: Product,
}

/// A tile's queries and output gradients, gathered and not yet packed, and what its rows have one of.
struct Rows<'a> {
    queries: &'a mut [f32],
    douts: &'a mut [f32],
    lse: &'a mut [f32],
    deltas: &'a mut [f32],
    /// First key a row sees, and the end of what it sees.
    starts: &'a mut [f32],
    ends: &'a mut [f32],
}

impl Task<'_> {
    /// One sequence and key/value head: all its tiles of queries one after the other, each against all keys it sees.
    fn run(&self, batch: usize, kv_head: usize) {
        let (shape, saved, product) = (&self.shape, &self.saved, self.product);
        let (d, group, key_len) = (shape.head_dim, shape.group(), shape.key_len());
        let tile_queries = (ROWS / group).max(1);
        let most = tile_queries * group;
        let (turned, straight) = (product.packed_len(d, most), product.packed_len(most, d));
        let gathered = [most * d, most * d, most, most, most, most];
        let packed = [turned, turned, straight, straight, product.packed_len(KEYS, most)];
        let tiles = [KEYS * most, KEYS * most, d * most, d * key_len, key_len * d, key_len * d];
        with_scratch(gathered, packed, tiles, |[queries, douts, lse, deltas, starts, ends], packed, tiles| {
            let mut gathered = Rows { queries, douts, lse, deltas, starts, ends };
            let [q_turned, do_turned, q_straight, do_straight, ds_packed] = packed;
            let [p, ds, dq_turned, k_turned, dk, dv] = tiles;
            dk.fill(0.0);
            dv.fill(0.0);
            transpose(saved.k.head(batch, 0, kv_head, d), saved.k.row_stride, key_len, d, k_turned, key_len);
            for first in (0..shape.query_len).step_by(tile_queries) {
                let tile = Tile::new(shape, saved.starts, batch, kv_head, first, tile_queries);
                let rows = tile.rows();
                self.gather(&tile, &mut gathered);
                let Rows { queries, douts, lse, deltas, starts, ends } = &gathered;
                let q_turned = product.pack_transposed(queries, d, d, rows, q_turned);
                let do_turned = product.pack_transposed(douts, d, d, rows, do_turned);
                let q_straight = product.pack(queries, d, rows, d, q_straight);
                let do_straight = product.pack(douts, d, rows, d, do_straight);
                dq_turned.fill(0.0);
                for (base, keys) in tile.key_tiles() {
                    let k_tile = (saved.k.head(batch, base, kv_head, d), saved.k.row_stride);
                    let v_tile = (saved.v.head(batch, base, kv_head, d), saved.v.row_stride);
                    product.multiply((keys, rows, d), k_tile, q_turned, (p, rows), false);
                    product.multiply((keys, rows, d), v_tile, do_turned, (ds, rows), false);
                    let masked = base + keys > tile.end || tile.starts.is_some();
                    let of_rows = [&**lse, deltas, starts, ends].map(|x| &x[..rows]);
                    score_gradients(base, masked, &mut p[..keys * rows], &mut ds[..keys * rows], of_rows);
                    product.multiply((keys, d, rows), (p, rows), do_straight, (&mut dv[base * d..], d), true);
                    product.multiply((keys, d, rows), (ds, rows), q_straight, (&mut dk[base * d..], d), true);
                    let ds = product.pack(ds, rows, keys, rows, ds_packed);
                    product.multiply((d, rows, keys), (&k_turned[base..], key_len), ds, (dq_turned, rows), true);
                }
                self.store_queries(&tile, dq_turned);
            }
            self.store_keys(batch, kv_head, dk, dv);
        });
    }

    /// Gathers a tile's scaled queries, output gradients, logarithms, `Σ dout · out` and visible keys.
    fn gather(&self, tile: &Tile<'_>, to: &mut Rows<'_>) {
        let (shape, d, group) = (&self.shape, self.shape.head_dim, tile.group);
        let (width, scale) = (group * d, shape.query_scale());
        for i in 0..tile.queries {
            let at = shape.query_at(tile.batch, tile.first + i, tile.kv_head);
            let (q, dout, out) = (&self.saved.q[at..][..width], &self.dout[at..][..width], &self.saved.out[at..][..width]);
            to.queries[i * width..][..width].iter_mut().zip(q).for_each(|(to, q)| *to = q * scale);
            to.douts[i * width..][..width].copy_from_slice(dout);
            to.lse[i * group..][..group].copy_from_slice(&self.saved.lse[at / d..][..group]);
            for (delta, (dout, out)) in to.deltas[i * group..].iter_mut().zip(dout.chunks_exact(d).zip(out.chunks_exact(d))) {
                *delta = sum2(dout, out, |a, b| a * b);
            }
            // Key numbers are compared as f32, which is exact up to 2^24.
            to.starts[i * group..][..group].fill(tile.starts.map_or(0.0, |s| s[i] as f32));
            to.ends[i * group..][..group].fill((tile.end + i) as f32);
        }
    }

    fn store_queries(&self, tile: &Tile<'_>, dq_turned: &[f32]) {
        let (shape, d, rows) = (&self.shape, self.shape.head_dim, tile.rows());
        for i in 0..tile.queries {
            // SAFETY: the values of one query and one group of heads belong to one tile only.
            let to = unsafe { self.dq.part(shape.query_at(tile.batch, tile.first + i, tile.kv_head), tile.group * d) };
            for (g, to) in to.chunks_exact_mut(d).enumerate() {
                store(to, dq_turned.iter().skip(i * tile.group + g).step_by(rows), shape.scale(), self.accumulate);
            }
        }
    }

    fn store_keys(&self, batch: usize, kv_head: usize, dk: &[f32], dv: &[f32]) {
        let (shape, d) = (&self.shape, self.shape.head_dim);
        for t in 0..shape.key_len() {
            let at = ((batch * shape.key_len() + t) * shape.kv_heads + kv_head) * d;
            // SAFETY: one task a sequence and key/value head.
            let (to_k, to_v) = unsafe { (self.dk.part(at, d), self.dv.part(at, d)) };
            // The queries were scaled, for powers of 2; what is left is from there to powers of e.
            store(to_k, &dk[t * d..], std::f32::consts::LN_2, self.accumulate);
            store(to_v, &dv[t * d..], 1.0, self.accumulate);
        }
    }
}

fn store<'a>(to: &mut [f32], from: impl IntoIterator<Item = &'a f32>, scale: f32, accumulate: bool) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = if accumulate { *to + from * scale } else { from * scale };
    }
}

simd_fn! {
    /// From scores and `dout · v` to the probabilities (in place of the scores) and the gradients of the scores (in place of `dout · v`).
    /// A line a key; `of_rows` are the rows' logarithms, `Σ dout · out`, first keys and ends of keys.
    fn score_gradients(base: usize, masked: bool, p: &mut [f32], ds: &mut [f32], of_rows: [&[f32]; 4]) {
        let [lse, deltas, starts, ends] = of_rows;
        let rows = lse.len();
        let (deltas, starts, ends) = (&deltas[..rows], &starts[..rows], &ends[..rows]);
        for (j, (p, ds)) in p.chunks_exact_mut(rows).zip(ds.chunks_exact_mut(rows)).enumerate() {
            let key = (base + j) as f32;
            if masked {
                for i in 0..rows {
                    p[i] = if starts[i] <= key && key < ends[i] { p[i] } else { f32::NEG_INFINITY };
                }
            }
            for i in 0..rows {
                let score = p[i] - lse[i];
                p[i] = if score < LEAST_SCORE { 0.0 } else { exp2(score) };
                let gradient = p[i] * (ds[i] - deltas[i]);
                ds[i] = if gradient.abs() < LEAST_GRADIENT { 0.0 } else { gradient };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::reference::each_isa;

    #[test]
    fn what_is_too_small_to_matter_is_nothing_and_never_denormal() {
        each_isa(|isa| {
            let scores: Vec<f32> = (0..160).map(|i| -i as f32 * 0.9).collect();
            let rows = scores.len();
            for size in [1.0f32, 1e-10, 1e-25, 1e-35] {
                let (mut p, mut ds) = (scores.clone(), vec![size; rows]);
                let (zeros, ends) = (vec![0.0; rows], vec![1.0; rows]);
                score_gradients(0, false, &mut p, &mut ds, [&zeros, &zeros, &zeros, &ends]);
                for (i, score) in scores.iter().enumerate() {
                    let whole = f64::from(*score).exp2();
                    assert!(!p[i].is_subnormal() && !ds[i].is_subnormal(), "{isa:?}: {score}, {size}");
                    assert!((f64::from(p[i]) - whole).abs() <= if *score < LEAST_SCORE { 1e-18 } else { 1e-6 * whole }, "{isa:?}: {score}");
                    let error = (f64::from(ds[i]) - whole * f64::from(size)).abs();
                    assert!(error <= 1.1e-30 + (1e-18 + 1e-6 * whole) * f64::from(size), "{isa:?}: {score}, {size}");
                }
            }
        });
    }
}
