//! Matrices laid out for the product kernels. A frozen weight is packed once for the whole run, so its packing costs nothing.
//!
//! The right operand `B [k, n]` of a product is cut into panels of [`panel_width`] columns. f32: `[panel][k][column]`;
//! bf16: `[panel][k / 2][column]` of `u32`, the even row's bits low and the odd row's high, which is what `vdpbf16ps` and the
//! tile unit eat and what two shifts turn into f32 where neither is there. For that unit `k` is filled up with zeros.

use super::bf16::{round_pairs, round_rows_to_pairs, to_bf16};
use super::gemm::View;
use super::isa::Isa;
use super::kernel::has_tiles;
use super::pool::Pool;
use super::tiles;
use super::transpose::{transpose, transpose_words};
use crate::model::Precision;
use crate::simd_fn;
use rayon::prelude::*;

/// Sixteen words on a cache line of their own, so that no vector load crosses one.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Line(pub [u32; 16]);

/// Columns in a panel: what one register tile of the kernel covers.
pub fn panel_width(isa: Isa) -> usize {
    match isa {
        Isa::Portable | Isa::Avx2 => 16,
        Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => 64,
    }
}

/// What the inner dimension of a bf16 operand is filled up to with zeros: a multiple of this.
pub(super) fn bf16_depth_unit(isa: Isa) -> usize {
    if has_tiles(isa) { tiles::DEPTH } else { 2 }
}

/// A right operand `[k, n]`, packed.
#[derive(Clone, Debug)]
pub struct Packed {
    isa: Isa,
    precision: Precision,
    k: usize,
    n: usize,
    lines: Vec<Line>,
    /// Made for one product: its memory waits for the next such one.
    passing: bool,
}

/// Memory of operands of either side that were made for one product.
pub(super) static PASSING: Pool<Line> = Pool::new();

pub(super) fn release_unused() {
    PASSING.clear();
}

impl Drop for Packed {
    fn drop(&mut self) {
        if self.passing {
            PASSING.give(std::mem::take(&mut self.lines));
        }
    }
}

impl Packed {
    /// Number of words a `[k, n]` operand takes.
    fn words(isa: Isa, precision: Precision, k: usize, n: usize) -> usize {
        n.div_ceil(panel_width(isa)) * Self::words_of_panel(isa, precision, k)
    }

    fn words_of_panel(isa: Isa, precision: Precision, k: usize) -> usize {
        let lines = match precision {
            Precision::F32 => k,
            Precision::Bf16 => k.next_multiple_of(bf16_depth_unit(isa)) / 2,
        };
        panel_width(isa) * lines
    }

    /// An operand whose values are whatever they were: every word is to be written.
    fn passing(precision: Precision, k: usize, n: usize) -> Self {
        let isa = Isa::current();
        let lines = PASSING.take(Self::words(isa, precision, k, n) / 16, Line([0; 16]));
        Self { isa, precision, k, n, lines, passing: true }
    }

    /// Packs `b`, whose element `(row, column)` is read through the view, for a product or a few: its memory is used again afterwards.
    ///
    /// # Shapes
    /// `b`: `[k, n]`.
    pub fn pack(b: View<'_>, k: usize, n: usize, precision: Precision) -> Self {
        let mut packed = Self::passing(precision, k, n);
        packed.fill(b);
        packed
    }

    /// Packs a row-major bf16 matrix `[k, n]` with `stride` values a row, as [`Packed::pack`] does.
    pub fn pack_bf16(data: &[u16], stride: usize, k: usize, n: usize) -> Self {
        assert!(k == 0 || (n <= stride && (k - 1) * stride + n <= data.len()), "bf16 operand too short");
        let mut packed = Self::passing(Precision::Bf16, k, n);
        let (width, panel_words) = (panel_width(packed.isa), packed.panel_words());
        packed.words_mut().par_chunks_mut(panel_words.max(1)).enumerate().for_each(|(p, panel)| {
            interleave(data, stride, p * width, width.min(n - p * width), k, width, panel);
        });
        packed
    }

    /// Packs a weight stored as Hugging Face stores it, `[out, in]` row-major, as the operand `Wᵀ [in, out]` of `x · Wᵀ`.
    pub fn from_weight(weight: &[f32], rows: usize, columns: usize, precision: Precision) -> Self {
        debug_assert_eq!(weight.len(), rows * columns);
        let isa = Isa::current();
        let lines = vec![Line([0; 16]); Self::words(isa, precision, columns, rows) / 16];
        let mut packed = Self { isa, precision, k: columns, n: rows, lines, passing: false };
        packed.fill(View::rows(weight, columns).t());
        packed
    }

