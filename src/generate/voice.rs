//! Who speaks: one head, or a router between them.

use serde::Serialize;

use super::{Request, choose_head};
use crate::error::{Error, Result};
use crate::model::{Cache, Extras, Head, Model};
use crate::ops::contrast::{self, Contrast};
use crate::ops::mixture::log_normaliser;
use crate::route::{self, Decision, Route, Signals};

/// Which head spoke for a token.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spoken {
    /// The token.
    pub token: u32,
    /// The text that is whole with it; empty where a character is still to be completed.
    pub text: String,
    /// The head that had the greater part in the token's probability.
    pub head: Head,
    /// The weight of the adaptation head in the distribution the token was chosen from.
    pub adaptation_weight: f64,
}

/// What turns logits of several heads into those of one.
pub(super) enum Voice {
    /// This head, by index.
    Head(usize),
    /// A router, on its way through the text.
    Router(Box<Routed>),
}

/// A router and what it knows of the next token.
pub(super) struct Routed {
    route: Route,
    /// Logits of every head, and what makes log-probabilities of them.
    logits: Vec<Vec<f32>>,
    normalisers: Vec<f64>,
    /// Log-probability of each head's most probable token.
    largest: Vec<f32>,
    /// How the last two heads differ, where the router asks.
    contrast: Option<Contrast>,
    /// The token that was read last.
    last: u32,
    /// What was decided.
    decision: Option<Decision>,
}

impl Voice {
    /// What `request` asks for.
    pub fn new(model: &Model, request: &Request) -> Result<Self> {
        match (request.router, request.head) {
            (Some(router), Some(_)) => Err(Error::usage(format!("router `{router}` chooses the head; a head cannot be asked for as well"))),
            (Some(router), None) => {
                route::check(model, &[router])?;
                let route = Route::new(router, model.heads().len()).with(model.aids());
                let (logits, normalisers, largest) = (Vec::new(), Vec::new(), Vec::new());
                Ok(Self::Router(Box::new(Routed { route, logits, normalisers, largest, contrast: None, last: 0, decision: None })))
            }
            (None, head) => Ok(Self::Head(choose_head(model, head)?)),
        }
    }

    /// Reads on and returns the logits to choose the next token from. A router takes note of a prompt's tokens as of any others.
    pub fn read(&mut self, model: &Model, cache: &mut Cache, tokens: &[u32]) -> Result<Vec<f32>> {
        match self {
            Self::Head(head) => model.step_head(cache, tokens, *head),
            Self::Router(routed) => routed.read(model, cache, tokens),
        }
    }

    /// Takes note of the token that was chosen; under a router returns the head that spoke and the adaptation head's weight.
    pub fn observe(&mut self, model: &Model, token: u32) -> Option<(Head, f64)> {
        match self {
            Self::Head(_) => None,
            Self::Router(routed) => routed.observe(model.heads(), token),
        }
    }
}

impl Routed {
    fn read(&mut self, model: &Model, cache: &mut Cache, tokens: &[u32]) -> Result<Vec<f32>> {
        if cache.is_empty() && tokens.len() > 1 {
            let extras = Extras { contrast: self.route.router().needs_contrast(), ..Extras::default() };
            let (logits, scores) = model.read(cache, tokens, extras)?;
            for at in 0..tokens.len() - 1 {
                let of = |rows: &[Vec<f32>]| rows.iter().map(|row| row[at]).collect::<Vec<f32>>();
                // Evidence depends on how sure the heads were, never on the cosine.
                let contrast = scores.contrast.get(at).copied();
                let signals = Signals { largest: &of(&scores.largest), cosine: 0.0, contrast, read: tokens[at] };
                self.route.observe(signals, &of(&scores.log_probs));
            }
            self.logits = logits;
        } else {
            self.logits = model.step(cache, tokens)?;
        }
        self.normalisers = self.logits.iter().map(|row| log_normaliser(row)).collect();
        let greatest = |row: &[f32]| f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        self.largest = self.logits.iter().zip(&self.normalisers).map(|(row, normaliser)| (greatest(row) - normaliser) as f32).collect();
        let cosine = match (self.route.router().needs_cosine(), self.logits.as_slice()) {
            (true, [first, .., last]) => crate::ops::cosine::one(first, last),
            _ => 0.0,
        };
        self.contrast = match (self.route.router().needs_contrast(), self.logits.as_slice()) {
            (true, [.., before, newest]) => Some(contrast::one(before, newest)),
            _ => None,
        };
        self.last = tokens.last().copied().unwrap_or_default();
        let decision = self.route.decide(Signals { largest: &self.largest, cosine, contrast: self.contrast, read: self.last });
        let mixed = decision.mix(&self.logits, &self.normalisers);
        self.decision = Some(decision);
        Ok(mixed)
    }

    fn observe(&mut self, heads: &[Head], token: u32) -> Option<(Head, f64)> {
        let log_probs = self.logits.iter().zip(&self.normalisers).map(|(row, n)| (f64::from(row[token as usize]) - n) as f32);
        let log_probs: Vec<f32> = log_probs.collect();
        self.route.observe(Signals { largest: &self.largest, cosine: 0.0, contrast: self.contrast, read: self.last }, &log_probs);
        let decision = self.decision.take()?;
        Some((heads[decision.speaker(&log_probs)], decision.weight(heads.len() - 1)))
    }
}
