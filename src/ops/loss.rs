//! Cross-entropy on a chunk of logits, with the gradient written over them.

use super::math::{LANES, exp, max, sum_lanes};
use crate::data::batch::IGNORE;
use crate::simd_fn;
use rayon::prelude::*;

/// Values whose exponentials are summed in f32 before they join a row's f64 total.
pub(super) const BLOCK: usize = 4096;

/// Scores each row: `nll` becomes the negative log-likelihood of its target under the softmax of its logits, in nats,
/// `correct` whether the target is the row's greatest logit (the first of equals), and `largest` the log-probability of that greatest logit.
/// Rows whose target is [`IGNORE`] get 0, `false` and 0.
///
/// # Shapes
/// `logits [rows, vocab]`, `targets`, `nll`, `correct`, `largest` `[rows]`; targets below `vocab` or [`IGNORE`].
pub fn cross_entropy(logits: &[f32], vocab: usize, targets: &[u32], nll: &mut [f32], correct: &mut [bool], largest: &mut [f32]) {
    check(logits.len(), vocab, targets, nll, correct);
    assert_eq!(largest.len(), targets.len());
    let rows = (logits.par_chunks_exact(vocab), targets, nll, correct, largest).into_par_iter();
    rows.for_each(|(row, &target, nll, correct, largest)| {
        if target == IGNORE {
            (*nll, *correct, *largest) = (0.0, false, 0.0);
            return;
        }
        let max = row_max(row);
        let sum = row_sum_exp(row, max);
        (*nll, *correct) = score(row, target, max, sum);
        // The greatest logit's exponential is e⁰ = 1, so its probability is 1 / sum.
        *largest = -(sum.ln() as f32);
    });
}

/// [`cross_entropy`] that also replaces the logits by `scale ×` the gradient of the summed negative log-likelihood:
/// `(softmax - onehot(target)) * scale`, and 0 in ignored rows.
///
/// # Shapes
/// `logits [rows, vocab]`, `targets`, `nll`, `correct` `[rows]`; targets below `vocab` or [`IGNORE`].
pub fn cross_entropy_gradient(logits: &mut [f32], vocab: usize, targets: &[u32], scale: f32, nll: &mut [f32], correct: &mut [bool]) {
    check(logits.len(), vocab, targets, nll, correct);
    (logits.par_chunks_exact_mut(vocab), targets, nll, correct).into_par_iter().for_each(|(row, &target, nll, correct)| {
        if target == IGNORE {
            row.fill(0.0);
            (*nll, *correct) = (0.0, false);
            return;
        }
        let max = row_max(row);
        // The score needs the logits before they are overwritten; only the sum comes later.
        let (shifted, is_correct) = (max - row[target as usize], is_first_max(row, target, max));
        let sum = row.chunks_mut(BLOCK).map(|block| f64::from(replace_by_exp(block, max))).sum::<f64>();
        multiply(row, (f64::from(scale) / sum) as f32);
        row[target as usize] -= scale;
        (*nll, *correct) = ((sum.ln() + f64::from(shifted)) as f32, is_correct);
    });
}

/// `Σ e^(x − max)` of a row.
pub(super) fn row_sum_exp(row: &[f32], max: f32) -> f64 {
    row.chunks(BLOCK).map(|block| f64::from(sum_exp(block, max))).sum()
}

fn check(logits: usize, vocab: usize, targets: &[u32], nll: &[f32], correct: &[bool]) {
    let rows = targets.len();
    assert!(vocab > 0 && logits == rows * vocab && nll.len() == rows && correct.len() == rows);
    assert!(targets.iter().all(|&t| t == IGNORE || (t as usize) < vocab), "a target outside the vocabulary of {vocab}");
}

fn score(row: &[f32], target: u32, max: f32, sum: f64) -> (f32, bool) {
    let shifted = max - row[target as usize];
    ((sum.ln() + f64::from(shifted)) as f32, is_first_max(row, target, max))
}

fn is_first_max(row: &[f32], target: u32, max: f32) -> bool {
    let target = target as usize;
    row[target] == max && !row[..target].contains(&max)
}

simd_fn! {
    /// The greatest value.
    pub(super) fn row_max(row: &[f32]) -> f32 {
        max(row)
    }
}

simd_fn! {
    fn sum_exp(x: &[f32], max: f32) -> f32 {
        let mut lanes = [0.0; LANES];
        let (blocks, rest) = x.as_chunks::<LANES>();
        for x in blocks {
            for i in 0..LANES {
                lanes[i] += exp(x[i] - max);
            }
        }
        for (lane, &x) in lanes.iter_mut().zip(rest) {
            *lane += exp(x - max);
        }
        sum_lanes(lanes)
    }
}

