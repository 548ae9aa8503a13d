//! Invariants of the baselines on small random weights.

use std::collections::HashMap;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::*;
use crate::checkpoint::names::{self, Projection};
use crate::checkpoint::{BaseCheckpoint, Dtype};
use crate::data::batch::Batch;
use crate::model::tests::{PRECISIONS, base, batch, config, configs, values};
use crate::model::{Block, Gradients, Model, Parameter, Precision};
use crate::train::optimizer::{AdamWConfig, Optimizer};
use crate::{Error, export};

fn lora(lora_dropout: f64) -> Baseline {
    Baseline::Lora(Lora { r: 3, lora_alpha: 5.0, lora_dropout, ..Lora::new(11) })
}

/// Adapters beside an embedding that is trained whole, as is the output projection that is tied to it.
fn whole() -> Lora {
    Lora { r: 2, lora_dropout: 0.1, modules_to_save: vec![Whole::EmbedTokens], ..Lora::new(2) }
}

/// Every baseline on a base of three layers, one with dropout and one with few targets.
fn all() -> Vec<Baseline> {
    let few = Lora { r: 2, target_modules: vec![Projection::V, Projection::Up], use_rslora: true, ..Lora::new(1) };
    vec![
        Baseline::Full,
        Baseline::Freeze(Freeze { frozen_layers: 1, frozen_embedding: true }),
        Baseline::Freeze(Freeze { frozen_layers: 2, frozen_embedding: false }),
        lora(0.0),
        lora(0.25),
        Baseline::Lora(few),
        Baseline::Lora(whole()),
        Baseline::LlamaPro(LlamaPro { groups: 3 }),
        Baseline::LlamaPro(LlamaPro { groups: 1 }),
    ]
}

/// A model whose every trained parameter is away from where it starts, so that no gradient is zero and nothing is the identity.
fn stirred(checkpoint: &BaseCheckpoint, precision: Precision, baseline: &Baseline) -> Model {
    let mut model = Model::from_baseline(checkpoint, precision, baseline).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for p in model.parameters_mut() {
        let noise = values(&mut rng, p.value.len(), 0.15);
        p.value.iter_mut().zip(noise).for_each(|(v, n)| *v += n);
    }
    model
}

/// A few steps of AdamW, dropout included.
fn train(model: &mut Model, steps: u64) {
    let config = AdamWConfig { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.01 };
    let mut optimizer = Optimizer::new(config, model.parameters());
    for step in 1..=steps {
        let mut gradients = Gradients::zeros(model.parameters());
        model.place_dropout(step, 0);
        model.loss_and_gradients(&batch(2, 13, false), &mut gradients, 0.05, false).unwrap();
        optimizer.update(model.parameters_mut(), &gradients, 1.0, step, |_| 0.02).unwrap();
    }
}

fn gradients(model: &Model, batch: &Batch, recompute: bool) -> (f64, Vec<Vec<f32>>) {
    let mut gradients = Gradients::zeros(model.parameters());
    let loss = model.loss_and_gradients(batch, &mut gradients, 1.0, recompute).unwrap();
    (loss.nll, gradients.values)
}

#[test]
fn before_training_every_baseline_is_the_base_bit_for_bit() {
    for c in configs() {
        let checkpoint = base(&c);
        for precision in PRECISIONS {
            let plain = Model::from_base(&checkpoint, precision, false).unwrap();
            let expected = plain.score(&batch(2, 17, true), true).unwrap();
            let tokens = &batch(1, 9, false).tokens;
            let logits = plain.step(&mut plain.new_cache(9), tokens).unwrap();
            for baseline in all() {
                let model = Model::from_baseline(&checkpoint, precision, &baseline).unwrap();
                let scores = model.score(&batch(2, 17, true), true).unwrap();
                // A frozen embedding is rounded to bf16, a trained one is looked up as it is: in f32 there is nothing to round.
                if precision == Precision::F32 || !baseline.trains(checkpoint.config(), Part::Embedding) {
                    assert_eq!((&scores.log_probs, &scores.hidden), (&expected.log_probs, &expected.hidden), "{baseline:?}");
                    assert_eq!(model.step(&mut model.new_cache(9), tokens).unwrap(), logits, "{baseline:?}");
                }
            }
        }
    }
}

