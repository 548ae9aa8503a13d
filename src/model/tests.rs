//! Invariants of the whole model on small random weights.

use super::build::ring_parameters;
use super::*;
use crate::checkpoint::names::{self, Projection};
use crate::checkpoint::{BaseCheckpoint, Family};
use crate::grow::{Module, Placement, Sizes};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::collections::HashMap;

pub(crate) fn values(rng: &mut ChaCha8Rng, n: usize, scale: f32) -> Vec<f32> {
    (0..n).map(|_| (rng.next_u32() as f32 / u32::MAX as f32 - 0.5) * 2.0 * scale).collect()
}

pub(crate) fn config(tied: bool, biased: bool) -> Config {
    let mut c = Config::new(50, 24, 40, 3, 4);
    c.num_key_value_heads = 2;
    c.head_dim = 8;
    c.max_position_embeddings = 64;
    c.tie_word_embeddings = tied;
    c.attention_bias = biased;
    c.mlp_bias = biased;
    c
}

/// Every family, and of Llama both kinds of embeddings and of biases; windows are narrower than the sequences of these tests.
pub(crate) fn configs() -> Vec<Config> {
    let family = |family, tied| Config { family, ..config(tied, false) };
    vec![
        config(true, false),
        config(false, true),
        Config { sliding_window: Some(5), ..family(Family::Mistral, false) },
        Config { sliding_window: Some(6), full_attention_layers: vec![0, 2], ..family(Family::Qwen2, true) },
        Config { attention_bias: true, ..family(Family::Qwen3, true) },
        Config { sliding_window: Some(4), full_attention_layers: vec![1], ..family(Family::Qwen3, false) },
        family(Family::Olmo2, false),
        Config { attention_bias: true, ..family(Family::Olmo2, true) },
    ]
}

pub(crate) fn base(c: &Config) -> BaseCheckpoint {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut tensors = HashMap::new();
    let mut put = |name: String, shape: &[usize]| {
        let n = shape.iter().product();
        let norm = name.contains("norm");
        let value = values(&mut rng, n, if norm { 0.2 } else { 0.25 }).iter().map(|v| if norm { 1.0 + v } else { *v }).collect();
        tensors.insert(name, (shape.to_vec(), value));
    };
    put(names::weight(names::EMBED_TOKENS), &[c.vocab_size, c.hidden_size]);
    put(names::weight(names::NORM), &[c.hidden_size]);
    if !c.tie_word_embeddings {
        put(names::weight(names::LM_HEAD), &[c.vocab_size, c.hidden_size]);
    }
    for layer in 0..c.num_hidden_layers {
        for norm in c.family.layer_norms() {
            put(names::weight(&names::norm(layer, norm)), &[c.norm_size(norm)]);
        }
        for projection in Projection::ALL {
            let (module, shape) = (names::projection(layer, projection), build::projection_shape(c, projection));
            put(names::weight(&module), &shape);
            if c.has_bias(projection) {
                put(names::bias(&module), &shape[..1]);
            }
        }
    }
    BaseCheckpoint::from_memory(c.clone(), tensors, None).unwrap()
}

pub(crate) fn growth(preserved_layers: usize, modules: &[Module]) -> Growth {
    let sizes = Sizes { hidden_size: 10, num_attention_heads: 2, num_key_value_heads: 1, intermediate_size: 12 };
    Growth { sizes, placement: Placement::new(preserved_layers, modules) }
}

fn expansion(c: &Config, growth: &Growth, fresh: bool) -> Vec<Parameter> {
    ring(c, &[], growth, fresh)
}

/// Parameters of a ring around others; with `fresh` the head and W12 are zero as before training, else everything is random.
pub(crate) fn ring(c: &Config, inner: &[Sizes], growth: &Growth, fresh: bool) -> Vec<Parameter> {
    let mut rng = ChaCha8Rng::seed_from_u64(2 + inner.len() as u64);
    ring_parameters(c, inner, growth)
        .into_iter()
        .map(|(name, block, shape)| {
            let n = shape.iter().product();
            let mut value = values(&mut rng, n, 0.2);
            match block {
                Block::ExpansionNorm => value.iter_mut().for_each(|v| *v += 1.0),
                Block::ExpansionHead | Block::ExpansionToBase | Block::LoraB if fresh => value.fill(0.0),
                _ => {}
            }
            Parameter { name, block, shape, value }
        })
        .collect()
}

