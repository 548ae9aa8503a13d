//! The questions, and how every head and router answers them.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Serialize;

use super::world::World;
use crate::data::biography::{Attribute, QuestionSet};
use crate::error::Result;
use crate::eval::{Question, QuestionResult, questions};
use crate::model::Model;
use crate::route::Router;

/// Rows of a batch of questions, and the tokens of each.
const ROWS: usize = 32;
const WINDOW: usize = 128;

/// What the names of measured numbers begin with: of a whole task, and by attribute.
const TASKS: &str = "questions/";
const ATTRIBUTES: &str = "attributes/";

/// Who gave the answers that a number of [`Asked::ask`] is about, by the number's name.
pub(super) fn speaker(name: &str) -> Option<&str> {
    name.split('/').nth(2)
}

/// How often answers were right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Accuracy {
    /// Share of questions whose answer's first token was the most probable one.
    pub first_token_accuracy: f64,
    /// Mean probability of that token.
    pub first_token_probability: f64,
    /// Share of questions of whose answer every token was.
    pub exact_match: f64,
}

/// The questions about the people of a task, by attribute.
pub struct Asked {
    /// The task's number.
    pub task: u64,
    /// For each attribute all questions, person after person.
    by_attribute: Vec<(Attribute, Vec<Question>)>,
}

impl Asked {
    /// The questions about the first `most` of `people`.
    ///
    /// # Errors
    /// As [`QuestionSet::new`].
    pub fn new(world: &World, task: u64, people: Range<u64>, most: u64, attributes: &[Attribute]) -> Result<Self> {
        let range = people.start..people.end.min(people.start.saturating_add(most));
        // Windows are the measurement's own.
        let set = QuestionSet::new(&world.people, range, &world.encoder, usize::MAX)?;
        let mut by_attribute: Vec<(Attribute, Vec<Question>)> = attributes.iter().map(|&attribute| (attribute, Vec::new())).collect();
        for question in set.questions() {
            if let Some((_, of)) = by_attribute.iter_mut().find(|(attribute, _)| *attribute == question.attribute) {
                let (prompt, answer) = question.tokens.split_at(question.answer_start);
                of.push(Question { prompt: prompt.to_vec(), answer: answer.to_vec() });
            }
        }
        Ok(Self { task, by_attribute })
    }

    /// Tokens of all its questions and answers.
    pub fn tokens(&self) -> usize {
        self.by_attribute.iter().flat_map(|(_, questions)| questions).map(|q| q.prompt.len() + q.answer.len()).sum()
    }

    /// Asks about the first `most` people, and returns numbers by name: `questions/task-0/HEAD/exact_match`, `attributes/task-0/HEAD/major/exact_match`.
    ///
    /// # Errors
    /// Whatever the model or `check_stop` returns.
    pub fn ask(&self, model: &Model, most: u64, routers: &[Router], check_stop: &dyn Fn() -> Result<()>) -> Result<Vec<(String, f64)>> {
        let routers = if model.heads().len() > 1 { routers } else { &[] };
        let window = WINDOW.min(model.config().max_position_embeddings);
        let mut found: Vec<(Attribute, Vec<QuestionResult>)> = Vec::with_capacity(self.by_attribute.len());
        for (attribute, asked) in &self.by_attribute {
            check_stop()?;
            let asked = &asked[..asked.len().min(usize::try_from(most).unwrap_or(usize::MAX))];
            found.push((*attribute, questions(model, asked, window, ROWS, routers)?));
        }
        let speakers = found.first().map_or(0, |(_, results)| results.len());
        let mut numbers = Vec::new();
        for speaker in 0..speakers {
            let name = found[0].1[speaker].head.to_string();
            let of = |result: &QuestionResult| Accuracy {
                first_token_accuracy: result.first_token_accuracy,
                first_token_probability: result.first_token_probability,
                exact_match: result.exact_match,
            };
            // Every attribute is asked of everyone, so the mean over attributes is the mean over questions.
            let each: Vec<Accuracy> = found.iter().map(|(_, results)| of(&results[speaker])).collect();
            let task = format!("task-{}/{name}", self.task);
            Accuracy::mean(&each).push(&format!("{TASKS}{task}"), &mut numbers);
            for ((attribute, _), accuracy) in found.iter().zip(&each) {
                accuracy.push(&format!("{ATTRIBUTES}{task}/{}", attribute.as_str()), &mut numbers);
            }
        }
        Ok(numbers)
    }
}

