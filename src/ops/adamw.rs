//! AdamW, and the sums it needs.

use super::math::TASK_ELEMENTS;
use crate::simd_fn;
use rayon::prelude::*;

/// What one step of [`AdamW::update`] depends on beside the tensors.
///
/// # Paper
/// Decoupled weight decay, <https://arxiv.org/abs/1711.05101>; the arithmetic is that of `torch.optim.AdamW`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the square root of the second moment.
    pub eps: f64,
    /// Share of the parameter, times the learning rate, that is taken away each step.
    pub weight_decay: f64,
    /// The step's number, counted from 1, for the bias corrections.
    pub step: u64,
    /// Factor on the gradient: clipping and averaging.
    pub gradient_scale: f32,
}

/// The factors of one step, rounded to f32 once.
#[derive(Clone, Copy)]
struct Factors {
    keep: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    root_correction2: f32,
    eps: f32,
    step_size: f32,
    gradient_scale: f32,
}

impl AdamW {
    /// One step: updates the parameter and its moments from its gradient, and says whether everything that was written is finite.
    ///
    /// # Shapes
    /// All the same length.
    pub fn update(&self, value: &mut [f32], gradient: &[f32], moment1: &mut [f32], moment2: &mut [f32]) -> bool {
        let n = value.len();
        assert!(gradient.len() == n && moment1.len() == n && moment2.len() == n);
        let exponent = self.step as f64;
        let factors = Factors {
            keep: (1.0 - self.learning_rate * self.weight_decay) as f32,
            one_minus_beta1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            one_minus_beta2: (1.0 - self.beta2) as f32,
            root_correction2: (1.0 - self.beta2.powf(exponent)).sqrt() as f32,
            eps: self.eps as f32,
            step_size: (self.learning_rate / (1.0 - self.beta1.powf(exponent))) as f32,
            gradient_scale: self.gradient_scale,
        };
        if n <= TASK_ELEMENTS {
            return update_chunk(value, gradient, moment1, moment2, factors);
        }
        (
            value.par_chunks_mut(TASK_ELEMENTS),
            gradient.par_chunks(TASK_ELEMENTS),
            moment1.par_chunks_mut(TASK_ELEMENTS),
            moment2.par_chunks_mut(TASK_ELEMENTS),
        )
            .into_par_iter()
            .map(|(value, gradient, moment1, moment2)| update_chunk(value, gradient, moment1, moment2, factors))
            .reduce(|| true, |a, b| a & b)
    }
}

/// The sum of squares, the same on any number of threads. It is finite exactly when every value is, since the square of
/// any finite f32 fits an f64 many times over; so it is also the test for gradients that went wrong.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    let parts: Vec<f64> = x.par_chunks(TASK_ELEMENTS).map(sum_of_squares_chunk).collect();
    parts.iter().sum()
}

simd_fn! {
    fn update_chunk(value: &mut [f32], gradient: &[f32], moment1: &mut [f32], moment2: &mut [f32], f: Factors) -> bool {
        // What is not finite has every bit of the exponent set; whole numbers, because sums of them may be taken in any order.
        const EXPONENT: u32 = 0x7f80_0000;
        let mut not_finite = 0u32;
        let n = value.len();
        let (gradient, moment1, moment2) = (&gradient[..n], &mut moment1[..n], &mut moment2[..n]);
        for i in 0..n {
            let g = gradient[i] * f.gradient_scale;
            let m = moment1[i] + (g - moment1[i]) * f.one_minus_beta1;
            let v = moment2[i] * f.beta2 + f.one_minus_beta2 * g * g;
            let denominator = v.sqrt() / f.root_correction2 + f.eps;
            let x = value[i] * f.keep - f.step_size * (m / denominator);
            for written in [x, m, v] {
                not_finite |= u32::from(written.to_bits() & EXPONENT == EXPONENT);
            }
            value[i] = x;
            moment1[i] = m;
            moment2[i] = v;
        }
        not_finite == 0
    }
}

