//! Rings around rings: what was learnt before is kept bit for bit, and only what is new carries gradients.

use super::tests::{PRECISIONS, base, batch, check_gradients, config, configs, growth, placements, ring};
use super::*;
use crate::grow::{Module, Placement, Sizes};

/// Sizes unlike those of the other rings, so that a mix-up of streams cannot go unnoticed.
fn further(number: usize) -> Growth {
    let sizes = match number {
        2 => Sizes { hidden_size: 6, num_attention_heads: 4, num_key_value_heads: 2, intermediate_size: 9 },
        _ => Sizes { hidden_size: 7, num_attention_heads: 2, num_key_value_heads: 1, intermediate_size: 5 },
    };
    Growth { sizes, placement: Placement::new(3, &[]) }
}

fn add(model: &mut Model, growth: &Growth, fresh: bool) {
    let inner: Vec<Sizes> = model.growths().map(|g| g.sizes).collect();
    model.freeze();
    model.widen(growth.clone(), ring(model.config(), &inner, growth, fresh)).unwrap();
}

/// Three rings, the first as `growth` says.
fn three(c: &Config, precision: Precision, growth: &Growth) -> Model {
    let mut model = Model::from_base(&base(c), precision, false).unwrap();
    for growth in [growth, &further(2), &further(3)] {
        add(&mut model, growth, false);
    }
    model
}

/// A few steps down the gradient.
fn train(model: &mut Model) {
    for _ in 0..3 {
        let mut gradients = Gradients::zeros(model.parameters());
        model.loss_and_gradients(&batch(2, 17, true), &mut gradients, 0.01, false).unwrap();
        for (parameter, gradient) in model.parameters_mut().iter_mut().zip(&gradients.values) {
            parameter.value.iter_mut().zip(gradient).for_each(|(v, g)| *v -= 0.5 * g);
        }
    }
}

/// Log-probabilities, hidden states, and logits step by step.
type Said = (Vec<f32>, Vec<f32>, Vec<Vec<f32>>);

/// Everything a head says: log-probabilities and hidden states of whole windows, and the logits of single steps.
fn said(model: &Model) -> Vec<Said> {
    let scores = model.score(&batch(2, 17, true), true).unwrap();
    let mut cache = model.new_cache(32);
    let steps: Vec<Vec<Vec<f32>>> = batch(1, 9, false).tokens.chunks(1).map(|token| model.step(&mut cache, token).unwrap()).collect();
    let of = |head: usize| {
        (scores.log_probs[head].clone(), scores.hidden[head].clone(), steps.iter().map(|logits| logits[head].clone()).collect())
    };
    (0..model.heads().len()).map(of).collect()
}

#[test]
fn every_head_of_three_trained_rings_stays_as_it_was_bit_for_bit_before_and_after_training_the_next() {
    for c in configs() {
        for precision in PRECISIONS {
            for first in placements() {
                let mut model = Model::from_base(&base(&c), precision, false).unwrap();
                let mut before = said(&model);
                for growth in [&first, &further(2), &further(3)] {
                    add(&mut model, growth, true);
                    let new = said(&model);
                    assert_eq!(new[..before.len()], before[..], "earlier heads, before training");
                    let (newest, last) = (new.last().unwrap(), before.last().unwrap());
                    assert_eq!((&newest.0, &newest.2), (&last.0, &last.2), "the new head, before training");
                    train(&mut model);
                    let trained = said(&model);
                    assert_eq!(trained[..before.len()], before[..], "earlier heads, after training");
                    assert_ne!(trained.last().unwrap().0, last.0, "the new head learns");
                    model.freeze();
                    assert_eq!(said(&model), trained, "frozen");
                    before = trained;
                }
                assert_eq!(model.heads(), [Head::Preservation, Head::Ring(1), Head::Ring(2), Head::Adaptation]);
            }
        }
    }
}