#[test]
fn parameters_are_those_that_were_announced_and_only_they_change() {
    let checkpoints: Vec<BaseCheckpoint> = configs().iter().map(base).collect();
    for (checkpoint, baseline) in checkpoints.iter().flat_map(|checkpoint| all().into_iter().map(move |baseline| (checkpoint, baseline))) {
        let mut model = Model::from_baseline(checkpoint, Precision::F32, &baseline).unwrap();
        let announced = baseline.parameters(checkpoint.config());
        let found: Vec<Expected> =
            model.parameters().iter().map(|p| Expected { name: p.name.clone(), block: p.block, shape: p.shape.clone() }).collect();
        assert_eq!(found, announced);
        assert!(announced.iter().all(|e| layout::block_of(&e.name) == e.block));
        let before = model.parameters().to_vec();
        train(&mut model, 3);
        for (before, after) in before.iter().zip(model.parameters()) {
            assert!(before.value.iter().zip(&after.value).any(|(a, b)| a != b), "{baseline:?}: {} did not learn", after.name);
        }
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("plain");
        export::plain(&out, checkpoint, &baseline, model.parameters(), Dtype::F32).unwrap();
        let written = BaseCheckpoint::open(&out).unwrap();
        let trained: HashMap<&str, &Parameter> = model.parameters().iter().map(|p| (p.name.as_str(), p)).collect();
        let c = baseline.model_config(checkpoint.config());
        assert_eq!(written.config(), &c);
        for layer in 0..c.num_hidden_layers {
            let source = baseline.source(checkpoint.config(), layer).layer;
            let sources = layout::layer_parameters(&c, source);
            for (e, source) in layout::layer_parameters(&c, layer).iter().zip(sources) {
                let value = written.tensor(&e.name, &e.shape).unwrap();
                let adapted =
                    Projection::ALL.iter().any(|&p| baseline.adapter(p).is_some() && e.name == names::weight(&names::projection(layer, p)));
                match trained.get(e.name.as_str()) {
                    Some(p) => assert_eq!(value, p.value, "{}", e.name),
                    None => assert_eq!(value == checkpoint.tensor(&source.name, &e.shape).unwrap(), !adapted, "{baseline:?} {}", e.name),
                }
            }
        }
    }
}

#[test]
fn an_exported_model_computes_what_was_trained() {
    for c in configs() {
        let checkpoint = base(&c);
        for baseline in all() {
            let model = stirred(&checkpoint, Precision::F32, &baseline);
            let folder = tempfile::tempdir().unwrap();
            let out = folder.path().join("plain");
            export::plain(&out, &checkpoint, &baseline, model.parameters(), Dtype::F32).unwrap();
            let plain = Model::from_base(&BaseCheckpoint::open(&out).unwrap(), Precision::F32, false).unwrap();
            let (difference, largest) = export::compare(&model, &plain).unwrap();
            if matches!(baseline, Baseline::Lora(_)) {
                assert!(difference.largest < 1e-5 * largest, "{baseline:?}: {difference:?} of {largest}");
            } else {
                assert!(difference.is_none(), "{baseline:?}: {difference:?}");
            }
        }
    }
}

#[test]
fn freezing_a_trained_model_changes_nothing() {
    let checkpoint = base(&config(true, true));
    for precision in PRECISIONS {
        for baseline in all() {
            let mut model = stirred(&checkpoint, precision, &baseline);
            let expected = model.score(&batch(1, 21, false), false).unwrap();
            model.freeze();
            assert!(model.parameters().is_empty());
            assert_eq!(model.score(&batch(1, 21, false), false).unwrap().log_probs, expected.log_probs, "{baseline:?}");
        }
    }
}

