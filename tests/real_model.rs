//! What must hold on a real model. Runs where TREERING_TEST_MODEL names SmolLM2-135M-Instruct.Q4_1.gguf (`scripts/get-smollm2.sh`);
//! elsewhere each test says that it was left out. The expected numbers are from `scripts/make-real-model-golden.py` (transformers, f32).

use std::io::Write;

use serde::Deserialize;
use treering::checkpoint::BaseCheckpoint;
use treering::data::batch::Batch;
use treering::generate::{self, Request};
use treering::grow::{self, Growth, Initial, Initialisation, Placement, Ring, Sizes};
use treering::model::{Block, Gradients, Model, Precision};
use treering::train::optimizer::{AdamWConfig, Optimizer};

#[derive(Deserialize)]
struct Golden {
    model: String,
    parameters: u64,
    tokens: Vec<Vec<u32>>,
    targets: Vec<Vec<u32>>,
    log_probs: Vec<Vec<f32>>,
    most_probable_last: Vec<usize>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("fixtures/real-model.json")).unwrap()
}

/// The model, or a line on stderr (past the capture of passing tests) that `test` was left out.
fn base(test: &str) -> Option<BaseCheckpoint> {
    let Some(path) = std::env::var_os("TREERING_TEST_MODEL") else {
        #[allow(clippy::explicit_write)] // `eprintln!` would be captured with the test's output
        writeln!(std::io::stderr(), "left out: {test} (set TREERING_TEST_MODEL=$(scripts/get-smollm2.sh))").unwrap();
        return None;
    };
    let name = std::path::Path::new(&path).file_name().unwrap().to_string_lossy().into_owned();
    assert_eq!(name, golden().model, "TREERING_TEST_MODEL names another model than the expected numbers are for");
    Some(BaseCheckpoint::open(&path).unwrap())
}

fn batch(golden: &Golden) -> Batch {
    Batch {
        batch_size: golden.tokens.len(),
        sequence_length: golden.tokens[0].len(),
        tokens: golden.tokens.concat(),
        targets: golden.targets.concat(),
        document_starts: None,
    }
}

fn preserve(base: &BaseCheckpoint) -> Growth {
    let sizes = Sizes { hidden_size: 64, num_attention_heads: 3, num_key_value_heads: 1, intermediate_size: 256 };
    Growth { sizes, placement: Placement::preserve(base.config()) }
}

#[test]
fn a_real_gguf_gives_the_logits_of_transformers() {
    let Some(base) = base("a_real_gguf_gives_the_logits_of_transformers") else { return };
    let golden = golden();
    assert_eq!(base.config().parameter_count(), golden.parameters);
    let model = Model::from_base(&base, Precision::F32, false).unwrap();
    let scores = model.score(&batch(&golden), false).unwrap();
    for (ours, theirs) in scores.log_probs[0].iter().zip(golden.log_probs.concat()) {
        assert!((ours - theirs).abs() < 1e-3, "{ours}, transformers {theirs}");
    }
    for (window, &expected) in golden.tokens.iter().zip(&golden.most_probable_last) {
        let logits = model.step(&mut model.new_cache(window.len()), window).unwrap().remove(0);
        assert!(logits.iter().all(|&l| l <= logits[expected]), "another token is more probable than {expected}");
    }
}

#[test]
fn a_real_model_continues_a_sentence_sensibly() {
    let Some(base) = base("a_real_model_continues_a_sentence_sensibly") else { return };
    let model = Model::from_base(&base, Precision::Bf16, false).unwrap();
    let tokenizer = base.tokenizer().unwrap();
    let prompt = tokenizer.encode("The capital of France is").unwrap();
    let ends = generate::end_tokens(&model, &tokenizer);
    let request = Request { head: None, router: None, max_new_tokens: 4, ends, sampler: Default::default() };
    let mut streamed = String::new();
    let made = generate::generate(&model, &tokenizer, &prompt, &request, |piece, _| {
        streamed.push_str(piece);
        Ok(())
    });
    let made = made.unwrap();
    assert!(made.text.contains("Paris"), "{:?}", made.text);
    assert_eq!(streamed, made.text);
}

