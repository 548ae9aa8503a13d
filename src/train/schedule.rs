//! Learning rates: one factor a step, a pure function of the step, and one rate a block.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::Block;

/// The shape of the learning rate over a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Stays at its peak.
    Constant,
    /// Falls in a straight line to the floor.
    Linear,
    /// Falls along half a cosine to the floor.
    Cosine,
    /// Warm-up, stable, decay: stays at its peak, then falls in a straight line over the last `decay_steps`.
    Wsd,
}

impl ScheduleKind {
    /// All kinds with the names used in recipes.
    pub const ALL: [(&'static str, Self); 4] =
        [("constant", Self::Constant), ("linear", Self::Linear), ("cosine", Self::Cosine), ("wsd", Self::Wsd)];
}

/// How the learning rate moves: up from zero over `warmup_steps`, then as `kind` says, never below `floor` times its peak after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The shape.
    pub kind: ScheduleKind,
    /// Steps of the whole run.
    pub steps: u64,
    /// Steps in which the factor rises from `1 / warmup_steps` to 1.
    pub warmup_steps: u64,
    /// Steps in which it falls: after the warm-up for linear and cosine, at the end of the run for WSD; no meaning for constant.
    pub decay_steps: u64,
    /// The smallest factor after the warm-up, 0 to 1.
    pub floor: f64,
}

impl Schedule {
    /// A schedule whose `decay_steps`, unless given, are what fits the kind: all steps after the warm-up, or for WSD the last fifth of the run.
    ///
    /// # Errors
    /// [`Error::Usage`] where warm-up and decay do not fit into the run, or a constant schedule is told to decay.
    pub fn new(kind: ScheduleKind, steps: u64, warmup_steps: u64, decay_steps: Option<u64>, floor: f64) -> Result<Self> {
        if warmup_steps > steps {
            return Err(Error::usage(format!("train.warmup_steps: {warmup_steps} is more than the {steps} steps of the run")));
        }
        let rest = steps - warmup_steps;
        let decay_steps = match (kind, decay_steps) {
            (ScheduleKind::Constant, Some(n)) if n > 0 => {
                return Err(Error::usage(
                    "train.decay_steps: a constant schedule does not decay\n  hint: schedule = \"wsd\" stays constant, then decays at the end",
                ));
            }
            (ScheduleKind::Constant, _) => 0,
            (ScheduleKind::Linear | ScheduleKind::Cosine, None) => rest,
            (ScheduleKind::Wsd, None) => (steps / 5).max(1).min(rest),
            (_, Some(n)) if n > rest => {
                return Err(Error::usage(format!(
                    "train.decay_steps: {n} does not fit after {warmup_steps} warm-up steps into a run of {steps}; at most {rest} do"
                )));
            }
            (_, Some(n)) => n,
        };
        Ok(Self { kind, steps, warmup_steps, decay_steps, floor })
    }

    /// The factor on every learning rate in the update that follows `step` updates, `step` from 0.
    pub fn factor(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return (step + 1) as f64 / self.warmup_steps as f64;
        }
        let start = match self.kind {
            ScheduleKind::Constant => return 1.0,
            ScheduleKind::Linear | ScheduleKind::Cosine => self.warmup_steps,
            ScheduleKind::Wsd => self.steps.saturating_sub(self.decay_steps),
        };
        let fallen = match step.saturating_sub(start) {
            _ if step < start => 0.0,
            _ if self.decay_steps == 0 => 1.0,
            since => (since as f64 / self.decay_steps as f64).min(1.0),
        };
        let height = match self.kind {
            ScheduleKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * fallen).cos()),
            _ => 1.0 - fallen,
        };
        self.floor + (1.0 - self.floor) * height
    }

    /// Whether the first `steps` updates had the same factors under `other`: then a run may go on under it.
    pub fn agrees_until(&self, other: &Self, steps: u64) -> bool {
        (0..steps).all(|step| self.factor(step) == other.factor(step))
    }
}

/// Peak learning rates: one for all blocks, and exceptions by block.
#[derive(Debug, Clone, PartialEq)]
pub struct LearningRates {
    /// The rate of every block that is not named below. (A recipe names W12's, see `MethodKind::expansion_to_base_rate`.)
    pub learning_rate: f64,
    /// Rates by block, absolute.
    pub by_block: BTreeMap<Block, f64>,
}

