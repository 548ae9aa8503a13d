//! Operands of a product brought into the form a kernel reads: decoded, rounded, gathered by columns.

use super::bf16::{from_bf16, round_rows_to_pairs, round_to_bf16, to_bf16};
use super::gemm::{Left, View};
use super::packed::{Line, PASSING};
use super::transpose::transpose_words;
use crate::simd_fn;
use rayon::prelude::*;

/// A left operand `[m, k]` rounded to bf16, row by row: what the tile unit reads in place.
pub(super) struct Rounded {
    lines: Vec<Line>,
    /// Words from one row to the next.
    stride: usize,
}

impl Drop for Rounded {
    fn drop(&mut self) {
        PASSING.give(std::mem::take(&mut self.lines));
    }
}

impl Rounded {
    /// Rows that one task rounds.
    const ROWS: usize = 64;
    /// Values of a row that are turned at once, so that they are still in the cache.
    const DEPTH: usize = 64;

    /// Rounds `view [m, k]`, in parallel over rows; an odd `k` is filled up with a zero.
    pub(super) fn new(view: View<'_>, m: usize, k: usize) -> Self {
        // Rows a power of two apart would fall on the same few lines of the cache.
        let stride = k.div_ceil(2).next_multiple_of(16);
        let stride = if stride.is_multiple_of(256) { stride + 16 } else { stride };
        let mut lines = PASSING.take(m * stride / 16, Line([0; 16]));
        let words = reserve(&mut lines, m * stride);
        let fill = |(chunk, words): (usize, &mut [u32])| {
            let (first, rows) = (chunk * Self::ROWS, words.len() / stride);
            if view.col_stride == 1 {
                return round_rows(view, first, 0, k, as_u16(words), 2 * stride);
            }
            let mut turned = [0u32; Self::ROWS * Self::DEPTH / 2];
            for start in (0..k).step_by(Self::DEPTH) {
                let depth = Self::DEPTH.min(k - start);
                let pairs = depth.div_ceil(2);
                gather_pairs(view, first, rows, start, depth, &mut turned[..pairs * rows]);
                transpose_words(&turned, rows, pairs, rows, &mut words[start / 2..], stride);
            }
        };
        if m * k < 1 << 14 {
            words.chunks_mut(Self::ROWS * stride).enumerate().for_each(fill);
        } else {
            words.par_chunks_mut(Self::ROWS * stride).enumerate().for_each(fill);
        }
        Self { lines, stride }
    }

    /// The operand.
    pub(super) fn left(&self) -> Left<'_> {
        // SAFETY: a `Line` is thirty-two u16 without padding, and every bit pattern is a value.
        let data = unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), 32 * self.lines.len()) };
        Left::Bf16 { data, stride: 2 * self.stride }
    }
}

/// The first `words` words of some lines, which grow to hold them.
pub(super) fn reserve(lines: &mut Vec<Line>, words: usize) -> &mut [u32] {
    let count = words.div_ceil(16);
    if lines.len() < count {
        lines.resize(count, Line([0; 16]));
    }
    // SAFETY: a `Line` is sixteen u32 without padding.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), words) }
}

/// Words as the f32 they hold.
pub(super) fn as_f32(words: &mut [u32]) -> &mut [f32] {
    // SAFETY: same size and alignment, and every bit pattern is a value of either.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len()) }
}

/// Words as the two bf16 each holds.
pub(super) fn as_u16(words: &mut [u32]) -> &mut [u16] {
    // SAFETY: half the size, a coarser alignment, and every bit pattern is a value of either.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), 2 * words.len()) }
}

simd_fn! {
    /// Rows of bf16 to f32.
    pub(super) fn decode_rows(data: &[u16], stride: usize, first: usize, start: usize, depth: usize, out: &mut [f32]) {
        for (r, line) in out.chunks_exact_mut(depth).enumerate() {
            let source = &data[(first + r) * stride + start..][..depth];
            for (o, &v) in line.iter_mut().zip(source) {
                *o = from_bf16(v);
            }
        }
    }
}

