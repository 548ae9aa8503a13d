//! Loss spikes: a step whose loss or gradient stands out from those before it may be left out.
//!
//! The rule is that of OLMo-core's `SkipStepOptimizer`: with at least half a window of steps behind it, a step is skipped where its loss, or the norm of its
//! gradient before clipping, is more than so many standard deviations above the mean of the last window. Skipped steps count among those behind as well, so that
//! a level that stays is soon accepted. The history is in every checkpoint: a resumed run skips what an uninterrupted one does.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// When a step is a spike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpikeConfig {
    /// Standard deviations above the mean.
    pub sigma: f64,
    /// Steps that mean and deviation are taken over.
    pub window: usize,
}

/// What is remembered of the steps before, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpikeState {
    /// Steps skipped so far.
    pub skipped: u64,
    /// Losses of the last window.
    #[serde(with = "exact")]
    pub losses: VecDeque<f64>,
    /// Norms of its gradients.
    #[serde(with = "exact")]
    pub gradient_norms: VecDeque<f64>,
}

impl SpikeState {
    /// Whether a step with this loss and this gradient norm is a spike; it is remembered, and counted where it is one.
    pub fn observe(&mut self, config: SpikeConfig, loss: f64, gradient_norm: f64) -> bool {
        let known = self.losses.len();
        let spike = known >= 2.max(config.window.div_ceil(2))
            && (stands_out(&self.losses, loss, config.sigma) || stands_out(&self.gradient_norms, gradient_norm, config.sigma));
        for (history, value) in [(&mut self.losses, loss), (&mut self.gradient_norms, gradient_norm)] {
            history.push_back(value);
            // A window that was made shorter gives up more than one.
            while history.len() > config.window {
                history.pop_front();
            }
        }
        self.skipped += u64::from(spike);
        spike
    }
}

/// Whether `value` is more than `sigma` sample deviations above the mean of `history`, which has two values or more.
fn stands_out(history: &VecDeque<f64>, value: f64, sigma: f64) -> bool {
    let n = history.len() as f64;
    let mean = history.iter().sum::<f64>() / n;
    let variance = history.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
    value > mean + sigma * variance.sqrt()
}

/// Numbers as text: JSON readers, serde_json's among them, may change the last bit of a number, and the next decision would be another.
mod exact {
    use std::collections::VecDeque;

    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::{SerializeSeq, Serializer};

    pub fn serialize<S: Serializer>(values: &VecDeque<f64>, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(values.len()))?;
        for value in values {
            seq.serialize_element(&value.to_string())?;
        }
        seq.end()
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<VecDeque<f64>, D::Error> {
        let number = |text: String| text.parse().map_err(|_| D::Error::custom(format!("{text:?} is no number")));
        Vec::<String>::deserialize(deserializer)?.into_iter().map(number).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: SpikeConfig = SpikeConfig { sigma: 4.0, window: 8 };

    #[test]
    fn a_step_that_stands_out_is_skipped_and_a_new_level_is_accepted() {
        let mut state = SpikeState::default();
        let level = |i: u64, around: f64| around + 0.01 * (i % 3) as f64;
        assert!((0..6).all(|i| !state.observe(CONFIG, level(i, 2.0), 1.0 + 0.01 * (i % 2) as f64)));
        assert!(state.observe(CONFIG, 9.0, 1.0), "its loss stands out");
        // One spike within the window hides others of its size, not larger ones.
        assert!(!state.observe(CONFIG, 2.0, 1.0));
        assert!(state.observe(CONFIG, 2.0, 50.0), "its gradient stands out");
        let later: Vec<bool> = (0..20).map(|i| state.observe(CONFIG, level(i, 30.0), 1.0)).collect();
        assert!(later[0] && later[8..].iter().all(|spike| !spike), "{later:?}");
        assert_eq!(state.skipped, 2 + later.iter().filter(|&&spike| spike).count() as u64);
        assert_eq!((state.losses.len(), state.gradient_norms.len()), (8, 8));
    }

    #[test]
    fn nothing_is_skipped_before_half_a_window() {
        let mut state = SpikeState::default();
        assert!([1.0, 1.0, 1.0, 1e9].iter().all(|&loss| !state.observe(CONFIG, loss, loss)));
        // Equal values deviate by nothing, so whatever is larger stands out.
        let mut state = SpikeState::default();
        assert!((0..4).all(|_| !state.observe(CONFIG, 1.0, 1.0)));
        assert!(!state.observe(CONFIG, 1.0, 1.0) && state.observe(CONFIG, 1.1, 1.0));
    }

    #[test]
    fn its_state_survives_json_to_the_last_bit() {
        let mut state = SpikeState { skipped: 3, ..SpikeState::default() };
        let mut x = 0.1f64;
        for _ in 0..500 {
            x = (x * 1.37 + 0.000_123).fract() * 10f64.powi((x * 40.0) as i32 - 20);
            state.losses.push_back(x);
            state.gradient_norms.push_back(x.sqrt());
        }
        let json = serde_json::to_string(&state).unwrap();
        let back: SpikeState = serde_json::from_str(&json).unwrap();
        let bits = |values: &VecDeque<f64>| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!((bits(&back.losses), bits(&back.gradient_norms), back.skipped), (bits(&state.losses), bits(&state.gradient_norms), 3));
        assert!(serde_json::from_str::<SpikeState>(r#"{"skipped":0,"losses":["x"],"gradient_norms":[]}"#).is_err());
    }
}
