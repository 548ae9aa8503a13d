//! Several runs of one recipe that differ in a few keys: learning-rate sweeps, and the paper's analyses.
//!
//! 1. [`variants`]: trains one variant after another into ordinary run folders; what is finished is not trained again.
//! 2. [`budget`]: a recipe cut or stretched to a number of steps.
//! 3. [`sweep`]: one key over several values, and which of them is best.
//! 4. [`file`](mod@file): a study, as its TOML file has it; [`builtin`] are those that come with the program, [`placeholders`] what their overrides may say of the base.
//! 5. [`claims`]: what the paper says, checked against the runs; [`fit`] is the straight line through points.
//! 6. [`result`] and [`figure`]: what is printed, drawn and written.

pub mod budget;
pub mod builtin;
pub mod claims;
pub mod figure;
pub mod file;
pub mod fit;
pub mod placeholders;
pub mod result;
pub mod sweep;
pub mod variants;

pub use file::Study;
pub use sweep::Sweep;
pub use variants::{Ending, Variant};

use serde::Serialize;

use crate::recipe::Recipe;
use crate::report::comparison::{HeadPerplexity, Run};

/// Who speaks for a method unless told otherwise, by the name in a run's metrics: the first router of `scale-route` and of a pair, the adaptation head
/// of other widened models, the only head of a plain one.
pub fn own_speaker(recipe: &Recipe) -> String {
    match recipe.own_router() {
        Some(router) => router.to_string(),
        None if recipe.has_two_heads() => "adaptation".into(),
        None => "base".into(),
    }
}

/// What `speaker` scored at the end of a run; `None` where the run did not get there, or was not measured.
pub fn final_score<'a>(run: &'a Run, speaker: &str) -> Option<&'a HeadPerplexity> {
    run.last().filter(|last| run.planned_steps > 0 && last.step >= run.planned_steps)?.head(speaker)
}

/// What every head and router scored at the last measurement of a run.
pub fn scores(run: &Run) -> Vec<Score> {
    let heads = run.last().map_or(&[][..], |last| &last.heads);
    heads.iter().map(|head| Score { name: head.head.clone(), learning: head.learning, forgetting: head.forgetting }).collect()
}

/// Perplexities of one head or router at the end of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// The head's name, or the router as it is written.
    pub name: String,
    /// On what is to be learnt; absent where nothing was measured.
    pub learning: Option<f64>,
    /// On what is not to be forgotten.
    pub forgetting: Option<f64>,
}
