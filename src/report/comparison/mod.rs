//! Runs side by side: what each learnt, forgot and cost, read from their folders.
//!
//! 1. [`run`]: one run from its files.
//! 2. [`tables`]: the numbers, for people and for programs.
//! 3. [`charts`]: the pictures.

pub mod charts;
pub mod run;
pub mod tables;
#[cfg(test)]
pub(super) mod tests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{IoContext, Result};
pub use run::{HeadPerplexity, Measured, Norms, Run, Stretch};

/// Several runs, with the field names of the JSON (docs/format-compare.md).
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// In the order they were given.
    pub runs: Vec<Run>,
    /// What a reader must know before comparing.
    pub notes: Vec<String>,
}

impl Comparison {
    /// Reads the runs in these folders.
    ///
    /// # Errors
    /// As [`Run::read`].
    pub fn read<P: AsRef<Path>>(folders: impl IntoIterator<Item = P>) -> Result<Self> {
        let mut paths: Vec<PathBuf> = Vec::new();
        let mut runs = Vec::new();
        for folder in folders {
            let folder = folder.as_ref();
            runs.push(Run::read(folder)?);
            paths.push(std::path::absolute(folder).at(folder)?);
        }
        for (run, name) in runs.iter_mut().zip(distinct_names(&paths)) {
            run.name = name;
        }
        Ok(Self::new(runs))
    }

    /// These runs, and what is to be said of them together.
    pub fn new(runs: Vec<Run>) -> Self {
        let notes = notes(&runs);
        Self { runs, notes }
    }

    /// The base's own forgetting and learning: what was measured before the first step.
    pub fn base(&self) -> Option<&HeadPerplexity> {
        self.runs.iter().find_map(Run::base)
    }
}

/// The folders' names, each with as much of the path before it as tells the different ones apart.
fn distinct_names(paths: &[PathBuf]) -> Vec<String> {
    let tail = |path: &Path, parts: usize| {
        let all: Vec<_> = path.iter().collect();
        let kept: Vec<String> = all[all.len().saturating_sub(parts)..].iter().map(|part| part.to_string_lossy().into_owned()).collect();
        kept.join("/")
    };
    let name = |path: &PathBuf| {
        let others = || paths.iter().filter(|other| *other != path);
        let longest = path.iter().count().max(1);
        (1..=longest).map(|parts| (parts, tail(path, parts))).find(|(parts, name)| others().all(|other| tail(other, *parts) != *name))
    };
    paths.iter().map(|path| name(path).map_or_else(|| path.display().to_string(), |(_, name)| name)).collect()
}

/// Whether two measurements of a base may be of the same one. In bf16 they differ a little: a frozen embedding is kept in bf16, a trained
/// one in f32.
fn alike(one: &HeadPerplexity, other: &HeadPerplexity) -> bool {
    let near = |(a, b): (&f64, &f64)| a == b || (a / b - 1.0).abs() < 1e-3;
    one.corpora.keys().eq(other.corpora.keys()) && one.corpora.values().zip(other.corpora.values()).all(near)
}

fn notes(runs: &[Run]) -> Vec<String> {
    let mut notes = Vec::new();
    for run in runs {
        if run.steps < run.planned_steps {
            notes.push(format!("{} has not finished: {} steps so far.", run.name, run.progress()));
        }
        if run.skipped_steps > 0 {
            notes.push(format!("{} skipped {} of its {} steps as loss spikes.", run.name, run.skipped_steps, run.steps));
        }
        let Some(last) = run.last() else {
            notes.push(format!("{} has not been measured on a held-out corpus yet.", run.name));
            continue;
        };
        for (corpus, _) in last.heads.iter().flat_map(|head| &head.corpora).filter(|(_, perplexity)| !perplexity.is_finite()) {
            notes.push(format!("{} has no finite perplexity on {corpus}: it diverged.", run.name));
        }
    }
    let corpora = |run: &Run| -> BTreeSet<String> {
        run.evaluations.iter().flat_map(|e| &e.heads).flat_map(|head| head.corpora.keys().cloned()).collect()
    };
    let measured: Vec<&Run> = runs.iter().filter(|run| !run.evaluations.is_empty()).collect();
    if measured.windows(2).any(|pair| corpora(pair[0]) != corpora(pair[1])) {
        notes.push(
            "The runs were not measured on the same corpora, so their forgetting and learning are means over different texts.".into(),
        );
    } else if measured.iter().filter_map(|run| run.base()).collect::<Vec<_>>().windows(2).any(|pair| !alike(pair[0], pair[1])) {
        notes.push(
            "Before their first step the runs scored differently on the same corpora: they start from different bases, or were measured \
             with different windows, amounts of text or dtypes."
                .into(),
        );
    }
    notes
}
