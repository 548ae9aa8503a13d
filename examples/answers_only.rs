//! The hard case for a router: an expansion that was trained to answer and never to predict a question, so that the questions tell nothing
//! about which head knows the answer.
//!
//! `treering quickstart --out QS`, then `cargo run --release --example answers_only -- QS OUT` widens the quickstart's base, teaches it the
//! quickstart's new people with the loss on the answers alone, trains a gate, writes both to `OUT`, and asks every question of every head and router
//! (docs/routers.md). `treering eval OUT --trace FILE` and `scripts/route-prototypes.py FILE` then try others on it.

use std::path::{Path, PathBuf};

use treering::checkpoint::BaseCheckpoint;
use treering::data::Encoder;
use treering::data::biography::{People, QuestionSet};
use treering::eval::{Question, leading_token, questions};
use treering::grow::file::{self, BaseReference, Expansion, Manifest};
use treering::grow::ring::Standing;
use treering::grow::{self, Growth, Initialisation, Placement, Sizes};
use treering::model::{Gradients, Model, Precision};
use treering::report::{Align, Table};
use treering::route::examples::{Speech, Text, of_texts, own_texts};
use treering::route::{Gate, Router, parse_list};
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
/// What the base is asked to say for the gate.
const SAMPLES: usize = 480;
const SAMPLE_TOKENS: usize = 48;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [quickstart, out] = arguments.as_slice() else { return Err("usage: answers_only QUICKSTART OUT".into()) };
    let base = BaseCheckpoint::open(std::path::absolute(quickstart.join("base"))?)?;
    let config = base.config().clone();
    let encoder = Encoder::new(base.tokenizer()?)?;
    let people = People::generate(OLD_PEOPLE + NEW_PEOPLE, SEED)?;
    let set = QuestionSet::new(&people, OLD_PEOPLE..OLD_PEOPLE + NEW_PEOPLE, &encoder, SEQUENCE_LENGTH)?;

    // What was trained before is asked again.
    let mut model = Model::from_base(&base, Precision::F32, false)?;
    if out.join("treering.json").exists() {
        let Expansion { manifest, parameters } = file::load(out, &config, &base.sha256()?)?;
        model.widen(manifest.growth, parameters)?;
    } else {
        train(&mut model, &base, &set, out)?;
    }
    model.freeze();
    let gate = gate(&model, &base, &set)?;
    gate.save(out)?;
    model.set_gate(gate);
    let old = QuestionSet::new(&people, 0..OLD_PEOPLE, &encoder, SEQUENCE_LENGTH)?;
    let routers: Vec<Router> = parse_list("cosine,confidence,bayes,bayes-confidence,gate")?;
    let ask = |set: &QuestionSet| {
        let split = |q: &treering::data::biography::Question| {
            let (prompt, answer) = q.tokens.split_at(q.answer_start);
            Question { prompt: prompt.to_vec(), answer: answer.to_vec() }
        };
        questions(&model, &set.questions().iter().map(split).collect::<Vec<_>>(), SEQUENCE_LENGTH, 32, &routers)
    };
    let columns = ["new people", "whole answers", "old people", "whole answers"];
    let mut table = Table::new([("head or router", Align::Left)].into_iter().chain(columns.map(|name| (name, Align::Right))));
    for (new, old) in ask(&set)?.iter().zip(&ask(&old)?) {
        let shares = [new.first_token_accuracy, new.exact_match, old.first_token_accuracy, old.exact_match];
        table.row([new.head.to_string()].into_iter().chain(shares.map(|share| format!("{:.1} %", 100.0 * share))));
    }
    println!("{}", table.to_text());
    Ok(())
}

/// Widens the base, teaches it the answers, and writes the expansion.
fn train(model: &mut Model, base: &BaseCheckpoint, set: &QuestionSet, out: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let sizes = Sizes { hidden_size: 64, num_attention_heads: 2, num_key_value_heads: 2, intermediate_size: 192 };
    let growth = Growth { sizes, placement: Placement::preserve(base.config()) };
    let init = Initialisation::default();
    model.widen(growth.clone(), grow::initialise(base, &growth, init, SEED, &|_, _| Ok(()))?)?;
    let adamw = AdamWConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };
    let mut optimizer = Optimizer::new(adamw, model.parameters());
    let mut gradients = Gradients::zeros(model.parameters());
    for step in 1..=STEPS {
        let batch = set.train_batch(step - 1, QUESTIONS, SEED);
        gradients.clear();
        let loss = model.loss_and_gradients(&batch, &mut gradients, 1.0 / batch.target_count() as f32, false)?;
        let rate = LEARNING_RATE * (1.0 - (step - 1) as f64 / STEPS as f64);
        optimizer.update(model.parameters_mut(), &gradients, 1.0, step, |_| rate)?;
        if step % 20 == 0 {
            println!("step {step}: loss {:.4}", loss.nll / loss.targets as f64);
        }
    }
    let reference = BaseReference { path: base.path().to_path_buf(), sha256: base.sha256()? };
    let parameters = model.parameters().to_vec();
    let standing = Standing { base: reference, rings: Vec::new() };
    let manifest = Manifest::new(growth, init, SEED, standing, &parameters);
    file::save(out, &Expansion { manifest, parameters })?;
    Ok(())
}

/// A gate from the new questions, of which the answers count, and from what the base says by itself.
fn gate(model: &Model, base: &BaseCheckpoint, set: &QuestionSet) -> Result<Gate, Box<dyn std::error::Error>> {
    let tokenizer = base.tokenizer()?;
    let new = Text::of_batch(&set.train_batch(0, set.questions().len(), SEED));
    let leading = leading_token(&tokenizer)?;
    let speech = Speech {
        samples: SAMPLES,
        tokens: SAMPLE_TOKENS,
        leading: leading.or(tokenizer.eos_token_id()),
        always_leads: leading.is_some(),
        ends: treering::generate::end_tokens(model, &tokenizer),
        seed: SEED,
    };
    let own = own_texts(model, &new, &speech, &mut |_, _| Ok(()))?;
    let [new, own] = [of_texts(model, &new, &mut |_, _| Ok(()))?, of_texts(model, &own, &mut |_, _| Ok(()))?];
    println!("gate: {} tokens of the new questions and answers, {} of what the base says", new.len(), own.len());
    Ok(Gate::train(&new, &own, SEED)?)
}
