//! An item of any task, as its prompt is made of it.

use super::record::Record;
use super::task::{Family, Task};
use super::{arc, hellaswag, kobest, mmlu, truthfulqa, winogrande};
use crate::error::Result;

/// What stands before the answers of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contexts {
    /// One text for all choices.
    Shared(String),
    /// A text for each.
    Each(Vec<String>),
}

/// Which choices are right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gold {
    /// This one.
    Index(usize),
    /// Those that are true.
    Labels(Vec<bool>),
}

/// An item.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// What stands before the answers.
    pub contexts: Contexts,
    /// The answers, without the space before them.
    pub continuations: Vec<String>,
    /// Which are right.
    pub gold: Gold,
    /// The item as an example: what is asked, and the answer where there is one.
    pub example: (String, Option<String>),
    /// What it was made of.
    pub record: Record,
}

impl Item {
    /// An item with one context for all of its choices, of which the one at `gold` is right.
    pub(super) fn choice(record: Record, context: String, choices: Vec<String>, gold: usize) -> Self {
        let example = (context.clone(), choices.get(gold).cloned());
        Self { contexts: Contexts::Shared(context), continuations: choices, gold: Gold::Index(gold), example, record }
    }

    /// Makes one of a record.
    ///
    /// # Errors
    /// What the record lacks, with its file and line.
    pub fn of(task: Task, record: Record) -> Result<Self> {
        match task.family {
            Family::Arc => arc::item(record),
            Family::HellaSwag => hellaswag::item(record),
            Family::Mmlu => mmlu::item(record),
            Family::WinoGrande => winogrande::item(record),
            Family::TruthfulQaMc1 => truthfulqa::item(record, false),
            Family::TruthfulQaMc2 => truthfulqa::item(record, true),
            Family::KobestBoolQ => kobest::boolq(record),
            Family::KobestCopa => kobest::copa(record),
            Family::KobestHellaSwag => kobest::hellaswag(record),
            Family::KobestSentiNeg => kobest::sentineg(record),
            Family::KobestWic => kobest::wic(record),
        }
    }

    /// It as one of the examples before a question.
    pub fn shot(&self) -> String {
        let (text, answer) = &self.example;
        // Without an answer there is no delimiter either, as in lm-evaluation-harness.
        match answer.as_deref().filter(|answer| !answer.is_empty()) {
            Some(answer) => format!("{text} {answer}\n\n"),
            None => text.clone(),
        }
    }
}

/// What stands before everything, at zero examples too.
pub fn description(task: Task) -> String {
    match task.family {
        Family::Mmlu => mmlu::description(task.subject()),
        _ => String::new(),
    }
}
