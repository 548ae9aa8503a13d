//! RMSNorm.

use super::elementwise::{ROWS_AT_ONCE, column_sums, sum_scaled_products};
use super::math::{rows_per_task, sum2};
use crate::simd_fn;
use rayon::prelude::*;

/// `out = x / sqrt(mean(x²) + eps) * weight` for each row; keeps `1 / sqrt(mean(x²) + eps)` for the backward.
///
/// # Shapes
/// `x`, `out` `[rows, cols]`, `weight [cols]`, `inv_rms [rows]`.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, cols: usize, out: &mut [f32], inv_rms: &mut [f32]) {
    assert!(cols > 0 && weight.len() == cols && x.len() == inv_rms.len() * cols && out.len() == x.len());
    let rows = rows_per_task(cols);
    if inv_rms.len() <= rows {
        return forward_rows(x, weight, eps, out, inv_rms);
    }
    (out.par_chunks_mut(rows * cols), inv_rms.par_chunks_mut(rows), x.par_chunks(rows * cols))
        .into_par_iter()
        .for_each(|(out, inv_rms, x)| forward_rows(x, weight, eps, out, inv_rms));
}

/// Adds the gradients of [`rms_norm`] to `dx`, and to `dweight` where it is trained.
///
/// # Shapes
/// `x`, `dout`, `dx` `[rows, cols]`, `weight`, `dweight` `[cols]`, `inv_rms [rows]`.
pub fn rms_norm_backward(
    x: &[f32],
    weight: &[f32],
    inv_rms: &[f32],
    dout: &[f32],
    cols: usize,
    dx: &mut [f32],
    dweight: Option<&mut [f32]>,
) {
    assert!(cols > 0 && weight.len() == cols && x.len() == inv_rms.len() * cols && dout.len() == x.len() && dx.len() == x.len());
    let rows = rows_per_task(cols);
    if inv_rms.len() <= rows {
        backward_rows(x, weight, inv_rms, dout, dx);
    } else {
        (dx.par_chunks_mut(rows * cols), inv_rms.par_chunks(rows), x.par_chunks(rows * cols), dout.par_chunks(rows * cols))
            .into_par_iter()
            .for_each(|(dx, inv_rms, x, dout)| backward_rows(x, weight, inv_rms, dout, dx));
    }
    if let Some(dweight) = dweight {
        assert_eq!(dweight.len(), cols);
        weight_gradient(x, inv_rms, dout, dweight);
    }
}

/// Adds `Σ_rows dout · x · inv_rms`; every column's sum runs over the rows in one fixed order.
fn weight_gradient(x: &[f32], inv_rms: &[f32], dout: &[f32], dweight: &mut [f32]) {
    let (cols, rows) = (dweight.len(), ROWS_AT_ONCE);
    column_sums(dweight, |first, sums| {
        let width = sums.len();
        for ((x, dout), inv_rms) in x.chunks(rows * cols).zip(dout.chunks(rows * cols)).zip(inv_rms.chunks(rows)) {
            sum_scaled_products(&x[first..], &dout[first..], inv_rms, cols, width, sums);
        }
    });
}

simd_fn! {
    fn forward_rows(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32], inv_rms: &mut [f32]) {
        let cols = weight.len();
        for ((x, out), inv) in x.chunks_exact(cols).zip(out.chunks_exact_mut(cols)).zip(inv_rms) {
            let mean = sum2(x, x, |a, b| a * b) / cols as f32;
            *inv = 1.0 / (mean + eps).sqrt();
            for (o, (&x, &w)) in out.iter_mut().zip(x.iter().zip(weight)) {
                *o = x * *inv * w;
            }
        }
    }
}

simd_fn! {
    fn backward_rows(x: &[f32], weight: &[f32], inv_rms: &[f32], dout: &[f32], dx: &mut [f32]) {
        let cols = weight.len();
        let rows = x.chunks_exact(cols).zip(dout.chunks_exact(cols)).zip(dx.chunks_exact_mut(cols));
        for (((x, dout), dx), &inv) in rows.zip(inv_rms) {
            // First dout · weight · inv_rms joins dx, then what the changed mean takes back.
            let along = weighted_dot(x, dout, weight);
            let back = along * inv * inv * inv / cols as f32;
            for (d, ((&x, &g), &w)) in dx.iter_mut().zip(x.iter().zip(dout).zip(weight)) {
                *d += g * w * inv - x * back;
            }
        }
    }
}

