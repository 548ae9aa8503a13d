//! Whether a run may go on under a recipe: what decides the numbers must be the same.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};
use toml::{Table, Value};

use super::{Recipe, write};
use crate::error::{Error, Result};
use crate::files::hex;

/// Keys that change when and where something is done, but not one trained number.
/// The base's path is among them because its content is compared by hash; the schedule's keys are compared by what they gave so far.
const FREE: [&str; 14] = [
    "eval",
    "route",
    "data.learn",
    "data.forget",
    "model.path",
    "train.threads",
    "train.recompute",
    "train.checkpoint_every_steps",
    "train.keep_checkpoints",
    "train.steps",
    "train.schedule",
    "train.warmup_steps",
    "train.decay_steps",
    "train.learning_rate_floor",
];

impl Recipe {
    /// Checks that a run that took `steps` steps under `self` may go on under `other` as if it had been started with it:
    /// method, data, rates and optimizer are the same, and the schedule was the same so far. Where the corpora lie is free:
    /// a saved position compares what is read from them.
    ///
    /// # Errors
    /// [`Error::Usage`] listing every key that differs, with both values.
    pub fn check_resumable(&self, other: &Self, steps: u64) -> Result<()> {
        let without_paths = |recipe: &Self| {
            let mut recipe = recipe.clone();
            recipe.data.stream.train.iter_mut().for_each(|source| source.path.clear());
            recipe
        };
        without_paths(self).check_finished(&without_paths(other), steps)
    }

    /// Checks that a run that ended after `steps` steps under `self` is what `other` asks for: as [`Recipe::check_resumable`], and the same corpora
    /// by path, since nothing is read of them again.
    ///
    /// # Errors
    /// [`Error::Usage`] listing every key that differs, with both values.
    pub fn check_finished(&self, other: &Self, steps: u64) -> Result<()> {
        let mut differences: Vec<String> = Vec::new();
        let (ours, theirs) = (fixed(self), fixed(&other.clone().settled(self.method.sink_layers)));
        for (key, value) in &ours {
            match theirs.get(key) {
                Some(found) if found == value => {}
                Some(found) => differences.push(format!("{key}: the run has {value}, the recipe {found}")),
                None => differences.push(format!("{key}: the run has {value}, the recipe nothing")),
            }
        }
        for (key, value) in theirs.iter().filter(|(key, _)| !ours.contains_key(*key)) {
            differences.push(format!("{key}: the run has nothing, the recipe {value}"));
        }
        if !self.train.schedule.agrees_until(&other.train.schedule, steps) {
            differences.push(format!("train: the recipe's schedule gives other learning rates for the {steps} steps that are done"));
        }
        if differences.is_empty() {
            return Ok(());
        }
        Err(Error::usage(format!(
            "the run was started with another recipe:\n  {}\n  hint: start a new run with --out, or resume with what the run was started with",
            differences.join("\n  ")
        )))
    }

    /// A hash of everything that [`Recipe::check_finished`] compares key by key.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for (key, value) in fixed(self) {
            hash.update(format!("{key} = {value}\n"));
        }
        hex(hash.finalize())
    }
}

/// Dotted keys and values, the free ones left out.
fn fixed(recipe: &Recipe) -> BTreeMap<String, String> {
    let mut flat = BTreeMap::new();
    flatten("", &write::table(recipe), &mut flat);
    flat
}

fn flatten(prefix: &str, table: &Table, flat: &mut BTreeMap<String, String>) {
    for (key, value) in table {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        if FREE.contains(&name.as_str()) {
            continue;
        }
        match value {
            Value::Table(inner) => flatten(&name, inner, flat),
            other => drop(flat.insert(name, other.to_string())),
        }
    }
}