#[test]
fn the_third_rings_gradients_agree_with_finite_differences_and_with_recomputed_ones() {
    let both = [Module::Attention, Module::Ffn];
    for growth in [growth(3, &[]), growth(0, &both)] {
        let c = config(true, true);
        for precision in PRECISIONS {
            let model = three(&c, precision, &growth);
            let gradients = [false, true].map(|recompute| {
                let mut gradients = Gradients::zeros(model.parameters());
                let loss = model.loss_and_gradients(&batch(2, 13, true), &mut gradients, 0.5, recompute).unwrap();
                (loss.nll.to_bits(), gradients.values)
            });
            assert!(gradients[0] == gradients[1]);
        }
        check_gradients(three(&c, Precision::F32, &growth));
    }
}

#[test]
fn a_prompt_in_pieces_equals_one_prefill_with_every_stream_cached() {
    for precision in PRECISIONS {
        for growth in placements() {
            let model = three(&config(false, true), precision, &growth);
            let b = batch(1, 21, false);
            let (mut whole, mut parts) = (model.new_cache(64), model.new_cache(64));
            let expected = model.step(&mut whole, &b.tokens).unwrap();
            assert_eq!(expected.len(), 4);
            model.step(&mut parts, &b.tokens[..9]).unwrap();
            model.step(&mut parts, &b.tokens[9..20]).unwrap();
            assert_eq!(model.step(&mut parts, &b.tokens[20..]).unwrap(), expected);
        }
    }
}

#[test]
fn a_head_alone_says_what_it_says_among_the_others_bit_for_bit() {
    for precision in PRECISIONS {
        let c = config(true, true);
        let pair =
            Model::from_base(&base(&c), precision, true).unwrap().beside(Model::from_base(&base(&c), precision, false).unwrap()).unwrap();
        let mut one = Model::from_base(&base(&c), precision, false).unwrap();
        add(&mut one, &growth(1, &[Module::Attention]), false);
        for model in placements().iter().map(|growth| three(&c, precision, growth)).chain([one, pair]) {
            let b = batch(2, 17, true);
            let scores = model.score(&b, false).unwrap();
            for head in 0..model.heads().len() {
                let alone = model.score_head(&b, head).unwrap();
                assert_eq!((alone.log_probs.len(), &alone.log_probs[0]), (1, &scores.log_probs[head]), "{head}");
                assert_eq!((&alone.largest[0], &alone.correct[0]), (&scores.largest[head], &scores.correct[head]));
                let (mut all, mut own) = (model.new_cache(32), model.new_cache(32));
                for tokens in [&b.tokens[..9], &b.tokens[9..10], &b.tokens[10..17]] {
                    let expected = model.step(&mut all, tokens).unwrap().swap_remove(head);
                    assert_eq!(model.step_head(&mut own, tokens, head).unwrap(), expected, "{head}");
                }
                assert_eq!(own.len(), 17);
            }
            assert!(model.score_head(&b, 4).unwrap_err().to_string().contains("there is no head 4"));
        }
    }
}

#[test]
fn a_further_ring_must_leave_what_is_within_and_be_of_the_shapes_around_it() {
    let c = config(true, false);
    let mut model = Model::from_base(&base(&c), Precision::F32, false).unwrap();
    add(&mut model, &growth(1, &[Module::Ffn]), false);
    let inner = [growth(1, &[]).sizes];
    let next = further(2);
    let refusal = |model: &mut Model, growth: &Growth, parameters| model.widen(growth.clone(), parameters).unwrap_err().to_string();
    assert!(refusal(&mut model, &next, ring(&c, &inner, &next, true)).contains("only a frozen model"), "not while the first is trained");
    model.freeze();
    let adapts = Growth { placement: Placement::new(2, &[Module::Attention]), ..next.clone() };
    let message = refusal(&mut model, &adapts, ring(&c, &inner, &adapts, true));
    assert!(message.contains("ring 2 cannot train expansion_to_base") && message.contains("scale-preserve"), "{message}");
    let message = refusal(&mut model, &next, ring(&c, &[], &next, true));
    assert!(message.contains("lacks the tensor model.layers.0.self_attn.q_proj.ring_1_to_expansion.weight [32, 10]"), "{message}");
    model.widen(next.clone(), ring(&c, &inner, &next, true)).unwrap();
}
