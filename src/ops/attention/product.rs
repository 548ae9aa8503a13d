//! Products whose right operand is packed by hand, so that many blocks of rows share one packing.

use crate::model::Precision;
use crate::ops::gemm::View;
use crate::ops::isa::Isa;
use crate::ops::kernel::{Lhs, Sweep, kernel};
use crate::ops::packed::{pack_panel, panel_width};

/// The kernel of the instruction set in use, looked up once so that packing and multiplying agree.
#[derive(Clone, Copy)]
pub(super) struct Product {
    width: usize,
    sweep: unsafe fn(&Sweep),
}

/// A right operand `[k, n]`, packed.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a> {
    data: &'a [f32],
    k: usize,
    n: usize,
}

impl Product {
    pub(super) fn current() -> Self {
        let isa = Isa::current();
        Self { width: panel_width(isa), sweep: kernel(isa) }
    }

    /// Values that a packed `[k, n]` operand takes.
    pub(super) fn packed_len(self, k: usize, n: usize) -> usize {
        n.next_multiple_of(self.width) * k
    }

    /// Packs `b [k, n]` into `memory`.
    pub(super) fn pack<'a>(self, b: View<'_>, k: usize, n: usize, memory: &'a mut [f32]) -> Panels<'a> {
        for (panel, column) in memory.chunks_exact_mut(k * self.width).zip((0..n).step_by(self.width)) {
            // SAFETY: f32 and u32 have the same size and alignment, and every pattern of bits is valid for both.
            let words = unsafe { std::slice::from_raw_parts_mut(panel.as_mut_ptr().cast::<u32>(), panel.len()) };
            pack_panel(b, column, self.width.min(n - column), k, self.width, Precision::F32, words);
        }
        self.packed(memory, k, n)
    }

    /// An operand that [`Product::pack`] has left in `memory`.
    pub(super) fn packed(self, memory: &[f32], k: usize, n: usize) -> Panels<'_> {
        Panels { data: &memory[..self.packed_len(k, n)], k, n }
    }

    /// `c[rows, columns] (+)= a[rows, depth] · b[..depth, ..columns]`; `a` and `c` are row-major with their strides.
    /// Each element is one chain over the depth, then one addition to `c`.
    pub(super) fn multiply(
        self,
        (rows, columns, depth): (usize, usize, usize),
        (a, a_stride): (&[f32], usize),
        b: Panels<'_>,
        (c, c_stride): (&mut [f32], usize),
        accumulate: bool,
    ) {
        if rows == 0 || columns == 0 || depth == 0 {
            assert!(accumulate || rows == 0 || columns == 0, "nothing to sum");
            return;
        }
        assert!(depth <= b.k && columns <= b.n, "[{depth}, {columns}] of a [{}, {}] operand", b.k, b.n);
        assert!((rows - 1) * a_stride + depth <= a.len(), "left operand too short");
        assert!(columns <= c_stride && (rows - 1) * c_stride + columns <= c.len(), "result too short");
        let lhs = Lhs::F32 { data: a.as_ptr(), stride: a_stride };
        for (panel, column) in b.data.chunks_exact(b.k * self.width).zip((0..columns).step_by(self.width)) {
            let (panel, c) = (panel.as_ptr().cast(), c[column..].as_mut_ptr());
            let sweep = Sweep { lhs, rows, depth, panel, c, c_stride, columns: self.width.min(columns - column), accumulate };
            // SAFETY: the assertions above vouch for the operands and the result, `packed_len` for the panel.
            unsafe { (self.sweep)(&sweep) };
        }
    }
}
