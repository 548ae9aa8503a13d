//! A small network that looks at how two heads predict a token and says which of them should speak. It is trained on what the newest head was trained
//! on and on what the model before it says by itself, so no old data is needed.

use std::io::Write;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::decision::log_sum;
use super::track::{FEATURES, Features, NAMES};
use crate::checkpoint::atomic;
use crate::data::order::Random;
use crate::error::{Error, IoContext, Result};
use crate::files::read_limited_text;

/// Where a gate lies: beside the trained values that it belongs to.
pub const FILE: &str = "gate.json";
/// The largest file that is read as a gate.
const MOST_BYTES: u64 = 1 << 20;
/// Units of the hidden layer.
const HIDDEN: usize = 16;
const STEPS: usize = 500;
const LEARNING_RATE: f64 = 2e-2;
const WEIGHT_DECAY: f64 = 1e-3;
/// Deviations from the mean beyond which a feature counts no further: what was never seen must not decide everything.
const FURTHEST: f64 = 4.0;
/// The largest number of a gate; products of some of them are still numbers.
const LARGEST: f64 = 1e30;
/// Examples whose gradients are summed by one task; sums of tasks are added in their order.
const TASK: usize = 512;

/// A network of one hidden layer over the features of a token, standardised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    format: String,
    version: u32,
    /// What each input is, in their order.
    features: Vec<String>,
    /// Mean of each input over the examples.
    mean: Vec<f64>,
    /// Its standard deviation.
    deviation: Vec<f64>,
    /// Weights of the hidden layer, a row a unit, its bias last.
    hidden: Vec<Vec<f64>>,
    /// Weights of the output, its bias last.
    output: Vec<f64>,
}

/// A token that one head or the other should have predicted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Example {
    /// What there was to see before the token.
    pub features: Features,
    /// Its log-probability (nats) under the head before the newest, and under the newest.
    pub log_probs: [f64; 2],
    /// Whether the newest head was trained to predict it.
    pub trained: bool,
}

impl Example {
    /// Its loss (nats) where the newest head has these odds, and the derivative of the loss by the logarithm of the odds.
    fn loss(&self, log_odds: f64) -> (f64, f64) {
        let weights = [-softplus(log_odds), -softplus(-log_odds)];
        let parts = [weights[0] + self.log_probs[0], weights[1] + self.log_probs[1]];
        let together = log_sum(&parts);
        if !together.is_finite() {
            return (0.0, 0.0);
        }
        (-together, weights[1].exp() - (parts[1] - together).exp())
    }
}

/// `ln(1 + e^x)`.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    (-softplus(-x)).exp()
}

impl Gate {
    /// Trains a gate on two kinds of text, each of which counts as much as the other: `new` is what the newest head was trained on, `own` is what the model
    /// before it says by itself. Where only some of the new text was trained on, such as answers and not their questions, that counts for half of it: a gate that
    /// never saw the rest would do badly on it and lose its weight before the answer. The same on every machine for the same examples and seed, but for the
    /// rounding of `exp`.
    ///
    /// # Errors
    /// [`Error::Usage`] where there are no examples of one kind.
    pub fn train(new: &[Example], own: &[Example], seed: u64) -> Result<Self> {
        if new.is_empty() || own.is_empty() {
            return Err(Error::usage(
                "a gate needs tokens of the new text and of what the model before it says; there are none of one kind",
            ));
        }
        let weighted = |side: &[Example]| -> Vec<(Example, f64)> {
            let trained = side.iter().filter(|example| example.trained).count();
            let shares = if trained == 0 { [0.5, 0.0] } else { [0.25, 0.25 / trained as f64] };
            side.iter().map(|e| (*e, shares[0] / side.len() as f64 + if e.trained { shares[1] } else { 0.0 })).collect()
        };
        let examples = [weighted(new), weighted(own)].concat();
        let mut gate = Self::untrained(&examples, seed);
        let inputs: Vec<(Features, [f64; 2], f64)> =
            examples.iter().map(|(example, weight)| (gate.standardised(&example.features), example.log_probs, *weight)).collect();
        let mut values = gate.values();
        let (mut first, mut second) = (vec![0.0; values.len()], vec![0.0; values.len()]);
        for step in 0..STEPS {
            gate.set_values(&values);
            let tasks: Vec<Vec<f64>> = inputs.par_chunks(TASK).map(|task| gate.gradient(task)).collect();
            let mut gradient = vec![0.0; values.len()];
            tasks.iter().for_each(|task| gradient.iter_mut().zip(task).for_each(|(sum, g)| *sum += g));
            let rate = LEARNING_RATE * (1.0 - step as f64 / STEPS as f64);
            let corrections = [1.0 - 0.9f64.powi(step as i32 + 1), 1.0 - 0.999f64.powi(step as i32 + 1)];
            for (((value, g), m), v) in values.iter_mut().zip(&gradient).zip(&mut first).zip(&mut second) {
                *m = 0.9 * *m + 0.1 * g;
                *v = 0.999 * *v + 0.001 * g * g;
                *value -= rate * (*m / corrections[0] / ((*v / corrections[1]).sqrt() + 1e-8) + WEIGHT_DECAY * *value);
            }
        }
        gate.set_values(&values);
        Ok(gate)
    }

