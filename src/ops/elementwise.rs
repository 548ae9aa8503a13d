//! Additions and column sums.

use super::math::{TASK_ELEMENTS, rows_per_task};
use crate::simd_fn;
use rayon::prelude::*;

/// Columns one task of a column sum handles.
const COLUMNS: usize = 128;
/// Rows that are summed on their own before they join the total, which keeps long sums accurate.
const ROWS: usize = 64;

/// `a += b`.
pub fn add_assign(a: &mut [f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    if a.len() <= TASK_ELEMENTS {
        return add_chunk(a, b);
    }
    a.par_chunks_mut(TASK_ELEMENTS).zip(b.par_chunks(TASK_ELEMENTS)).for_each(|(a, b)| add_chunk(a, b));
}

/// `out = a + b`: a residual connection whose inputs are still needed.
pub fn add(a: &[f32], b: &[f32], out: &mut [f32]) {
    assert!(a.len() == out.len() && b.len() == out.len());
    if a.len() <= TASK_ELEMENTS {
        return add_chunk_into(a, b, out);
    }
    out.par_chunks_mut(TASK_ELEMENTS)
        .zip(a.par_chunks(TASK_ELEMENTS).zip(b.par_chunks(TASK_ELEMENTS)))
        .for_each(|(out, (a, b))| add_chunk_into(a, b, out));
}

/// Adds `bias` to every row.
///
/// # Shapes
/// `x [rows, cols]`, `bias [cols]`.
pub fn add_bias(x: &mut [f32], bias: &[f32]) {
    let cols = bias.len();
    assert!(cols > 0 && x.len().is_multiple_of(cols));
    let rows = rows_per_task(cols);
    let work = |x: &mut [f32]| x.chunks_exact_mut(cols).for_each(|row| add_chunk(row, bias));
    if x.len() <= rows * cols { work(x) } else { x.par_chunks_mut(rows * cols).for_each(work) }
}

/// Adds the sum of the rows to `dbias`: the backward of [`add_bias`].
///
/// # Shapes
/// `dout [rows, cols]`, `dbias [cols]`.
pub fn bias_gradient(dout: &[f32], dbias: &mut [f32]) {
    let cols = dbias.len();
    assert!(cols > 0 && dout.len().is_multiple_of(cols));
    column_sums(dbias, |first, sums| {
        let width = sums.len();
        for block in dout.chunks(ROWS * cols) {
            sum_rows(&block[first..], cols, width, sums);
        }
    });
}

/// Splits the columns of a sum over rows into fixed tasks: `work(first_column, sums)`.
pub(crate) fn column_sums(sums: &mut [f32], work: impl Fn(usize, &mut [f32]) + Sync) {
    sums.par_chunks_mut(COLUMNS).enumerate().for_each(|(i, sums)| work(i * COLUMNS, sums));
}

simd_fn! {
    fn add_chunk(a: &mut [f32], b: &[f32]) {
        for (a, &b) in a.iter_mut().zip(b) {
            *a += b;
        }
    }
}

simd_fn! {
    fn add_chunk_into(a: &[f32], b: &[f32], out: &mut [f32]) {
        for (o, (&a, &b)) in out.iter_mut().zip(a.iter().zip(b)) {
            *o = a + b;
        }
    }
}

simd_fn! {
    /// Adds up at most [`ROWS`] rows of `width <= COLUMNS` columns, then adds the result to `sums`. Rows start every `stride` values.
    fn sum_rows(x: &[f32], stride: usize, width: usize, sums: &mut [f32]) {
        let mut part = [0.0f32; COLUMNS];
        for row in x.chunks(stride) {
            for (p, &v) in part.iter_mut().zip(&row[..width.min(row.len())]) {
                *p += v;
            }
        }
        for (s, &p) in sums.iter_mut().zip(&part) {
            *s += p;
        }
    }
}

simd_fn! {
    /// Adds `Σ_rows x·y·scale[row]` over at most [`ROWS`] rows to `sums`; rows of `x` and `y` start every `stride` values.
    pub(crate) fn sum_scaled_products(x: &[f32], y: &[f32], scale: &[f32], stride: usize, width: usize, sums: &mut [f32]) {
        let mut part = [0.0f32; COLUMNS];
        for ((x, y), &scale) in x.chunks(stride).zip(y.chunks(stride)).zip(scale) {
            let width = width.min(x.len());
            for (p, (&x, &y)) in part.iter_mut().zip(x[..width].iter().zip(&y[..width])) {
                *p += x * scale * y;
            }
        }
        for (s, &p) in sums.iter_mut().zip(&part) {
            *s += p;
        }
    }
}

/// Rows that [`sum_scaled_products`] may be given at once.
pub(crate) const ROWS_AT_ONCE: usize = ROWS;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::reference::{assert_close, assert_same_on_any_thread_count, bits, random, wide};

    #[test]
    fn additions_agree_with_plain_loops() {
        for n in [0, 1, 31, 16 * 1024, 40_001] {
            let (a, b) = (random(1, n), random(2, n));
            let want: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
            let mut out = vec![f32::NAN; n];
            add(&a, &b, &mut out);
            assert_eq!(bits(&out), bits(&want));
            let mut in_place = a.clone();
            add_assign(&mut in_place, &b);
            assert_eq!(bits(&in_place), bits(&want));
        }
    }

    #[test]
    fn bias_and_its_gradient_agree_with_f64_at_odd_sizes() {
        for (rows, cols) in [(1, 1), (3, 7), (130, 129), (257, 576)] {
            let (x, bias) = (random(1, rows * cols), random(2, cols));
            let mut y = x.clone();
            add_bias(&mut y, &bias);
            let want: Vec<f64> = x.iter().enumerate().map(|(i, &v)| f64::from(v + bias[i % cols])).collect();
            assert_close("add_bias", &y, &want, 0.0);

            let start = random(3, cols);
            let mut dbias = start.clone();
            bias_gradient(&x, &mut dbias);
            let mut want = wide(&start);
            x.iter().enumerate().for_each(|(i, &v)| want[i % cols] += f64::from(v));
            assert_close("dbias", &dbias, &want, 1e-6);
        }
    }

    #[test]
    fn bias_gradient_does_not_depend_on_the_thread_count() {
        let x = random(1, 700 * 576);
        assert_same_on_any_thread_count(|| {
            let mut dbias = vec![0.0; 576];
            bias_gradient(&x, &mut dbias);
            dbias
        });
    }
}
