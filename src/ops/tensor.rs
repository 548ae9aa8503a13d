//! Activations: f32 matrices whose memory is used again, and their bf16 copies.

use super::bf16::round_to_bf16;
use super::gemm::{Left, View};
use super::isa::Isa;
use super::math::{TASK_ELEMENTS, rows_per_task};
use super::operands::round_rows;
use super::packed::{Packed, bf16_depth_unit};
use super::pool::Pool;
use rayon::prelude::*;
use std::sync::{Arc, OnceLock};

static F32: Pool<f32> = Pool::new();
static BF16: Pool<u16> = Pool::new();

pub(super) fn release_unused() {
    F32.clear();
    BF16.clear();
}

/// A row-major matrix of activations.
#[derive(Debug, Default)]
pub struct Tensor {
    rows: usize,
    cols: usize,
    data: Vec<f32>,
    bf16: OnceLock<Arc<Bf16>>,
}

/// A matrix rounded to bf16, rows filled up with zeros to what the kernels read at once.
#[derive(Debug)]
pub struct Bf16 {
    rows: usize,
    cols: usize,
    stride: usize,
    data: Vec<u16>,
    packed: OnceLock<Packed>,
}

impl Bf16 {
    /// Rows and columns.
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// The matrix as a left operand.
    pub fn left(&self) -> Left<'_> {
        Left::Bf16 { data: &self.data, stride: self.stride }
    }

    /// The matrix as a right operand, packed once for all weights that read it.
    pub fn packed(&self) -> &Packed {
        self.packed.get_or_init(|| Packed::pack_bf16(&self.data, self.stride, self.rows, self.cols))
    }
}

impl Tensor {
    /// A matrix whose values are whatever they were: to be overwritten.
    pub fn scratch(rows: usize, cols: usize) -> Self {
        Self { rows, cols, data: F32.take(rows * cols, 0.0), bf16: OnceLock::new() }
    }

    /// A matrix of zeros.
    pub fn zeros(rows: usize, cols: usize) -> Self {
        let mut tensor = Self::scratch(rows, cols);
        tensor.data.fill(0.0);
        tensor
    }

    /// A copy.
    pub fn copy_of(other: &Self) -> Self {
        let mut tensor = Self::scratch(other.rows, other.cols);
        let parts = tensor.data.par_chunks_mut(TASK_ELEMENTS).zip(other.data.par_chunks(TASK_ELEMENTS));
        parts.for_each(|(out, data)| out.copy_from_slice(data));
        tensor
    }

    /// Number of rows (tokens).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns (features).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The values, row-major.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// The values, row-major. Forgets the bf16 copy.
    pub fn data_mut(&mut self) -> &mut [f32] {
        self.bf16 = OnceLock::new();
        &mut self.data
    }

    /// The matrix as a view.
    pub fn view(&self) -> View<'_> {
        View::rows(&self.data, self.cols)
    }

    /// The matrix rounded to bf16, made once.
    pub fn bf16(&self) -> &Arc<Bf16> {
        self.bf16.get_or_init(|| {
            let stride = self.cols.next_multiple_of(bf16_depth_unit(Isa::current()));
            let mut data = BF16.take(self.rows * stride, 0);
            if stride == self.cols {
                let parts = data.par_chunks_mut(TASK_ELEMENTS).zip(self.data.par_chunks(TASK_ELEMENTS));
                parts.for_each(|(out, x)| round_to_bf16(x, out));
            } else if stride > 0 {
                let rows = rows_per_task(stride);
                data.par_chunks_mut(rows * stride).enumerate().for_each(|(task, out)| {
                    round_rows(self.view(), task * rows, 0, self.cols, out, stride);
                });
            }
            Arc::new(Bf16 { rows: self.rows, cols: self.cols, stride, data, packed: OnceLock::new() })
        })
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        F32.give(std::mem::take(&mut self.data));
    }
}

impl Drop for Bf16 {
    fn drop(&mut self) {
        BF16.give(std::mem::take(&mut self.data));
    }
}