impl Accuracy {
    const NAMES: [&'static str; 3] = ["first_token_accuracy", "first_token_probability", "exact_match"];

    fn values(self) -> [f64; 3] {
        [self.first_token_accuracy, self.first_token_probability, self.exact_match]
    }

    fn mean(all: &[Self]) -> Self {
        let mean = |pick: fn(&Self) -> f64| all.iter().map(pick).sum::<f64>() / all.len().max(1) as f64;
        Self {
            first_token_accuracy: mean(|a| a.first_token_accuracy),
            first_token_probability: mean(|a| a.first_token_probability),
            exact_match: mean(|a| a.exact_match),
        }
    }

    fn push(self, path: &str, numbers: &mut Vec<(String, f64)>) {
        numbers.extend(Self::NAMES.iter().zip(self.values()).map(|(name, value)| (format!("{path}/{name}"), value)));
    }

    fn set(&mut self, name: &str, value: f64) {
        match name {
            "first_token_accuracy" => self.first_token_accuracy = value,
            "first_token_probability" => self.first_token_probability = value,
            "exact_match" => self.exact_match = value,
            _ => {}
        }
    }
}

/// One measurement read back: by head or router and task, the accuracy over all attributes and by attribute.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answers {
    /// Over all attributes.
    pub tasks: BTreeMap<(String, u64), Accuracy>,
    /// By attribute.
    pub attributes: BTreeMap<(String, u64), BTreeMap<String, Accuracy>>,
}

impl Answers {
    /// What [`Asked::ask`] wrote into `values`; other numbers are passed over.
    pub fn read(values: &BTreeMap<String, Option<f64>>) -> Self {
        let mut found = Self::default();
        found.add(values);
        found
    }

    /// Adds what is in `values`, as [`Answers::read`] reads it.
    pub fn add(&mut self, values: &BTreeMap<String, Option<f64>>) {
        for (name, value) in values {
            let Some(value) = *value else { continue };
            let parts: Vec<&str> = name.split('/').collect();
            let task = |text: &str| text.strip_prefix("task-").and_then(|number| number.parse().ok());
            match parts.as_slice() {
                ["questions", set, speaker, kind] => {
                    if let Some(task) = task(set) {
                        self.tasks.entry(((*speaker).to_owned(), task)).or_default().set(kind, value);
                    }
                }
                ["attributes", set, speaker, attribute, kind] => {
                    if let Some(task) = task(set) {
                        let of = self.attributes.entry(((*speaker).to_owned(), task)).or_default();
                        of.entry((*attribute).to_owned()).or_default().set(kind, value);
                    }
                }
                _ => {}
            }
        }
    }

    /// Everyone who answered.
    pub fn speakers(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.tasks.keys().map(|(speaker, _)| speaker.as_str()).collect();
        names.dedup();
        names
    }

    /// How `speaker` answered about the people of `task`.
    pub fn of(&self, speaker: &str, task: u64) -> Option<Accuracy> {
        self.tasks.get(&(speaker.to_owned(), task)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let accuracy =
            |first: f64| Accuracy { first_token_accuracy: first, first_token_probability: first / 2.0, exact_match: first / 4.0 };
        let mut numbers = Vec::new();
        accuracy(0.5).push("questions/task-1/cosine:threshold=0.9", &mut numbers);
        accuracy(0.25).push("attributes/task-1/cosine:threshold=0.9/major", &mut numbers);
        accuracy(1.0).push("questions/task-0/base", &mut numbers);
        // Numbers of others, and one that was not finite.
        numbers.extend([("questions/old_people/base/exact_match", 1.0), ("learn/a/perplexity", 3.0)].map(|(n, v)| (n.to_owned(), v)));
        let mut values: BTreeMap<String, Option<f64>> = numbers.into_iter().map(|(name, value)| (name, Some(value))).collect();
        values.insert("questions/task-9/base/exact_match".into(), None);
        let found = Answers::read(&values);
        assert_eq!(found.speakers(), ["base", "cosine:threshold=0.9"]);
        assert_eq!(found.of("cosine:threshold=0.9", 1), Some(accuracy(0.5)));
        assert_eq!((found.of("base", 0), found.of("base", 1)), (Some(accuracy(1.0)), None));
        let attributes = &found.attributes[&("cosine:threshold=0.9".to_owned(), 1)];
        assert_eq!(attributes.iter().collect::<Vec<_>>(), [(&"major".to_owned(), &accuracy(0.25))]);
    }
}