impl LearningRates {
    /// The peak rate of `block`.
    pub fn of(&self, block: Block) -> f64 {
        self.by_block.get(&block).copied().unwrap_or(self.learning_rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(kind: ScheduleKind, steps: u64, warmup: u64, decay: Option<u64>, floor: f64) -> Schedule {
        Schedule::new(kind, steps, warmup, decay, floor).unwrap()
    }

    #[test]
    fn warm_up_ends_at_the_peak_and_never_starts_at_zero() {
        for (_, kind) in ScheduleKind::ALL {
            let s = schedule(kind, 100, 4, None, 0.0);
            let start: Vec<f64> = (0..5).map(|i| s.factor(i)).collect();
            assert_eq!(start, [0.25, 0.5, 0.75, 1.0, 1.0], "{kind:?}");
        }
    }

    #[test]
    fn without_warm_up_the_first_step_is_at_the_peak() {
        for (_, kind) in ScheduleKind::ALL {
            assert_eq!(schedule(kind, 10, 0, None, 0.1).factor(0), 1.0, "{kind:?}");
        }
    }

    #[test]
    fn decays_reach_the_floor_at_the_end_of_the_run_and_stay() {
        for kind in [ScheduleKind::Linear, ScheduleKind::Cosine, ScheduleKind::Wsd] {
            let s = schedule(kind, 100, 10, None, 0.1);
            assert!((s.factor(100) - 0.1).abs() < 1e-15, "{kind:?}");
            assert_eq!(s.factor(100), s.factor(1_000_000), "{kind:?}");
            assert!(s.factor(99) > 0.1 && s.factor(99) < 0.15, "{kind:?} {}", s.factor(99));
            assert!((10..99).all(|i| s.factor(i) >= s.factor(i + 1)), "{kind:?}");
        }
    }

    #[test]
    fn halfway_values_are_those_of_the_formulas() {
        assert_eq!(schedule(ScheduleKind::Linear, 100, 0, None, 0.0).factor(50), 0.5);
        assert!((schedule(ScheduleKind::Cosine, 100, 0, None, 0.2).factor(50) - 0.6).abs() < 1e-15);
        assert!((schedule(ScheduleKind::Cosine, 100, 0, None, 0.0).factor(25) - 0.853_553_390_593).abs() < 1e-12);
        let wsd = schedule(ScheduleKind::Wsd, 100, 10, Some(40), 0.0);
        assert_eq!([wsd.factor(10), wsd.factor(59), wsd.factor(60), wsd.factor(80)], [1.0, 1.0, 1.0, 0.5]);
        assert!((wsd.factor(99) - 0.025).abs() < 1e-15);
        assert_eq!(schedule(ScheduleKind::Linear, 100, 0, Some(10), 0.3).factor(10), 0.3);
    }

    #[test]
    fn corners_have_finite_factors() {
        for (_, kind) in ScheduleKind::ALL {
            for (steps, warmup) in [(1, 0), (1, 1), (2, 2), (0, 0), (u64::MAX, 0)] {
                let s = schedule(kind, steps, warmup, None, 0.0);
                for step in [0, 1, steps / 2, steps, u64::MAX - 1] {
                    assert!((0.0..=1.0).contains(&s.factor(step)), "{kind:?} {steps} {warmup} {step}");
                }
            }
        }
        assert_eq!(schedule(ScheduleKind::Linear, 10, 0, Some(0), 0.5).factor(0), 0.5);
    }

    #[test]
    fn what_does_not_fit_into_the_run_is_refused_by_name() {
        let error = |kind, warmup, decay| Schedule::new(kind, 10, warmup, decay, 0.0).unwrap_err().to_string();
        assert!(error(ScheduleKind::Cosine, 11, None).contains("warmup_steps: 11"));
        assert!(error(ScheduleKind::Wsd, 5, Some(6)).contains("at most 5"));
        assert!(error(ScheduleKind::Constant, 0, Some(1)).contains("wsd"));
    }

    #[test]
    fn a_longer_run_agrees_while_neither_has_begun_to_decay() {
        let wsd = |steps| schedule(ScheduleKind::Wsd, steps, 2, Some(5), 0.0);
        assert!(wsd(20).agrees_until(&wsd(40), 15));
        assert!(!wsd(20).agrees_until(&wsd(40), 17));
        assert!(!schedule(ScheduleKind::Cosine, 20, 0, None, 0.0).agrees_until(&schedule(ScheduleKind::Cosine, 40, 0, None, 0.0), 2));
    }
}
