//! From logits to a token: pure functions, in the order in which `transformers` applies them.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Serialize;

use crate::error::{Error, Result};

/// How the next token is chosen. With `temperature` 0 it is the most probable one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SamplerConfig {
    /// Logits are divided by it; 0 means greedy.
    pub temperature: f32,
    /// Keep this many most probable tokens; `None` keeps all.
    pub top_k: Option<usize>,
    /// Keep the smallest set of most probable tokens whose probabilities sum to at least this; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this share as probable as the most probable one; 0 keeps all.
    pub min_p: f32,
    /// Divide (positive) or multiply (negative) the logits of tokens already seen, prompt included; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Seed of the random choice.
    pub seed: u64,
}

impl Default for SamplerConfig {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: None, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 42 }
    }
}

impl SamplerConfig {
    /// Checks every setting's range.
    ///
    /// # Errors
    /// A setting out of its range, by name.
    pub fn validate(&self) -> Result<()> {
        let check = |holds: bool, message: String| if holds { Ok(()) } else { Err(Error::usage(message)) };
        check(self.temperature.is_finite() && self.temperature >= 0.0, format!("temperature must be 0 or more, not {}", self.temperature))?;
        check(self.top_k != Some(0), "top-k must be at least 1 (leave it out to keep every token)".into())?;
        check(self.top_p > 0.0 && self.top_p <= 1.0, format!("top-p must be above 0 and at most 1, not {}", self.top_p))?;
        check((0.0..=1.0).contains(&self.min_p), format!("min-p must be between 0 and 1, not {}", self.min_p))?;
        let penalty = self.repetition_penalty;
        check(penalty.is_finite() && penalty > 0.0, format!("the repetition penalty must be above 0, not {penalty}"))
    }
}

/// Chooses tokens; its random numbers are a fixed stream of its seed.
#[derive(Debug, Clone)]
pub struct Sampler {
    config: SamplerConfig,
    rng: ChaCha8Rng,
}

impl Sampler {
    /// A sampler at the beginning of its stream.
    ///
    /// # Errors
    /// A setting out of its range, by name.
    pub fn new(config: SamplerConfig) -> Result<Self> {
        config.validate()?;
        let rng = ChaCha8Rng::seed_from_u64(config.seed);
        Ok(Self { config, rng })
    }

    /// The next token after `seen` (prompt and what was generated so far).
    ///
    /// # Errors
    /// No logits, or one that is not a number.
    pub fn sample(&mut self, logits: &[f32], seen: &[u32]) -> Result<u32> {
        if let Some(token) = logits.iter().position(|l| l.is_nan()) {
            return Err(Error::Numeric(format!("the logit of token {token} is not a number; the model's weights may be damaged")));
        }
        let mut logits = logits.to_vec();
        penalise_repetition(&mut logits, seen, self.config.repetition_penalty);
        if self.config.temperature == 0.0 {
            return argmax(&logits).ok_or_else(|| Error::Numeric("the model gave no logits".into()));
        }
        let kept = distribution(&logits, &self.config);
        // 53 random bits make an even number in [0, 1).
        let uniform = (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        pick(&kept, uniform).ok_or_else(|| Error::Numeric("the model gave no logits".into()))
    }
}

/// The most probable token, the first of equals; `None` without logits.
pub fn argmax(logits: &[f32]) -> Option<u32> {
    let best = logits.iter().enumerate().fold(None, |best: Option<(usize, f32)>, (i, &l)| match best {
        Some((_, b)) if l <= b => best,
        _ => Some((i, l)),
    });
    best.map(|(i, _)| i as u32)
}

/// Makes tokens that were seen less probable (`penalty` > 1), each once however often it occurred.
pub fn penalise_repetition(logits: &mut [f32], seen: &[u32], penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    let mut seen = seen.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for token in seen {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }
}

/// The tokens that may be chosen with their probabilities, most probable first (then by number): temperature, then top-k, top-p and min-p,
/// each on the renormalised result of the one before. Every filter keeps at least one token; top-k keeps ties with its last.
pub fn distribution(logits: &[f32], config: &SamplerConfig) -> Vec<(u32, f64)> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if largest == f32::NEG_INFINITY {
        return Vec::new();
    }
    // An infinite logit is certain; differences of infinities are not numbers.
    let weight = |l: f32| if l == largest { 1.0 } else { (f64::from(l - largest) / f64::from(config.temperature)).exp() };
    let mut kept: Vec<(u32, f64)> = logits.iter().enumerate().map(|(i, &l)| (i as u32, weight(l))).filter(|&(_, w)| w > 0.0).collect();
    kept.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if let Some(last) = config.top_k.and_then(|k| kept.get(k.saturating_sub(1)).map(|&(_, w)| w)) {
        kept.retain(|&(_, w)| w >= last);
    }
    normalise(&mut kept);
    if config.top_p < 1.0 {
        let mut sum = 0.0;
        let reaching = kept.iter().take_while(|&&(_, p)| {
            let needed = sum < f64::from(config.top_p);
            sum += p;
            needed
        });
        let count = reaching.count().max(1);
        kept.truncate(count);
        normalise(&mut kept);
    }
    let least = kept.first().map_or(0.0, |&(_, p)| p * f64::from(config.min_p));
    kept.retain(|&(_, p)| p >= least);
    normalise(&mut kept);
    kept
}