    fn untrained(examples: &[(Example, f64)], seed: u64) -> Self {
        let total: f64 = examples.iter().map(|e| e.1).sum();
        let average = |of: &dyn Fn(&Features) -> f64| examples.iter().map(|(e, w)| w * of(&e.features)).sum::<f64>() / total;
        let mean: Vec<f64> = (0..FEATURES).map(|i| average(&|x| x[i])).collect();
        let deviation = (0..FEATURES).map(|i| average(&|x| (x[i] - mean[i]).powi(2)).sqrt() + 1e-3).collect();
        let mut random = Random::new(seed, 0);
        let mut uniform = |inputs: usize| (random.below(1 << 20) as f64 / f64::from(1 << 19) - 1.0) / (inputs as f64).sqrt();
        let hidden = (0..HIDDEN).map(|_| (0..FEATURES).map(|_| uniform(FEATURES)).chain([0.0]).collect()).collect();
        let output = (0..HIDDEN).map(|_| uniform(HIDDEN)).chain([0.0]).collect();
        let features = NAMES.iter().map(ToString::to_string).collect();
        Self { format: FORMAT.into(), version: VERSION, features, mean, deviation, hidden, output }
    }

    fn values(&self) -> Vec<f64> {
        self.hidden.iter().flatten().chain(&self.output).copied().collect()
    }

    fn set_values(&mut self, values: &[f64]) {
        self.hidden.iter_mut().flatten().chain(&mut self.output).zip(values).for_each(|(slot, v)| *slot = *v);
    }

    fn standardised(&self, features: &Features) -> Features {
        std::array::from_fn(|i| {
            let x = (features[i] - self.mean[i]) / self.deviation[i];
            if x.is_finite() { x.clamp(-FURTHEST, FURTHEST) } else { 0.0 }
        })
    }

    /// The log-odds, and what the hidden units hold before their non-linearity.
    fn forward(&self, x: &Features) -> (f64, [f64; HIDDEN]) {
        let sums: [f64; HIDDEN] =
            std::array::from_fn(|unit| self.hidden[unit][FEATURES] + x.iter().zip(&self.hidden[unit]).map(|(x, w)| x * w).sum::<f64>());
        let out = self.output[HIDDEN] + sums.iter().zip(&self.output).map(|(s, w)| w * s * sigmoid(*s)).sum::<f64>();
        (out, sums)
    }

    /// The weighted sum of the examples' gradients by every value, in the order of [`Gate::values`].
    fn gradient(&self, task: &[(Features, [f64; 2], f64)]) -> Vec<f64> {
        let mut gradient = vec![0.0; HIDDEN * (FEATURES + 1) + HIDDEN + 1];
        let (of_hidden, of_output) = gradient.split_at_mut(HIDDEN * (FEATURES + 1));
        for (x, log_probs, weight) in task {
            let (log_odds, sums) = self.forward(x);
            let slope = weight * Example { features: *x, log_probs: *log_probs, trained: true }.loss(log_odds).1;
            of_output[HIDDEN] += slope;
            for (unit, &s) in sums.iter().enumerate() {
                let gate = sigmoid(s);
                of_output[unit] += slope * s * gate;
                let back = slope * self.output[unit] * gate * (1.0 + s * (1.0 - gate));
                let row = &mut of_hidden[unit * (FEATURES + 1)..][..FEATURES + 1];
                row.iter_mut().zip(x).for_each(|(g, x)| *g += back * x);
                row[FEATURES] += back;
            }
        }
        gradient
    }

    /// The logarithm of the newest head's odds against the head before it.
    pub fn log_odds(&self, features: &Features) -> f64 {
        self.forward(&self.standardised(features)).0
    }

    /// Mean loss (nats a token) of the mixture that the gate makes of the two heads.
    pub fn loss(&self, examples: &[Example]) -> f64 {
        let sum: f64 = examples.iter().map(|example| example.loss(self.log_odds(&example.features)).0).sum();
        sum / examples.len().max(1) as f64
    }