/// `Σ x · dout · weight` over fixed lanes.
#[inline(always)]
fn weighted_dot(x: &[f32], dout: &[f32], weight: &[f32]) -> f32 {
    use super::math::{LANES, sum_lanes};
    let mut lanes = [0.0; LANES];
    let (xs, x_rest) = x.as_chunks::<LANES>();
    let (gs, g_rest) = dout.as_chunks::<LANES>();
    let (ws, w_rest) = weight.as_chunks::<LANES>();
    for ((x, g), w) in xs.iter().zip(gs).zip(ws) {
        for i in 0..LANES {
            lanes[i] += x[i] * g[i] * w[i];
        }
    }
    for (i, lane) in lanes.iter_mut().enumerate().take(x_rest.len()) {
        *lane += x_rest[i] * g_rest[i] * w_rest[i];
    }
    sum_lanes(lanes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::reference::{
        self, assert_close, assert_same_on_any_thread_count, bits, dot, each_isa, finite_differences, random, wide,
    };

    const EPS: f32 = 1e-5;

    fn run(x: &[f32], weight: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let cols = weight.len();
        let (mut out, mut inv_rms) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len() / cols]);
        rms_norm(x, weight, EPS, cols, &mut out, &mut inv_rms);
        (out, inv_rms)
    }

    #[test]
    fn forward_agrees_with_f64_at_odd_sizes() {
        for (rows, cols) in [(1, 1), (2, 3), (5, 31), (3, 33), (70, 576), (3, 2049)] {
            let (x, weight) = (random(1, rows * cols), random(2, cols));
            let want = reference::rms_norm(&wide(&x), &wide(&weight), f64::from(EPS));
            assert_close("out", &run(&x, &weight).0, &want, 1e-6);
        }
    }

    #[test]
    fn backward_agrees_with_finite_differences_and_accumulates() {
        for (rows, cols) in [(1, 1), (2, 3), (3, 33), (5, 130)] {
            let (x, weight, dout) = (random(1, rows * cols), random(2, cols), random(3, rows * cols));
            let (_, inv_rms) = run(&x, &weight);
            let (dx0, dw0) = (random(4, rows * cols), random(5, cols));
            let (mut dx, mut dweight) = (dx0.clone(), dw0.clone());
            rms_norm_backward(&x, &weight, &inv_rms, &dout, cols, &mut dx, Some(&mut dweight));

            let (x, weight, dout) = (wide(&x), wide(&weight), wide(&dout));
            let eps = f64::from(EPS);
            let mut want = finite_differences(&x, |x| dot(&reference::rms_norm(x, &weight, eps), &dout));
            want.iter_mut().zip(wide(&dx0)).for_each(|(w, s)| *w += s);
            assert_close("dx", &dx, &want, 2e-6);
            let mut want = finite_differences(&weight, |w| dot(&reference::rms_norm(&x, w, eps), &dout));
            want.iter_mut().zip(wide(&dw0)).for_each(|(w, s)| *w += s);
            assert_close("dweight", &dweight, &want, 2e-6);
        }
    }

    #[test]
    fn a_row_alone_has_the_bits_it_has_in_a_batch() {
        let (rows, cols) = (200, 577);
        let (x, weight) = (random(1, rows * cols), random(2, cols));
        let all = run(&x, &weight).0;
        for row in [0, 17, 199] {
            let alone = run(&x[row * cols..][..cols], &weight).0;
            assert_eq!(bits(&alone), bits(&all[row * cols..][..cols]));
        }
    }

    #[test]
    fn bits_do_not_depend_on_threads_or_instruction_set() {
        let (rows, cols) = (300, 577);
        let (x, weight, dout) = (random(1, rows * cols), random(2, cols), random(3, rows * cols));
        let all = || {
            let (mut all, inv_rms) = run(&x, &weight);
            let (mut dx, mut dweight) = (vec![0.0; x.len()], vec![0.0; cols]);
            rms_norm_backward(&x, &weight, &inv_rms, &dout, cols, &mut dx, Some(&mut dweight));
            all.extend(dx);
            all.extend(dweight);
            all
        };
        assert_same_on_any_thread_count(all);
        let mut results = Vec::new();
        each_isa(|_| results.push(bits(&all())));
        assert!(results.iter().all(|r| *r == results[0]));
    }
}