#[test]
fn recomputed_gradients_equal_kept_ones_bit_for_bit_on_any_number_of_threads() {
    let checkpoint = base(&config(true, true));
    for precision in PRECISIONS {
        for baseline in all() {
            let mut model = stirred(&checkpoint, precision, &baseline);
            model.place_dropout(3, 40);
            let on = |threads, recompute| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| gradients(&model, &batch(2, 13, true), recompute))
            };
            let kept = on(1, false);
            assert_eq!(on(1, true), kept, "{baseline:?}");
            assert_eq!(on(3, true), kept, "{baseline:?}");
        }
    }
}

/// Gradients along their own direction against central differences of the loss, for every parameter on its own; dropout draws the same each time.
#[test]
fn gradients_agree_with_finite_differences_for_every_parameter() {
    let b = batch(2, 11, true);
    for c in configs() {
        let checkpoint = base(&c);
        for baseline in all().into_iter().skip(1) {
            let mut model = stirred(&checkpoint, Precision::F32, &baseline);
            model.place_dropout(2, 0);
            let (_, exact) = gradients(&model, &b, false);
            for (index, gradient) in exact.iter().enumerate() {
                let before = model.parameters()[index].value.clone();
                let norm = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
                let name = model.parameters()[index].name.clone();
                assert!(norm > 1e-4, "{baseline:?} {name}: no gradient");
                let step = 2e-2 / norm.max(1.0);
                let mut at = |sign: f64| {
                    let moved = before.iter().zip(gradient).map(|(v, g)| v + (sign * step * f64::from(*g) / norm) as f32);
                    model.parameters_mut()[index].value = moved.collect();
                    gradients(&model, &b, false).0
                };
                let difference = (at(1.0) - at(-1.0)) / (2.0 * step);
                model.parameters_mut()[index].value = before;
                assert!((difference - norm).abs() < 0.02 * norm + 2e-3, "{baseline:?} {name}: {difference} against {norm}");
            }
        }
    }
}

#[test]
fn dropout_depends_on_the_step_and_on_tokens_before_and_not_on_how_a_step_is_cut() {
    let checkpoint = base(&config(true, false));
    let mut model = stirred(&checkpoint, Precision::F32, &lora(0.25));
    let whole = batch(2, 13, false);
    let half = |window: usize| Batch {
        batch_size: 1,
        tokens: whole.tokens[window * 13..][..13].to_vec(),
        targets: whole.targets[window * 13..][..13].to_vec(),
        ..whole.clone()
    };
    model.place_dropout(7, 0);
    let (loss, expected) = gradients(&model, &whole, false);
    assert_eq!(gradients(&model, &whole, false), (loss, expected.clone()));
    let (first, _) = gradients(&model, &half(0), false);
    model.place_dropout(7, 13);
    let (second, _) = gradients(&model, &half(1), false);
    assert!((first + second - loss).abs() < 1e-4, "{first} + {second} is not {loss}");
    model.place_dropout(8, 0);
    assert_ne!(gradients(&model, &whole, false).1, expected);
    // Evaluation drops nothing, whatever the step.
    let scores = model.score(&whole, false).unwrap().log_probs;
    model.place_dropout(9, 0);
    assert_eq!(model.score(&whole, false).unwrap().log_probs, scores);
}

#[test]
fn copies_follow_every_group_and_groups_that_do_not_divide_are_refused() {
    let mut c = config(true, false);
    c.num_hidden_layers = 6;
    let sources = |groups| {
        let baseline = Baseline::LlamaPro(LlamaPro { groups });
        baseline.validate(&c).unwrap();
        let layers = baseline.model_config(&c).num_hidden_layers;
        (0..layers).map(|i| baseline.source(&c, i)).map(|s| if s.copy { -(s.layer as i64) } else { s.layer as i64 }).collect::<Vec<_>>()
    };
    assert_eq!(sources(2), [0, 1, 2, -2, 3, 4, 5, -5]);
    assert_eq!(sources(1), [0, 1, 2, 3, 4, 5, -5]);
    assert_eq!(sources(3), [0, 1, -1, 2, 3, -3, 4, 5, -5]);
    for groups in [0, 4, 7] {
        let error = Baseline::LlamaPro(LlamaPro { groups }).validate(&c).unwrap_err().to_string();
        assert!(error.contains("does not divide the base's 6 layers") && error.contains("1, 2, 3, 6"), "{error}");
    }
    let groups = |layers| LlamaPro::new(&Config { num_hidden_layers: layers, ..c.clone() }).groups;
    assert_eq!([1, 2, 7, 16, 30, 32].map(groups), [1, 1, 1, 4, 6, 8]);
}

