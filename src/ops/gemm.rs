//! Matrix products: `C (+)= A · B`, f32 or bf16 operands, f32 sums.
//!
//! The result is cut into independent blocks of rows and columns; each runs over all of `k` in blocks whose length depends on `k` alone
//! (and on whether the processor multiplies bf16 in pairs).
//! So an element's bits depend on its row of `A`, its column of `B` and `k`, not on the other rows and columns, nor on the number of threads.

use super::bf16::{from_bf16, round_rows_to_pairs, round_to_bf16, to_bf16};
use super::count;
use super::isa::Isa;
use super::kernel::{Lhs, Sweep, TILE_ROWS, kernel, reads_pairs};
use super::packed::{Line, Packed, interleave, pack_panel, panel_width};
use crate::model::Precision;
use crate::simd_fn;
use rayon::prelude::*;
use std::borrow::Cow;
use std::cell::RefCell;

/// A row-major f32 matrix view, possibly transposed: element `(i, j)` is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The values.
    pub data: &'a [f32],
    /// Distance between rows.
    pub row_stride: usize,
    /// Distance between columns.
    pub col_stride: usize,
}

impl<'a> View<'a> {
    /// A row-major matrix with `stride` values a row.
    pub fn rows(data: &'a [f32], stride: usize) -> Self {
        Self { data, row_stride: stride, col_stride: 1 }
    }

    /// The transpose of this view.
    pub fn t(self) -> Self {
        Self { data: self.data, row_stride: self.col_stride, col_stride: self.row_stride }
    }

    /// Panics where an element of a `[rows, columns]` matrix would lie outside the data (a defect in the caller).
    fn check(&self, rows: usize, columns: usize) {
        if rows > 0 && columns > 0 {
            assert!((rows - 1) * self.row_stride + (columns - 1) * self.col_stride < self.data.len(), "matrix view exceeds its data");
        }
    }
}

/// The left operand `A [m, k]`.
#[derive(Clone, Copy)]
pub enum Left<'a> {
    /// f32 values; rounded to bf16 on the way where the right operand is bf16.
    F32(View<'a>),
    /// bf16 values, row-major, `stride` (even, at least `k`) a row.
    Bf16 {
        /// The values.
        data: &'a [u16],
        /// Values from one row to the next.
        stride: usize,
    },
}

