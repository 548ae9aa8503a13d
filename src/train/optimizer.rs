//! AdamW: moments for every trained parameter, and the gradient's norm.

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::model::{Block, Gradients, Parameter};
use crate::ops;

/// AdamW's constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay, of matrices only.
    pub weight_decay: f64,
}

/// Values summed by one thread: fixed, so that sums do not depend on how many threads there are.
const CHUNK: usize = 1 << 16;

/// The two moments of every parameter.
///
/// They are kept as [`Parameter`]s named `{parameter}.first_moment` and `{parameter}.second_moment`, as they are in files: first all first
/// moments, then all second ones, each in the order of the model's parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Optimizer {
    config: AdamWConfig,
    moments: Vec<Parameter>,
}

impl Optimizer {
    /// Zero moments for `parameters`.
    pub fn new(config: AdamWConfig, parameters: &[Parameter]) -> Self {
        let moments = moment_names(parameters.iter().map(|p| p.name.as_str()))
            .into_iter()
            .zip(parameters.iter().chain(parameters))
            .map(|(name, p)| Parameter { name, block: p.block, shape: p.shape.clone(), value: vec![0.0; p.value.len()] })
            .collect();
        Self { config, moments }
    }

    /// Moments read from a checkpoint, in the order of [`Optimizer::moments`]; their names and shapes were checked by the reader.
    pub fn from_moments(config: AdamWConfig, moments: Vec<Parameter>) -> Self {
        Self { config, moments }
    }

    /// The moments as they are kept in files.
    pub fn moments(&self) -> &[Parameter] {
        &self.moments
    }

    /// Updates `parameters`: update number `step` (from 1, for the bias correction) with gradients times `scale` and each block's learning rate.
    ///
    /// # Errors
    /// [`Error::Numeric`] naming the first parameter, or moment of one, that is no longer finite; everything is updated all the same.
    pub fn update(
        &mut self,
        parameters: &mut [Parameter],
        gradients: &Gradients,
        scale: f32,
        step: u64,
        learning_rate: impl Fn(Block) -> f64,
    ) -> Result<()> {
        let (first, second) = self.moments.split_at_mut(parameters.len());
        let rates: Vec<f64> = parameters.iter().map(|parameter| learning_rate(parameter.block)).collect();
        let config = &self.config;
        let not_finite = ops::on_workers(|| {
            let mut not_finite = None;
            let all = parameters.iter_mut().zip(&gradients.values).zip(first).zip(second).zip(rates);
            for (index, ((((parameter, gradient), m), v), learning_rate)) in all.enumerate() {
                let adamw = ops::adamw::AdamW {
                    learning_rate,
                    beta1: config.beta1,
                    beta2: config.beta2,
                    eps: config.epsilon,
                    weight_decay: if parameter.decays() { config.weight_decay } else { 0.0 },
                    step,
                    gradient_scale: scale,
                };
                if !adamw.update(&mut parameter.value, gradient, &mut m.value, &mut v.value) {
                    not_finite = not_finite.or(Some(index));
                }
            }
            not_finite
        });
        match not_finite {
            None => Ok(()),
            Some(index) => {
                let (first, second) = self.moments.split_at(parameters.len());
                let candidates = [&parameters[index], &first[index], &second[index]];
                let name = first_not_finite(candidates).unwrap_or(&parameters[index].name);
                Err(Error::Numeric(format!("the update made `{name}` not finite")))
            }
        }
    }
}

/// Names of the moments of parameters with these names, in the order of [`Optimizer::moments`].
pub fn moment_names<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Vec<String> {
    let first = names.clone().map(|name| format!("{name}.first_moment"));
    first.chain(names.map(|name| format!("{name}.second_moment"))).collect()
}

/// The Euclidean norm of all gradients together, the same on any number of threads.
///
/// # Errors
/// [`Error::Numeric`] naming the first parameter whose gradient is not finite.
pub fn gradient_norm(parameters: &[Parameter], gradients: &Gradients) -> Result<f64> {
    let sums: Vec<f64> = ops::on_workers(|| {
        let sum = |gradient: &Vec<f32>| gradient.par_chunks(CHUNK).map(sum_of_squares).collect::<Vec<f64>>().iter().sum();
        gradients.values.iter().map(sum).collect()
    });
    let mut total = 0.0;
    for (parameter, sum) in parameters.iter().zip(sums) {
        if !sum.is_finite() {
            return Err(Error::Numeric(format!("the gradient of `{}` is not finite", parameter.name)));
        }
        total += sum;
    }
    Ok(total.sqrt())
}

/// The first parameter with a value that is not finite.
pub fn first_not_finite<'a>(parameters: impl IntoIterator<Item = &'a Parameter>) -> Option<&'a str> {
    parameters.into_iter().find(|p| p.value.par_chunks(CHUNK).any(|chunk| chunk.iter().any(|x| !x.is_finite()))).map(|p| p.name.as_str())
}

