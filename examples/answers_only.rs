//! The hard case for a router: an expansion that was trained to answer and never to predict a question, so that the questions tell nothing
//! about which head knows the answer.
//!
//! `treering quickstart --out QS`, then `cargo run --release --example answers_only -- QS OUT` widens the quickstart's base, teaches it the
//! quickstart's new people with the loss on the answers alone, and writes the expansion to `OUT`. `treering eval OUT --trace FILE` and
//! `scripts/route-prototypes.py FILE` then try routers on it (docs/experiments.md).

use std::path::PathBuf;

use treering::checkpoint::BaseCheckpoint;
use treering::data::Encoder;
use treering::data::biography::{People, QuestionSet};
use treering::grow::file::{self, BaseReference, Expansion, Manifest};
use treering::grow::ring::Standing;
use treering::grow::{self, Growth, Initialisation, Placement, Sizes};
use treering::model::{Gradients, Model, Precision};
use treering::train::optimizer::{AdamWConfig, Optimizer};

/// The quickstart's defaults.
const OLD_PEOPLE: u64 = 40;
const NEW_PEOPLE: u64 = 20;
const SEED: u64 = 42;
const SEQUENCE_LENGTH: usize = 96;
const STEPS: u64 = 120;
const LEARNING_RATE: f64 = 3e-3;
/// Questions a step; a question is a sixth of the quickstart's windows.
const QUESTIONS: usize = 48;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [quickstart, out] = arguments.as_slice() else { return Err("usage: answers_only QUICKSTART OUT".into()) };
    let base = BaseCheckpoint::open(std::path::absolute(quickstart.join("base"))?)?;
    let config = base.config().clone();
    let encoder = Encoder::new(base.tokenizer()?)?;
    let people = People::generate(OLD_PEOPLE + NEW_PEOPLE, SEED)?;
    let set = QuestionSet::new(&people, OLD_PEOPLE..OLD_PEOPLE + NEW_PEOPLE, &encoder, SEQUENCE_LENGTH)?;

    let sizes = Sizes { hidden_size: 64, num_attention_heads: 2, num_key_value_heads: 2, intermediate_size: 192 };
    let growth = Growth { sizes, placement: Placement::preserve(&config) };
    let init = Initialisation::default();
    let mut model = Model::from_base(&base, Precision::F32, false)?;
    model.widen(growth.clone(), grow::initialise(&base, &growth, init, SEED, &|_, _| Ok(()))?)?;
    let adamw = AdamWConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };
    let mut optimizer = Optimizer::new(adamw, model.parameters());
    let mut gradients = Gradients::zeros(model.parameters());
    for step in 1..=STEPS {
        let batch = set.train_batch(step - 1, QUESTIONS, SEED);
        gradients.clear();
        let loss = model.loss_and_gradients(&batch, &mut gradients, 1.0 / batch.target_count() as f32, false)?;
        let rate = LEARNING_RATE * (1.0 - (step - 1) as f64 / STEPS as f64);
        optimizer.update(model.parameters_mut(), &gradients, 1.0, step, |_| rate);
        if step % 20 == 0 {
            println!("step {step}: loss {:.4}", loss.nll / loss.targets as f64);
        }
    }
    let reference = BaseReference { path: std::path::absolute(quickstart.join("base"))?, sha256: base.sha256()? };
    let parameters = model.parameters().to_vec();
    let standing = Standing { base: reference, rings: Vec::new() };
    let manifest = Manifest::new(growth, init, SEED, standing, &parameters);
    file::save(out, &Expansion { manifest, parameters })?;
    Ok(())
}
