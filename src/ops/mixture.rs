//! Mixtures of distributions over one vocabulary, from their logits.

use super::loss::{row_max, row_sum_exp};
use super::math::{TASK_ELEMENTS, exp};
use crate::simd_fn;
use rayon::prelude::*;

/// `ln Σ e^logit`: a logit less this is a log-probability (nats).
pub fn log_normaliser(logits: &[f32]) -> f64 {
    let greatest = row_max(logits);
    f64::from(greatest) + row_sum_exp(logits, greatest).ln()
}

/// `ln Σ e^(log_weightᵢ + logitᵢ − normaliserᵢ)` of each token: the log-probabilities of the mixture.
///
/// # Shapes
/// `rows` one of logits `[vocab_size]` a distribution, at least one, each with its `log_weight − normaliser`; `out [vocab_size]`.
pub fn log_mixture(rows: &[(&[f32], f64)], out: &mut [f32]) {
    assert!(!rows.is_empty() && rows.iter().all(|(row, _)| row.len() == out.len()), "rows of one vocabulary");
    out.par_chunks_mut(TASK_ELEMENTS).enumerate().for_each(|(index, out)| {
        let part = index * TASK_ELEMENTS..index * TASK_ELEMENTS + out.len();
        for (place, (row, offset)) in rows.iter().enumerate() {
            let (row, offset) = (&row[part.clone()], *offset as f32);
            if place == 0 {
                out.iter_mut().zip(row).for_each(|(out, logit)| *out = logit + offset);
            } else {
                add_in_logarithms(out, row, offset);
            }
        }
    });
}

simd_fn! {
    /// `sum = ln(e^sum + e^(x + offset))`.
    fn add_in_logarithms(sum: &mut [f32], x: &[f32], offset: f32) {
        for (sum, &x) in sum.iter_mut().zip(x) {
            let (a, b) = (*sum, x + offset);
            let greater = if a > b { a } else { b };
            let both = greater + ln_1p(exp(-(a - b).abs()));
            // Where both are impossible their difference is no number.
            *sum = if greater == f32::NEG_INFINITY { greater } else { both };
        }
    }
}

/// `ln(1 + t)` for `t` from 0 to 1, within 2 units in the last place of 1.
#[inline(always)]
fn ln_1p(t: f32) -> f32 {
    // 2 · artanh(t / (2 + t)), whose series ends early where its argument is at most a third.
    let z = t / (2.0 + t);
    let s = z * z;
    let tail = (((((s / 13.0 + 1.0 / 11.0) * s + 1.0 / 9.0) * s + 1.0 / 7.0) * s + 0.2) * s + 1.0 / 3.0) * s;
    2.0 * z + 2.0 * z * tail
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::reference::{assert_close, random, wide};

    /// `ln Σ e^x` in f64.
    fn log_sum(x: &[f64]) -> f64 {
        let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        max + x.iter().map(|v| (v - max).exp()).sum::<f64>().ln()
    }

    #[test]
    fn mixtures_and_normalisers_agree_with_f64_at_odd_sizes() {
        for vocab in [1, 2, 33, 4097, 16_385, 49_152] {
            let rows: Vec<Vec<f32>> = (0..3).map(|seed| random(seed, vocab).iter().map(|v| 8.0 * v).collect()).collect();
            let normalisers: Vec<f64> = rows.iter().map(|row| log_normaliser(row)).collect();
            let expected: Vec<f64> = rows.iter().map(|row| log_sum(&wide(row))).collect();
            assert_close("normaliser", &normalisers.iter().map(|&n| n as f32).collect::<Vec<_>>(), &expected, 1e-6);
            for count in 1..=3 {
                let weights = &[0.5f64, 0.499, 0.001][..count];
                let offsets: Vec<f64> = weights.iter().zip(&expected).map(|(w, n)| w.ln() - n).collect();
                let of_rows: Vec<(&[f32], f64)> = rows.iter().zip(&offsets).map(|(row, &offset)| (row.as_slice(), offset)).collect();
                let mut out = vec![0.0; vocab];
                log_mixture(&of_rows, &mut out);
                let term = |token: usize, (row, offset): &(&[f32], f64)| f64::from(row[token]) + offset;
                let expected: Vec<f64> = (0..vocab).map(|t| log_sum(&of_rows.iter().map(|of| term(t, of)).collect::<Vec<_>>())).collect();
                assert_close("mixture", &out, &expected, 1e-6);
            }
        }
    }

    #[test]
    fn impossible_tokens_stay_impossible_and_what_is_no_number_stays_none() {
        let never = f32::NEG_INFINITY;
        let mut out = [0.0; 5];
        log_mixture(&[(&[never, never, 0.0, f32::NAN, 88.0], 0.0), (&[never, 1.0, 0.0, 0.0, -88.0], 0.0)], &mut out);
        assert_eq!((out[0], out[1], out[4]), (never, 1.0, 88.0));
        assert!((out[2] - std::f32::consts::LN_2).abs() < 1e-7 && out[3].is_nan());
    }

    #[test]
    fn logarithms_near_one_agree_with_f64() {
        for i in 0..=10_000 {
            let t = i as f32 / 10_000.0;
            assert!((f64::from(ln_1p(t)) - f64::from(t).ln_1p()).abs() < 2.4e-7, "{t}");
        }
    }
}