    /// Writes it beside the trained values in `folder`, whole or not at all, and returns where.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, folder: &Path) -> Result<PathBuf> {
        let path = folder.join(FILE);
        let text = serde_json::to_string_pretty(self).map_err(|error| Error::file(&path, error))? + "\n";
        atomic::write_file(&path, |out| out.write_all(text.as_bytes()).at(&path))?;
        Ok(path)
    }

    /// Whether a file of one lies in `folder`; [`Self::load`] says whether it is whole.
    pub fn is_in(folder: &Path) -> bool {
        folder.join(FILE).exists()
    }

    /// The gate in `folder`; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::File`] for a file that holds no gate, or one with other inputs.
    pub fn load(folder: &Path) -> Result<Option<Self>> {
        if !Self::is_in(folder) {
            return Ok(None);
        }
        let path = folder.join(FILE);
        let text = read_limited_text(&path, MOST_BYTES, "gate")?;
        let hint = "`treering gate` trains another";
        let gate: Self = serde_json::from_str(&text).map_err(|error| Error::file(&path, format!("no gate: {error}\n  hint: {hint}")))?;
        gate.check().map_err(|what| Error::file(&path, format!("{what}\n  hint: {hint}")))?;
        Ok(Some(gate))
    }

    fn check(&self) -> std::result::Result<(), String> {
        if self.format != FORMAT || self.version != VERSION {
            return Err(format!("expected format {FORMAT:?} of version {VERSION}, found {:?} of version {}", self.format, self.version));
        }
        if self.features != NAMES {
            return Err(format!("expected the features {}, found {}", NAMES.join(", "), self.features.join(", ")));
        }
        let lengths =
            [("mean", self.mean.len(), FEATURES), ("deviation", self.deviation.len(), FEATURES), ("output", self.output.len(), HIDDEN + 1)];
        let rows = self.hidden.iter().map(|row| ("a row of hidden", row.len(), FEATURES + 1));
        for (name, found, expected) in lengths.into_iter().chain([("hidden", self.hidden.len(), HIDDEN)]).chain(rows) {
            if found != expected {
                return Err(format!("{name}: expected {expected} numbers, found {found}"));
            }
        }
        let mut numbers = self.mean.iter().chain(&self.deviation).chain(self.hidden.iter().flatten()).chain(&self.output);
        if !numbers.all(|x| x.abs() <= LARGEST) || self.deviation.iter().any(|d| *d <= 0.0) {
            return Err(format!("a number that is not finite or above {LARGEST:e}, or a deviation that is not above 0"));
        }
        Ok(())
    }
}

