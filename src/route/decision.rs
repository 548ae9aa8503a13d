//! The heads' weights for one token, and what they make of the heads' distributions.

use crate::ops::mixture::log_mixture;

/// What a router decided for one token.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Logarithms of weights that sum to one; `-∞` is a head that has no say.
    log_weights: Vec<f64>,
}

impl Decision {
    /// Everything to one of `heads` heads.
    pub(super) fn only(head: usize, heads: usize) -> Self {
        let mut log_weights = vec![f64::NEG_INFINITY; heads];
        log_weights[head] = 0.0;
        Self { log_weights }
    }

    /// Weights in these proportions; equal ones where the proportions say nothing (all zero, or not numbers).
    pub(super) fn in_proportion(mut log_weights: Vec<f64>) -> Self {
        let total = log_sum(&log_weights);
        if total.is_finite() {
            log_weights.iter_mut().for_each(|w| *w -= total);
        } else {
            let equal = -(log_weights.len() as f64).ln();
            log_weights.fill(equal);
        }
        Self { log_weights }
    }

    /// The weight of a head, 0 to 1.
    pub fn weight(&self, head: usize) -> f64 {
        self.log_weights[head].exp()
    }

    /// The head that speaks for a token to which the heads give these log-probabilities (nats): the one that has the greatest part in the mixture's
    /// probability, the first of equals. Of the heads' favourite tokens it is the head whose favourite is the most probable.
    pub fn speaker(&self, log_probs: &[f32]) -> usize {
        let with_a_say = self.log_weights.iter().zip(log_probs).enumerate().filter(|(_, (w, _))| **w > f64::NEG_INFINITY);
        let parts = with_a_say.map(|(head, (w, &p))| (head, if p.is_nan() { f64::NEG_INFINITY } else { w + f64::from(p) }));
        parts.reduce(|best, next| if next.1 > best.1 { next } else { best }).map_or(0, |best| best.0)
    }

    /// The mixture's log-probability (nats) of a token to which the heads give these; exactly the head's own where one head has all the weight.
    pub fn log_prob(&self, log_probs: &[f32]) -> f64 {
        let terms: Vec<f64> = self.terms(log_probs.iter().map(|&p| f64::from(p))).collect();
        match terms.as_slice() {
            [one] => *one,
            several => log_sum(several),
        }
    }

    /// Logits of the mixture, from the heads' logits: a head's own where it has all the weight, and otherwise log-probabilities.
    ///
    /// # Shapes
    /// `logits` one `[vocab_size]` a head, `normalisers` what makes log-probabilities of each ([`log_normaliser`](crate::ops::mixture::log_normaliser)), result
    /// `[vocab_size]`.
    pub fn mix(&self, logits: &[Vec<f32>], normalisers: &[f64]) -> Vec<f32> {
        let heads = self.log_weights.iter().zip(logits.iter().zip(normalisers)).filter(|(w, _)| **w > f64::NEG_INFINITY);
        let rows: Vec<(&[f32], f64)> = heads.map(|(w, (row, normaliser))| (row.as_slice(), w - normaliser)).collect();
        if let [(only, _)] = rows.as_slice() {
            return only.to_vec();
        }
        let mut mixed = vec![0.0; logits.first().map_or(0, Vec::len)];
        log_mixture(&rows, &mut mixed);
        mixed
    }

    /// `ln(weight · probability)` of every head that has a say.
    fn terms(&self, log_probs: impl Iterator<Item = f64>) -> impl Iterator<Item = f64> {
        self.log_weights.iter().zip(log_probs).filter(|(w, _)| **w > f64::NEG_INFINITY).map(|(w, p)| w + p)
    }
}

/// `ln Σ e^x`; `-∞` for nothing, NaN where one is NaN.
pub(super) fn log_sum(x: &[f64]) -> f64 {
    if x.iter().any(|v| v.is_nan()) {
        return f64::NAN;
    }
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max.is_infinite() { max } else { max + x.iter().map(|v| (v - max).exp()).sum::<f64>().ln() }
}