/// The right operand `B [k, n]`.
#[derive(Clone, Copy)]
pub enum Right<'a> {
    /// Packed before.
    Packed(&'a Packed),
    /// f32 values, packed on the way in the precision given.
    F32(View<'a>, Precision),
    /// bf16 values, row-major, `stride` a row, packed on the way.
    Bf16 {
        /// The values.
        data: &'a [u16],
        /// Values from one row to the next.
        stride: usize,
    },
}

/// Longest block of `k`: a panel of it stays in the first-level cache.
const MAX_DEPTH: usize = 160;
/// The same where a panel holds pairs of bf16, half the bytes.
const MAX_DEPTH_OF_PAIRS: usize = 288;

/// The length of the blocks that `k` is cut into: even, and a function of `k` and the kind of panel only.
fn block_depth(k: usize, pairs: bool) -> usize {
    let most = if pairs { MAX_DEPTH_OF_PAIRS } else { MAX_DEPTH };
    k.div_ceil(k.div_ceil(most).max(1)).next_multiple_of(2).max(2)
}

struct Target(*mut f32);
// SAFETY: tasks write disjoint blocks.
unsafe impl Sync for Target {}

/// `c[m, n] (+)= a[m, k] · b[k, n]`; `c` is row-major with `c_stride` values a row. Parallel over blocks of `c`.
#[allow(clippy::too_many_arguments)] // the arguments every product has, in the order every library gives them
pub fn gemm(m: usize, n: usize, k: usize, a: Left<'_>, b: Right<'_>, c: &mut [f32], c_stride: usize, accumulate: bool) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(n <= c_stride && (m - 1) * c_stride + n <= c.len(), "product of [{m}, {k}] and [{k}, {n}] exceeds its result");
    if k == 0 {
        if !accumulate {
            c.chunks_mut(c_stride).take(m).for_each(|row| row[..n].fill(0.0));
        }
        return;
    }
    count::product(m, n, k);
    match a {
        Left::F32(view) => view.check(m, k),
        Left::Bf16 { data, stride } => assert!(stride % 2 == 0 && k <= stride && m * stride <= data.len(), "bf16 operand too short"),
    }
    let isa = Isa::current();
    let width = panel_width(isa);
    let (row_block, column_block) = blocks(m, n, width);
    // Where one block holds all rows, each panel is read once: it is packed just before, in the cache. Else all are packed first.
    let b = match b {
        Right::Packed(packed) => Operand::Packed(Cow::Borrowed(packed)),
        Right::F32(view, precision) => {
            view.check(k, n);
            if m > row_block { Operand::Packed(Cow::Owned(Packed::pack(view, k, n, precision))) } else { Operand::F32(view, precision) }
        }
        Right::Bf16 { data, stride } => {
            assert!(n <= stride && (k - 1) * stride + n <= data.len(), "bf16 operand too short");
            if m > row_block { Operand::Packed(Cow::Owned(Packed::pack_bf16(data, stride, k, n))) } else { Operand::Bf16 { data, stride } }
        }
    };
    if let Operand::Packed(packed) = &b {
        assert!(packed.k() == k && packed.n() == n, "operand is [{}, {}], expected [{k}, {n}]", packed.k(), packed.n());
        assert!(packed.isa() == isa, "operand laid out for {:?}, not for {isa:?}", packed.isa());
    }
    let (row_blocks, column_blocks) = (m.div_ceil(row_block), n.div_ceil(column_block));
    let target = Target(c.as_mut_ptr());
    let run = |task: usize| {
        let (i, j) = (task % row_blocks * row_block, task / row_blocks * column_block);
        let target = &target;
        let block = Block { isa, a, b: &b, row: i, rows: row_block.min(m - i), column: j, columns: column_block.min(n - j), k };
        // SAFETY: blocks are disjoint and inside `c`, checked above.
        unsafe { block.run(target.0.add(i * c_stride + j), c_stride, accumulate) }
    };
    let tasks = row_blocks * column_blocks;
    if tasks == 1 || m * n * k < 1 << 16 {
        (0..tasks).for_each(run);
    } else {
        (0..tasks).into_par_iter().with_max_len(1).for_each(run);
    }
}

/// Rows and columns of a block: rows such that `A`'s part stays in the second-level cache, columns so that no thread waits long
/// for the last one.
fn blocks(m: usize, n: usize, width: usize) -> (usize, usize) {
    let row_block = m.div_ceil(m.div_ceil(192)).next_multiple_of(TILE_ROWS);
    let wanted = (8 * rayon::current_num_threads()).div_ceil(m.div_ceil(row_block)).max(n.div_ceil(768));
    let column_block = n.div_ceil(wanted).next_multiple_of(width).max(width.max(64));
    (row_block, column_block)
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch { a: Vec::new(), b: Vec::new() }) };
}

/// A thread's working memory: a block of `A` where it has to be turned, a panel of `B` where it has to be decoded.
struct Scratch {
    a: Vec<Line>,
    b: Vec<Line>,
}

/// The first `words` words of some lines, which grow to hold them.
fn reserve(lines: &mut Vec<Line>, words: usize) -> &mut [u32] {
    let count = words.div_ceil(16);
    if lines.len() < count {
        lines.resize(count, Line([0; 16]));
    }
    // SAFETY: a `Line` is sixteen u32 without padding.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), words) }
}

/// Words as the f32 they hold.
fn as_f32(words: &mut [u32]) -> &mut [f32] {
    // SAFETY: same size and alignment, and every bit pattern is a value of either.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len()) }
}

