//! A forest scores what its sequences score alone, to the bit.

use super::tests::{PRECISIONS, base, config, configs, placements, values, widened};
use super::*;
use crate::baseline::{Baseline, Lora};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Sequences of which many begin alike, in an order that has nothing to do with what they share.
fn sequences() -> Vec<(Vec<u32>, usize)> {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut random = |below: u32| rng.next_u32() % below;
    let mut all: Vec<(Vec<u32>, usize)> = vec![(vec![3, 4], 1), (vec![3, 4, 5], 2), (vec![9; 40], 39), (vec![3, 4], 1)];
    for _ in 0..24 {
        let (mut tokens, _) = all[random(all.len() as u32) as usize].clone();
        let kept = 1 + random(tokens.len() as u32) as usize;
        tokens.truncate(kept);
        tokens.extend((0..1 + random(12)).map(|_| random(50)));
        let first = 1 + random(tokens.len() as u32 - 1) as usize;
        all.push((tokens, first));
    }
    all
}

/// One window alone: the log-probability of every token but the first, by head, and what goes with it.
fn alone(model: &Model, tokens: &[u32]) -> Scores {
    let length = tokens.len() - 1;
    let (tokens, targets) = (tokens[..length].to_vec(), tokens[1..].to_vec());
    let batch = Batch { batch_size: 1, sequence_length: length, tokens, targets, document_starts: None };
    model.score_with(&batch, Extras { cosine: true, ..Extras::default() }).unwrap()
}

fn check(model: &Model) {
    let sequences = sequences();
    let mut forest = Forest::new();
    let places: Vec<Vec<usize>> = sequences.iter().map(|(tokens, first)| forest.add(tokens, *first)).collect();
    let all: usize = sequences.iter().map(|(tokens, _)| tokens.len() - 1).sum();
    assert!(forest.rows() < all, "nothing was shared");
    let scores = model.score_forest(&forest, Extras { cosine: true, ..Extras::default() }).unwrap();
    assert_eq!(scores.log_probs[0].len(), forest.predictions());
    for ((tokens, first), places) in sequences.iter().zip(&places) {
        let expected = alone(model, tokens);
        assert_eq!(places.len(), tokens.len() - first);
        for (at, &place) in (first - 1..).zip(places) {
            for head in 0..model.heads().len() {
                assert_eq!(scores.log_probs[head][place].to_bits(), expected.log_probs[head][at].to_bits(), "{tokens:?} at {at}");
                assert_eq!(scores.largest[head][place].to_bits(), expected.largest[head][at].to_bits());
                assert_eq!(scores.correct[head][place], expected.correct[head][at]);
            }
            if model.heads().len() > 1 {
                assert_eq!(scores.cosine[place].to_bits(), expected.cosine[at].to_bits());
            }
        }
    }
}

#[test]
fn a_forest_scores_what_its_sequences_score_alone_to_the_bit() {
    for (c, precision) in configs().into_iter().flat_map(|c| PRECISIONS.map(|precision| (c.clone(), precision))) {
        check(&Model::from_base(&base(&c), precision, false).unwrap());
        for growth in placements() {
            check(&widened(&c, precision, growth, false));
        }
    }
}

#[test]
fn a_pair_is_scored_as_its_two_models_are() {
    let checkpoint = base(&config(false, true));
    // The base by itself, and under adapters in one pass with the fine-tuned model.
    for baseline in [Baseline::Full, Baseline::Lora(Lora::new(4))] {
        let mut tuned = Model::from_baseline(&checkpoint, Precision::F32, &baseline).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(8);
        for parameter in tuned.parameters_mut() {
            let noise = values(&mut rng, parameter.value.len(), 0.1);
            parameter.value.iter_mut().zip(noise).for_each(|(v, n)| *v += n);
        }
        check(&tuned.beside_its_base(&checkpoint, &baseline).unwrap());
    }
}

#[test]
fn rows_in_common_are_held_once_and_equal_predictions_are_one() {
    let mut forest = Forest::new();
    let first = forest.add(&[1, 2, 3, 4], 3);
    assert_eq!((forest.rows(), first.as_slice()), (3, &[0][..]));
    // One-token answers to one question: no further row.
    assert_eq!((forest.add(&[1, 2, 3, 5], 3), forest.add(&[1, 2, 3, 4], 3), forest.rows()), (vec![1], vec![0], 3));
    // Another question after the same beginning.
    assert_eq!((forest.add(&[1, 2, 7, 8, 9], 2), forest.rows()), (vec![2, 3, 4], 5));
    // The same token elsewhere is another row.
    forest.add(&[2, 3], 1);
    assert_eq!(forest.rows(), 6);
}

#[test]
fn what_a_model_cannot_take_is_refused() {
    let model = Model::from_base(&base(&config(true, false)), Precision::F32, false).unwrap();
    let refused = |tokens: &[u32]| {
        let mut forest = Forest::new();
        forest.add(tokens, 1);
        model.score_forest(&forest, Extras::default()).unwrap_err().to_string()
    };
    assert!(refused(&[1, 50]).contains("target 50"));
    assert!(refused(&[50, 1]).contains("token 50"));
    assert!(refused(&[1; 66]).contains("65 tokens exceeds the model's 64 positions"));
    let empty = model.score_forest(&Forest::new(), Extras::default()).unwrap();
    assert_eq!((empty.log_probs.len(), empty.log_probs[0].len()), (1, 0));
}