    /// Rows of the operand (the inner dimension of the product).
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns of the operand.
    pub fn n(&self) -> usize {
        self.n
    }

    /// The precision of its elements.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The instruction set it was laid out for.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Bytes it holds.
    pub fn bytes(&self) -> usize {
        self.lines.len() * 64
    }

    /// Words from one panel to the next.
    pub(super) fn panel_words(&self) -> usize {
        Self::words_of_panel(self.isa, self.precision, self.k)
    }

    fn words_mut(&mut self) -> &mut [u32] {
        let len = self.lines.len() * 16;
        // SAFETY: `Line` is sixteen u32 without padding, and the slice covers exactly the vector.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), len) }
    }

    /// All words, a panel after the other.
    pub(super) fn words_ref(&self) -> &[u32] {
        // SAFETY: as in `words_mut`.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.lines.len() * 16) }
    }

    /// Packs `b [k, n]` again into the same memory.
    pub fn fill(&mut self, b: View<'_>) {
        let (k, n, precision, width, panel_words) = (self.k, self.n, self.precision, panel_width(self.isa), self.panel_words());
        self.words_mut().par_chunks_mut(panel_words.max(1)).enumerate().for_each(|(p, panel)| {
            let columns = width.min(n - p * width);
            pack_panel(b, p * width, columns, k, width, precision, panel);
        });
    }

    /// The transpose `[n, k]` of this operand, packed as by [`Packed::pack`]: what the gradient of `x` in `x · B` is multiplied by.
    pub fn transposed(&self) -> Self {
        let mut out = Self::passing(self.precision, self.n, self.k);
        out.isa = self.isa;
        let (width, panel_words, source_words) = (panel_width(self.isa), out.panel_words(), self.panel_words());
        let (k, n, precision, source) = (self.k, self.n, self.precision, self.words_ref());
        out.words_mut().par_chunks_mut(panel_words.max(1)).enumerate().for_each(|(p, panel)| {
            let first = p * width;
            let columns = width.min(k - first);
            if columns < width {
                panel.fill(0);
            }
            for (q, block) in source.chunks(source_words).enumerate() {
                let rows = width.min(n - q * width);
                match precision {
                    Precision::F32 => {
                        transpose_words(&block[first * width..], width, columns, rows, &mut panel[q * width * width..], width);
                    }
                    Precision::Bf16 => {
                        // Neighbouring columns change their pairing first; then whole words move.
                        let mut words = [0u32; WIDEST * WIDEST / 2];
                        let pairs = rows.div_ceil(2);
                        for c in 0..columns.div_ceil(2) {
                            pair_again(&block[(first / 2 + c) * width..][..2 * pairs], &mut words[2 * c * pairs..][..2 * pairs]);
                        }
                        transpose_words(&words, pairs, columns, pairs, &mut panel[q * width / 2 * width..], width);
                    }
                }
            }
            if precision == Precision::Bf16 {
                panel[n.div_ceil(2) * width..].fill(0);
            }
        });
        out
    }

    /// Writes column `column` of the operand (a row of the weight it was made from) to `out`.
    ///
    /// # Shapes
    /// `out`: `[k]`.
    pub fn column(&self, column: usize, out: &mut [f32]) {
        let width = panel_width(self.isa);
        let panel = &self.words_ref()[column / width * self.panel_words()..][..self.panel_words()];
        let lane = column % width;
        match self.precision {
            Precision::F32 => out.iter_mut().enumerate().for_each(|(r, o)| *o = f32::from_bits(panel[r * width + lane])),
            Precision::Bf16 => out.iter_mut().enumerate().for_each(|(r, o)| {
                let pair = panel[r / 2 * width + lane];
                *o = f32::from_bits(if r % 2 == 0 { pair << 16 } else { pair & 0xffff_0000 });
            }),
        }
    }
}

