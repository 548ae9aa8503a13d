//! Matrix products: `C (+)= A · B`, f32 or bf16 operands, f32 sums.
//!
//! The result is cut into independent blocks of rows and columns; each runs over all of `k` in blocks whose length depends on `k` alone
//! (and on whether the processor multiplies bf16 in pairs).
//! So an element's bits depend on its row of `A`, its column of `B` and `k`, not on the other rows and columns, nor on the number of threads.

use super::block::Block;
use super::count;
use super::isa::Isa;
use super::kernel::{TILE_ROWS, has_tiles, reads_pairs};
use super::operands::{Rounded, as_f32, decode_pairs, decode_panel, reserve, round_in_place};
use super::packed::{Line, Packed, bf16_depth_unit, interleave, pack_panel, panel_width};
use super::tiles;
use crate::model::Precision;
use rayon::prelude::*;

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
    /// bf16 values, row-major, rows filled up with zeros to what the kernels read at once.
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

/// How a product is carried out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// f32 by f32.
    Values,
    /// bf16 by bf16, pairs in vectors.
    Pairs,
    /// bf16 by bf16 in the tile unit.
    Tiles,
}

impl Way {
    pub(super) fn of(isa: Isa, precision: Precision) -> Self {
        match precision {
            Precision::Bf16 if has_tiles(isa) => Self::Tiles,
            Precision::Bf16 if reads_pairs(isa) => Self::Pairs,
            _ => Self::Values,
        }
    }

    /// The length of the blocks that `k` is cut into: a function of `k` and the way only. A panel of it stays in the first-level cache; that of tiles in the
    /// second, which keeps up with them, and the fewer blocks the seldomer is the result read and written.
    /// (Tiles then take several blocks at once, up to [`TILES_AT_ONCE`](super::block::TILES_AT_ONCE) of all the products that are summed: that changes no bit.)
    pub(super) fn block_depth(self, k: usize) -> usize {
        let (most, unit) = match self {
            Self::Values => (160, 2),
            Self::Pairs => (288, 2),
            Self::Tiles => (640, tiles::DEPTH),
        };
        k.div_ceil(k.div_ceil(most).max(1)).next_multiple_of(unit).max(unit)
    }

    /// Rows and columns of a block: rows such that `A`'s part stays in the second-level cache, columns so that no thread waits long
    /// for the last one.
    fn blocks(self, m: usize, n: usize, width: usize) -> (usize, usize) {
        let threads = rayon::current_num_threads();
        let (most, unit) = if self == Self::Tiles {
            // Of a narrow result more blocks of rows, or threads would have nothing to do.
            let blocks = if threads > 1 { (8 * threads).div_ceil(n.div_ceil(width)) } else { 1 };
            (m.div_ceil(blocks).clamp(128, 1024), tiles::ROWS)
        } else {
            (192, TILE_ROWS)
        };
        let row_block = m.div_ceil(m.div_ceil(most)).next_multiple_of(unit);
        let wanted = (8 * threads).div_ceil(m.div_ceil(row_block)).max(n.div_ceil(768));
        let column_block = n.div_ceil(wanted).next_multiple_of(width).max(width.max(64));
        (row_block, column_block)
    }
}

impl Right<'_> {
    pub(super) fn precision(&self) -> Precision {
        match self {
            Self::Packed(packed) => packed.precision(),
            Self::F32(_, precision) => *precision,
            Self::Bf16 { .. } => Precision::Bf16,
        }
    }

    /// The panel of `columns` columns from `column` over `start .. start + depth`, in the form that the kernel of `isa` reads.
    pub(super) fn panel(
        &self,
        isa: Isa,
        (column, columns): (usize, usize),
        (start, depth): (usize, usize),
        scratch: &mut Vec<Line>,
    ) -> *const u32 {
        let (width, pairs) = (panel_width(isa), depth.next_multiple_of(bf16_depth_unit(isa)) / 2);
        // Without bf16 multipliers a product of bf16 is one of f32: its panels are decoded once for all rows of the block.
        let decodes = self.precision() == Precision::Bf16 && !reads_pairs(isa);
        if let Self::Packed(packed) = *self {
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

struct Target(*mut f32);
// SAFETY: tasks write disjoint blocks.
unsafe impl Sync for Target {}

/// A product among those that are summed.
#[derive(Clone, Copy)]
pub struct Term<'a> {
    /// The inner dimension.
    pub k: usize,
    /// `A [m, k]`.
    pub left: Left<'a>,
    /// `B [k, n]`.
    pub right: Right<'a>,
}

impl Term<'_> {
    /// Panics where an operand is shorter than the product needs (a defect in the caller).
    fn check(&self, isa: Isa, m: usize, n: usize) {
        let k = self.k;
        match self.left {
            Left::F32(view) => view.check(m, k),
            Left::Bf16 { data, stride } => {
                let filled = stride % bf16_depth_unit(isa) == 0;
                assert!(filled && k <= stride && m * stride <= data.len(), "bf16 operand too short");
            }
        }
        match self.right {
            Right::Packed(packed) => {
                assert!(packed.k() == k && packed.n() == n, "operand is [{}, {}], expected [{k}, {n}]", packed.k(), packed.n());
                assert!(packed.isa() == isa, "operand laid out for {:?}, not for {isa:?}", packed.isa());
            }
            Right::F32(view, _) => view.check(k, n),
            Right::Bf16 { data, stride } => assert!(n <= stride && (k - 1) * stride + n <= data.len(), "bf16 operand too short"),
        }
    }
}

