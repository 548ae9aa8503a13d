//! Writes what Treering computes for a model, for `peers/parity.py` to compare with PyTorch. Run by `scripts/parity-torch.sh`.
//!
//! `cargo run --release --example parity -- MODEL OUT_DIR` writes `case.json` (tokens, growth, AdamW), `expansion.safetensors`
//! (grown `svd,zero`, then every zero replaced by small random values, so that no block can be wrong unseen), `logits.safetensors` and,
//! for preserve, adapt and full, `NAME.safetensors` with the gradients and the weights after one step.

use std::path::{Path, PathBuf};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use treering::checkpoint::{BaseCheckpoint, Config};
use treering::data::batch::{Batch, IGNORE};
use treering::grow::{self, Growth, Initialisation, Module, Placement, Sizes, file, layout};
use treering::model::{Block, Gradients, Model, Parameter, Precision};
use treering::train::optimizer::{AdamWConfig, Optimizer};

/// AdamW as both sides use it; epsilon is large enough that rounding noise in a gradient that is nearly zero does not become a whole step.
const ADAMW: AdamWConfig = AdamWConfig { beta1: 0.9, beta2: 0.95, epsilon: 1e-4, weight_decay: 0.1 };
const LEARNING_RATE: f64 = 1e-3;
const WINDOWS: usize = 2;
const LENGTH: usize = 48;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [model, out] = arguments.as_slice() else { return Err("usage: parity MODEL OUT_DIR".into()) };
    std::fs::create_dir_all(out)?;
    let base = BaseCheckpoint::open(model)?;
    let config = base.config().clone();
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let batch = batch(&config, &mut random);
    let growth = growth(&config);
    let preserve = Growth { placement: Placement::preserve(&config), ..growth.clone() };

    let mut expansion = grow::initialise(&base, &growth, Initialisation::default(), 0, &|_, _| Ok(()))?;
    for parameter in &mut expansion {
        for value in parameter.value.iter_mut().filter(|value| **value == 0.0) {
            *value = 0.02 * (random.next_u32() as f32 / u32::MAX as f32 - 0.5);
        }
    }
    file::save_parameters(out.join("expansion.safetensors"), &expansion, &Default::default())?;
    let kept = |growth: &Growth| {
        let names: Vec<String> = layout::expansion_parameters(&config, growth).into_iter().map(|expected| expected.name).collect();
        expansion.iter().filter(|p| names.contains(&p.name)).cloned().collect::<Vec<_>>()
    };

    let mut plain = Model::from_base(&base, Precision::F32, false)?;
    let mut results = logits(&plain, &batch, &["base"])?;
    plain.widen(growth.clone(), kept(&growth))?;
    results.extend(logits(&plain, &batch, &["preservation", "adaptation"])?);
    file::save_parameters(out.join("logits.safetensors"), &results, &Default::default())?;

    for (method, growth) in [("preserve", Some(&preserve)), ("adapt", Some(&growth)), ("full", None)] {
        let mut model = Model::from_base(&base, Precision::F32, growth.is_none())?;
        if let Some(growth) = growth {
            model.widen(growth.clone(), kept(growth))?;
        }
        one_step(&mut model, &batch, &out.join(format!("{method}.safetensors")))?;
    }
    let case = serde_json::json!({
        "windows": WINDOWS, "length": LENGTH, "tokens": batch.tokens, "targets": batch.targets, "ignore": IGNORE, "growth": growth,
        "learning_rate": LEARNING_RATE, "beta1": ADAMW.beta1, "beta2": ADAMW.beta2, "epsilon": ADAMW.epsilon, "weight_decay": ADAMW.weight_decay,
    });
    std::fs::write(out.join("case.json"), serde_json::to_string(&case)?)?;
    Ok(())
}

/// Random windows whose targets are the next tokens; one target does not count.
fn batch(config: &Config, random: &mut ChaCha8Rng) -> Batch {
    let stream: Vec<u32> = (0..WINDOWS * (LENGTH + 1)).map(|_| random.next_u32() % config.vocab_size as u32).collect();
    let windows = || stream.chunks(LENGTH + 1);
    let tokens = windows().flat_map(|window| &window[..LENGTH]).copied().collect();
    let mut targets: Vec<u32> = windows().flat_map(|window| &window[1..]).copied().collect();
    targets[LENGTH / 2] = IGNORE;
    Batch { batch_size: WINDOWS, sequence_length: LENGTH, tokens, targets, document_starts: None }
}

/// A modest growth that fits any base: one key/value head, W12 in every module of the upper half.
fn growth(config: &Config) -> Growth {
    Growth {
        sizes: Sizes {
            hidden_size: (config.hidden_size / 8).max(8),
            num_attention_heads: config.num_attention_heads / config.num_key_value_heads,
            num_key_value_heads: 1,
            intermediate_size: (config.intermediate_size / 8).max(8),
        },
        placement: Placement::new(config.num_hidden_layers / 2, &[Module::Attention, Module::Ffn]),
    }
}

/// The logits of every position of the first window, token by token through the cache, and the log-probabilities of all
/// targets from the batched forward pass, for each head.
fn logits(model: &Model, batch: &Batch, names: &[&str]) -> treering::Result<Vec<Parameter>> {
    let mut cache = model.new_cache(LENGTH);
    let mut heads = vec![Vec::new(); names.len()];
    for &token in &batch.tokens[..LENGTH] {
        for (head, logits) in heads.iter_mut().zip(model.step(&mut cache, &[token])?) {
            head.extend(logits);
        }
    }
    let vocab_size = model.config().vocab_size;
    let scores = model.score(batch, false)?;
    let mut tensors = Vec::new();
    for ((name, logits), log_probs) in names.iter().zip(heads).zip(scores.log_probs) {
        tensors.push(tensor(format!("{name}/logits"), vec![LENGTH, vocab_size], logits));
        tensors.push(tensor(format!("{name}/log_probs"), vec![WINDOWS, LENGTH], log_probs));
    }
    Ok(tensors)
}

fn one_step(model: &mut Model, batch: &Batch, path: &Path) -> treering::Result<()> {
    let mut gradients = Gradients::zeros(model.parameters());
    let scale = 1.0 / batch.target_count() as f32;
    model.loss_and_gradients(batch, &mut gradients, scale, false)?;
    let named = |kind: &str, p: &Parameter, value: &[f32]| tensor(format!("{kind}/{}", p.name), p.shape.clone(), value.to_vec());
    let mut tensors: Vec<Parameter> = model.parameters().iter().zip(&gradients.values).map(|(p, g)| named("gradient", p, g)).collect();
    Optimizer::new(ADAMW, model.parameters()).update(model.parameters_mut(), &gradients, 1.0, 1, |_| LEARNING_RATE)?;
    tensors.extend(model.parameters().iter().map(|p| named("value", p, &p.value)));
    file::save_parameters(path, &tensors, &Default::default())
}

fn tensor(name: String, shape: Vec<usize>, value: Vec<f32>) -> Parameter {
    Parameter { name, block: Block::Base, shape, value }
}
