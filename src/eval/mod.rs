//! Measuring what was learnt and what was forgotten: perplexity on held-out corpora, the drift of the base's representation, and the tasks of
//! lm-evaluation-harness.

pub mod perplexity;
pub mod questions;
pub mod representation;
mod result;
mod routed;
pub mod suite;
mod summary;

use crate::data::windows::WindowConfig;
use crate::error::{Error, Result};
use crate::model::{Head, Model};
use crate::route::Router;
use crate::tokenizer::Tokenizer;
pub use perplexity::{Measure, perplexity};
pub use questions::{Question, QuestionResult, questions};
pub use representation::Reference;
pub use result::{CorpusResult, Evaluation, Group, HeadResult, Representation, RouterResult, format_perplexity};
pub use routed::{TracedDecision, TracedToken};
pub use suite::{Suite, SuiteResult};
pub use summary::{Summary, table as summary_table};

/// The name of a head in files, metrics and tables.
pub fn head_name(head: Head) -> String {
    head.to_string()
}

/// Who answers: a head, or a router between the heads.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
#[serde(untagged)]
pub enum Speaker {
    /// One head, always.
    Head(Head),
    /// Whichever head the router lets speak.
    Router(Router),
}

impl std::fmt::Display for Speaker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Head(head) => write!(f, "{head}"),
            Self::Router(router) => write!(f, "{router}"),
        }
    }
}

/// The token that `tokenizer` itself puts before every text, if it does: evaluation windows begin with what the model was trained to see.
///
/// # Errors
/// When the tokenizer refuses a plain letter.
pub fn leading_token(tokenizer: &Tokenizer) -> Result<Option<u32>> {
    let plain = tokenizer.encode("a")?;
    let special = tokenizer.encode_with_special("a")?;
    Ok(special.first().copied().filter(|first| special.len() > plain.len() && plain.first() != Some(first)))
}

/// Refuses windows that are longer than the model's context.
///
/// # Errors
/// A window beyond `max_position_embeddings`, or numbers that cannot be.
pub fn check_windows(model: &Model, windows: &WindowConfig) -> Result<()> {
    windows.validate()?;
    let context = model.config().max_position_embeddings;
    if windows.window > context {
        return Err(Error::usage(format!(
            "an evaluation window of {} tokens is longer than the model's context of {context} (max_position_embeddings); use --window {context} or less",
            windows.window
        )));
    }
    Ok(())
}