#[test]
fn what_does_not_fit_is_refused_by_key() {
    let c = config(true, false);
    let with = |change: fn(&mut Lora)| {
        let mut lora = Lora::new(0);
        change(&mut lora);
        Baseline::Lora(lora).validate(&c).unwrap_err().to_string()
    };
    assert!(with(|l| l.r = 0).starts_with("r: 0"));
    assert!(with(|l| l.lora_alpha = f64::NAN).starts_with("lora_alpha: "));
    assert!(with(|l| l.lora_dropout = 1.0).starts_with("lora_dropout: 1"));
    assert!(with(|l| l.target_modules.clear()).starts_with("target_modules: "));
    let freeze = Baseline::Freeze(Freeze { frozen_layers: 4, frozen_embedding: true });
    assert!(freeze.validate(&c).unwrap_err().to_string().starts_with("frozen_layers: 4 is more than the base's 3 layers"));
    assert_eq!((Freeze::new(&c).frozen_layers, Freeze::new(&Config { num_hidden_layers: 30, ..c }).frozen_layers), (2, 3));
}

#[test]
fn the_first_values_of_an_adapter_depend_on_the_seed_and_lie_within_the_bound_of_peft() {
    let checkpoint = base(&config(true, false));
    let of = |seed| {
        let lora = Lora { r: 16, seed, ..Lora::new(0) };
        Model::from_baseline(&checkpoint, Precision::F32, &Baseline::Lora(lora)).unwrap().parameters().to_vec()
    };
    let parameters = of(1);
    assert_eq!(of(1), parameters);
    assert_ne!(of(2), parameters);
    for p in &parameters {
        let bound = if p.block == Block::LoraA { 1.0 / (p.shape[1] as f32).sqrt() } else { 0.0 };
        assert!(p.value.iter().all(|v| v.abs() <= bound), "{}", p.name);
        assert!(p.block == Block::LoraB || p.value.iter().any(|v| v.abs() > 0.9 * bound), "{}", p.name);
    }
}

/// An adapter's folder with its base, and its description changed.
fn adapter(change: impl FnOnce(&mut serde_json::Value)) -> (tempfile::TempDir, BaseCheckpoint) {
    let Baseline::Lora(lora) = lora(0.1) else { unreachable!() };
    adapter_of(lora, true, change)
}

/// As [`adapter`], of `lora` on a base whose embedding is its output projection or not.
fn adapter_of(lora: Lora, tied: bool, change: impl FnOnce(&mut serde_json::Value)) -> (tempfile::TempDir, BaseCheckpoint) {
    let checkpoint = base(&config(tied, false));
    let folder = tempfile::tempdir().unwrap();
    let model = stirred(&checkpoint, Precision::F32, &Baseline::Lora(lora.clone()));
    let out = folder.path().join("adapter");
    peft::save(&out, &lora, &checkpoint, checkpoint.path(), model.parameters()).unwrap();
    let path = out.join(peft::CONFIG_FILE);
    let mut json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut json);
    std::fs::write(&path, json.to_string()).unwrap();
    (folder, checkpoint)
}

#[test]
fn an_adapter_reads_back_as_it_was_written() {
    let (folder, checkpoint) = adapter(|_| {});
    let (read, parameters) = peft::load(&folder.path().join("adapter"), &checkpoint).unwrap();
    assert_eq!(Baseline::Lora(Lora { seed: 11, ..read.clone() }), lora(0.1));
    let expected = stirred(&checkpoint, Precision::F32, &lora(0.1));
    assert_eq!(parameters, expected.parameters());
    assert!(peft::is_adapter(&folder.path().join("adapter")) && !peft::is_adapter(folder.path()));
}

