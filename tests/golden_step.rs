//! Whole training steps against PyTorch, through the kept results of `scripts/make-step-golden.py`.
//!
//! The fixtures hold tiny models (Llamas, tied and untied with biases, and one of each other family) whose every block is random, twenty batches in which two documents
//! share a window, and what `peers/scale_torch.py` made of them in f64.

use std::collections::HashMap;
use std::path::PathBuf;

use serde::Deserialize;
use treering::checkpoint::BaseCheckpoint;
use treering::data::batch::Batch;
use treering::grow::{Growth, Placement, file, layout};
use treering::model::{Gradients, Model, Precision};
use treering::train::optimizer::{AdamWConfig, Optimizer};

#[derive(Deserialize)]
struct Golden {
    growth: Growth,
    adamw: AdamW,
    losses: HashMap<String, Vec<f64>>,
    batches: Vec<Windows>,
}

#[derive(Deserialize)]
struct AdamW {
    learning_rate: f64,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    weight_decay: f64,
}

#[derive(Deserialize)]
struct Windows {
    tokens: Vec<Vec<u32>>,
    targets: Vec<Vec<u32>>,
    document_starts: Vec<Vec<u32>>,
}

impl Windows {
    fn batch(&self) -> Batch {
        Batch {
            batch_size: self.tokens.len(),
            sequence_length: self.tokens[0].len(),
            tokens: self.tokens.concat(),
            targets: self.targets.concat(),
            document_starts: Some(self.document_starts.concat()),
        }
    }
}

const MODELS: [&str; 6] = ["tied", "untied", "mistral", "qwen2", "qwen3", "olmo2"];

/// What a model is trained by: Adapt has all that Preserve has, so only the Llamas have both.
fn methods(model: &str) -> &'static [&'static str] {
    if model.ends_with("tied") { &["preserve", "adapt", "full"] } else { &["adapt", "full"] }
}

fn folder(model: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/step-golden").join(model)
}

fn golden(model: &str) -> Golden {
    serde_json::from_str(&std::fs::read_to_string(folder(model).join("golden.json")).unwrap()).unwrap()
}

/// The model that `method` trains; Preserve leaves out W12.
fn model(name: &str, method: &str, golden: &Golden, precision: Precision) -> Model {
    let base = BaseCheckpoint::open(folder(name)).unwrap();
    let mut model = Model::from_base(&base, precision, method == "full").unwrap();
    if method != "full" {
        let mut growth = golden.growth.clone();
        if method == "preserve" {
            growth.placement = Placement::preserve(base.config());
        }
        let (kept, _) = file::load_parameters(folder(name).join("expansion.safetensors"), None).unwrap();
        let mut kept: HashMap<String, _> = kept.into_iter().map(|p| (p.name.clone(), p)).collect();
        let parameters = layout::expansion_parameters(base.config(), &growth).iter().map(|e| kept.remove(&e.name).unwrap()).collect();
        model.widen(growth, parameters).unwrap();
    }
    model
}

fn update(optimizer: &mut Optimizer, model: &mut Model, gradients: &Gradients, batch: &Batch, step: u64, learning_rate: f64) {
    optimizer.update(model.parameters_mut(), gradients, 1.0 / batch.target_count() as f32, step, |_| learning_rate).unwrap();
}

fn optimizer(golden: &Golden, model: &Model) -> Optimizer {
    let AdamW { beta1, beta2, epsilon, weight_decay, .. } = golden.adamw;
    Optimizer::new(AdamWConfig { beta1, beta2, epsilon, weight_decay }, model.parameters())
}

fn largest_difference(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, |most, d| if d.is_nan() { f32::NAN } else { most.max(d) })
}

#[test]
fn gradients_and_weights_after_one_step_are_those_of_pytorch() {
    for name in MODELS {
        let golden = golden(name);
        let batch = golden.batches[0].batch();
        for (method, recompute) in methods(name).iter().flat_map(|&method| [(method, false), (method, true)]) {
            let (expected, _) = file::load_parameters(folder(name).join(format!("{method}.safetensors")), None).unwrap();
            let expected: HashMap<String, Vec<f32>> = expected.into_iter().map(|p| (p.name, p.value)).collect();
            let mut model = model(name, method, &golden, Precision::F32);
            assert_eq!(expected.len(), 2 * model.parameters().len(), "{name} {method}: number of trained tensors");
            let mut gradients = Gradients::zeros(model.parameters());
            let loss = model.loss_and_gradients(&batch, &mut gradients, 1.0, recompute).unwrap();
            let mean = loss.nll / loss.targets as f64;
            assert!((mean - golden.losses[method][0]).abs() < 1e-5, "{name} {method}: loss {mean}, PyTorch {}", golden.losses[method][0]);
            for (parameter, gradient) in model.parameters().iter().zip(&gradients.values) {
                let expected = &expected[&format!("gradient/{}", parameter.name)];
                let largest = expected.iter().fold(0.0f32, |most, g| most.max(g.abs()));
                let difference = largest_difference(gradient, expected);
                assert!(
                    difference <= 1e-5 * largest.max(1.0),
                    "{name} {method}: gradient of {} differs by {difference} of {largest}",
                    parameter.name
                );
            }
            let mut optimizer = optimizer(&golden, &model);
            update(&mut optimizer, &mut model, &gradients, &batch, 1, golden.adamw.learning_rate);
            for parameter in model.parameters() {
                let difference = largest_difference(&parameter.value, &expected[&format!("value/{}", parameter.name)]);
                // A step is as long as the learning rate, so this is a hundredth of what was learnt.
                assert!(
                    difference <= 0.01 * golden.adamw.learning_rate as f32,
                    "{name} {method}: {} differs by {difference}",
                    parameter.name
                );
            }
        }
    }
}

#[test]
fn losses_of_twenty_steps_are_those_of_pytorch() {
    // In bf16 both operands of every product lose sixteen bits, so only the course of the losses can agree.
    for (precision, tolerance) in [(Precision::F32, 2e-4), (Precision::Bf16, 0.1)] {
        for name in MODELS {
            let golden = golden(name);
            for &method in methods(name) {
                let mut model = model(name, method, &golden, precision);
                let mut optimizer = optimizer(&golden, &model);
                let mut gradients = Gradients::zeros(model.parameters());
                // Where every weight of these two moves by a hundredth a step, roundings grow from step to step until the courses part, after the eighth.
                let parts = precision == Precision::Bf16 && method == "full" && matches!(name, "qwen2" | "olmo2");
                let compared = if parts { 8 } else { golden.batches.len() };
                for (index, (windows, expected)) in golden.batches.iter().zip(&golden.losses[method]).enumerate().take(compared) {
                    let batch = windows.batch();
                    gradients.clear();
                    let loss = model.loss_and_gradients(&batch, &mut gradients, 1.0, false).unwrap();
                    let mean = loss.nll / loss.targets as f64;
                    assert!((mean - expected).abs() < tolerance, "{name} {method} {precision:?} step {index}: {mean}, PyTorch {expected}");
                    update(&mut optimizer, &mut model, &gradients, &batch, index as u64 + 1, golden.adamw.learning_rate);
                }
            }
        }
    }
}
