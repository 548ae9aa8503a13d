//! What a gate looks at: how the newest head and the one before it predict the next token, and how they have done in the document so far.

use super::evidence::Evidence;
use super::state::Signals;

/// Number of [`NAMES`].
pub const FEATURES: usize = 14;
/// Inputs of a gate.
pub type Features = [f64; FEATURES];

/// What each input is. `before` is the head before the newest: with two heads the preservation head.
pub const NAMES: [&str; FEATURES] = [
    "largest_before",
    "largest_newest",
    "odds_before",
    "odds_newest",
    "cosine",
    "entropy_before",
    "entropy_newest",
    "divergence",
    "crossed_before",
    "crossed_newest",
    "agree",
    "evidence",
    "recent",
    "position",
];

/// Share of the weights that returns to the prior after every token in `evidence`.
const SHARE: f64 = 1e-3;
/// What is left of `recent` after a token.
const DECAY: f64 = 0.7;
/// Nats beyond which a single token counts no further in `recent`.
const MOST: f64 = 8.0;

/// The course of a document.
#[derive(Debug, Clone)]
pub struct Track {
    evidence: Evidence,
    recent: f64,
    position: f64,
}

impl Default for Track {
    fn default() -> Self {
        Self { evidence: Evidence::new(vec![0.5; 2]), recent: 0.0, position: 0.0 }
    }
}

impl Track {
    /// What there is to see before the next token; the heads are the last two of `signals`.
    pub fn features(&self, signals: Signals<'_>) -> Features {
        let largest = last_two(signals.largest).map(f64::from);
        let odds = largest.map(|l| (l - (-l.exp_m1()).max(1e-6).ln()) / 5.0);
        let contrast = signals.contrast.unwrap_or_default();
        let weights = self.evidence.log_weights();
        [
            largest[0],
            largest[1],
            odds[0],
            odds[1],
            f64::from(contrast.cosine),
            f64::from(contrast.entropy[0]),
            f64::from(contrast.entropy[1]),
            f64::from(contrast.divergence).min(10.0),
            f64::from(contrast.crossed[0]).max(-15.0) / 5.0,
            f64::from(contrast.crossed[1]).max(-15.0) / 5.0,
            f64::from(u8::from(contrast.agree)),
            2.0 * ((weights[1] - weights[0]) / 4.0).tanh(),
            self.recent / 4.0,
            self.position.ln_1p(),
        ]
    }

    /// Takes note of the log-probabilities (nats) that all heads gave a token.
    pub fn observe(&mut self, log_probs: &[f64]) {
        let [before, newest] = last_two(log_probs);
        self.evidence.observe(&[before, newest], SHARE);
        let lead = newest - before;
        // Where both thought it impossible, or one is no number, neither was better.
        self.recent = DECAY * self.recent + if lead.is_nan() { 0.0 } else { lead.clamp(-MOST, MOST) };
        self.position += 1.0;
    }

    /// A new document begins.
    pub fn restart(&mut self) {
        *self = Self::default();
    }
}

/// The last two of several; of one, it twice.
fn last_two<T: Copy + Default>(all: &[T]) -> [T; 2] {
    match all {
        [.., before, newest] => [*before, *newest],
        [one] => [*one; 2],
        [] => [T::default(); 2],
    }
}