#[test]
fn what_is_trained_whole_beside_adapters_is_kept_with_them_and_in_the_way_of_peft() {
    let both = Lora { modules_to_save: Whole::ALL.to_vec(), ..whole() };
    let head = Lora { modules_to_save: vec![Whole::LmHead], ..whole() };
    for (lora, tied, kept) in [(whole(), true, 1), (whole(), false, 1), (both.clone(), true, 1), (both, false, 2), (head, false, 1)] {
        let baseline = Baseline::Lora(lora.clone());
        let (folder, checkpoint) = adapter_of(lora.clone(), tied, |j| {
            assert_eq!(j["modules_to_save"].as_array().unwrap().len(), lora.modules_to_save.len());
            assert_eq!(j["ensure_weight_tying"], tied);
            // `peft` adds names with their path.
            let mut names = j["modules_to_save"].as_array().unwrap().clone();
            names.push(format!("model.{}", names[0].as_str().unwrap()).into());
            j["modules_to_save"] = names.into();
        });
        let path = folder.path().join("adapter");
        let (read, parameters) = peft::load(&path, &checkpoint).unwrap();
        assert_eq!(Lora { seed: 2, ..read }, lora);
        assert_eq!(parameters, stirred(&checkpoint, Precision::F32, &baseline).parameters());
        assert_eq!(parameters.iter().filter(|p| p.block == Block::Base).count(), kept);

        // The tied projection is there twice in what `peft` writes, and must say the same twice.
        let file = path.join(peft::MODEL_FILE);
        let (mut stored, metadata) = crate::grow::file::load_parameters(&file, None).unwrap();
        if tied {
            let mut second = stored.iter().find(|p| p.name.ends_with("embed_tokens.weight")).unwrap().clone();
            second.name = "base_model.model.lm_head.weight".into();
            stored.push(second);
            crate::grow::file::save_parameters(&file, &stored, &metadata).unwrap();
            assert_eq!(peft::load(&path, &checkpoint).unwrap().1, parameters);
            stored.last_mut().unwrap().value[0] += 1.0;
            crate::grow::file::save_parameters(&file, &stored, &metadata).unwrap();
            let error = peft::load(&path, &checkpoint).unwrap_err().to_string();
            assert!(error.contains("`base_model.model.lm_head.weight` is not the embedding"), "{error}");
        }
    }
    type Change = fn(&mut serde_json::Value);
    let changes: [(Change, &str); 4] = [
        (|j| j["ensure_weight_tying"] = false.into(), "were trained apart"),
        (|j| j["modules_to_save"] = vec!["lm_head"].into(), "name \"embed_tokens\""),
        (|j| j["modules_to_save"] = vec!["embed_tokens", "norm"].into(), "`modules_to_save` names \"norm\""),
        (|j| j["modules_to_save"] = "embed_tokens".into(), "a list of modules out of embed_tokens, lm_head"),
    ];
    for (change, part) in changes {
        let (folder, checkpoint) = adapter_of(whole(), true, change);
        let error = peft::load(&folder.path().join("adapter"), &checkpoint).unwrap_err();
        assert!(matches!(&error, Error::File { .. }) && error.to_string().contains(part), "{error}");
    }
}

