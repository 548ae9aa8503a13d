//! What a low-rank adapter needs beside two matrix products: a dropout that can be drawn again, and a factor.

use super::math::rows_per_task;
use super::tape::{Tape, Var};
use super::tensor::Tensor;
use crate::data::order::mix;
use crate::simd_fn;
use rayon::prelude::*;

/// Which values a dropout drops. It is a pure function of its fields, the module, and a value's row and column: nothing is kept of it, so a layer
/// that is run again in the backward pass, a run that was resumed, and any number of threads drop the same values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// The share of values that is dropped, at least 0 and below 1.
    pub probability: f64,
    /// Seed of the run.
    pub seed: u64,
    /// The update that the pass belongs to.
    pub step: u64,
    /// Rows of the same update that went before this pass: with accumulated gradients a token is dropped as in one large batch.
    pub first_row: u64,
}

impl Dropout {
    /// Sets dropped values of `x [rows, cols]` to zero and divides the others by the share that stays.
    ///
    /// # Shapes
    /// `x`, `out`: `[rows, cols]`.
    pub fn apply(&self, module: u64, x: &[f32], cols: usize, out: &mut [f32]) {
        let key = mix(mix(mix(self.seed) ^ self.step) ^ module);
        // Exactly what the threshold keeps, so that the mean stays what it was.
        let threshold = (self.probability * 2f64.powi(32)) as u32;
        let factor = (1.0 / (1.0 - f64::from(threshold) / 2f64.powi(32))) as f32;
        let rows = rows_per_task(cols);
        let work = |(task, (x, out)): (usize, (&[f32], &mut [f32]))| {
            for (row, (x, out)) in x.chunks_exact(cols).zip(out.chunks_exact_mut(cols)).enumerate() {
                let key = mix(key ^ (self.first_row + (task * rows + row) as u64));
                drop_row(x, key as u32, (key >> 32) as u32, threshold, factor, out);
            }
        };
        x.par_chunks(rows * cols).zip(out.par_chunks_mut(rows * cols)).enumerate().for_each(work);
    }
}

simd_fn! {
    /// Drops values of one row: each column's number is mixed with both halves of the row's key and kept where it reaches the threshold.
    fn drop_row(x: &[f32], low: u32, high: u32, threshold: u32, factor: f32, out: &mut [f32]) {
        for (column, (out, &x)) in out.iter_mut().zip(x).enumerate() {
            let mut h = (column as u32).wrapping_mul(0x9e37_79b1) ^ low;
            h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b).wrapping_add(high);
            h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
            h ^= h >> 16;
            *out = if h >= threshold { x * factor } else { 0.0 };
        }
    }
}

impl<'m> Tape<'m> {
    /// Dropout of `x`, drawn for `module`; `x` itself on a tape that records nothing, as in evaluation.
    ///
    /// # Shapes
    /// `x` and the result `[tokens, n]`.
    pub fn dropout(&mut self, x: &Var, dropout: Dropout, module: u64) -> Var {
        if dropout.probability <= 0.0 || !self.needs([true]) {
            return x.clone();
        }
        let (rows, cols) = (x.value.rows(), x.value.cols());
        let mut out = Tensor::scratch(rows, cols);
        dropout.apply(module, x.value.data(), cols, out.data_mut());
        let Some(input) = x.node else { return self.constant(out) };
        self.push(out, |node| {
            Box::new(move |sink| {
                let Some(dy) = sink.take(node) else { return };
                let mut dx = Tensor::scratch(rows, cols);
                dropout.apply(module, dy.data(), cols, dx.data_mut());
                sink.add(input, dx);
            })
        })
    }

    /// `factor · x`.
    ///
    /// # Shapes
    /// `x` and the result `[tokens, n]`.
    pub fn scale(&mut self, x: Var, factor: f32) -> Var {
        if factor == 1.0 {
            return x;
        }
        let input = x.node;
        let mut out = x.into_tensor();
        out.data_mut().iter_mut().for_each(|v| *v *= factor);
        let Some(input) = input else { return self.constant(out) };
        self.push(out, |node| {
            Box::new(move |sink| {
                let Some(mut dx) = sink.take(node) else { return };
                dx.data_mut().iter_mut().for_each(|v| *v *= factor);
                sink.add(input, dx);
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::reference::{assert_same_on_any_thread_count, random};

    const DROPOUT: Dropout = Dropout { probability: 0.3, seed: 7, step: 5, first_row: 0 };

    fn dropped(dropout: Dropout, module: u64, rows: usize, cols: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; rows * cols];
        dropout.apply(module, &vec![1.0; rows * cols], cols, &mut out);
        out
    }

    #[test]
    fn the_share_that_is_dropped_and_the_mean_are_as_asked_for() {
        for probability in [0.0, 0.05, 0.3, 0.9] {
            let out = dropped(Dropout { probability, ..DROPOUT }, 3, 500, 700);
            let share = out.iter().filter(|&&v| v == 0.0).count() as f64 / out.len() as f64;
            // Five standard deviations of 350,000 draws.
            assert!((share - probability).abs() < 5.0 * (probability * (1.0 - probability) / out.len() as f64).sqrt() + 1e-9, "{share}");
            let mean = out.iter().map(|&v| f64::from(v)).sum::<f64>() / out.len() as f64;
            assert!((mean - 1.0).abs() < 0.03, "{probability}: {mean}");
        }
    }

    #[test]
    fn it_is_a_function_of_seed_step_module_row_and_column_alone() {
        let whole = dropped(DROPOUT, 3, 9, 70);
        assert_eq!(dropped(DROPOUT, 3, 9, 70), whole);
        assert_eq!(dropped(Dropout { first_row: 4, ..DROPOUT }, 3, 5, 70), whole[4 * 70..], "a part of the rows");
        let others = [
            dropped(Dropout { seed: 8, ..DROPOUT }, 3, 9, 70),
            dropped(Dropout { step: 6, ..DROPOUT }, 3, 9, 70),
            dropped(DROPOUT, 4, 9, 70),
            dropped(Dropout { first_row: 1, ..DROPOUT }, 3, 9, 70),
        ];
        for other in others {
            let same = other.iter().zip(&whole).filter(|(a, b)| a == b).count() as f64 / whole.len() as f64;
            // Two independent draws agree on 0.3² + 0.7² of the values.
            assert!((same - 0.58).abs() < 0.1, "{same}");
        }
    }

    #[test]
    fn bits_do_not_depend_on_the_number_of_threads() {
        let x = random(1, 300 * 200);
        assert_same_on_any_thread_count(|| {
            let mut out = vec![0.0; x.len()];
            DROPOUT.apply(2, &x, 200, &mut out);
            out
        });
    }
}
