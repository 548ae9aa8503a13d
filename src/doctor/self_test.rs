//! Every instruction set that this processor can run, against the portable one, and the portable one against f64.

use std::collections::HashMap;

use serde::Serialize;

use crate::checkpoint::{BaseCheckpoint, Config};
use crate::data::Batch;
use crate::data::order::Random;
use crate::error::Result;
use crate::grow::layout::base_parameters;
use crate::grow::{self, Growth, Initial, Initialisation, Module, Placement, Sizes};
use crate::model::{Gradients, Model, Precision};
use crate::ops::adamw::{AdamW, sum_of_squares};
use crate::ops::bf16::{from_bf16, to_bf16};
use crate::ops::gemm::{Left, Right, View, gemm};
use crate::ops::isa::Isa;
use crate::ops::packed::Packed;

/// One comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// What was computed.
    pub name: String,
    /// With which instructions.
    pub instructions: Isa,
    /// What it was compared with: `f64`, or `portable` instructions, or `one thread`.
    pub against: &'static str,
    /// The largest deviation, as a share of the largest expected number; infinite where one was not finite.
    pub deviation: f64,
    /// What is allowed: 0 where the bits must be the same.
    pub limit: f64,
    /// Whether it is not more than that.
    pub holds: bool,
}

impl Check {
    fn new(name: &str, instructions: Isa, against: &'static str, deviation: f64, limit: f64) -> Self {
        Self { name: name.into(), instructions, against, deviation, limit, holds: deviation <= limit }
    }
}

/// Sums of f32 in another order, with and without fused multiply-adds.
const F32: f64 = 1e-5;
/// A gradient after a whole pass in f32.
const F32_STEP: f64 = 1e-4;
/// The same in bf16: operands on the border between two bf16 values round to either side.
const BF16_STEP: f64 = 3e-2;

/// Compares all kernels. It takes about a second, and switches instruction sets while it runs: nothing else may compute in this process meanwhile.
pub fn self_test() -> Vec<Check> {
    let sets: Vec<Isa> = Isa::ALL.into_iter().filter(|isa| isa.is_available() && *isa <= Isa::detect()).collect();
    let mut checks = Vec::new();
    let mut portable: HashMap<&str, Vec<f32>> = HashMap::new();
    for &isa in &sets {
        Isa::limit(isa);
        for precision in [Precision::F32, Precision::Bf16] {
            checks.extend(products(isa, precision));
        }
        let (updated, norm) = optimizer();
        let mut compare = |name: &'static str, found: Vec<f32>, limit: f64| match portable.get(name) {
            None => drop(portable.insert(name, found)),
            Some(expected) => {
                checks.push(Check::new(name, isa, "portable", deviation(&found, expected.iter().map(|&v| f64::from(v))), limit));
            }
        };
        compare("AdamW", updated, 0.0);
        compare("sum of squares", norm, 0.0);
        for (name, precision, limit) in
            [("training step, f32", Precision::F32, F32_STEP), ("training step, bf16", Precision::Bf16, BF16_STEP)]
        {
            // A model of ours; what keeps it from being built is a defect as well, and no values are held to be infinitely far from any.
            compare(name, training_step(precision).unwrap_or_default(), limit);
        }
    }
    Isa::limit(Isa::RICHEST);
    let fastest = sets.last().copied().unwrap_or(Isa::Portable);
    for (name, precision) in [("training step, f32", Precision::F32), ("training step, bf16", Precision::Bf16)] {
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().ok()?;
            pool.install(|| training_step(precision)).ok()
        };
        let found = match (on(4), on(1)) {
            (Some(four), Some(one)) => deviation(&four, one.iter().map(|&v| f64::from(v))),
            _ => f64::INFINITY,
        };
        checks.push(Check::new(name, fastest, "one thread", found, 0.0));
    }
    checks
}