simd_fn! {
    fn sum_of_squares_chunk(x: &[f32]) -> f64 {
        const LANES: usize = 16;
        let mut lanes = [0.0f64; LANES];
        let (blocks, rest) = x.as_chunks::<LANES>();
        for x in blocks {
            for i in 0..LANES {
                lanes[i] += f64::from(x[i]) * f64::from(x[i]);
            }
        }
        for (lane, &x) in lanes.iter_mut().zip(rest) {
            *lane += f64::from(x) * f64::from(x);
        }
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
            half /= 2;
        }
        lanes[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::reference::{assert_close, assert_same_on_any_thread_count, bits, each_isa, random, wide};

    fn step(step: u64) -> AdamW {
        AdamW { learning_rate: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step, gradient_scale: 0.5 }
    }

    #[test]
    fn ten_steps_agree_with_the_formula_in_f64_at_odd_sizes() {
        for n in [1, 7, 33, 20_001] {
            let (mut value, mut m1, mut m2) = (random(1, n), vec![0.0; n], vec![0.0; n]);
            let (mut p, mut m, mut v) = (wide(&value), vec![0.0; n], vec![0.0; n]);
            for t in 1..=10 {
                let g = random(100 + t, n);
                let adamw = step(t);
                adamw.update(&mut value, &g, &mut m1, &mut m2);
                let (c1, c2) = (1.0 - 0.9f64.powi(t as i32), 1.0 - 0.95f64.powi(t as i32));
                for i in 0..n {
                    let g = f64::from(g[i]) * 0.5;
                    m[i] = 0.9 * m[i] + 0.1 * g;
                    v[i] = 0.95 * v[i] + 0.05 * g * g;
                    p[i] -= 1e-2 * 0.1 * p[i];
                    p[i] -= 1e-2 * (m[i] / c1) / ((v[i] / c2).sqrt() + 1e-8);
                }
            }
            assert_close("value", &value, &p, 2e-6);
            assert_close("moment1", &m1, &m, 2e-6);
            assert_close("moment2", &m2, &v, 2e-6);
        }
    }

    #[test]
    fn a_zero_gradient_only_decays() {
        let (mut value, mut m1, mut m2) = (vec![2.0f32; 5], vec![0.0; 5], vec![0.0; 5]);
        step(1).update(&mut value, &[0.0; 5], &mut m1, &mut m2);
        assert_eq!(value, [2.0f32 * (1.0 - 1e-3f64) as f32; 5]);
    }

    #[test]
    fn what_is_no_longer_finite_is_noticed_wherever_it_arises() {
        let n = 40_003;
        for at in [0, 17, n - 1] {
            let fresh = || (vec![1.0f32; n], vec![0.5f32; n], vec![0.0f32; n], vec![0.0f32; n]);
            let (mut value, gradient, mut m1, mut m2) = fresh();
            assert!(step(1).update(&mut value, &gradient, &mut m1, &mut m2));
            // A gradient whose square is beyond f32, and a weight that is about to be.
            let (mut value, mut gradient, mut m1, mut m2) = fresh();
            gradient[at] = 1e30;
            assert!(!step(1).update(&mut value, &gradient, &mut m1, &mut m2));
            let (mut value, gradient, mut m1, mut m2) = fresh();
            value[at] = f32::MAX;
            let grows = AdamW { learning_rate: 1e38, weight_decay: -1.0, ..step(1) };
            assert!(!grows.update(&mut value, &gradient, &mut m1, &mut m2));
        }
    }

    #[test]
    fn sum_of_squares_agrees_with_f64_and_shows_values_that_are_not_finite() {
        for n in [0, 1, 17, 16 * 1024, 50_003] {
            let mut x = random(1, n);
            let want: f64 = x.iter().map(|&v| f64::from(v).powi(2)).sum();
            assert!((sum_of_squares(&x) - want).abs() <= 1e-12 * want);
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let Some(last) = x.last_mut() else { continue };
                *last = bad;
                assert!(!sum_of_squares(&x).is_finite());
            }
        }
        assert!(sum_of_squares(&[f32::MAX; 1000]).is_finite());
    }

    #[test]
    fn bits_do_not_depend_on_threads_or_instruction_set() {
        let n = 70_001;
        let (value, g) = (random(1, n), random(2, n));
        let all = || {
            let (mut all, mut m1, mut m2) = (value.clone(), vec![0.0; n], vec![0.0; n]);
            step(1).update(&mut all, &g, &mut m1, &mut m2);
            let norm = sum_of_squares(&all).to_bits();
            all.extend([f32::from_bits((norm >> 32) as u32), f32::from_bits(norm as u32)]);
            all
        };
        assert_same_on_any_thread_count(all);
        let mut results = Vec::new();
        each_isa(|_| results.push(bits(&all())));
        assert!(results.iter().all(|r| *r == results[0]));
    }
}