simd_fn! {
    /// Rows of a view, rounded to bf16 but kept as f32.
    pub(super) fn round_rows_in_f32(view: View<'_>, first: usize, start: usize, depth: usize, out: &mut [f32]) {
        for (r, line) in out.chunks_exact_mut(depth).enumerate() {
            let source = &view.data[(first + r) * view.row_stride + start..][..depth];
            for (o, &v) in line.iter_mut().zip(source) {
                *o = from_bf16(to_bf16(v));
            }
        }
    }
}

simd_fn! {
    /// Rounds to bf16, kept as f32.
    pub(super) fn round_in_place(x: &mut [f32]) {
        for v in x {
            *v = from_bf16(to_bf16(*v));
        }
    }
}

simd_fn! {
    /// Pairs `[depth][width]` to f32 `[2 * depth][width]`.
    pub(super) fn decode_pairs(pairs: &[u32], out: &mut [f32], width: usize) {
        for (line, out) in pairs.chunks_exact(width).zip(out.chunks_exact_mut(2 * width)) {
            let (even, odd) = out.split_at_mut(width);
            for j in 0..width {
                even[j] = f32::from_bits(line[j] << 16);
                odd[j] = f32::from_bits(line[j] & 0xffff_0000);
            }
        }
    }
}

simd_fn! {
    /// Rows of bf16 to a panel of f32; the columns beyond are zero.
    pub(super) fn decode_panel(data: &[u16], stride: usize, first: usize, columns: usize, width: usize, panel: &mut [f32]) {
        for (r, line) in panel.chunks_exact_mut(width).enumerate() {
            let (line, rest) = line.split_at_mut(columns);
            for (o, &v) in line.iter_mut().zip(&data[r * stride + first..][..columns]) {
                *o = from_bf16(v);
            }
            rest.fill(0.0);
        }
    }
}

simd_fn! {
    /// `out[p][r] = view(first + r, start + p)`, `rows` a line: rows of what the view transposes.
    pub(super) fn gather_columns(view: View<'_>, first: usize, rows: usize, start: usize, out: &mut [f32]) {
        for (p, line) in out.chunks_exact_mut(rows).enumerate() {
            let source = &view.data[(start + p) * view.col_stride + first * view.row_stride..];
            if view.row_stride == 1 {
                line.copy_from_slice(&source[..rows]);
            } else {
                line.iter_mut().zip(source.iter().step_by(view.row_stride)).for_each(|(o, &v)| *o = v);
            }
        }
    }
}

/// [`gather_columns`] rounded to bf16, two columns in a line of pairs; an odd depth is filled up with a zero.
pub(super) fn gather_pairs(view: View<'_>, first: usize, rows: usize, start: usize, depth: usize, out: &mut [u32]) {
    let column = |p: usize| (p < depth).then(|| &view.data[(start + p) * view.col_stride + first * view.row_stride..]);
    for (q, line) in out.chunks_exact_mut(rows).enumerate() {
        let (even, odd) = (column(2 * q).unwrap_or_default(), column(2 * q + 1));
        if view.row_stride == 1 {
            round_rows_to_pairs(&even[..rows], odd.map(|odd| &odd[..rows]), line);
            continue;
        }
        for (r, o) in line.iter_mut().enumerate() {
            let value = |column: &[f32]| u32::from(to_bf16(column[r * view.row_stride]));
            *o = value(even) | (odd.map_or(0, value) << 16);
        }
    }
}

/// Rows of a view, rounded to bf16, a row every `stride` values; an odd depth is filled up with a zero.
pub(super) fn round_rows(view: View<'_>, first: usize, start: usize, depth: usize, out: &mut [u16], stride: usize) {
    for (r, line) in out.chunks_exact_mut(stride).enumerate() {
        let (line, rest) = line.split_at_mut(depth);
        round_to_bf16(&view.data[(first + r) * view.row_stride + start..][..depth], line);
        rest.fill(0);
    }
}