/// The largest difference over the largest expected number.
fn deviation(found: &[f32], expected: impl ExactSizeIterator<Item = f64>) -> f64 {
    if found.is_empty() || found.len() != expected.len() {
        return f64::INFINITY;
    }
    let (mut difference, mut scale) = (0.0f64, 0.0f64);
    for (&found, expected) in found.iter().zip(expected) {
        let apart = (f64::from(found) - expected).abs();
        if !apart.is_finite() {
            return f64::INFINITY;
        }
        difference = difference.max(apart);
        scale = scale.max(expected.abs());
    }
    if difference == 0.0 { 0.0 } else { difference / scale }
}

fn values(seed: u64, count: usize, scale: f32) -> Vec<f32> {
    let mut random = Random::new(seed, 0);
    (0..count).map(|_| (random.below(200_001) as f32 / 100_000.0 - 1.0) * scale).collect()
}

/// Products of odd and even sizes, smaller and larger than the tiles and blocks, against f64.
fn products(isa: Isa, precision: Precision) -> Vec<Check> {
    let round = |v: f32| f64::from(if precision == Precision::Bf16 { from_bf16(to_bf16(v)) } else { v });
    let (mut plain, mut packed, mut turned) = (0.0f64, 0.0f64, 0.0f64);
    for (m, n, k) in [(1, 1, 1), (1, 40, 33), (7, 65, 321), (13, 128, 640), (200, 70, 100), (5, 300, 650)] {
        let (a, b) = (values(1, m * k, 1.0), values(2, k * n, 1.0));
        let mut expected = vec![0.0f64; m * n];
        for i in 0..m {
            for p in 0..k {
                let x = round(a[i * k + p]);
                for j in 0..n {
                    expected[i * n + j] += x * round(b[p * n + j]);
                }
            }
        }
        let run = |left: Left<'_>, right: Right<'_>| {
            let mut c = vec![0.0f32; m * n];
            gemm(m, n, k, left, right, &mut c, n, false);
            deviation(&c, expected.iter().copied())
        };
        // `[n, k]`, as weights are kept.
        let weight: Vec<f32> = (0..n * k).map(|i| b[i % k * n + i / k]).collect();
        let a_turned: Vec<f32> = (0..m * k).map(|i| a[i % m * k + i / m]).collect();
        let kept = Packed::from_weight(&weight, n, k, precision);
        plain = plain.max(run(Left::F32(View::rows(&a, k)), Right::F32(View::rows(&b, n), precision)));
        packed = packed.max(run(Left::F32(View::rows(&a, k)), Right::Packed(&kept)));
        turned = turned.max(run(Left::F32(View::rows(&a_turned, m).t()), Right::F32(View::rows(&weight, k).t(), precision)));
    }
    let name = if precision == Precision::Bf16 { "bf16" } else { "f32" };
    [("", plain), (", packed weights", packed), (", transposed", turned)]
        .map(|(how, found)| Check::new(&format!("matrix product, {name}{how}"), isa, "f64", found, F32))
        .into()
}

/// Three updates of a tensor, and a sum over it.
fn optimizer() -> (Vec<f32>, Vec<f32>) {
    let n = 40_003;
    let (mut value, mut first, mut second) = (values(3, n, 1.0), vec![0.0; n], vec![0.0; n]);
    for step in 1..=3 {
        let adamw = AdamW { learning_rate: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step, gradient_scale: 0.5 };
        adamw.update(&mut value, &values(3 + step, n, 1.0), &mut first, &mut second);
    }
    let bits = sum_of_squares(&value).to_bits();
    value.extend(first);
    // As two halves that are exact in f32.
    let halves = [48, 32, 16, 0].map(|shift| ((bits >> shift) & 0xffff) as f32);
    (value, halves.into())
}

