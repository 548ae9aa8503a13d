//! How two heads' predictions of one token differ, before the token is known.

use super::cosine;
use super::loss::{BLOCK, row_max};
use super::math::{LANES, exp, sum_lanes};
use crate::data::batch::IGNORE;
use crate::simd_fn;
use rayon::prelude::*;

/// Two distributions over one vocabulary beside one another; all in nats but the cosine.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Contrast {
    /// Cosine of the logits.
    pub cosine: f32,
    /// Entropy of each.
    pub entropy: [f32; 2],
    /// Kullback–Leibler divergence of the first from the second: what the second would lose by predicting as the first does.
    pub divergence: f32,
    /// Log-probability that each gives to the other's most probable token.
    pub crossed: [f32; 2],
    /// Whether they have the same most probable token.
    pub agree: bool,
}

/// The contrast of each pair of rows; the default where the target is [`IGNORE`].
///
/// # Shapes
/// `a`, `b` `[rows, vocab]`, `targets`, `out` `[rows]`.
pub fn rows(a: &[f32], b: &[f32], vocab: usize, targets: &[u32], out: &mut [Contrast]) {
    assert!(vocab > 0 && a.len() == b.len() && a.len() == targets.len() * vocab && out.len() == targets.len());
    let pairs = (a.par_chunks_exact(vocab), b.par_chunks_exact(vocab), targets, out).into_par_iter();
    pairs.for_each(|(a, b, &target, out)| *out = if target == IGNORE { Contrast::default() } else { one(a, b) });
}

/// The contrast of two rows of logits of one length, as [`rows`] has it.
pub fn one(a: &[f32], b: &[f32]) -> Contrast {
    let greatest = [row_max(a), row_max(b)];
    let favourite = |row: &[f32], max: f32| row.iter().position(|&v| v == max).unwrap_or(0);
    let (of_a, of_b) = (favourite(a, greatest[0]), favourite(b, greatest[1]));
    let mut total = [0.0f64; 5];
    for (a, b) in a.chunks(BLOCK).zip(b.chunks(BLOCK)) {
        total.iter_mut().zip(sums(a, greatest[0], b, greatest[1])).for_each(|(total, sum)| *total += f64::from(sum));
    }
    let [sum_a, sum_b, mean_a, mean_b, crossed] = total;
    let (log_a, log_b) = (sum_a.ln(), sum_b.ln());
    let log_prob = |row: &[f32], at: usize, head: usize| (f64::from(row[at] - greatest[head]) - [log_a, log_b][head]) as f32;
    Contrast {
        cosine: cosine::one(a, b),
        entropy: [(log_a - mean_a / sum_a).max(0.0) as f32, (log_b - mean_b / sum_b).max(0.0) as f32],
        divergence: ((mean_b - crossed) / sum_b - log_b + log_a).max(0.0) as f32,
        crossed: [log_prob(a, of_b, 0), log_prob(b, of_a, 1)],
        agree: of_a == of_b,
    }
}

simd_fn! {
    /// With `x = a - max_a` and `y = b - max_b`: the sums of e^x, e^y, x·e^x, y·e^y and x·e^y.
    fn sums(a: &[f32], max_a: f32, b: &[f32], max_b: f32) -> [f32; 5] {
        let mut lanes = [[0.0; LANES]; 5];
        let mut add = |i: usize, a: f32, b: f32| {
            let (x, y) = (a - max_a, b - max_b);
            let (p, q) = (exp(x), exp(y));
            // Nothing is added for what has probability zero: its logarithm may be infinite.
            let term = |weight: f32, log: f32| if weight > 0.0 { weight * log } else { 0.0 };
            lanes[0][i] += p;
            lanes[1][i] += q;
            lanes[2][i] += term(p, x);
            lanes[3][i] += term(q, y);
            lanes[4][i] += term(q, x);
        };
        let (blocks_a, rest_a) = a.as_chunks::<LANES>();
        let (blocks_b, rest_b) = b.as_chunks::<LANES>();
        for (a, b) in blocks_a.iter().zip(blocks_b) {
            for i in 0..LANES {
                add(i, a[i], b[i]);
            }
        }
        for (i, (&a, &b)) in rest_a.iter().zip(rest_b).enumerate() {
            add(i, a, b);
        }
        lanes.map(sum_lanes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::reference::{assert_close, random, wide};

    #[test]
    fn contrasts_agree_with_f64_at_odd_sizes() {
        for vocab in [2, 33, 4097, 49_152] {
            let logits = |seed| random(seed, 2 * vocab).iter().map(|v| 5.0 * v).collect::<Vec<f32>>();
            let (a, b) = (logits(1), logits(2));
            let mut out = [Contrast::default(); 2];
            rows(&a, &b, vocab, &[0, IGNORE], &mut out);
            assert_eq!(out[1], Contrast::default());
            let log_softmax = |x: &[f32]| {
                let x = wide(x);
                let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let log = x.iter().map(|v| (v - max).exp()).sum::<f64>().ln() + max;
                x.iter().map(|v| v - log).collect::<Vec<f64>>()
            };
            let (p, q) = (log_softmax(&a[..vocab]), log_softmax(&b[..vocab]));
            let best = |x: &[f64]| (0..vocab).max_by(|&i, &j| x[i].total_cmp(&x[j])).unwrap();
            let sum = |of: &dyn Fn(usize) -> f64| (0..vocab).map(of).sum::<f64>();
            let want = [
                -sum(&|i| p[i].exp() * p[i]),
                -sum(&|i| q[i].exp() * q[i]),
                sum(&|i| q[i].exp() * (q[i] - p[i])),
                p[best(&q)],
                q[best(&p)],
            ];
            let [Contrast { entropy: [h, g], divergence, crossed: [c, d], agree, cosine }, _] = out;
            assert_close("contrast", &[h, g, divergence, c, d], &want, 1e-5);
            assert_eq!((agree, cosine), (best(&p) == best(&q), cosine::one(&a[..vocab], &b[..vocab])));
        }
    }

    #[test]
    fn equal_rows_do_not_differ_and_impossible_tokens_harm_nothing() {
        let x = [1.0, 3.0, f32::NEG_INFINITY, 2.0];
        let same = one(&x, &x);
        assert!(same.agree && same.divergence == 0.0 && same.entropy[0] == same.entropy[1] && same.entropy[0].is_finite());
        assert_eq!(one(&[0.0, 1e4], &[1e4, 0.0]).crossed, [-1e4, -1e4]);
    }
}