/// Eight sums side by side, so that the compiler can use wide registers without changing the order.
fn sum_of_squares(values: &[f32]) -> f64 {
    let (chunks, rest) = values.as_chunks::<8>();
    let mut sums = [0.0f64; 8];
    for chunk in chunks {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(x) * f64::from(x);
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter(name: &str, shape: &[usize], value: f32) -> Parameter {
        Parameter {
            name: name.into(),
            block: Block::ExpansionToExpansion,
            shape: shape.to_vec(),
            value: vec![value; shape.iter().product()],
        }
    }

    #[test]
    fn the_norm_is_over_all_parameters_and_independent_of_threads() {
        let parameters = [parameter("a", &[300, 700], 0.0), parameter("b", &[5], 0.0)];
        let mut gradients = Gradients::zeros(&parameters);
        for (i, g) in gradients.values.iter_mut().flatten().enumerate() {
            *g = (i as f32 * 0.37).sin();
        }
        let expected: f64 = gradients.values.iter().flatten().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| gradient_norm(&parameters, &gradients).unwrap())
        };
        assert!((on(1) - expected).abs() < 1e-9 * expected);
        assert_eq!(on(1).to_bits(), on(3).to_bits());
    }

    #[test]
    fn a_gradient_that_is_not_finite_is_named() {
        let parameters = [parameter("good", &[9], 0.0), parameter("model.bad", &[9], 0.0)];
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut gradients = Gradients::zeros(&parameters);
            gradients.values[1][8] = value;
            let error = gradient_norm(&parameters, &gradients).unwrap_err();
            assert!(matches!(&error, Error::Numeric(text) if text.contains("`model.bad`")), "{error}");
        }
    }

    #[test]
    fn a_value_that_is_not_finite_is_found() {
        let mut parameters = [parameter("a", &[3], 1.0), parameter("b", &[CHUNK + 1], 1.0)];
        assert_eq!(first_not_finite(&parameters), None);
        parameters[1].value[CHUNK] = f32::NAN;
        assert_eq!(first_not_finite(&parameters), Some("b"));
    }

    #[test]
    fn an_update_that_is_not_finite_names_what_it_spoilt() {
        let config = AdamWConfig { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.0 };
        let fresh = || [parameter("good", &[2, 5], 1.0), parameter("model.bad", &[3, 4], 1.0)];
        for (value, gradient, rate, name) in [(1.0, 1e30, 0.01, "`model.bad.second_moment`"), (-3.4e38, 1.0, 1e37, "`model.bad`")] {
            let mut parameters = fresh();
            parameters[1].value[7] = value;
            let mut optimizer = Optimizer::new(config, &parameters);
            let mut gradients = Gradients::zeros(&parameters);
            gradients.values[1][7] = gradient;
            let error = optimizer.update(&mut parameters, &gradients, 1.0, 1, |_| rate).unwrap_err();
            assert!(matches!(&error, Error::Numeric(text) if text.contains(name)), "{error}");
        }
    }

    #[test]
    fn updates_are_those_of_the_formula_and_norms_do_not_decay() {
        let config = AdamWConfig { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.1 };
        let mut parameters = [parameter("matrix", &[2, 5], 2.0), parameter("norm", &[3], 2.0)];
        let mut optimizer = Optimizer::new(config, &parameters);
        let mut expected = [(2.0f64, 0.0f64, 0.0f64); 2];
        for step in 1..=4u64 {
            let mut gradients = Gradients::zeros(&parameters);
            gradients.values.iter_mut().flatten().for_each(|g| *g = 0.5 * step as f32);
            optimizer.update(&mut parameters, &gradients, 0.5, step, |_| 0.01).unwrap();
            for (decay, (p, m, v)) in [0.1, 0.0].into_iter().zip(&mut expected) {
                let g = 0.25 * step as f64;
                *m = 0.9 * *m + 0.1 * g;
                *v = 0.99 * *v + 0.01 * g * g;
                let (m_hat, v_hat) = (*m / (1.0 - 0.9f64.powi(step as i32)), *v / (1.0 - 0.99f64.powi(step as i32)));
                *p -= 0.01 * (m_hat / (v_hat.sqrt() + 1e-8) + decay * *p);
            }
        }
        for (parameter, (expected, ..)) in parameters.iter().zip(expected) {
            assert!(parameter.value.iter().all(|&x| (f64::from(x) - expected).abs() < 2e-6), "{} {expected}", parameter.value[0]);
        }
        assert_eq!(optimizer.moments().len(), 4);
        assert_eq!(optimizer.moments()[3].name, "norm.second_moment");
    }
}
