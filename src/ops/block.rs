//! One block of a product's result: its operands brought before the kernel, stretch by stretch of `k`, in vectors or in tiles.

use super::gemm::{Left, Term, Way};
use super::isa::Isa;
use super::kernel::{Lhs, Sweep, kernel};
use super::operands::{as_f32, as_u16, decode_rows, gather_columns, gather_pairs, reserve, round_in_place, round_rows, round_rows_in_f32};
use super::packed::{Line, panel_width};
use super::tiles::{self, Part};
use crate::model::Precision;
use std::cell::RefCell;

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch { a: Vec::new(), b: Vec::new() }) };
}

/// A thread's working memory: a block of `A` where it has to be turned, panels of `B` where they have to be decoded or packed.
struct Scratch {
    a: Vec<Line>,
    b: Vec<Vec<Line>>,
}

impl Scratch {
    fn panel(&mut self, index: usize) -> &mut Vec<Line> {
        self.b.resize_with(self.b.len().max(index + 1), Vec::new);
        &mut self.b[index]
    }
}

/// As many values of `k` as the tile unit multiplies before it stores a result, over all products that are summed: panels that long stay in the
/// second-level cache.
pub(super) const TILES_AT_ONCE: usize = 832;

/// One block of the result.
pub(super) struct Block {
    pub(super) isa: Isa,
    pub(super) way: Way,
    pub(super) row: usize,
    pub(super) rows: usize,
    pub(super) column: usize,
    pub(super) columns: usize,
}

impl Block {
    /// Computes the block.
    ///
    /// # Safety
    /// `c` has `rows` rows of `columns` values, `c_stride` apart, that nobody else uses meanwhile.
    pub(super) unsafe fn run(&self, products: &[Term<'_>], c: *mut f32, c_stride: usize, accumulate: bool) {
        // SAFETY: the caller's.
        SCRATCH.with_borrow_mut(|scratch| unsafe {
            if self.way == Way::Tiles {
                return self.tiles(products, c, c_stride, accumulate, scratch);
            }
            for (index, product) in products.iter().enumerate() {
                self.vectors(product, c, c_stride, accumulate || index > 0, scratch);
            }
        });
    }

    /// The stretches of `k` that a product is cut into: first value and number of values.
    fn stretches(&self, k: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let longest = self.way.block_depth(k);
        (0..k).step_by(longest).map(move |start| (start, longest.min(k - start)))
    }

    /// One product, in vectors.
    ///
    /// # Safety
    /// As [`Block::run`].
    unsafe fn vectors(&self, product: &Term<'_>, c: *mut f32, c_stride: usize, accumulate: bool, scratch: &mut Scratch) {
        let (width, sweep) = (panel_width(self.isa), kernel(self.isa));
        for (start, values) in self.stretches(product.k) {
            let lhs = self.left(product, start, values, &mut scratch.a);
            let depth = if self.in_pairs() { values.div_ceil(2) } else { values };
            for column in (0..self.columns).step_by(width) {
                let columns = width.min(self.columns - column);
                let panel = product.right.panel(self.isa, (self.column + column, columns), (start, values), scratch.panel(0));
                // SAFETY: the caller's result; the operands were checked when the product began.
                unsafe {
                    let c = c.add(column);
                    sweep(&Sweep { lhs, rows: self.rows, depth, panel, c, c_stride, columns, accumulate: accumulate || start > 0 });
                }
            }
        }
    }

    /// All products, in tiles.
    ///
    /// # Safety
    /// As [`Block::run`].
    unsafe fn tiles(&self, products: &[Term<'_>], c: *mut f32, c_stride: usize, accumulate: bool, scratch: &mut Scratch) {
        let width = panel_width(self.isa);
        let all: Vec<_> = products.iter().flat_map(|product| self.stretches(product.k).map(move |stretch| (product, stretch))).collect();
        let (mut first, mut parts) = (0, Vec::with_capacity(all.len()));
        while first < all.len() {
            let mut depth = 0;
            let count = all[first..].iter().take_while(|(_, (_, values))| {
                depth += values;
                depth <= TILES_AT_ONCE
            });
            let some = &all[first..first + count.count().max(1)];
            for column in (0..self.columns).step_by(width) {
                let columns = width.min(self.columns - column);
                parts.clear();
                for (index, &(product, (start, values))) in some.iter().enumerate() {
                    let Left::Bf16 { data, stride } = product.left else {
                        unreachable!("the tile unit's left operands are rounded before")
                    };
                    let panel = product.right.panel(self.isa, (self.column + column, columns), (start, values), scratch.panel(index));
                    parts.push(Part {
                        a: data[self.row * stride + start..].as_ptr().cast(),
                        a_stride: stride / 2,
                        panel,
                        steps: values.div_ceil(tiles::DEPTH),
                    });
                }
                #[cfg(not(target_arch = "x86_64"))]
                let _ = (c, c_stride, accumulate);
                // SAFETY: the caller's result; the operands were checked when the product began, and are filled up to whole steps.
                #[cfg(target_arch = "x86_64")]
                unsafe {
                    tiles::sweep::<tiles::Amx>(&parts, (self.rows, columns), (c.add(column), c_stride), accumulate || first > 0);
                }
            }
            first += some.len();
        }
    }

    /// Whether the kernel multiplies bf16 pairs.
    fn in_pairs(&self) -> bool {
        self.way != Way::Values
    }

    /// The block's rows of `A` over `start .. start + depth`, as the kernel reads them.
    fn left(&self, product: &Term<'_>, start: usize, depth: usize, scratch: &mut Vec<Line>) -> Lhs {
        let (first, rows, pairs) = (self.row, self.rows, depth.div_ceil(2));
        let rounds = product.right.precision() == Precision::Bf16;
        match product.left {
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
