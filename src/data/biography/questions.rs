//! Questions as batches: for training, with the loss on the answers only, and for measuring.

use std::ops::Range;

use rayon::prelude::*;

use super::{Attribute, People, questions};
use crate::data::Encode;
use crate::data::batch::{Batch, IGNORE};
use crate::data::order::Permutation;
use crate::error::{Error, Result};

/// A question with its answer, as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Whom it is about.
    pub person: u64,
    /// What it asks for.
    pub attribute: Attribute,
    /// Prompt and answer.
    pub tokens: Vec<u32>,
    /// The index in `tokens` of the answer's first token; at least 1.
    pub answer_start: usize,
}

/// Questions, one a row, with what is needed to judge the answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuestionBatch {
    /// The rows; targets are the answers' tokens.
    pub batch: Batch,
    /// For each row the position *within the row* at which the answer's first token is predicted.
    pub first_answer: Vec<usize>,
    /// For each row the number of the answer's tokens; they are predicted from `first_answer` on.
    pub answer_length: Vec<usize>,
    /// For each row the index of its question in the set.
    pub question: Vec<usize>,
}

/// The questions about some people, ready for training and measuring.
#[derive(Debug, Clone)]
pub struct QuestionSet {
    questions: Vec<Question>,
    length: usize,
}

impl QuestionSet {
    /// All six questions about everyone in `range`, for rows of `length` tokens.
    ///
    /// # Errors
    /// When the range is empty or leaves the population, or a question does not fit into `length` tokens.
    pub fn new(people: &People, range: Range<u64>, encoder: &dyn Encode, length: usize) -> Result<Self> {
        people.check(&range)?;
        if range.is_empty() {
            return Err(Error::usage(format!("no people in {}..{}, so there are no questions", range.start, range.end)));
        }
        let by_person = |person: u64| -> Result<Vec<Question>> {
            let asked = questions(&people.person(person)?);
            asked.iter().zip(Attribute::ALL).map(|((prompt, answer), attribute)| ask(person, attribute, prompt, answer, encoder)).collect()
        };
        let questions: Vec<Question> = range.into_par_iter().map(by_person).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        let longest = questions.iter().map(|question| question.tokens.len() - 1).max().unwrap_or(0);
        if longest > length {
            return Err(Error::usage(format!("a question needs {longest} tokens, the rows have {length}; set a sequence length of at least {longest}")));
        }
        Ok(Self { questions, length })
    }

    /// The questions, person after person, attributes in the order of [`Attribute::ALL`].
    pub fn questions(&self) -> &[Question] {
        &self.questions
    }

    /// The batch of a training step: every epoch asks every question once, in a new order; any step can be had at once.
    pub fn train_batch(&self, step: u64, batch_size: usize, seed: u64) -> Batch {
        let count = self.questions.len() as u64;
        let first = step.wrapping_mul(batch_size as u64);
        let rows: Vec<usize> = (0..batch_size as u64)
            .map(|row| {
                let at = first.wrapping_add(row);
                Permutation::new(count, seed, at / count).at(at % count) as usize
            })
            .collect();
        self.rows(&rows).batch
    }

    /// All questions, `batch_size` at a time, in their order.
    pub fn evaluation(&self, batch_size: usize) -> impl Iterator<Item = QuestionBatch> + '_ {
        let size = batch_size.max(1);
        (0..self.questions.len()).step_by(size).map(move |first| {
            let rows: Vec<usize> = (first..self.questions.len().min(first + size)).collect();
            self.rows(&rows)
        })
    }

    /// Lays out one question a row.
    fn rows(&self, rows: &[usize]) -> QuestionBatch {
        let size = rows.len() * self.length;
        let mut batch = Batch {
            batch_size: rows.len(),
            sequence_length: self.length,
            // Padding follows the question, so nothing that counts attends to it.
            tokens: vec![0; size],
            targets: vec![IGNORE; size],
            document_starts: None,
        };
        let (mut first_answer, mut answer_length) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
        for (row, &index) in rows.iter().enumerate() {
            let Question { tokens, answer_start, .. } = &self.questions[index];
            let begin = row * self.length;
            batch.tokens[begin..begin + tokens.len() - 1].copy_from_slice(&tokens[..tokens.len() - 1]);
            batch.targets[begin + answer_start - 1..begin + tokens.len() - 1].copy_from_slice(&tokens[*answer_start..]);
            first_answer.push(answer_start - 1);
            answer_length.push(tokens.len() - answer_start);
        }
        QuestionBatch { batch, first_answer, answer_length, question: rows.to_vec() }
    }
}

/// Tokenises prompt and answer together, as the model meets them.
fn ask(person: u64, attribute: Attribute, prompt: &str, answer: &str, encoder: &dyn Encode) -> Result<Question> {
    let alone = encoder.encode(prompt)?;
    let tokens = encoder.encode(&format!("{prompt} {answer}"))?;
    // A tokenizer may join the prompt's end with the answer's beginning; the answer then begins with the first token that differs.
    let answer_start = alone.iter().zip(&tokens).take_while(|(a, b)| a == b).count();
    if answer_start == 0 || answer_start >= tokens.len() {
        return Err(Error::usage(format!("the tokenizer does not keep prompt and answer apart in {prompt:?} {answer:?}")));
    }
    Ok(Question { person, attribute, tokens, answer_start })
}
