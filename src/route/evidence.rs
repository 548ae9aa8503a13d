//! Weights that are earned by being right.

use super::decision::log_sum;

/// Weights of several experts, each in proportion to its prior and the probability it gave to everything that came.
#[derive(Debug, Clone)]
pub(super) struct Evidence {
    /// Weights before anything came; they sum to one.
    prior: Vec<f64>,
    /// Logarithms of the weights now.
    earned: Vec<f64>,
}

impl Evidence {
    pub fn new(prior: Vec<f64>) -> Self {
        let earned = prior.iter().map(|w| w.ln()).collect();
        Self { prior, earned }
    }

    /// Back to the prior.
    pub fn restart(&mut self) {
        self.earned.iter_mut().zip(&self.prior).for_each(|(w, prior)| *w = prior.ln());
    }

    /// Logarithms of the weights.
    pub fn log_weights(&self) -> &[f64] {
        &self.earned
    }

    /// What the experts together make of log-probabilities that each of them gives.
    pub fn mixture(&self, log_probs: &[f64]) -> f64 {
        let terms: Vec<f64> = self.earned.iter().zip(log_probs).filter(|(w, _)| **w > f64::NEG_INFINITY).map(|(w, p)| w + p).collect();
        log_sum(&terms)
    }

    /// Takes note of something to which the experts had given these log-probabilities; then the part `share` of the weights returns to the prior.
    pub fn observe(&mut self, log_probs: &[f64], share: f64) {
        let total = self.mixture(log_probs);
        // What no expert thought possible, or a number that is none, says nothing about which of them is better.
        if !total.is_finite() || log_probs.iter().any(|p| p.is_nan()) {
            return;
        }
        for ((w, &p), &prior) in self.earned.iter_mut().zip(log_probs).zip(&self.prior) {
            *w = if *w == f64::NEG_INFINITY { *w } else { *w + p - total };
            if share > 0.0 {
                *w = ((1.0 - share) * w.exp() + share * prior).ln();
            }
        }
    }
}