/// Packs columns `first .. first + columns` of `b` into one panel; the columns and the pairs beyond are zero.
pub(super) fn pack_panel(b: View<'_>, first: usize, columns: usize, k: usize, width: usize, precision: Precision, panel: &mut [u32]) {
    if columns < width {
        panel.fill(0);
    }
    match precision {
        Precision::F32 => {
            if b.col_stride == 1 {
                for (r, line) in panel.chunks_exact_mut(width).take(k).enumerate() {
                    let source = &b.data[r * b.row_stride + first..][..columns];
                    line.iter_mut().zip(source).for_each(|(o, v)| *o = v.to_bits());
                }
            } else {
                pack_columns(b, first, columns, k, width, panel);
            }
        }
        Precision::Bf16 => {
            if b.col_stride == 1 {
                pack_rows_bf16(b.data, b.row_stride, first, columns, k, width, panel);
            } else {
                pack_columns_bf16(b, first, columns, k, width, panel);
            }
            panel[k.div_ceil(2) * width..].fill(0);
        }
    }
}

fn pack_rows_bf16(data: &[f32], stride: usize, first: usize, columns: usize, k: usize, width: usize, panel: &mut [u32]) {
    let row = |r: usize| (r < k).then(|| &data[r * stride + first..][..columns]);
    for (q, line) in panel.chunks_exact_mut(width).take(k.div_ceil(2)).enumerate() {
        round_rows_to_pairs(row(2 * q).unwrap_or_default(), row(2 * q + 1), &mut line[..columns]);
    }
}

simd_fn! {
    /// Packs rows of bf16 into one panel of pairs; the columns and the pairs beyond are zero.
    pub(super) fn interleave(data: &[u16], stride: usize, first: usize, columns: usize, k: usize, width: usize, panel: &mut [u32]) {
        let (panel, beyond) = panel.split_at_mut(k.div_ceil(2) * width);
        beyond.fill(0);
        for (q, line) in panel.chunks_exact_mut(width).enumerate() {
            let (line, rest) = line.split_at_mut(columns);
            let even = &data[2 * q * stride + first..][..columns];
            if 2 * q + 1 < k {
                let odd = &data[(2 * q + 1) * stride + first..][..columns];
                for c in 0..columns {
                    line[c] = u32::from(even[c]) | (u32::from(odd[c]) << 16);
                }
            } else {
                for c in 0..columns {
                    line[c] = u32::from(even[c]);
                }
            }
            rest.fill(0);
        }
    }
}

simd_fn! {
    /// A line of pairs `(k, k + 1)` for `2 n` columns to two lines of `n` pairs of columns: one for `k`, one for `k + 1`.
    fn pair_again(line: &[u32], out: &mut [u32]) {
        let (even, odd) = out.split_at_mut(line.len() / 2);
        for ((pair, even), odd) in line.chunks_exact(2).zip(even).zip(odd) {
            *even = (pair[0] & 0xffff) | (pair[1] << 16);
            *odd = (pair[0] >> 16) | (pair[1] & 0xffff_0000);
        }
    }
}

/// Columns of the widest panel.
const WIDEST: usize = 64;

/// Packs columns that are rows of the source, or lie at any distance.
fn pack_columns(b: View<'_>, first: usize, columns: usize, k: usize, width: usize, panel: &mut [u32]) {
    if b.row_stride == 1 {
        // SAFETY: words of the same size and alignment; only moved.
        let panel = unsafe { std::slice::from_raw_parts_mut(panel.as_mut_ptr().cast(), panel.len()) };
        return transpose(&b.data[first * b.col_stride..], b.col_stride, columns, k, panel, width);
    }
    for (r, line) in panel.chunks_exact_mut(width).take(k).enumerate() {
        for (c, o) in line[..columns].iter_mut().enumerate() {
            *o = b.data[r * b.row_stride + (first + c) * b.col_stride].to_bits();
        }
    }
}

/// Rows of the source handled at once, so that both its reads and the panel's writes stay within a few cache lines.
const STEP: usize = 32;

fn pack_columns_bf16(b: View<'_>, first: usize, columns: usize, k: usize, width: usize, panel: &mut [u32]) {
    let mut words = [0u32; WIDEST * STEP / 2];
    for r in (0..k).step_by(STEP) {
        let (rows, pairs) = (STEP.min(k - r), STEP.min(k - r).div_ceil(2));
        for (c, line) in words.chunks_exact_mut(pairs).take(columns).enumerate() {
            let source = &b.data[(first + c) * b.col_stride + r * b.row_stride..];
            if b.row_stride == 1 {
                round_pairs(&source[..rows], line);
            } else {
                let value = |t: usize| if t < rows { u32::from(to_bf16(source[t * b.row_stride])) } else { 0 };
                line.iter_mut().enumerate().for_each(|(t, o)| *o = value(2 * t) | (value(2 * t + 1) << 16));
            }
        }
        transpose_words(&words, pairs, columns, pairs, &mut panel[r / 2 * width..], width);
    }
}
