//! A recipe cut or stretched to a number of steps.

use crate::error::{Error, Result};
use crate::grow::plan::{Plan, Products, Speed};
use crate::recipe::Recipe;
use crate::train::foundation::outline;
use crate::train::schedule::{Schedule, ScheduleKind};

/// Measurements within a run that are fewer steps apart than this after scaling are left out: they would take longer than the training between them.
const LEAST_BETWEEN_MEASUREMENTS: u64 = 10;

/// Makes `recipe` a run of `steps` steps of the same shape: warm-up, decay and the steps between measurements keep their shares of the run.
/// Of its checkpoints the newest is kept.
///
/// # Errors
/// [`Error::Usage`] where no step is asked for.
pub fn scale(recipe: &mut Recipe, steps: u64) -> Result<()> {
    if steps == 0 {
        return Err(Error::usage("--steps 0: a run has at least one step"));
    }
    let old = recipe.train.schedule;
    let share = |n: u64| (u128::from(n) * u128::from(steps)).div_ceil(u128::from(old.steps.max(1))) as u64;
    let warmup_steps = share(old.warmup_steps).min(steps);
    let rest = steps - warmup_steps;
    let decay_steps = match old.kind {
        ScheduleKind::Constant => None,
        // All that is left, as before.
        _ if old.decay_steps == old.steps - old.warmup_steps => Some(rest),
        _ => Some(share(old.decay_steps).min(rest)),
    };
    recipe.train.schedule = Schedule::new(old.kind, steps, warmup_steps, decay_steps, old.floor)?;
    recipe.eval.every_steps = match share(recipe.eval.every_steps) {
        every if steps == old.steps || every >= LEAST_BETWEEN_MEASUREMENTS => every,
        _ => 0,
    };
    recipe.train.keep_checkpoints = 1;
    Ok(())
}

/// Tokens that a step of `recipe` reads.
pub fn tokens_per_step(recipe: &Recipe) -> u64 {
    let train = &recipe.train;
    [train.batch_size, train.gradient_accumulation, recipe.data.stream.sequence_length].iter().fold(1, |n, &m| n.saturating_mul(m as u64))
}

/// Steps that `recipe` makes in `minutes` of training on this machine, by the estimate of `treering plan`; at least one.
///
/// # Errors
/// Whatever opening the base or planning returns.
pub fn steps_in(recipe: &Recipe, minutes: f64) -> Result<u64> {
    let (config, rings) = outline(&recipe.model.path)?;
    let plan = Plan::new(&recipe.request(&config, &rings, &recipe.method(&config)?))?;
    let speed = Speed::estimate(&plan, Products::measure(recipe.model.dtype)).tokens_per_second;
    Ok(((minutes * 60.0 * speed / tokens_per_step(recipe) as f64) as u64).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn recipe(train: &str) -> Recipe {
        let text = format!(
            "[model]\npath = \"m\"\n[method]\nkind = \"full\"\n[data]\ntrain = \"a.jsonl\"\nsequence_length = 64\n[train]\nsteps = 600\n{train}\n[eval]\nevery_steps = 100\n"
        );
        Recipe::parse(&text, Path::new("/"), &[]).unwrap()
    }

    #[test]
    fn warm_up_decay_and_measurements_keep_their_shares() {
        for (train, steps, warmup, decay, every) in [
            ("schedule = \"cosine\"\nwarmup_steps = 10", 60, 1, 59, 10),
            ("schedule = \"cosine\"\nwarmup_steps = 10", 6, 1, 5, 0),
            ("schedule = \"cosine\"\nwarmup_steps = 60", 1200, 120, 1080, 200),
            ("schedule = \"wsd\"\nwarmup_steps = 30\ndecay_steps = 100", 60, 3, 10, 10),
            ("schedule = \"wsd\"", 1, 0, 1, 0),
            ("", 300, 0, 0, 50),
            ("schedule = \"linear\"\nwarmup_steps = 600", 3, 3, 0, 0),
        ] {
            let mut recipe = recipe(train);
            scale(&mut recipe, steps).unwrap();
            let s = recipe.train.schedule;
            assert_eq!((s.steps, s.warmup_steps, s.decay_steps, recipe.eval.every_steps), (steps, warmup, decay, every), "{train} {steps}");
        }
        let mut same = recipe("schedule = \"cosine\"\nwarmup_steps = 10\nkeep_checkpoints = 1");
        let before = same.clone();
        scale(&mut same, 600).unwrap();
        assert_eq!(same, before);
        assert!(scale(&mut same, 0).is_err());
    }
}