fn normalise(weights: &mut [(u32, f64)]) {
    let sum: f64 = weights.iter().map(|&(_, w)| w).sum();
    weights.iter_mut().for_each(|(_, w)| *w /= sum);
}

/// The token in whose share of `0..1` the number `uniform` falls.
fn pick(distribution: &[(u32, f64)], uniform: f64) -> Option<u32> {
    let mut sum = 0.0;
    let found = distribution.iter().find(|&&(_, p)| {
        sum += p;
        uniform < sum
    });
    // Rounding may leave the sum a hair below one.
    found.or(distribution.last()).map(|&(token, _)| token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Logits of the probabilities 0.5, 0.25, 0.15, 0.1, in another order.
    fn logits() -> Vec<f32> {
        [0.15f32, 0.5, 0.1, 0.25].iter().map(|p| p.ln() + 3.0).collect()
    }

    fn sampled() -> SamplerConfig {
        SamplerConfig { temperature: 1.0, ..SamplerConfig::default() }
    }

    fn assert_distribution(config: &SamplerConfig, expected: &[(u32, f64)]) {
        let found = distribution(&logits(), config);
        assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), expected.iter().map(|e| e.0).collect::<Vec<_>>());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found.1 - expected.1).abs() < 1e-6, "{found:?} instead of {expected:?}");
        }
    }

    #[test]
    fn temperature_one_is_the_softmax() {
        assert_distribution(&sampled(), &[(1, 0.5), (3, 0.25), (0, 0.15), (2, 0.1)]);
    }

    #[test]
    fn temperature_sharpens() {
        let z: f64 = [0.5f64, 0.25, 0.15, 0.1].iter().map(|p| p * p).sum();
        let config = SamplerConfig { temperature: 0.5, ..sampled() };
        assert_distribution(&config, &[(1, 0.25 / z), (3, 0.0625 / z), (0, 0.0225 / z), (2, 0.01 / z)]);
    }

    #[test]
    fn each_filter_keeps_what_it_says() {
        assert_distribution(&SamplerConfig { top_k: Some(2), ..sampled() }, &[(1, 2.0 / 3.0), (3, 1.0 / 3.0)]);
        assert_distribution(&SamplerConfig { top_k: Some(99), ..sampled() }, &[(1, 0.5), (3, 0.25), (0, 0.15), (2, 0.1)]);
        assert_distribution(&SamplerConfig { top_p: 0.8, ..sampled() }, &[(1, 0.5 / 0.9), (3, 0.25 / 0.9), (0, 0.15 / 0.9)]);
        assert_distribution(&SamplerConfig { top_p: 1e-6, ..sampled() }, &[(1, 1.0)]);
        assert_distribution(&SamplerConfig { min_p: 0.4, ..sampled() }, &[(1, 2.0 / 3.0), (3, 1.0 / 3.0)]);
        assert_distribution(&SamplerConfig { min_p: 1.0, ..sampled() }, &[(1, 1.0)]);
    }

    #[test]
    fn filters_work_on_what_the_one_before_left() {
        // Of all tokens 0.5 + 0.25 < 0.8, but of the two that top-k leaves they are everything, and the first alone is 2/3 < 0.8.
        assert_distribution(&SamplerConfig { top_k: Some(2), top_p: 0.6, ..sampled() }, &[(1, 1.0)]);
        assert_distribution(&SamplerConfig { top_k: Some(2), top_p: 0.7, ..sampled() }, &[(1, 2.0 / 3.0), (3, 1.0 / 3.0)]);
    }

    #[test]
    fn top_k_keeps_ties() {
        let config = SamplerConfig { top_k: Some(1), ..sampled() };
        assert_eq!(distribution(&[1.0, 2.0, 2.0], &config), [(1, 0.5), (2, 0.5)]);
    }

    #[test]
    fn impossible_and_certain_tokens_are_respected() {
        assert_eq!(distribution(&[f32::NEG_INFINITY, 0.0], &sampled()), [(1, 1.0)]);
        assert_eq!(distribution(&[f32::INFINITY, 0.0], &sampled()), [(0, 1.0)]);
        assert!(distribution(&[f32::NEG_INFINITY], &sampled()).is_empty());
        let mut sampler = Sampler::new(sampled()).unwrap();
        assert!(matches!(sampler.sample(&[0.0, f32::NAN], &[]), Err(Error::Numeric(_))));
        assert!(sampler.sample(&[], &[]).is_err());
    }

    #[test]
    fn greedy_takes_the_first_of_equals_and_needs_no_randomness() {
        let mut sampler = Sampler::new(SamplerConfig::default()).unwrap();
        assert_eq!(sampler.sample(&[0.0, 7.0, 7.0, -1.0], &[]).unwrap(), 1);
    }

    #[test]
    fn seen_tokens_are_penalised_once_towards_improbable() {
        let mut logits = [2.0, -2.0, 1.0];
        penalise_repetition(&mut logits, &[0, 1, 0, 1, 0, 99], 2.0);
        assert_eq!(logits, [1.0, -4.0, 1.0]);
    }

    #[test]
    fn frequencies_follow_the_distribution_and_the_seed_fixes_them() {
        let draw = |seed| {
            let mut sampler = Sampler::new(SamplerConfig { seed, ..sampled() }).unwrap();
            (0..20_000).map(|_| sampler.sample(&logits(), &[]).unwrap()).collect::<Vec<_>>()
        };
        let drawn = draw(7);
        for (token, p) in [(0, 0.15), (1, 0.5), (2, 0.1), (3, 0.25)] {
            let share = drawn.iter().filter(|&&t| t == token).count() as f64 / drawn.len() as f64;
            // Five standard deviations.
            assert!((share - p).abs() < 5.0 * (p * (1.0 - p) / drawn.len() as f64).sqrt(), "token {token}: {share} instead of {p}");
        }
        assert_eq!(drawn, draw(7));
        assert_ne!(drawn, draw(8));
    }

    #[test]
    fn settings_out_of_range_are_refused_by_name() {
        let refused = |config: SamplerConfig, name: &str| {
            let error = Sampler::new(config).unwrap_err();
            assert!(error.to_string().contains(name) && error.exit_code() == 2, "{error}");
        };
        refused(SamplerConfig { temperature: -1.0, ..sampled() }, "temperature");
        refused(SamplerConfig { temperature: f32::NAN, ..sampled() }, "temperature");
        refused(SamplerConfig { top_k: Some(0), ..sampled() }, "top-k");
        refused(SamplerConfig { top_p: 0.0, ..sampled() }, "top-p");
        refused(SamplerConfig { min_p: 1.5, ..sampled() }, "min-p");
        refused(SamplerConfig { repetition_penalty: 0.0, ..sampled() }, "repetition penalty");
    }

    proptest! {
        #[test]
        fn a_distribution_sums_to_one_and_holds_the_most_probable(
            logits in prop::collection::vec(-20f32..20.0, 1..50), temperature in 0.05f32..3.0, k in 1usize..60, top_p in 0.01f32..1.0, min_p in 0f32..1.0,
        ) {
            let config = SamplerConfig { temperature, top_k: Some(k), top_p, min_p, ..sampled() };
            let kept = distribution(&logits, &config);
            prop_assert!((kept.iter().map(|k| k.1).sum::<f64>() - 1.0).abs() < 1e-9);
            prop_assert_eq!(Some(kept[0].0), argmax(&logits));
            prop_assert!(kept.windows(2).all(|w| w[0].1 >= w[1].1));
        }
    }
}