const FORMAT: &str = "treering-gate";
const VERSION: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Two kinds of tokens that two features together tell apart and neither alone.
    fn examples(new: bool, count: u64) -> Vec<Example> {
        let mut random = Random::new(u64::from(new), 7);
        let mut unit = || random.below(1000) as f64 / 500.0 - 1.0;
        (0..count)
            .map(|_| {
                let mut features: Features = std::array::from_fn(|_| unit());
                if (features[0] * features[1] > 0.0) != new {
                    features[1] = -features[1];
                }
                Example { features, log_probs: if new { [-4.0, -0.5] } else { [-0.5, -4.0] }, trained: true }
            })
            .collect()
    }

    #[test]
    fn a_gate_learns_what_no_single_feature_tells_and_comes_out_the_same_again() {
        let (new, own) = (examples(true, 1400), examples(false, 1400));
        let gate = Gate::train(&new, &own, 1).unwrap();
        let (unseen_new, unseen_own) = (examples(true, 2100).split_off(1400), examples(false, 2100).split_off(1400));
        let right = |examples: &[Example], new: bool| {
            examples.iter().filter(|e| (gate.log_odds(&e.features) > 0.0) == new).count() as f64 / examples.len() as f64
        };
        assert!(
            right(&unseen_new, true) > 0.93 && right(&unseen_own, false) > 0.93,
            "{} {}",
            right(&unseen_new, true),
            right(&unseen_own, false)
        );
        // Half the weight on each head would lose ln 2 on every token.
        assert!(gate.loss(&unseen_new) < 0.5 + 0.3 && gate.loss(&unseen_own) < 0.5 + 0.3);
        assert_eq!(gate, Gate::train(&new, &own, 1).unwrap());
        assert!(Gate::train(&new, &[], 1).is_err() && Gate::train(&[], &own, 1).is_err());
    }

    #[test]
    fn what_was_trained_on_counts_for_half_of_the_new_text_however_little_it_is() {
        // A token in ten was trained on, and alone is the newest head's; the rest of the new text is like the old.
        let mut new = examples(false, 300);
        for example in new.iter_mut().filter(|e| e.features[2] <= 0.8) {
            example.trained = false;
        }
        for example in new.iter_mut().filter(|e| e.trained) {
            example.log_probs = [-4.0, -0.5];
        }
        let trained: Vec<Example> = new.iter().filter(|e| e.trained).copied().collect();
        assert!((10..60).contains(&trained.len()), "{}", trained.len());
        let own: Vec<Example> =
            examples(false, 300).into_iter().map(|e| Example { features: e.features.map(|x| x.min(0.7)), ..e }).collect();
        let all = new.iter().map(|e| Example { trained: true, ..*e }).collect::<Vec<_>>();
        let [told, untold] = [&new, &all].map(|new| Gate::train(new, &own, 1).unwrap().loss(&trained));
        assert!(told < untold, "{told} {untold}");
    }

    #[test]
    fn its_gradient_agrees_with_finite_differences() {
        let all = [examples(true, 9), examples(false, 9)].concat();
        let weighted: Vec<(Example, f64)> = all.iter().map(|e| (*e, 0.1)).collect();
        let mut gate = Gate::untrained(&weighted, 3);
        let inputs: Vec<_> = all.iter().map(|e| (gate.standardised(&e.features), e.log_probs, 0.1)).collect();
        let (gradient, values) = (gate.gradient(&inputs), gate.values());
        let loss = |gate: &Gate| {
            inputs.iter().map(|(x, p, w)| w * Example { features: *x, log_probs: *p, trained: true }.loss(gate.forward(x).0).0).sum::<f64>()
        };
        for (index, analytic) in gradient.iter().enumerate() {
            let mut at = |shift: f64| {
                let mut moved = values.clone();
                moved[index] += shift;
                gate.set_values(&moved);
                loss(&gate)
            };
            let numeric = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((analytic - numeric).abs() < 1e-6, "{index}: {analytic} {numeric}");
        }
    }

    #[test]
    fn files_read_back_and_what_is_no_gate_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Gate::load(folder.path()).unwrap(), None);
        let gate = Gate::train(&examples(true, 20), &examples(false, 20), 1).unwrap();
        let path = gate.save(folder.path()).unwrap();
        assert_eq!(Gate::load(folder.path()).unwrap(), Some(gate.clone()));
        let text = std::fs::read_to_string(&path).unwrap();
        let refused = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let error = Gate::load(folder.path()).unwrap_err().to_string();
            assert!(error.contains("gate.json") && error.contains("`treering gate` trains another"), "{error}");
            error
        };
        assert!(refused("{").contains("no gate"));
        assert!(refused(&text.replace("treering-gate", "gate")).contains("expected format"));
        assert!(refused(&text.replacen("largest_before", "largest", 1)).contains("expected the features"));
        assert!(refused(&text.replacen("\"version\": 1", "\"version\": 2", 1)).contains("version 2"));
        let short = Gate { output: vec![0.0; 3], ..gate.clone() };
        assert!(refused(&serde_json::to_string(&short).unwrap()).contains("output: expected 17 numbers, found 3"));
        let flat = Gate { deviation: vec![0.0; FEATURES], ..gate.clone() };
        assert!(refused(&serde_json::to_string(&flat).unwrap()).contains("deviation"));
        // Of the largest there are the sum is still a number; of infinities that cancel out it would be none.
        let of = |x: f64| Gate {
            mean: vec![0.0; FEATURES],
            hidden: vec![vec![-x; FEATURES + 1]; HIDDEN],
            output: vec![x; HIDDEN + 1],
            ..gate.clone()
        };
        assert!([-9.0, 9.0].iter().all(|x| of(LARGEST).log_odds(&[*x; FEATURES]).is_finite()));
        assert!(refused(&serde_json::to_string(&of(1.1 * LARGEST)).unwrap()).contains("above 1e30"));
        std::fs::write(&path, vec![b' '; MOST_BYTES as usize + 1]).unwrap();
        assert!(Gate::load(folder.path()).unwrap_err().to_string().contains("larger than"));
    }

    proptest! {
        #[test]
        fn whatever_it_is_shown_it_answers_with_a_number(features in prop::array::uniform14(prop::num::f64::ANY)) {
            let gate = Gate::untrained(&[(examples(true, 1)[0], 1.0)], 1);
            prop_assert!(gate.log_odds(&features).is_finite());
        }
    }
}