#[test]
fn a_pair_shares_what_its_base_and_the_fine_tuned_model_have_in_common_and_changes_neither() {
    for c in configs() {
        let checkpoint = base(&c);
        for precision in PRECISIONS {
            let frozen = Model::from_base(&checkpoint, precision, false).unwrap();
            for baseline in all() {
                let tuned = stirred(&checkpoint, precision, &baseline);
                let apart =
                    stirred(&checkpoint, precision, &baseline).beside(Model::from_base(&checkpoint, precision, false).unwrap()).unwrap();
                let pair = stirred(&checkpoint, precision, &baseline).beside_its_base(&checkpoint, &baseline).unwrap();
                let whole = batch(2, 17, true);
                let of = |model: &Model| model.score(&whole, true).unwrap();
                let (scores, expected) = (of(&pair), of(&apart));
                assert_eq!((&scores.log_probs, &scores.hidden), (&expected.log_probs, &expected.hidden), "{baseline:?}");
                assert_eq!([&scores.log_probs[0], &scores.log_probs[1]], [&of(&frozen).log_probs[0], &of(&tuned).log_probs[0]]);
                // Token by token, and of one head alone.
                let tokens = &whole.tokens[..9];
                let steps = |model: &Model| {
                    let mut cache = model.new_cache(9);
                    [&tokens[..5], &tokens[5..6], &tokens[6..]].map(|tokens| model.step(&mut cache, tokens).unwrap())
                };
                let (routed, alone) = (steps(&pair), [steps(&frozen), steps(&tuned)]);
                for (head, alone) in alone.iter().enumerate() {
                    let mut cache = pair.new_cache(9);
                    pair.step_head(&mut cache, &tokens[..5], head).unwrap();
                    assert_eq!(pair.step_head(&mut cache, &tokens[5..6], head).unwrap(), alone[1][0], "{baseline:?}");
                    assert!(routed.iter().zip(alone).all(|(routed, alone)| routed[head] == alone[0]), "{baseline:?}");
                }
                // Training never sees the base.
                assert_eq!(gradients(&pair, &batch(2, 13, false), false), gradients(&tuned, &batch(2, 13, false), false), "{baseline:?}");
            }
        }
    }
}

#[test]
fn adapters_that_are_damaged_or_for_another_model_are_refused_by_name() {
    let message = |(folder, checkpoint): (tempfile::TempDir, BaseCheckpoint)| {
        let error = peft::load(&folder.path().join("adapter"), &checkpoint).unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{error}");
        error.to_string()
    };
    type Change = fn(&mut serde_json::Value);
    let changes: [(Change, &str); 10] = [
        (|j| j["r"] = 0.into(), "`r` is 0; a rank from 1 to"),
        (|j| j["r"] = 4.into(), "has shape [3, 24], expected [4, 24]"),
        (|j| j["peft_type"] = "IA3".into(), "`peft_type` is IA3"),
        (|j| j["target_modules"] = vec!["q_proj", "embed_tokens"].into(), "names \"embed_tokens\""),
        (|j| j["target_modules"] = ".*_proj".into(), "a list of modules out of q_proj"),
        (|j| j["target_modules"] = vec!["q_proj"].into(), "has no place in this adapter"),
        (|j| j["use_dora"] = true.into(), "`use_dora` is true"),
        (|j| j["init_lora_weights"] = "pissa".into(), "`init_lora_weights` is \"pissa\""),
        (|j| j["rank_pattern"] = serde_json::json!({"q_proj": 8}), "`rank_pattern`"),
        (|j| *j = 3.into(), "a JSON object was expected"),
    ];
    for (change, part) in changes {
        let text = message(adapter(change));
        assert!(text.contains(part), "{text}");
    }
    // The same shapes with other values: told apart by the hash.
    let (folder, checkpoint) = adapter(|_| {});
    let mut tensors: HashMap<_, _> = checkpoint
        .tensor_infos()
        .into_iter()
        .map(|info| (info.name.clone(), (info.shape.clone(), checkpoint.tensor(&info.name, &info.shape).unwrap())))
        .collect();
    tensors.get_mut("model.norm.weight").unwrap().1[0] += 1.0;
    let other = BaseCheckpoint::from_memory(checkpoint.config().clone(), tensors, None).unwrap();
    assert!(message((folder, other)).contains("it is for another model"));
    // Another architecture, told apart by names alone where the file has no hash.
    let (folder, _) = adapter(|_| {});
    let path = folder.path().join("adapter").join(peft::MODEL_FILE);
    let (parameters, _) = crate::grow::file::load_parameters(&path, None).unwrap();
    crate::grow::file::save_parameters(&path, &parameters, &Default::default()).unwrap();
    let deeper = base(&Config { num_hidden_layers: 4, ..config(true, false) });
    assert!(message((folder, deeper)).contains("layers.3.self_attn.q_proj.lora_A.weight` [3, 24] is missing"));
}