/// A small widened model and something to train it on.
fn small_model(precision: Precision) -> Result<(Model, Batch)> {
    let mut config = Config::new(96, 48, 80, 2, 4);
    config.num_key_value_heads = 2;
    config.head_dim = 16;
    config.max_position_embeddings = 64;
    config.tie_word_embeddings = true;
    let tensors = base_parameters(&config).into_iter().enumerate().map(|(index, parameter)| {
        let count = parameter.shape.iter().product();
        let mut value = values(10 + index as u64, count, 0.2);
        if parameter.shape.len() == 1 {
            value.iter_mut().for_each(|v| *v += 1.0);
        }
        (parameter.name, (parameter.shape, value))
    });
    let base = BaseCheckpoint::from_memory(config.clone(), tensors.collect(), None)?;
    let growth = Growth {
        sizes: Sizes { hidden_size: 16, num_attention_heads: 2, num_key_value_heads: 1, intermediate_size: 24 },
        placement: Placement::new(1, &[Module::Attention, Module::Ffn]),
    };
    let init = Initialisation { base_to_expansion: Initial::Random, expansion_to_expansion: Initial::Random };
    let mut parameters = grow::initialise_ring(&base, &[], &growth, init, 1, &|_, _| Ok(()))?;
    // Blocks that start at zero let no gradient through.
    for (index, parameter) in parameters.iter_mut().enumerate() {
        let noise = values(100 + index as u64, parameter.value.len(), 0.1);
        parameter.value.iter_mut().zip(noise).for_each(|(v, noise)| *v += noise);
    }
    let mut model = Model::from_base(&base, precision, false)?;
    model.widen(growth, parameters)?;
    let mut random = Random::new(7, 0);
    let (batch_size, sequence_length) = (3, 40);
    let mut tokens = || (0..batch_size * sequence_length).map(|_| random.below(96) as u32).collect();
    let batch = Batch { batch_size, sequence_length, tokens: tokens(), targets: tokens(), document_starts: None };
    Ok((model, batch))
}

/// The loss of a small widened model and its gradients: every operation, forward and backward.
fn training_step(precision: Precision) -> Result<Vec<f32>> {
    let (model, batch) = small_model(precision)?;
    let mut gradients = Gradients::zeros(model.parameters());
    let loss = model.loss_and_gradients(&batch, &mut gradients, 1.0 / 120.0, false)?;
    // Each gradient by the size of its largest: large ones would hide small ones otherwise.
    let mut all = vec![(loss.nll / 120.0) as f32];
    for gradient in &gradients.values {
        let largest = gradient.iter().fold(f32::MIN_POSITIVE, |most, v| most.max(v.abs()));
        all.push(largest.log2() / 16.0);
        all.extend(gradient.iter().map(|v| v / largest));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_wrong_or_missing_does_not_hold() {
        let expected = || [1.0f64, -4.0, 0.5].into_iter();
        assert_eq!(deviation(&[1.0, -4.0, 0.5], expected()), 0.0);
        assert_eq!(deviation(&[1.0, -4.0, 1.5], expected()), 0.25);
        assert_eq!(deviation(&[1.0, -4.0], expected()), f64::INFINITY);
        assert_eq!(deviation(&[1.0, f32::NAN, 0.5], expected()), f64::INFINITY);
        assert!(!Check::new("x", Isa::Portable, "f64", f64::INFINITY, 1.0).holds);
        assert!(!Check::new("x", Isa::Portable, "f64", f64::NAN, 1.0).holds);
    }

    #[test]
    fn a_training_step_has_gradients_that_are_no_zeros() {
        let step = training_step(Precision::F32).unwrap();
        assert!(step.len() > 1000 && (step[0] - 96f32.ln()).abs() < 2.0, "{} {}", step.len(), step[0]);
        assert!(step.iter().filter(|v| **v != 0.0).count() > step.len() * 9 / 10);
        let (model, batch) = small_model(Precision::F32).unwrap();
        let mut gradients = Gradients::zeros(model.parameters());
        model.loss_and_gradients(&batch, &mut gradients, 1.0, false).unwrap();
        let parameters = model.parameters().iter().zip(&gradients.values);
        let zeros: Vec<&str> = parameters.filter(|(_, g)| g.iter().all(|v| *v == 0.0)).map(|(p, _)| p.name.as_str()).collect();
        assert!(zeros.is_empty(), "{zeros:?}");
    }
}
