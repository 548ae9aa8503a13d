//! Routers measured over documents, beside the heads they choose between.

use serde::Serialize;

use super::result::RouterResult;
use crate::data::batch::IGNORE;
use crate::data::windows::ScoredBatch;
use crate::error::Result;
use crate::model::{Head, Scores};
use crate::route::{Aids, Route, Router, Signals};

/// Called with every scored token, document by document and in the order of the text; an error ends the evaluation.
pub type OnToken<'a> = &'a mut dyn FnMut(&TracedToken<'_>) -> Result<()>;

/// One token, what the heads thought of it and what the routers decided before they saw it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TracedToken<'a> {
    /// Index of the document.
    pub document: usize,
    /// Index of the token in the document.
    pub position: usize,
    /// The token.
    pub token: u32,
    /// Its log-probability (nats) under each head.
    pub log_probs: &'a [f32],
    /// Log-probability of each head's most probable token.
    pub largest: &'a [f32],
    /// Cosine of the first and the last head's logits; absent where no router needs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cosine: Option<f32>,
    /// One entry a router.
    pub decisions: &'a [TracedDecision],
}

/// What a router decided for one token.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TracedDecision {
    /// The router.
    pub router: Router,
    /// The head that spoke: the one whose favourite token had the greater part in the prediction.
    pub head: Head,
    /// The weight of the adaptation head in the prediction.
    pub adaptation_weight: f64,
    /// The token's log-probability (nats) under the routed prediction.
    pub log_prob: f64,
}

/// Routers on their way through a corpus. Batches come in the order of the documents, but the windows of one document may stand in any row of a
/// batch; tokens are therefore put in order before any router sees them.
pub(super) struct Routed<'a> {
    heads: Vec<Head>,
    routes: Vec<Sums>,
    on_token: Option<OnToken<'a>>,
    document: Option<usize>,
    /// Loss of each head in the current document.
    heads_nll: Vec<f64>,
}

/// One router and what it came to.
struct Sums {
    route: Route,
    nll: f64,
    of_document: f64,
    correct: u64,
    /// Tokens on which each head spoke.
    spoke: Vec<u64>,
    worst_excess: f64,
}

impl<'a> Routed<'a> {
    pub fn new(routers: &[Router], heads: &[Head], aids: &Aids, on_token: Option<OnToken<'a>>) -> Self {
        let start = |&router: &Router| Sums {
            route: Route::new(router, heads.len()).with(aids),
            nll: 0.0,
            of_document: 0.0,
            correct: 0,
            spoke: vec![0; heads.len()],
            worst_excess: f64::NEG_INFINITY,
        };
        Self {
            heads: heads.to_vec(),
            routes: routers.iter().map(start).collect(),
            on_token,
            document: None,
            heads_nll: vec![0.0; heads.len()],
        }
    }

    pub fn needs_cosine(&self) -> bool {
        self.routes.iter().any(|sums| sums.route.router().needs_cosine())
    }

    pub fn needs_contrast(&self) -> bool {
        self.routes.iter().any(|sums| sums.route.router().needs_contrast())
    }

    /// Takes the tokens of a batch.
    pub fn add(&mut self, scored: &ScoredBatch, scores: &Scores) -> Result<()> {
        if self.routes.is_empty() && self.on_token.is_none() {
            return Ok(());
        }
        let targets = &scored.batch.targets;
        let mut order: Vec<usize> = (0..targets.len()).filter(|&at| targets[at] != IGNORE).collect();
        order.sort_unstable_by_key(|&at| (scored.documents[at], scored.positions[at]));
        for at in order {
            if self.document != Some(scored.documents[at]) {
                self.end_document();
                self.document = Some(scored.documents[at]);
            }
            self.token(scored, scores, at)?;
        }
        Ok(())
    }

    fn token(&mut self, scored: &ScoredBatch, scores: &Scores, at: usize) -> Result<()> {
        let of = |rows: &[Vec<f32>]| rows.iter().map(|row| row[at]).collect::<Vec<f32>>();
        let (log_probs, largest) = (of(&scores.log_probs), of(&scores.largest));
        let cosine = scores.cosine.get(at).copied();
        let contrast = scores.contrast.get(at).copied();
        let signals = Signals { largest: &largest, cosine: cosine.unwrap_or_default(), contrast, read: scored.batch.tokens[at] };
        let last = self.heads.len() - 1;
        let mut decisions = Vec::with_capacity(self.routes.len());
        for sums in &mut self.routes {
            let decision = sums.route.decide(signals);
            let (speaker, log_prob) = (decision.speaker(&largest), decision.log_prob(&log_probs));
            sums.of_document -= log_prob;
            sums.correct += u64::from(scores.correct[speaker][at]);
            sums.spoke[speaker] += 1;
            let (router, head) = (sums.route.router(), self.heads[speaker]);
            decisions.push(TracedDecision { router, head, adaptation_weight: decision.weight(last), log_prob });
            // Only now: a decision never knows the token it is about.
            sums.route.observe(signals, &log_probs);
        }
        self.heads_nll.iter_mut().zip(&log_probs).for_each(|(sum, &p)| *sum -= f64::from(p));
        match &mut self.on_token {
            Some(on_token) => on_token(&TracedToken {
                document: scored.documents[at],
                position: scored.positions[at],
                token: scored.batch.targets[at],
                log_probs: &log_probs,
                largest: &largest,
                cosine,
                decisions: &decisions,
            }),
            None => Ok(()),
        }
    }

