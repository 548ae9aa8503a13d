//! Matrix products: `C (+)= A · B`, f32 or bf16 operands, f32 sums, every element's bits independent of its neighbours.

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
}

/// `c[m, n] (+)= a[m, k] · b[k, n]` in f32 on the calling thread only; `c` is row-major with `c_stride`.
/// For small tiles inside operations that are parallel already (attention).
/// Each element is one chain over `k` in a fixed order, whatever `m` and `n` are.
pub fn gemm_serial(_m: usize, _n: usize, _k: usize, _a: View<'_>, _b: View<'_>, _c: &mut [f32], _c_stride: usize, _accumulate: bool) {
    todo!()
}
