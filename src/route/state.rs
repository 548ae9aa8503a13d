//! One router on its way through one document.

use super::Router;
use super::decision::{Decision, log_sum};
use super::evidence::Evidence;

/// What is known of a token's prediction before the token is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Signals<'a> {
    /// Log-probability (nats) of each head's most probable token.
    pub largest: &'a [f32],
    /// Cosine of the first and the last head's logits; read by `cosine` only.
    pub cosine: f32,
}

/// A router and what it has learnt from the tokens of a document so far.
#[derive(Debug, Clone)]
pub struct Route {
    router: Router,
    heads: usize,
    memory: Option<Memory>,
}

/// What evidence has been collected.
#[derive(Debug, Clone)]
struct Memory {
    share: f64,
    /// How the heads have done over all tokens.
    overall: Evidence,
    /// The same apart for each situation; `bayes-confidence` only.
    situations: Option<Situations>,
}

/// Evidence apart for tokens on which a head is much surer than the others, and for those on which none is.
#[derive(Debug, Clone)]
struct Situations {
    margin: f64,
    /// None surer, then each head surer.
    each: Vec<Evidence>,
    /// How [`Memory::overall`] and the situations have done against one another.
    council: Evidence,
}

impl Route {
    /// `router` at the beginning of a document, among `heads` heads, of which the first is the preservation head.
    pub fn new(router: Router, heads: usize) -> Self {
        // `favoured` for one head, the same for each of the others.
        let towards = |head: usize, favoured: f64| {
            let others = heads.saturating_sub(1).max(1) as f64;
            Evidence::new((0..heads).map(|h| if h == head { favoured } else { (1.0 - favoured) / others }).collect())
        };
        // Every learnt head against the first as `prior` to the rest of one: all alike by default, however many they are.
        let against_first = |prior: f64| {
            let all = 1.0 - prior + heads.saturating_sub(1) as f64 * prior;
            Evidence::new((0..heads).map(|h| if h == 0 { 1.0 - prior } else { prior } / all).collect())
        };
        let memory = match router {
            Router::Bayes { share, prior } => Some(Memory { share, overall: against_first(prior), situations: None }),
            Router::BayesConfidence { share, prior, margin, trust } => {
                let overall = against_first(prior);
                let each = std::iter::once(overall.clone()).chain((0..heads).map(|head| towards(head, trust))).collect();
                let situations = Situations { margin, each, council: Evidence::new(vec![0.5, 0.5]) };
                Some(Memory { share, overall, situations: Some(situations) })
            }
            Router::Preserve | Router::Adapt | Router::Cosine { .. } | Router::Confidence => None,
        };
        Self { router, heads, memory }
    }

    /// The router.
    pub fn router(&self) -> Router {
        self.router
    }

    /// Forgets everything: a new document begins.
    pub fn restart(&mut self) {
        let Some(memory) = &mut self.memory else { return };
        memory.overall.restart();
        if let Some(situations) = &mut memory.situations {
            situations.council.restart();
            situations.each.iter_mut().for_each(Evidence::restart);
        }
    }

    /// Decides on the next token, from `signals` and the tokens observed so far.
    pub fn decide(&self, signals: Signals<'_>) -> Decision {
        let last = self.heads.saturating_sub(1);
        if let Some(memory) = &self.memory {
            return Decision::in_proportion(memory.log_weights(signals));
        }
        match self.router {
            Router::Cosine { threshold } if f64::from(signals.cosine) >= threshold => Decision::only(0, self.heads),
            Router::Preserve => Decision::only(0, self.heads),
            Router::Confidence => Decision::only(surest(signals.largest).0, self.heads),
            // Something was learnt about this token; of several heads that learn, the surest speaks.
            Router::Cosine { .. } if self.heads > 2 => Decision::only(1 + surest(&signals.largest[1..]).0, self.heads),
            _ => Decision::only(last, self.heads),
        }
    }

    /// Takes note of the token that came: the signals there were before it, and the log-probabilities (nats) that the heads had given it.
    pub fn observe(&mut self, signals: Signals<'_>, log_probs: &[f32]) {
        if let Some(memory) = &mut self.memory {
            let log_probs: Vec<f64> = log_probs.iter().map(|&p| f64::from(p)).collect();
            memory.observe(signals, &log_probs);
        }
    }
}

impl Memory {
    fn log_weights(&self, signals: Signals<'_>) -> Vec<f64> {
        let Some(situations) = &self.situations else { return self.overall.log_weights().to_vec() };
        let here = &situations.each[situations.index(signals)];
        let council = situations.council.log_weights();
        let both = self.overall.log_weights().iter().zip(here.log_weights());
        both.map(|(overall, here)| log_sum(&[council[0] + overall, council[1] + here])).collect()
    }

    fn observe(&mut self, signals: Signals<'_>, log_probs: &[f64]) {
        if let Some(situations) = &mut self.situations {
            let index = situations.index(signals);
            let here = &mut situations.each[index];
            situations.council.observe(&[self.overall.mixture(log_probs), here.mixture(log_probs)], self.share);
            here.observe(log_probs, self.share);
        }
        self.overall.observe(log_probs, self.share);
    }
}

impl Situations {
    fn index(&self, signals: Signals<'_>) -> usize {
        let (best, lead) = surest(signals.largest);
        if lead > self.margin { best + 1 } else { 0 }
    }
}

/// The head whose most probable token is the most probable, the first of equals, and by how much (nats) it leads the next.
fn surest(largest: &[f32]) -> (usize, f64) {
    let best = largest.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (i, &l)| if l > best.1 { (i, l) } else { best });
    let others = largest.iter().enumerate().filter(|(i, _)| *i != best.0).map(|(_, &l)| l);
    (best.0, f64::from(best.1) - f64::from(others.fold(f32::NEG_INFINITY, f32::max)))
}