    fn end_document(&mut self) {
        if self.document.take().is_none() {
            return;
        }
        let best = self.heads_nll.iter().copied().fold(f64::INFINITY, f64::min);
        self.heads_nll.fill(0.0);
        for sums in &mut self.routes {
            sums.worst_excess = sums.worst_excess.max(sums.of_document - best);
            sums.nll += std::mem::take(&mut sums.of_document);
            sums.route.restart();
        }
    }

    /// The results over `tokens` scored tokens and the `bytes` of their documents.
    pub fn finish(mut self, tokens: u64, bytes: u64) -> Vec<RouterResult> {
        self.end_document();
        let share = |spoke: &[u64]| spoke.iter().map(|&n| n as f64 / tokens as f64).collect::<Vec<f64>>();
        let result = |sums: &Sums| RouterResult {
            router: sums.route.router(),
            nll: sums.nll,
            perplexity: (sums.nll / tokens as f64).exp(),
            bits_per_byte: sums.nll / std::f64::consts::LN_2 / bytes as f64,
            accuracy: sums.correct as f64 / tokens as f64,
            adaptation_share: share(&sums.spoke).last().copied().unwrap_or_default(),
            head_shares: if sums.spoke.len() > 2 { share(&sums.spoke) } else { Vec::new() },
            worst_document_excess: sums.worst_excess,
        };
        self.routes.iter().map(result).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::windows::{WindowConfig, Windows};
    use proptest::prelude::*;

    const HEADS: &[Head] = &[Head::Preservation, Head::Adaptation];

    /// Log-probabilities that depend on the target alone, so that windows and batches cannot matter.
    fn log_probs(target: u32) -> [f32; 2] {
        [-((target * 7 % 16) as f32) / 4.0 - 0.25, -((target * 11 % 16) as f32) / 4.0 - 0.25]
    }

    fn scores(scored: &ScoredBatch) -> Scores {
        let of = |head: usize, value: fn([f32; 2], usize) -> f32| {
            scored.batch.targets.iter().map(|&t| if t == IGNORE { 0.0 } else { value(log_probs(t), head) }).collect::<Vec<f32>>()
        };
        let log_probs = vec![of(0, |p, head| p[head]), of(1, |p, head| p[head])];
        // The first head is as sure as the second is right, so that confidence changes its mind.
        let largest = vec![of(0, |p, _| p[1]), of(1, |p, _| p[0])];
        let correct = vec![vec![true; scored.batch.targets.len()], vec![false; scored.batch.targets.len()]];
        let cosine = of(0, |p, _| p[0] / 4.0);
        Scores { log_probs, largest, correct, cosine, ..Scores::default() }
    }

    fn run(documents: &[Vec<u32>], config: WindowConfig, routers: &[Router]) -> (Vec<RouterResult>, Vec<(usize, usize, f64)>) {
        let mut traced = Vec::new();
        let mut on_token = |token: &TracedToken<'_>| {
            traced.push((token.document, token.position, token.decisions.last().map_or(0.0, |d| d.adaptation_weight)));
            Ok(())
        };
        let mut routed = Routed::new(routers, HEADS, &Aids::default(), Some(&mut on_token));
        for scored in Windows::new(documents.iter().cloned().map(Ok), config).unwrap() {
            let scored = scored.unwrap();
            routed.add(&scored, &scores(&scored)).unwrap();
        }
        (routed.finish(100, 100), traced)
    }

    proptest! {
        #[test]
        fn windows_and_batches_do_not_matter_and_tokens_come_in_order(
            documents in prop::collection::vec(prop::collection::vec(0u32..100, 1..50), 1..10),
            window in 2usize..20, stride in 1usize..20, batch_size in 1usize..5,
        ) {
            let routers: Vec<Router> = Router::NAMES.iter().map(|name| name.parse().unwrap()).collect();
            let config = WindowConfig { window, stride: stride.min(window), batch_size, bos: Some(99) };
            let whole = WindowConfig { window: 100, stride: 100, batch_size: 1, bos: Some(99) };
            let ((results, trace), (expected, in_order)) = (run(&documents, config, &routers), run(&documents, whole, &routers));
            prop_assert!(trace.windows(2).all(|pair| (pair[0].0, pair[0].1) < (pair[1].0, pair[1].1)));
            prop_assert_eq!(trace, in_order);
            prop_assert_eq!(results, expected);
        }
    }

    #[test]
    fn evidence_is_forgotten_between_documents_and_the_worst_document_is_found() {
        // Token 1 is likelier under the first head (-2 against -3), token 2 likewise (-3.75 against -1.75) under the second.
        let documents = [vec![2; 8], vec![1], vec![1; 8]];
        let config = WindowConfig { window: 64, stride: 64, batch_size: 2, bos: Some(9) };
        let bayes: Router = "bayes:share=0".parse().unwrap();
        let (results, trace) = run(&documents, config, &[Router::Adapt, bayes]);
        let first: Vec<f64> = trace.iter().filter(|t| t.1 == 0).map(|t| t.2).collect();
        assert_eq!(first.len(), 3);
        assert!(first.iter().all(|w| (w - 0.5).abs() < 1e-12), "{first:?}");
        let (last_of_first, last) = (trace[7].2, trace[16].2);
        assert!(last_of_first > 0.99 && last < 0.01, "{last_of_first} {last}");
        let excess = 8.0 * f64::from(log_probs(1)[0] - log_probs(1)[1]);
        assert!((results[0].worst_document_excess - excess).abs() < 1e-9, "{}", results[0].worst_document_excess);
        assert!(results[1].worst_document_excess <= std::f64::consts::LN_2 + 1e-9);
        assert_eq!((results[0].adaptation_share, results[0].accuracy), (0.17, 0.0));
    }
}
