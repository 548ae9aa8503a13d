//! One router on its way through one document.

use std::sync::Arc;

use super::decision::{Decision, log_sum};
use super::evidence::Evidence;
use super::recall::{MOST_HISTORY, Recall, Trace};
use super::track::Track;
use super::{Aids, Gate, Router};
use crate::ops::contrast::Contrast;

/// What is known of a token's prediction before the token is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Signals<'a> {
    /// Log-probability (nats) of each head's most probable token.
    pub largest: &'a [f32],
    /// Cosine of the first and the last head's logits; read by `cosine` only.
    pub cosine: f32,
    /// How the last head but one and the last differ; read by `gate` only.
    pub contrast: Option<Contrast>,
    /// The token before the one that is predicted; read by `recall` only.
    pub read: u32,
}

/// A router and what it has learnt from the tokens of a document so far.
#[derive(Debug, Clone)]
pub struct Route {
    router: Router,
    heads: usize,
    memory: Option<Memory>,
    gated: Option<Gated>,
    reminded: Option<Reminded>,
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

/// What the router `gate` weighs against one another.
#[derive(Debug, Clone)]
struct Gated {
    share: f64,
    /// Without one the newest head and the others have equal odds.
    gate: Option<Arc<Gate>>,
    track: Track,
    /// How the heads before the newest have done against one another.
    within: Evidence,
    /// How every head alone, and last the gate, have done.
    council: Evidence,
}

/// What the router `recall` knows of a document.
#[derive(Debug, Clone)]
struct Reminded {
    threshold: f64,
    /// What each learnt head was taught; without it a head never claims anything.
    recalls: Vec<Option<Arc<Recall>>>,
    /// The end of the document.
    history: Vec<u32>,
    traces: Vec<Trace>,
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
            Router::Preserve | Router::Adapt | Router::Cosine { .. } | Router::Confidence | Router::Gate { .. } | Router::Recall { .. } => {
                None
            }
        };
        let gated = match router {
            Router::Gate { share, prior } => {
                let within = heads.saturating_sub(1).max(1);
                let council = std::iter::repeat_n((1.0 - prior) / heads.max(1) as f64, heads).chain([prior]).collect();
                let (within, council) = (Evidence::new(vec![1.0 / within as f64; within]), Evidence::new(council));
                Some(Gated { share, gate: None, track: Track::default(), within, council })
            }
            _ => None,
        };
        let reminded = match router {
            Router::Recall { threshold } => Some(Reminded { threshold, recalls: Vec::new(), history: Vec::new(), traces: Vec::new() }),
            _ => None,
        };
        Self { router, heads, memory, gated, reminded }
    }

    /// With what the routers `gate` and `recall` ask; others have no use for it.
    pub fn with(mut self, aids: &Aids) -> Self {
        if let Some(gated) = &mut self.gated {
            gated.gate.clone_from(&aids.gate);
        }
        if let Some(reminded) = &mut self.reminded {
            reminded.recalls.clone_from(&aids.recalls);
            reminded.traces = vec![Trace::default(); aids.recalls.len()];
        }
        self
    }

    /// The router.
    pub fn router(&self) -> Router {
        self.router
    }

    /// Forgets everything: a new document begins.
    pub fn restart(&mut self) {
        if let Some(gated) = &mut self.gated {
            gated.track.restart();
            gated.within.restart();
            gated.council.restart();
        }
        if let Some(reminded) = &mut self.reminded {
            reminded.history.clear();
            reminded.traces.fill(Trace::default());
        }
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
        if let Some(gated) = &self.gated {
            return Decision::in_proportion(gated.log_weights(signals));
        }
        if let Some(memory) = &self.memory {
            return Decision::in_proportion(memory.log_weights(signals));
        }
        if let Some(reminded) = &self.reminded {
            return Decision::only(reminded.speaker(signals.read).filter(|&head| head < self.heads).unwrap_or(0), self.heads);
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
        if let Some(reminded) = &mut self.reminded {
            reminded.read(signals.read);
        }
        if let Some(gated) = &mut self.gated {
            let log_probs: Vec<f64> = log_probs.iter().map(|&p| f64::from(p)).collect();
            gated.observe(signals, &log_probs);
        }
        if let Some(memory) = &mut self.memory {
            let log_probs: Vec<f64> = log_probs.iter().map(|&p| f64::from(p)).collect();
            memory.observe(signals, &log_probs);
        }
    }
}

impl Gated {
    /// Logarithms of the weights that the gate alone would give the heads.
    fn of_gate(&self, signals: Signals<'_>) -> Vec<f64> {
        let log_odds = self.gate.as_ref().map_or(0.0, |gate| gate.log_odds(&self.track.features(signals)));
        // ln σ, without overflow at either end.
        let log_sigmoid = |x: f64| x.min(0.0) - (-x.abs()).exp().ln_1p();
        let within = self.within.log_weights().iter().map(|w| log_sigmoid(-log_odds) + w);
        within.chain([log_sigmoid(log_odds)]).collect()
    }

    fn log_weights(&self, signals: Signals<'_>) -> Vec<f64> {
        let council = self.council.log_weights();
        let of_gate = council.last().copied().unwrap_or(f64::NEG_INFINITY);
        council.iter().zip(self.of_gate(signals)).map(|(head, gated)| log_sum(&[*head, of_gate + gated])).collect()
    }

    fn observe(&mut self, signals: Signals<'_>, log_probs: &[f64]) {
        let parts: Vec<f64> = self.of_gate(signals).iter().zip(log_probs).map(|(w, p)| w + p).collect();
        let experts: Vec<f64> = log_probs.iter().copied().chain([log_sum(&parts)]).collect();
        self.council.observe(&experts, self.share);
        self.within.observe(&log_probs[..log_probs.len().saturating_sub(1)], self.share);
        self.track.observe(log_probs);
    }
}

impl Reminded {
    /// The document with one token more, as far back as anyone looks, and what every head makes of it.
    fn after(&self, token: u32) -> (Vec<u32>, Vec<Trace>) {
        let start = (self.history.len() + 1).saturating_sub(MOST_HISTORY);
        let history: Vec<u32> = self.history[start..].iter().copied().chain([token]).collect();
        let of = |(recall, trace): (&Option<Arc<Recall>>, &Trace)| recall.as_ref().map_or(*trace, |recall| trace.after(recall, &history));
        let traces = self.recalls.iter().zip(&self.traces).map(of).collect();
        (history, traces)
    }

    fn read(&mut self, token: u32) {
        (self.history, self.traces) = self.after(token);
    }

    /// The learnt head whose claim after this token is the greatest, and great enough; of equals the newest, since what was taught again holds.
    fn speaker(&self, token: u32) -> Option<usize> {
        let claims = self.after(token).1.into_iter().map(Trace::claim).enumerate();
        let best = claims.max_by(|a, b| a.1.total_cmp(&b.1));
        best.filter(|(_, claim)| *claim >= self.threshold).map(|(index, _)| index + 1)
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