/// Words as the two bf16 each holds.
fn as_u16(words: &mut [u32]) -> &mut [u16] {
    // SAFETY: half the size, a coarser alignment, and every bit pattern is a value of either.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), 2 * words.len()) }
}

/// The right operand as the blocks read it.
enum Operand<'a> {
    Packed(Cow<'a, Packed>),
    F32(View<'a>, Precision),
    Bf16 { data: &'a [u16], stride: usize },
}

impl Operand<'_> {
    fn precision(&self) -> Precision {
        match self {
            Self::Packed(packed) => packed.precision(),
            Self::F32(_, precision) => *precision,
            Self::Bf16 { .. } => Precision::Bf16,
        }
    }

    /// The panel of `columns` columns from `column` over `start .. start + depth`, in the form that the kernel of `isa` reads.
    fn panel(&self, isa: Isa, (column, columns): (usize, usize), (start, depth): (usize, usize), scratch: &mut Vec<Line>) -> *const u32 {
        let (width, pairs) = (panel_width(isa), depth.div_ceil(2));
        // Without bf16 multipliers a product of bf16 is one of f32: its panels are decoded once for all rows of the block.
        let decodes = self.precision() == Precision::Bf16 && !reads_pairs(isa);
        if let Self::Packed(packed) = self {
            let panel = &packed.words_ref()[column / width * packed.panel_words()..][..packed.panel_words()];
            return match packed.precision() {
                Precision::F32 => panel[start * width..][..depth * width].as_ptr(),
                Precision::Bf16 if !decodes => panel[start / 2 * width..][..pairs * width].as_ptr(),
                Precision::Bf16 => {
                    let out = reserve(scratch, 2 * pairs * width);
                    decode_pairs(&panel[start / 2 * width..][..pairs * width], as_f32(out), width);
                    out.as_ptr()
                }
            };
        }
        let as_pairs = self.precision() == Precision::Bf16 && !decodes;
        let out = reserve(scratch, if as_pairs { pairs * width } else { depth * width });
        match *self {
            Self::F32(view, precision) => {
                let rest = View { data: &view.data[start * view.row_stride..], ..view };
                pack_panel(rest, column, columns, depth, width, if decodes { Precision::F32 } else { precision }, out);
                if decodes {
                    round_in_place(as_f32(out));
                }
            }
            Self::Bf16 { data, stride } if decodes => decode_panel(&data[start * stride..], stride, column, columns, width, as_f32(out)),
            Self::Bf16 { data, stride } => interleave(&data[start * stride..], stride, column, columns, depth, width, out),
            Self::Packed(_) => {}
        }
        out.as_ptr()
    }
}

/// One block of the result.
struct Block<'a> {
    isa: Isa,
    a: Left<'a>,
    b: &'a Operand<'a>,
    row: usize,
    rows: usize,
    column: usize,
    columns: usize,
    k: usize,
}

