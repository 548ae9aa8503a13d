//! Products whose right operand is packed by hand, so that many blocks of rows share one packing.

use crate::ops::count;
use crate::ops::isa::Isa;
use crate::ops::kernel::{Lhs, Sweep, kernel};
use crate::ops::packed::panel_width;
use crate::ops::transpose::transpose;
use crate::simd_fn;

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

    /// Packs `b [k, n]`, of which rows begin every `stride` values, into `memory`.
    pub(super) fn pack<'a>(self, b: &[f32], stride: usize, k: usize, n: usize, memory: &'a mut [f32]) -> Panels<'a> {
        pack_rows(b, stride, k, n, self.width, memory);
        self.packed(memory, k, n)
    }

    /// Packs the transpose of `b [n, k]`, of which rows begin every `stride` values, into `memory`.
    pub(super) fn pack_transposed<'a>(self, b: &[f32], stride: usize, k: usize, n: usize, memory: &'a mut [f32]) -> Panels<'a> {
        for (panel, first) in memory.chunks_exact_mut(k * self.width).zip((0..n).step_by(self.width)) {
            let columns = self.width.min(n - first);
            if columns < self.width {
                panel.fill(0.0);
            }
            transpose(&b[first * stride..], stride, columns, k, panel, self.width);
        }
        self.packed(memory, k, n)
    }

    fn packed(self, memory: &[f32], k: usize, n: usize) -> Panels<'_> {
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
        count::attention(rows, columns, depth);
        let lhs = Lhs::F32 { data: a.as_ptr(), stride: a_stride };
        for (panel, column) in b.data.chunks_exact(b.k * self.width).zip((0..columns).step_by(self.width)) {
            let (panel, c) = (panel.as_ptr().cast(), c[column..].as_mut_ptr());
            let sweep = Sweep { lhs, rows, depth, panel, c, c_stride, columns: self.width.min(columns - column), accumulate };
            // SAFETY: the assertions above vouch for the operands and the result, `packed_len` for the panel.
            unsafe { (self.sweep)(&sweep) };
        }
    }
}

simd_fn! {
    fn pack_rows(b: &[f32], stride: usize, k: usize, n: usize, width: usize, memory: &mut [f32]) {
        // Every width is a multiple of this, and a copy of known length needs no call.
        const UNIT: usize = 16;
        for (panel, first) in memory.chunks_exact_mut(k * width).zip((0..n).step_by(width)) {
            let columns = width.min(n - first);
            for (r, line) in panel.chunks_exact_mut(width).enumerate() {
                let (units, _) = line.as_chunks_mut::<UNIT>();
                let (source, rest) = b[r * stride + first..][..columns].as_chunks::<UNIT>();
                for (unit, source) in units.iter_mut().zip(source) {
                    *unit = *source;
                }
                if let Some(unit) = units.get_mut(source.len()) {
                    unit.fill(0.0);
                    unit[..rest.len()].copy_from_slice(rest);
                }
                for unit in units.iter_mut().skip(source.len() + 1) {
                    unit.fill(0.0);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::kernel::sweep_portable_wide;
    use crate::ops::reference::{bits, each_isa, random};

    #[test]
    fn both_packings_give_the_product_that_a_plain_loop_gives() {
        // The widest panels too, on processors that have no use for them.
        let wide = Product { width: 64, sweep: sweep_portable_wide };
        each_isa(|isa| {
            let sizes = [(1, 1, 1), (3, 16, 5), (7, 70, 33), (13, 129, 64), (5, 128, 7)];
            for (product, (m, n, k)) in [Product::current(), wide].into_iter().flat_map(|p| sizes.map(|s| (p, s))) {
                let (a, b, start) = (random(1, m * (k + 1)), random(2, k * (n + 2)), random(3, m * (n + 1)));
                let mut turned = vec![0.0; n * k];
                transpose(&b, n + 2, k, n, &mut turned, k);
                let mut memory = vec![f32::NAN; product.packed_len(k, n)];
                let mut c = start.clone();
                product.multiply((m, n, k), (&a, k + 1), product.pack(&b, n + 2, k, n, &mut memory), (&mut c, n + 1), true);
                let mut memory = vec![f32::NAN; product.packed_len(k, n)];
                let mut again = start.clone();
                let packed = product.pack_transposed(&turned, k, k, n, &mut memory);
                product.multiply((m, n, k), (&a, k + 1), packed, (&mut again, n + 1), true);
                assert_eq!(bits(&c), bits(&again), "{isa:?}");
                for i in 0..m {
                    for j in 0..n {
                        let sum: f64 = (0..k).map(|p| f64::from(a[i * (k + 1) + p]) * f64::from(b[p * (n + 2) + j])).sum();
                        let want = f64::from(start[i * (n + 1) + j]) + sum;
                        assert!((f64::from(c[i * (n + 1) + j]) - want).abs() < 1e-5, "{isa:?}: [{m}, {n}, {k}] at {i}, {j}");
                    }
                }
            }
        });
    }
}
