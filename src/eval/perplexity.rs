//! Perplexity of every head, and of every router between them, on a held-out corpus.

use std::time::Instant;

use super::representation::{self, CosineSum, Reference};
use super::result::{CorpusResult, HeadResult};
use super::routed::{OnToken, Routed};
use crate::data::batch::IGNORE;
use crate::data::held_out::HeldOut;
use crate::data::windows::{ScoredBatch, WindowConfig};
use crate::error::{Error, Result};
use crate::model::{Extras, Head, Model, Scores};
use crate::route::{self, Router};

/// Called after every batch with the number of tokens scored so far; an error ends the evaluation.
pub type OnProgress<'a> = &'a mut dyn FnMut(u64) -> Result<()>;

/// What is measured, and how.
#[derive(Clone, Copy)]
pub struct Measure<'a> {
    /// The windows that documents are cut into.
    pub windows: WindowConfig,
    /// What the representation is compared with.
    pub reference: Reference<'a>,
    /// Routers that are measured beside the heads, in the same pass.
    pub routers: &'a [Router],
}

/// Scores `corpus` with every head of `model` and every router, in windows; `on_token` hears of every token, document by document.
///
/// Every token is predicted once. Sums are kept in f64, first within each document, then over the documents in their order,
/// so that they do not depend on which documents shared a batch. A router begins anew with each document, and goes on from window to window within one.
///
/// # Errors
/// Windows that the model cannot take, routers for a model with one head, a corpus of another vocabulary, one without a single token to predict,
/// or what `on_token` or `progress` returns.
pub fn perplexity(
    model: &Model,
    corpus: &HeldOut,
    measure: Measure<'_>,
    on_token: Option<OnToken<'_>>,
    progress: OnProgress<'_>,
) -> Result<CorpusResult> {
    let Measure { windows, reference, routers } = measure;
    super::check_windows(model, &windows)?;
    reference.check(model)?;
    route::check(model, routers)?;
    let vocab_size = model.config().vocab_size;
    if corpus.largest_token() as usize >= vocab_size {
        return Err(Error::usage(format!(
            "corpus {:?} holds token {}, but the model's vocabulary ends at {}: the tokenizer does not fit the model",
            corpus.name(),
            corpus.largest_token(),
            vocab_size.saturating_sub(1)
        )));
    }
    let started = Instant::now();
    let mut cosines = CosineSum::new();
    let mut routed = Routed::new(routers, model.heads(), model.aids(), on_token);
    let extras = Extras { hidden: reference.is_some(), cosine: routed.needs_cosine(), contrast: routed.needs_contrast() };
    let sums = accumulate(corpus.windows(windows)?, model.heads().len(), corpus.len(), progress, |scored| {
        let batch = &scored.batch;
        let mut scores = model.score_with(batch, extras)?;
        routed.add(scored, &scores)?;
        if let Some((hidden, reference)) = representation::pair(&mut scores, batch, &reference)? {
            cosines.add(batch, &hidden, &reference);
        }
        Ok(scores)
    })?;
    if sums.tokens == 0 {
        return Err(Error::usage(format!(
            "corpus {:?} has no token to predict: its documents hold one token at most, and the tokenizer puts none before them",
            corpus.name()
        )));
    }
    Ok(CorpusResult {
        name: corpus.name().to_owned(),
        group: None,
        documents: corpus.len() as u64,
        tokens: corpus.tokens(),
        scored_tokens: sums.tokens,
        bytes: corpus.bytes(),
        heads: model.heads().iter().enumerate().map(|(h, &head)| sums.head(h, head, corpus.bytes())).collect(),
        routers: routed.finish(sums.tokens, corpus.bytes()),
        representation: reference.is_some().then(|| cosines.finish()),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Sums over a corpus.
#[derive(Debug, Clone, PartialEq)]
struct Sums {
    /// Scored tokens.
    tokens: u64,
    /// Negative log-likelihood of each document, `[head][document]`.
    nll: Vec<Vec<f64>>,
    /// Tokens that were the most probable one, by head.
    correct: Vec<u64>,
}

impl Sums {
    fn head(&self, index: usize, head: Head, bytes: u64) -> HeadResult {
        let nll: f64 = self.nll[index].iter().sum();
        HeadResult {
            head,
            nll,
            perplexity: (nll / self.tokens as f64).exp(),
            bits_per_byte: nll / std::f64::consts::LN_2 / bytes as f64,
            accuracy: self.correct[index] as f64 / self.tokens as f64,
        }
    }
}

/// Scores all batches and sums, document by document.
fn accumulate(
    batches: impl Iterator<Item = Result<ScoredBatch>>,
    heads: usize,
    documents: usize,
    progress: OnProgress<'_>,
    mut score: impl FnMut(&ScoredBatch) -> Result<Scores>,
) -> Result<Sums> {
    let mut sums = Sums { tokens: 0, nll: vec![vec![0.0; documents]; heads], correct: vec![0; heads] };
    for scored in batches {
        let scored = scored?;
        let scores = score(&scored)?;
        let ScoredBatch { batch, documents: whose, .. } = scored;
        for head in 0..heads {
            let results = scores.log_probs[head].iter().zip(&scores.correct[head]);
            for ((&target, &document), (&log_prob, &correct)) in batch.targets.iter().zip(&whose).zip(results) {
                if target != IGNORE {
                    sums.nll[head][document] -= f64::from(log_prob);
                    sums.correct[head] += u64::from(correct);
                }
            }
        }
        sums.tokens += batch.target_count() as u64;
        progress(sums.tokens)?;
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::windows::Windows;
    use proptest::prelude::*;

    /// A "model" whose log-probability depends on the previous token and the target only, exact in f32.
    fn bigram(previous: u32, target: u32) -> f32 {
        -(((previous * 7 + target * 3) % 64) as f32) / 16.0 - 0.0625
    }

    fn score(scored: &ScoredBatch) -> Result<Scores> {
        let batch = &scored.batch;
        let log_probs: Vec<f32> =
            batch.tokens.iter().zip(&batch.targets).map(|(&token, &t)| if t == IGNORE { 0.0 } else { bigram(token, t) }).collect();
        let correct = batch.targets.iter().map(|&t| t != IGNORE && t % 2 == 0).collect::<Vec<_>>();
        let second = log_probs.iter().map(|l| 2.0 * l).collect();
        Ok(Scores { log_probs: vec![log_probs, second], correct: vec![correct.clone(), correct], ..Scores::default() })
    }

    fn run(documents: &[Vec<u32>], config: WindowConfig) -> Sums {
        let windows = Windows::new(documents.iter().cloned().map(Ok), config).unwrap();
        accumulate(windows, 2, documents.len(), &mut |_| Ok(()), score).unwrap()
    }

    proptest! {
        /// A bigram needs one token of context, which every window gives: so windows, strides and batches must not matter at all.
        #[test]
        fn sums_equal_a_direct_computation_whatever_the_windows(
            documents in prop::collection::vec(prop::collection::vec(0u32..100, 1..50), 1..10),
            window in 2usize..20, stride in 1usize..20, batch_size in 1usize..5, bos in prop::option::of(Just(99u32)),
        ) {
            let sums = run(&documents, WindowConfig { window, stride: stride.min(window), batch_size, bos });
            let mut tokens = 0;
            let mut correct = 0;
            for (index, document) in documents.iter().enumerate() {
                let whole: Vec<u32> = bos.into_iter().chain(document.iter().copied()).collect();
                let nll: f64 = whole.windows(2).map(|w| -f64::from(bigram(w[0], w[1]))).sum();
                prop_assert_eq!(sums.nll[0][index], nll);
                prop_assert_eq!(sums.nll[1][index], 2.0 * nll);
                tokens += whole.len() as u64 - 1;
                correct += whole[1..].iter().filter(|&&t| t % 2 == 0).count() as u64;
            }
            prop_assert_eq!(sums.tokens, tokens);
            prop_assert_eq!(sums.correct[0], correct);
        }
    }

    #[test]
    fn a_uniform_model_has_the_perplexity_of_its_vocabulary() {
        let sums = Sums { tokens: 10, nll: vec![vec![4.0 * 256f64.ln(), 6.0 * 256f64.ln()]], correct: vec![5] };
        let result = sums.head(0, Head::Base, 10);
        assert!((result.perplexity - 256.0).abs() < 1e-9);
        assert!((result.bits_per_byte - 8.0).abs() < 1e-12);
        assert_eq!(result.accuracy, 0.5);
    }

    #[test]
    fn an_error_from_the_progress_ends_the_evaluation() {
        let config = WindowConfig { window: 4, stride: 4, batch_size: 1, bos: None };
        let windows = Windows::new([Ok((0..40).collect())].into_iter(), config).unwrap();
        let mut calls = 0;
        let stopped = accumulate(
            windows,
            2,
            1,
            &mut |_| {
                calls += 1;
                if calls == 3 { Err(Error::Interrupted("by the user".into())) } else { Ok(()) }
            },
            score,
        );
        assert!(matches!(stopped, Err(Error::Interrupted(_))));
        assert_eq!(calls, 3);
    }
}