simd_fn! {
    fn replace_by_exp(x: &mut [f32], max: f32) -> f32 {
        let mut lanes = [0.0; LANES];
        let (blocks, rest) = x.as_chunks_mut::<LANES>();
        for x in blocks {
            for i in 0..LANES {
                x[i] = exp(x[i] - max);
                lanes[i] += x[i];
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *x = exp(*x - max);
            *lane += *x;
        }
        sum_lanes(lanes)
    }
}

simd_fn! {
    fn multiply(x: &mut [f32], factor: f32) {
        for x in x {
            *x *= factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::reference::{self, assert_close, assert_same_on_any_thread_count, bits, each_isa, finite_differences, random, wide};

    fn logits(rows: usize, vocab: usize) -> Vec<f32> {
        random(1, rows * vocab).iter().map(|v| v * 4.0).collect()
    }

    #[test]
    fn scores_agree_with_f64_at_odd_sizes() {
        for (rows, vocab) in [(1, 1), (3, 7), (5, 33), (4, 4097), (2, 49_152)] {
            let x = logits(rows, vocab);
            let targets: Vec<u32> = (0..rows).map(|r| (r * 5 % vocab) as u32).collect();
            let (mut nll, mut correct, mut largest) = (vec![f32::NAN; rows], vec![false; rows], vec![f32::NAN; rows]);
            cross_entropy(&x, vocab, &targets, &mut nll, &mut correct, &mut largest);
            let want: Vec<f64> = x.chunks(vocab).zip(&targets).map(|(row, &t)| reference::nll(&wide(row), t as usize)).collect();
            assert_close("nll", &nll, &want, 1e-6);
            let greatest = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0);
            let want: Vec<f64> = x.chunks(vocab).map(|row| -reference::nll(&wide(row), greatest(row))).collect();
            assert_close("largest", &largest, &want, 1e-6);

            let (mut nll_too, mut correct_too) = (vec![f32::NAN; rows], vec![false; rows]);
            cross_entropy_gradient(&mut x.clone(), vocab, &targets, 1.0, &mut nll_too, &mut correct_too);
            assert_eq!(bits(&nll), bits(&nll_too));
            assert_eq!(correct, correct_too);
        }
    }

    #[test]
    fn gradient_agrees_with_finite_differences_and_is_zero_where_ignored() {
        for vocab in [2, 7, 65] {
            let x = logits(3, vocab);
            let targets = [1, IGNORE, (vocab - 1) as u32];
            let (mut nll, mut correct) = ([f32::NAN; 3], [true; 3]);
            let mut gradient = x.clone();
            cross_entropy_gradient(&mut gradient, vocab, &targets, 0.25, &mut nll, &mut correct);
            let want =
                finite_differences(&wide(&x), |x| 0.25 * (reference::nll(&x[..vocab], 1) + reference::nll(&x[2 * vocab..], vocab - 1)));
            assert_close("gradient", &gradient, &want, 1e-6);
            assert_eq!((nll[1], correct[1]), (0.0, false));
            assert!(gradient[vocab..2 * vocab].iter().all(|&g| g == 0.0));
        }
    }

    #[test]
    fn only_the_first_of_equal_maxima_is_correct() {
        let x = [1.0, 3.0, 3.0, 0.0].repeat(4);
        let (mut nll, mut correct) = ([0.0; 4], [false; 4]);
        cross_entropy(&x, 4, &[0, 1, 2, 3], &mut nll, &mut correct, &mut [0.0; 4]);
        assert_eq!(correct, [false, true, false, false]);
    }

    #[test]
    fn a_logit_that_is_not_finite_makes_the_loss_not_finite() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = logits(1, 100);
            x[40] = bad;
            let (mut nll, mut correct) = ([0.0], [false]);
            cross_entropy(&x, 100, &[3], &mut nll, &mut correct, &mut [0.0]);
            assert!(!nll[0].is_finite(), "{bad}: {}", nll[0]);
        }
    }

    #[test]
    fn bits_do_not_depend_on_threads_or_instruction_set() {
        let (rows, vocab) = (9, 5001);
        let x = logits(rows, vocab);
        let targets: Vec<u32> = (0..rows as u32).collect();
        let all = || {
            let mut all = x.clone();
            let (mut nll, mut correct) = (vec![0.0; rows], vec![false; rows]);
            cross_entropy_gradient(&mut all, vocab, &targets, 0.1, &mut nll, &mut correct);
            all.extend(nll);
            all
        };
        assert_same_on_any_thread_count(all);
        let mut results = Vec::new();
        each_isa(|_| results.push(bits(&all())));
        assert!(results.iter().all(|r| *r == results[0]));
    }
}