pub(super) fn widened(c: &Config, precision: Precision, growth: Growth, fresh: bool) -> Model {
    let mut model = Model::from_base(&base(c), precision, false).unwrap();
    model.widen(growth.clone(), expansion(c, &growth, fresh)).unwrap();
    model
}

pub(crate) fn batch(windows: usize, length: usize, masked: bool) -> Batch {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let tokens: Vec<u32> = (0..windows * length).map(|_| rng.next_u32() % 50).collect();
    let mut targets: Vec<u32> = (0..windows * length).map(|_| rng.next_u32() % 50).collect();
    targets[1] = IGNORE;
    let starts = (0..windows * length).map(|i| if i % length >= length / 3 { (length / 3) as u32 } else { 0 }).collect();
    Batch { batch_size: windows, sequence_length: length, tokens, targets, document_starts: masked.then_some(starts) }
}

pub(crate) const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

pub(super) fn placements() -> [Growth; 5] {
    let both = [Module::Attention, Module::Ffn];
    let mut low_rank = growth(1, &both);
    low_rank.placement.r = 3;
    let mut kept = low_rank.clone();
    kept.placement.sink_layers = 2;
    [growth(3, &[Module::Attention]), growth(1, &[Module::Attention]), growth(0, &both), low_rank, kept]
}

#[test]
fn widened_logits_equal_base_logits_bit_for_bit_before_training() {
    for (c, precision) in configs().into_iter().flat_map(|c| PRECISIONS.map(|precision| (c.clone(), precision))) {
        let base = Model::from_base(&base(&c), precision, false).unwrap();
        let expected = base.score(&batch(2, 17, false), false).unwrap();
        for growth in placements() {
            let scores = widened(&c, precision, growth, true).score(&batch(2, 17, false), false).unwrap();
            assert_eq!(scores.log_probs[0], expected.log_probs[0], "preservation head");
            assert_eq!(scores.log_probs[1], expected.log_probs[0], "adaptation head");
        }
    }
}

#[test]
fn preservation_head_equals_base_bit_for_bit_whatever_the_expansion_is() {
    for c in configs() {
        for precision in PRECISIONS {
            let base = Model::from_base(&base(&c), precision, false).unwrap();
            let expected = base.score(&batch(2, 17, true), true).unwrap();
            for growth in placements() {
                let forks = growth.placement.fork_layer(c.num_hidden_layers) < c.num_hidden_layers;
                let model = widened(&c, precision, growth, false);
                let scores = model.score(&batch(2, 17, true), true).unwrap();
                assert_eq!(scores.log_probs[0], expected.log_probs[0]);
                assert_eq!(scores.hidden[0], expected.hidden[0]);
                assert_ne!(scores.log_probs[1], expected.log_probs[0], "the expansion must do something");
                assert_eq!(scores.hidden[1] != expected.hidden[0], forks, "the base stream changes exactly where W12 is trained");
            }
        }
    }
}

#[test]
fn a_document_s_first_position_is_the_base_s_as_far_as_the_sink_s_layers_go_and_no_other_is() {
    for (c, precision) in configs().into_iter().flat_map(|c| PRECISIONS.map(|precision| (c.clone(), precision))) {
        for (sink_layers, masked) in
            [(c.num_hidden_layers, false), (c.num_hidden_layers, true), (c.num_hidden_layers - 1, true), (0, false)]
        {
            let mut growth = placements()[3].clone();
            growth.placement.sink_layers = sink_layers;
            let model = widened(&c, precision, growth, false);
            let b = batch(2, 17, masked);
            let Scores { hidden, log_probs, .. } = model.score(&b, true).unwrap();
            let rows = |head: usize| hidden[head].chunks_exact(c.hidden_size);
            for (row, (base, adapted)) in rows(0).zip(rows(1)).enumerate() {
                let position = row % 17 - b.document_starts.as_ref().map_or(0, |starts| starts[row] as usize);
                let kept = position == 0 && sink_layers == c.num_hidden_layers;
                assert_eq!(base == adapted, kept, "row {row}, position {position}, {sink_layers} layers");
            }
            // What the head adds is no part of the stream.
            assert_ne!(log_probs[0][0], log_probs[1][0]);
        }
    }
}