#[test]
fn a_real_model_learns_and_its_preservation_head_keeps_every_bit() {
    let Some(base) = base("a_real_model_learns_and_its_preservation_head_keeps_every_bit") else { return };
    let batch = batch(&golden());
    let mut model = Model::from_base(&base, Precision::Bf16, false).unwrap();
    let before = model.score(&batch, true).unwrap();
    let growth = preserve(&base);
    // Random rather than svd: thirty layers of decompositions would take longer than all the rest.
    let init = Initialisation { base_to_expansion: Initial::Random, expansion_to_expansion: Initial::Zero };
    model.widen(growth.clone(), grow::initialise(&base, &growth, init, 0, &|_, _| Ok(())).unwrap()).unwrap();
    let widened = model.score(&batch, true).unwrap();
    for head in 0..2 {
        assert_eq!(before.log_probs[0], widened.log_probs[head], "head {head} before training");
    }

    let mut optimizer = Optimizer::new(AdamWConfig { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.0 }, model.parameters());
    let mut gradients = Gradients::zeros(model.parameters());
    let mut losses = Vec::new();
    for step in 1..=4 {
        gradients.clear();
        losses.push(model.loss_and_gradients(&batch, &mut gradients, 1.0, false).unwrap().nll);
        optimizer.update(model.parameters_mut(), &gradients, 1.0 / batch.target_count() as f32, step, |_| 2e-3).unwrap();
    }
    assert!(losses.windows(2).all(|pair| pair[1] < pair[0]), "{losses:?}");
    assert!(model.parameters().iter().all(|p| p.block != Block::Base && p.block != Block::ExpansionToBase));
    let after = model.score(&batch, true).unwrap();
    assert_eq!(before.log_probs[0], after.log_probs[0], "the preservation head after training");
    assert_eq!(before.hidden[0], after.hidden[0], "the base stream after training");
    assert_ne!(after.log_probs[0], after.log_probs[1], "the adaptation head has not moved");
}

#[test]
fn three_rings_of_a_real_model_keep_every_earlier_logit() {
    let Some(base) = base("three_rings_of_a_real_model_keep_every_earlier_logit") else { return };
    let batch = batch(&golden());
    let growth = preserve(&base);
    let init = Initialisation { base_to_expansion: Initial::Random, expansion_to_expansion: Initial::Zero };
    let (mut model, mut rings) = (Model::from_base(&base, Precision::Bf16, false).unwrap(), Vec::new());
    // Every head on whole windows, and all of its logits after a few tokens.
    let said = |model: &Model| {
        let scores = model.score(&batch, false).unwrap();
        let logits = model.step(&mut model.new_cache(8), &batch.tokens[..8]).unwrap();
        scores.log_probs.into_iter().zip(logits).collect::<Vec<_>>()
    };
    let mut before = said(&model);
    for number in 1..=3 {
        let first = grow::initialise_ring(&base, &rings, &growth, init, 0, &|_, _| Ok(())).unwrap();
        model.widen(growth.clone(), first).unwrap();
        let fresh = said(&model);
        assert!(fresh[..number] == before[..] && fresh[number] == before[number - 1], "ring {number} before training");
        let mut optimizer = Optimizer::new(AdamWConfig { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.0 }, model.parameters());
        let mut gradients = Gradients::zeros(model.parameters());
        for step in 1..=2 {
            gradients.clear();
            model.loss_and_gradients(&batch, &mut gradients, 1.0, false).unwrap();
            optimizer.update(model.parameters_mut(), &gradients, 1.0 / batch.target_count() as f32, step, |_| 2e-3).unwrap();
        }
        let trained = said(&model);
        assert!(trained[..number] == before[..], "ring {number} after training");
        assert!(trained[number] != before[number - 1], "ring {number} has not moved");
        rings.push(Ring::new("memory".into(), growth.clone(), model.parameters().to_vec()));
        model.freeze();
        before = said(&model);
        assert!(before == trained, "ring {number}, frozen");
    }
}

#[test]
fn the_attention_sink_of_a_real_model_is_made_where_pytorch_finds_it() {
    let Some(base) = base("the attention sink") else { return };
    for precision in [Precision::F32, Precision::Bf16] {
        let model = Model::from_base(&base, precision, false).unwrap();
        // By scripts/attention-sinks.py its values rise to 22,000 behind layer 11, the twelfth.
        assert_eq!(model.sink_layers(), 12);
    }
}