/// `c[m, n] (+)= a[m, k] · b[k, n]`; `c` is row-major with `c_stride` values a row. Parallel over blocks of `c`.
#[allow(clippy::too_many_arguments)] // the arguments every product has, in the order every library gives them
pub fn gemm(m: usize, n: usize, k: usize, a: Left<'_>, b: Right<'_>, c: &mut [f32], c_stride: usize, accumulate: bool) {
    gemm_sum(m, n, &[Term { k, left: a, right: b }], c, c_stride, accumulate);
}

/// `c[m, n] (+)= Σ aᵢ[m, kᵢ] · bᵢ[kᵢ, n]`, the bits of one [`gemm`] after the other: a block of `c` stays in the cache for all of them, where a product
/// with a short `k` would mostly wait for it.
pub fn gemm_sum(m: usize, n: usize, terms: &[Term<'_>], c: &mut [f32], c_stride: usize, accumulate: bool) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(n <= c_stride && (m - 1) * c_stride + n <= c.len(), "product of [{m}, _] and [_, {n}] exceeds its result");
    let terms: Vec<&Term<'_>> = terms.iter().filter(|term| term.k > 0).collect();
    let Some(first) = terms.first() else {
        if !accumulate {
            c.chunks_mut(c_stride).take(m).for_each(|row| row[..n].fill(0.0));
        }
        return;
    };
    let isa = Isa::current();
    let (width, way) = (panel_width(isa), Way::of(isa, first.right.precision()));
    for term in &terms {
        count::product(m, n, term.k);
        assert!(term.right.precision() == first.right.precision(), "a sum of products in several precisions");
        term.check(isa, m, n);
    }
    let (row_block, column_block) = way.blocks(m, n, width);
    // The tile unit reads rows of pairs where they lie, and is done with them sooner than they could be made for each block anew.
    let rounded: Vec<Option<Rounded>> = terms
        .iter()
        .map(|term| match term.left {
            Left::F32(view) if way == Way::Tiles => Some(Rounded::new(view, m, term.k)),
            _ => None,
        })
        .collect();
    // Where one block holds all rows, each panel is read once: it is packed just before, in the cache. Else all are packed first.
    let packed: Vec<Option<Packed>> = terms
        .iter()
        .map(|term| match term.right {
            Right::F32(view, precision) if m > row_block => Some(Packed::pack(view, term.k, n, precision)),
            Right::Bf16 { data, stride } if m > row_block => Some(Packed::pack_bf16(data, stride, term.k, n)),
            _ => None,
        })
        .collect();
    let products: Vec<Term<'_>> = terms
        .iter()
        .zip(rounded.iter().zip(&packed))
        .map(|(term, (rounded, packed))| Term {
            k: term.k,
            left: rounded.as_ref().map_or(term.left, Rounded::left),
            right: packed.as_ref().map_or(term.right, Right::Packed),
        })
        .collect();
    let (row_blocks, column_blocks) = (m.div_ceil(row_block), n.div_ceil(column_block));
    let target = Target(c.as_mut_ptr());
    let run = |task: usize| {
        let (i, j) = (task % row_blocks * row_block, task / row_blocks * column_block);
        let target = &target;
        let block = Block { isa, way, row: i, rows: row_block.min(m - i), column: j, columns: column_block.min(n - j) };
        // SAFETY: blocks are disjoint and inside `c`, checked above.
        unsafe { block.run(&products, target.0.add(i * c_stride + j), c_stride, accumulate) }
    };
    let tasks = row_blocks * column_blocks;
    if tasks == 1 || m * n * terms.iter().map(|term| term.k).sum::<usize>() < 1 << 16 {
        (0..tasks).for_each(run);
    } else {
        (0..tasks).into_par_iter().with_max_len(1).for_each(run);
    }
}

/// A left operand that several products read: where the tile unit would round it for each, it is rounded once.
pub struct Shared<'a> {
    view: View<'a>,
    rounded: Option<Rounded>,
}

impl<'a> Shared<'a> {
    /// The view `[m, k]`, for products in a precision.
    pub fn new(view: View<'a>, m: usize, k: usize, precision: Precision) -> Self {
        view.check(m, k);
        let tiles = Way::of(Isa::current(), precision) == Way::Tiles && m > 0 && k > 0;
        Self { view, rounded: tiles.then(|| Rounded::new(view, m, k)) }
    }

    /// The operand.
    pub fn left(&self) -> Left<'_> {
        self.rounded.as_ref().map_or(Left::F32(self.view), Rounded::left)
    }
}

#[cfg(test)]
#[path = "gemm_tests.rs"]
mod tests;