#[test]
fn a_window_s_bits_do_not_depend_on_the_other_windows_or_the_thread_count() {
    for (c, precision) in configs().into_iter().flat_map(|c| PRECISIONS.map(|precision| (c.clone(), precision))) {
        let model = widened(&c, precision, placements()[2].clone(), false);
        let both = batch(2, 19, false);
        let all = |threads: usize, b: &Batch| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut gradients = Gradients::zeros(model.parameters());
                model.loss_and_gradients(b, &mut gradients, 0.1, false).unwrap();
                (model.score(b, false).unwrap().log_probs, gradients.values)
            })
        };
        let expected = all(1, &both);
        for threads in [2, 4] {
            assert_eq!(all(threads, &both), expected);
        }
        let second = Batch { batch_size: 1, tokens: both.tokens[19..].to_vec(), targets: both.targets[19..].to_vec(), ..both.clone() };
        for (alone, together) in all(2, &second).0.iter().zip(&expected.0) {
            assert_eq!(alone[..], together[19..]);
        }
    }
}

#[test]
fn cached_steps_equal_one_prefill_bit_for_bit_and_freezing_changes_nothing() {
    for (c, precision) in configs().into_iter().flat_map(|c| PRECISIONS.map(|precision| (c.clone(), precision))) {
        for growth in placements() {
            let mut model = widened(&c, precision, growth, false);
            let b = batch(1, 21, false);
            let (mut whole, mut parts) = (model.new_cache(64), model.new_cache(64));
            let expected = model.step(&mut whole, &b.tokens).unwrap();
            model.step(&mut parts, &b.tokens[..9]).unwrap();
            model.step(&mut parts, &b.tokens[9..20]).unwrap();
            assert_eq!(model.step(&mut parts, &b.tokens[20..]).unwrap(), expected);
            assert_eq!(parts.len(), 21);
            let scores = model.score(&b, false).unwrap();
            for (head, logits) in expected.iter().enumerate() {
                let max = logits.iter().copied().fold(f32::MIN, f32::max);
                let sum: f64 = logits.iter().map(|&v| f64::from(v - max).exp()).sum();
                let expected = f64::from(logits[b.targets[20] as usize] - max) - sum.ln();
                assert!((f64::from(scores.log_probs[head][20]) - expected).abs() < 1e-5);
            }
            model.freeze();
            assert!(model.parameters().is_empty());
            assert_eq!(model.score(&b, false).unwrap().log_probs, scores.log_probs);
        }
        let mut whole = Model::from_base(&base(&c), precision, true).unwrap();
        let scores = whole.score(&batch(1, 21, false), false).unwrap();
        whole.freeze();
        assert_eq!(whole.score(&batch(1, 21, false), false).unwrap().log_probs, scores.log_probs, "a fully trained model");
    }
}

#[test]
fn a_prompt_is_scored_as_a_window_is_and_the_cosine_is_that_of_the_heads_logits() {
    for precision in PRECISIONS {
        for growth in placements() {
            let model = widened(&config(true, true), precision, growth, false);
            let b = batch(1, 21, false);
            let (mut plain, mut scored) = (model.new_cache(64), model.new_cache(64));
            let (logits, scores) = model.read(&mut scored, &b.tokens, Extras { cosine: true, ..Extras::default() }).unwrap();
            assert_eq!(logits, model.step(&mut plain, &b.tokens).unwrap());
            let targets: Vec<u32> = b.tokens[1..].iter().copied().chain([IGNORE]).collect();
            let window = Batch { targets, ..b.clone() };
            let expected = model.score_with(&window, Extras { cosine: true, ..Extras::default() }).unwrap();
            assert_eq!((&scores.log_probs, &scores.largest), (&expected.log_probs, &expected.largest));
            assert_eq!(scores.cosine, expected.cosine);
            assert!(model.score(&window, false).unwrap().cosine.is_empty());
            assert_eq!((scores.log_probs[0].len(), scores.log_probs[0][20], scores.cosine[20]), (21, 0.0, 0.0));
            for at in 0..20 {
                let mut cache = model.new_cache(64);
                let logits = model.step(&mut cache, &b.tokens[..=at]).unwrap();
                assert!((crate::ops::cosine::one(&logits[0], &logits[1]) - scores.cosine[at]).abs() < 1e-5);
                for (head, logits) in logits.iter().enumerate() {
                    let max = logits.iter().copied().fold(f32::MIN, f32::max);
                    let sum: f64 = logits.iter().map(|&v| f64::from(v - max).exp()).sum();
                    assert!((f64::from(scores.largest[head][at]) + sum.ln()).abs() < 1e-5);
                }
            }
        }
    }
}