impl Block<'_> {
    /// Computes the block.
    ///
    /// # Safety
    /// `c` has `rows` rows of `columns` values, `c_stride` apart, that nobody else uses meanwhile.
    unsafe fn run(&self, c: *mut f32, c_stride: usize, accumulate: bool) {
        let (width, longest, sweep) = (panel_width(self.isa), block_depth(self.k, self.in_pairs()), kernel(self.isa));
        SCRATCH.with_borrow_mut(|scratch| {
            for start in (0..self.k).step_by(longest) {
                let values = longest.min(self.k - start);
                let lhs = self.left(start, values, &mut scratch.a);
                let depth = if self.in_pairs() { values.div_ceil(2) } else { values };
                for column in (0..self.columns).step_by(width) {
                    let columns = width.min(self.columns - column);
                    let panel = self.b.panel(self.isa, (self.column + column, columns), (start, values), &mut scratch.b);
                    // SAFETY: the caller's result; the operands were checked when the product began.
                    unsafe {
                        let c = c.add(column);
                        sweep(&Sweep { lhs, rows: self.rows, depth, panel, c, c_stride, columns, accumulate: accumulate || start > 0 });
                    }
                }
            }
        });
    }

    /// Whether the kernel multiplies bf16 pairs.
    fn in_pairs(&self) -> bool {
        self.b.precision() == Precision::Bf16 && reads_pairs(self.isa)
    }

    /// The block's rows of `A` over `start .. start + depth`, as the kernel reads them.
    fn left(&self, start: usize, depth: usize, scratch: &mut Vec<Line>) -> Lhs {
        let (first, rows, pairs) = (self.row, self.rows, depth.div_ceil(2));
        let rounds = self.b.precision() == Precision::Bf16;
        match self.a {
            Left::Bf16 { data, stride } if self.in_pairs() => {
                Lhs::Pairs { data: data[first * stride + start..].as_ptr().cast(), stride: stride / 2 }
            }
            Left::Bf16 { data, stride } => {
                let out = reserve(scratch, rows * depth);
                decode_rows(data, stride, first, start, depth, as_f32(out));
                Lhs::F32 { data: out.as_ptr().cast(), stride: depth }
            }
            Left::F32(view) if view.col_stride == 1 && self.in_pairs() => {
                let out = reserve(scratch, rows * pairs);
                round_rows(view, first, start, depth, as_u16(out), 2 * pairs);
                Lhs::Pairs { data: out.as_ptr(), stride: pairs }
            }
            Left::F32(view) if view.col_stride == 1 && rounds => {
                let out = reserve(scratch, rows * depth);
                round_rows_in_f32(view, first, start, depth, as_f32(out));
                Lhs::F32 { data: out.as_ptr().cast(), stride: depth }
            }
            Left::F32(view) if view.col_stride == 1 => {
                Lhs::F32 { data: view.data[first * view.row_stride + start..].as_ptr(), stride: view.row_stride }
            }
            // A transposed operand is copied, not read in place: its columns may lie any power of two apart.
            Left::F32(view) if self.in_pairs() => {
                let out = reserve(scratch, rows * pairs);
                gather_pairs(view, first, rows, start, depth, out);
                Lhs::TurnedPairs { data: out.as_ptr(), stride: rows }
            }
            Left::F32(view) => {
                let out = reserve(scratch, rows * depth);
                gather_columns(view, first, rows, start, as_f32(out));
                if rounds {
                    round_in_place(as_f32(out));
                }
                Lhs::TurnedF32 { data: out.as_ptr().cast(), stride: rows }
            }
        }
    }
}

simd_fn! {
    /// Rows of bf16 to f32.
    fn decode_rows(data: &[u16], stride: usize, first: usize, start: usize, depth: usize, out: &mut [f32]) {
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
    fn round_rows_in_f32(view: View<'_>, first: usize, start: usize, depth: usize, out: &mut [f32]) {
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
    fn round_in_place(x: &mut [f32]) {
        for v in x {
            *v = from_bf16(to_bf16(*v));
        }
    }
}

simd_fn! {
    /// Pairs `[depth][width]` to f32 `[2 * depth][width]`.
    fn decode_pairs(pairs: &[u32], out: &mut [f32], width: usize) {
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
    fn decode_panel(data: &[u16], stride: usize, first: usize, columns: usize, width: usize, panel: &mut [f32]) {
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
    fn gather_columns(view: View<'_>, first: usize, rows: usize, start: usize, out: &mut [f32]) {
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
fn gather_pairs(view: View<'_>, first: usize, rows: usize, start: usize, depth: usize, out: &mut [u32]) {
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
fn round_rows(view: View<'_>, first: usize, start: usize, depth: usize, out: &mut [u16], stride: usize) {
    for (r, line) in out.chunks_exact_mut(stride).enumerate() {
        let (line, rest) = line.split_at_mut(depth);
        round_to_bf16(&view.data[(first + r) * view.row_stride + start..][..depth], line);
        rest.fill(0);
    }
}

#[cfg(test)]
#[path = "gemm_tests.rs"]
mod tests;
