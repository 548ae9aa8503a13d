//! Matrix products: `C (+)= A · B`, f32 or bf16 operands, f32 sums.
//!
//! The result is cut into independent blocks of rows and columns; each runs over all of `k` in blocks whose length depends on `k` alone.
//! So an element's bits depend on its row of `A`, its column of `B` and `k`, not on the other rows and columns, nor on the number of threads.

use super::kernel::{Lhs, Sweep, TILE_ROWS, kernel, reads_pairs};
use super::packed::{Line, Packed, from_bf16, panel_width, to_bf16};
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
const MAX_DEPTH: usize = 320;

/// The length of the blocks that `k` is cut into: even, and a function of `k` only.
fn block_depth(k: usize) -> usize {
    k.div_ceil(k.div_ceil(MAX_DEPTH).max(1)).next_multiple_of(2).max(2)
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
    match a {
        Left::F32(view) => view.check(m, k),
        Left::Bf16 { data, stride } => assert!(stride % 2 == 0 && k <= stride && m * stride <= data.len(), "bf16 operand too short"),
    }
    let packed = match b {
        Right::Packed(packed) => Cow::Borrowed(packed),
        Right::F32(view, precision) => {
            view.check(k, n);
            Cow::Owned(Packed::pack(view, k, n, precision))
        }
        Right::Bf16 { data, stride } => Cow::Owned(Packed::pack_bf16(data, stride, k, n)),
    };
    assert!(packed.k() == k && packed.n() == n, "operand is [{}, {}], expected [{k}, {n}]", packed.k(), packed.n());
    let width = panel_width(packed.isa());
    let (row_block, column_block) = blocks(m, n, width);
    let (row_blocks, column_blocks) = (m.div_ceil(row_block), n.div_ceil(column_block));
    let target = Target(c.as_mut_ptr());
    let run = |task: usize| {
        let (i, j) = (task % row_blocks * row_block, task / row_blocks * column_block);
        let target = &target;
        let block = Block { a, packed: &packed, row: i, rows: row_block.min(m - i), column: j, columns: column_block.min(n - j), k };
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

/// Rows and columns of a block: rows such that `A`'s part stays in the second-level cache, columns so that there is work for every thread.
fn blocks(m: usize, n: usize, width: usize) -> (usize, usize) {
    let row_block = m.div_ceil(m.div_ceil(192)).next_multiple_of(TILE_ROWS);
    let wanted = (4 * rayon::current_num_threads()).div_ceil(m.div_ceil(row_block)).max(n.div_ceil(768));
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

fn reserve(lines: &mut Vec<Line>, words: usize) -> *mut u32 {
    let count = words.div_ceil(16);
    if lines.len() < count {
        lines.resize(count, Line([0; 16]));
    }
    lines.as_mut_ptr().cast()
}

/// One block of the result.
struct Block<'a> {
    a: Left<'a>,
    packed: &'a Packed,
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
        let isa = self.packed.isa();
        let (width, depth, sweep) = (panel_width(isa), block_depth(self.k), kernel(isa));
        SCRATCH.with_borrow_mut(|scratch| {
            for start in (0..self.k).step_by(depth) {
                let depth = depth.min(self.k - start);
                let lhs = self.left(start, depth, &mut scratch.a);
                for column in (0..self.columns).step_by(width) {
                    let panel = (self.column + column) / width * self.packed.panel_words();
                    // SAFETY: the panel lies inside the packed operand; the block's depth inside the panel.
                    let (panel, depth) = unsafe {
                        match self.packed.precision() {
                            Precision::F32 => (self.packed.as_ptr().add(panel + start * width), depth),
                            Precision::Bf16 => {
                                let pairs = depth.div_ceil(2);
                                let source = self.packed.as_ptr().add(panel + start / 2 * width);
                                if reads_pairs(isa) {
                                    (source, pairs)
                                } else {
                                    // Decoded once for all rows of the block: without bf16 multipliers a product of bf16 is one of f32.
                                    let decoded = reserve(&mut scratch.b, 2 * pairs * width);
                                    decode_pairs(
                                        std::slice::from_raw_parts(source, pairs * width),
                                        std::slice::from_raw_parts_mut(decoded.cast(), 2 * pairs * width),
                                        width,
                                    );
                                    (decoded.cast_const(), depth)
                                }
                            }
                        }
                    };
                    let columns = width.min(self.columns - column);
                    // SAFETY: the caller's result, and the operands as above.
                    unsafe {
                        let c = c.add(column);
                        sweep(&Sweep { lhs, rows: self.rows, depth, panel, c, c_stride, columns, accumulate: accumulate || start > 0 });
                    }
                }
            }
        });
    }

    /// The block's rows of `A` over `start .. start + depth`, as the kernel reads them.
    fn left(&self, start: usize, depth: usize, scratch: &mut Vec<Line>) -> Lhs {
        let (first, rows) = (self.row, self.rows);
        if self.packed.precision() == Precision::Bf16 && reads_pairs(self.packed.isa()) {
            let pairs = depth.div_ceil(2);
            if let Left::Bf16 { data, stride } = self.a {
                return Lhs::Pairs { data: data[first * stride + start..].as_ptr().cast(), stride: stride / 2 };
            }
            let data = reserve(scratch, rows * pairs);
            // SAFETY: reserved just above.
            let out = unsafe { std::slice::from_raw_parts_mut(data.cast::<u16>(), rows * pairs * 2) };
            match self.a {
                Left::F32(view) if view.col_stride == 1 => round_rows(view, first, start, depth, out, 2 * pairs),
                Left::F32(view) => turn_rounded(view, first, rows, start, depth, out, 2 * pairs),
                Left::Bf16 { .. } => {}
            }
            return Lhs::Pairs { data: data.cast_const(), stride: pairs };
        }
        if let (Left::F32(view), Precision::F32) = (self.a, self.packed.precision())
            && view.col_stride == 1
        {
            return Lhs::F32 { data: view.data[first * view.row_stride + start..].as_ptr(), stride: view.row_stride };
        }
        let data = reserve(scratch, rows * depth);
        // SAFETY: reserved just above.
        let out = unsafe { std::slice::from_raw_parts_mut(data.cast::<f32>(), rows * depth) };
        match self.a {
            Left::Bf16 { data, stride } => decode_rows(data, stride, first, start, depth, out),
            Left::F32(view) if view.col_stride == 1 => round_rows_in_f32(view, first, start, depth, out),
            Left::F32(view) => {
                turn(view, first, rows, start, depth, out);
                if self.packed.precision() == Precision::Bf16 {
                    round_in_place(out);
                }
            }
        }
        Lhs::F32 { data: data.cast_const().cast(), stride: depth }
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

/// Values of a side of the squares in which a block is transposed.
const SQUARE: usize = 16;

simd_fn! {
    /// `out[r][p] = view(first + r, start + p)` for a view whose columns lie apart.
    fn turn(view: View<'_>, first: usize, rows: usize, start: usize, depth: usize, out: &mut [f32]) {
        for p in (0..depth).step_by(SQUARE) {
            let columns = SQUARE.min(depth - p);
            for r in (0..rows).step_by(SQUARE) {
                let height = SQUARE.min(rows - r);
                if view.row_stride == 1 && columns == SQUARE && height == SQUARE {
                    let mut square = [[0.0f32; SQUARE]; SQUARE];
                    for (t, line) in square.iter_mut().enumerate() {
                        line.copy_from_slice(&view.data[(start + p + t) * view.col_stride + first + r..][..SQUARE]);
                    }
                    for i in 0..SQUARE {
                        let line: &mut [f32; SQUARE] = (&mut out[(r + i) * depth + p..][..SQUARE]).try_into().unwrap();
                        for t in 0..SQUARE {
                            line[t] = square[t][i];
                        }
                    }
                } else {
                    for t in 0..columns {
                        for i in 0..height {
                            out[(r + i) * depth + p + t] = view.data[(first + r + i) * view.row_stride + (start + p + t) * view.col_stride];
                        }
                    }
                }
            }
        }
    }
}

simd_fn! {
    /// `turn`, rounded to bf16, a row every `stride` values; an odd depth is filled up with a zero.
    fn turn_rounded(view: View<'_>, first: usize, rows: usize, start: usize, depth: usize, out: &mut [u16], stride: usize) {
        if depth < stride {
            out.iter_mut().skip(depth).step_by(stride).for_each(|v| *v = 0);
        }
        for p in (0..depth).step_by(SQUARE) {
            let columns = SQUARE.min(depth - p);
            for r in (0..rows).step_by(SQUARE) {
                let height = SQUARE.min(rows - r);
                if view.row_stride == 1 && columns == SQUARE && height == SQUARE {
                    let mut square = [[0u16; SQUARE]; SQUARE];
                    for (t, line) in square.iter_mut().enumerate() {
                        let source: &[f32; SQUARE] =
                            view.data[(start + p + t) * view.col_stride + first + r..][..SQUARE].try_into().unwrap();
                        for i in 0..SQUARE {
                            line[i] = to_bf16(source[i]);
                        }
                    }
                    for i in 0..SQUARE {
                        let line: &mut [u16; SQUARE] = (&mut out[(r + i) * stride + p..][..SQUARE]).try_into().unwrap();
                        for t in 0..SQUARE {
                            line[t] = square[t][i];
                        }
                    }
                } else {
                    for t in 0..columns {
                        for i in 0..height {
                            out[(r + i) * stride + p + t] =
                                to_bf16(view.data[(first + r + i) * view.row_stride + (start + p + t) * view.col_stride]);
                        }
                    }
                }
            }
        }
    }
}

simd_fn! {
    /// Rows of a view, rounded to bf16, a row every `stride` values; an odd depth is filled up with a zero.
    fn round_rows(view: View<'_>, first: usize, start: usize, depth: usize, out: &mut [u16], stride: usize) {
        for (r, line) in out.chunks_exact_mut(stride).enumerate() {
            let source = &view.data[(first + r) * view.row_stride + start..][..depth];
            let (line, rest) = line.split_at_mut(depth);
            for (o, &v) in line.iter_mut().zip(source) {
                *o = to_bf16(v);
            }
            rest.fill(0);
        }
    }
}

#[cfg(test)]
#[path = "gemm_tests.rs"]
mod tests;
