//! Whether a widened model still is what it was before: the same tokens through both, compared bit for bit.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Serialize;

use crate::data::batch::{Batch, IGNORE};
use crate::error::{Error, Result};
use crate::model::{Head, Model};

/// How two sets of numbers that should be equal differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Difference {
    /// Numbers compared.
    pub compared: u64,
    /// Numbers whose bits differ.
    pub differing: u64,
    /// The largest difference; infinite where only one of two numbers is finite.
    pub largest: f64,
}

impl Difference {
    /// Whether every number is the same.
    pub fn is_none(&self) -> bool {
        self.differing == 0
    }

    /// Compares numbers one by one.
    pub fn add(&mut self, base: &[f32], widened: &[f32]) {
        self.compared += base.len().max(widened.len()) as u64;
        if base.len() != widened.len() {
            (self.differing, self.largest) = (self.differing + base.len().abs_diff(widened.len()) as u64, f64::INFINITY);
        }
        for (a, b) in base.iter().zip(widened).filter(|(a, b)| a.to_bits() != b.to_bits()) {
            let difference = (f64::from(*a) - f64::from(*b)).abs();
            self.differing += 1;
            self.largest = self.largest.max(if difference.is_nan() { f64::INFINITY } else { difference });
        }
    }
}

/// What was compared under one head of the widened model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct HeadVerification {
    /// The head.
    pub head: Head,
    /// All logits, token after token through the cache.
    pub logits: Difference,
    /// The targets' log-probabilities in whole windows.
    pub log_probs: Difference,
    /// Base hidden states before the final norm in whole windows.
    pub hidden: Difference,
}

impl HeadVerification {
    /// Whether everything is as it was, bit for bit.
    pub fn holds(&self) -> bool {
        self.logits.is_none() && self.log_probs.is_none() && self.hidden.is_none()
    }
}

/// Windows of pseudo-random tokens, the first of them beginning with `text`: input that no model has seen and one that it may well have.
pub fn windows(vocab_size: usize, text: &[u32], batch_size: usize, sequence_length: usize, seed: u64) -> Batch {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut tokens: Vec<u32> = (0..batch_size * sequence_length).map(|_| (rng.next_u64() % vocab_size.max(1) as u64) as u32).collect();
    let taken = text.len().min(sequence_length).min(tokens.len());
    tokens[..taken].copy_from_slice(&text[..taken]);
    let mut targets = tokens.clone();
    if !targets.is_empty() {
        targets.rotate_left(1);
    }
    targets.iter_mut().skip(sequence_length.saturating_sub(1)).step_by(sequence_length.max(1)).for_each(|t| *t = IGNORE);
    Batch { batch_size, sequence_length, tokens, targets, document_starts: None }
}

/// Runs `batch` through both models in whole windows, and its first `steps` tokens one by one, and compares each head of `widened` with the one of
/// `base` that it must equal before training: heads that were there already with themselves, the new one with the last of them.
/// `progress` is told how many of how many tokens are done.
///
/// # Errors
/// [`Error::Usage`] where `widened` is not widened, and whatever the models return.
pub fn compare(
    base: &Model,
    widened: &Model,
    batch: &Batch,
    steps: usize,
    mut progress: impl FnMut(usize, usize),
) -> Result<Vec<HeadVerification>> {
    let (rings, widened_rings) = (base.growths().count(), widened.growths().count());
    if widened_rings != rings + 1 {
        return Err(Error::usage(format!(
            "a model and the same with one more ring are needed for a comparison, not models of {rings} and {widened_rings} rings"
        )));
    }
    let last = base.heads().len() - 1;
    let none = Difference::default();
    let mut found: Vec<HeadVerification> =
        widened.heads().iter().map(|&head| HeadVerification { head, logits: none, log_probs: none, hidden: none }).collect();

    let (expected, scores) = (base.score(batch, true)?, widened.score(batch, true)?);
    for (i, head) in found.iter_mut().enumerate() {
        head.log_probs.add(&expected.log_probs[i.min(last)], &scores.log_probs[i]);
        head.hidden.add(&expected.hidden[i.min(last)], &scores.hidden[i]);
    }

    let steps = steps.min(batch.tokens.len()).min(batch.sequence_length);
    let (mut base_cache, mut cache) = (base.new_cache(steps), widened.new_cache(steps));
    for (done, token) in batch.tokens[..steps].chunks(1).enumerate() {
        let (expected, logits) = (base.step(&mut base_cache, token)?, widened.step(&mut cache, token)?);
        for (i, (head, logits)) in found.iter_mut().zip(&logits).enumerate() {
            head.logits.add(&expected[i.min(last)], logits);
        }
        progress(done + 1, steps);
    }
    Ok(found)
}