#[test]
fn recomputed_gradients_equal_kept_ones_bit_for_bit() {
    let both = |model: &Model| {
        [false, true].map(|recompute| {
            let mut gradients = Gradients::zeros(model.parameters());
            let loss = model.loss_and_gradients(&batch(2, 13, true), &mut gradients, 0.5, recompute).unwrap();
            (loss.nll.to_bits(), gradients.values)
        })
    };
    for (c, precision) in configs().into_iter().flat_map(|c| PRECISIONS.map(|precision| (c.clone(), precision))) {
        for growth in placements() {
            let [kept, recomputed] = both(&widened(&c, precision, growth, false));
            assert_eq!(kept, recomputed);
        }
        let [kept, recomputed] = both(&Model::from_base(&base(&c), precision, true).unwrap());
        assert_eq!(kept, recomputed);
    }
}

/// Gradients along random directions against central differences of the loss, for every parameter on its own.
#[test]
fn gradients_agree_with_finite_differences_for_every_parameter() {
    for c in configs() {
        let mut models: Vec<Model> = placements().into_iter().map(|g| widened(&c, Precision::F32, g, false)).collect();
        models.push(Model::from_base(&base(&c), Precision::F32, true).unwrap());
        models.into_iter().for_each(check_gradients);
    }
}

pub(super) fn check_gradients(mut model: Model) {
    let b = batch(2, 11, true);
    let loss = |model: &Model| {
        let scores = model.score(&b, false).unwrap();
        -scores.log_probs.last().unwrap().iter().map(|&v| f64::from(v)).sum::<f64>()
    };
    let mut gradients = Gradients::zeros(model.parameters());
    let result = model.loss_and_gradients(&b, &mut gradients, 1.0, false).unwrap();
    assert!((result.nll - loss(&model)).abs() < 1e-3, "{} {}", result.nll, loss(&model));
    assert_eq!(result.targets, b.target_count());
    for index in 0..model.parameters().len() {
        let before = model.parameters()[index].value.clone();
        // Along the gradient's own direction, so that the difference stands out of the rounding.
        let norm = gradients.values[index].iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        let name = model.parameters()[index].name.clone();
        assert!(norm > 1e-4, "{name}: no gradient");
        let step = 2e-2 / norm.max(1.0);
        let mut at = |sign: f64| {
            let moved = before.iter().zip(&gradients.values[index]).map(|(v, g)| v + (sign * step * f64::from(*g) / norm) as f32);
            model.parameters_mut()[index].value = moved.collect();
            loss(&model)
        };
        let difference = (at(1.0) - at(-1.0)) / (2.0 * step);
        model.parameters_mut()[index].value = before;
        assert!((difference - norm).abs() < 0.02 * norm + 2e-3, "{name}: {difference} against {norm}");
    }
}

#[test]
fn bad_batches_and_expansions_are_refused_by_name() {
    let c = config(true, false);
    let model = widened(&c, Precision::F32, growth(3, &[]), true);
    let mut b = batch(1, 5, false);
    b.tokens[2] = 50;
    assert!(model.score(&b, false).unwrap_err().to_string().contains("token 50"));
    let mut b = batch(1, 5, false);
    b.targets[2] = 77;
    assert!(model.score(&b, false).unwrap_err().to_string().contains("target 77"));
    assert!(model.score(&batch(1, 65, false), false).unwrap_err().to_string().contains("64 positions"));
    let mut cache = model.new_cache(8);
    assert!(model.step(&mut cache, &[1; 9]).unwrap_err().to_string().contains("context of 8"));

    let g = growth(3, &[]);
    let mut parameters = expansion(&c, &g, true);
    let last = parameters.pop().unwrap();
    let mut fresh = Model::from_base(&base(&c), Precision::F32, false).unwrap();
    assert!(fresh.widen(g.clone(), parameters.clone()).unwrap_err().to_string().contains("lm_head.expansion.weight"));
    parameters.push(Parameter { shape: vec![1, 1], value: vec![0.0], ..last });
    assert!(fresh.widen(g, parameters).unwrap_err().to_string().contains("[1, 1]"));
}
