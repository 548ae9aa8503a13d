//! Questions with one right answer: how often the answer's first token, and the whole answer, is what a head would say.

use serde::Serialize;

use crate::data::batch::{Batch, IGNORE};
use crate::error::{Error, Result};
use crate::model::{Head, Model, Scores};

/// A question and its answer, in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What the model is given.
    pub prompt: Vec<u32>,
    /// What it should say next.
    pub answer: Vec<u32>,
}

/// How one head answered.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct QuestionResult {
    /// The head.
    pub head: Head,
    /// Number of questions.
    pub questions: usize,
    /// Share of questions whose answer's first token was the head's most probable one.
    pub first_token_accuracy: f64,
    /// Mean probability of the answer's first token.
    pub first_token_probability: f64,
    /// Share of questions whose whole answer greedy generation would give.
    pub exact_match: f64,
}

/// Asks every question, in batches of up to `batch_size` rows of up to `window` tokens.
///
/// # Errors
/// No question, an empty prompt or answer, or a question longer than the window.
///
/// # Paper
/// Section 4.1: hard and soft first-token accuracy.
pub fn questions(model: &Model, questions: &[Question], window: usize, batch_size: usize) -> Result<Vec<QuestionResult>> {
    ask(questions, window, batch_size, model.heads(), |batch| model.score(batch, false))
}

/// Where a question's answer is predicted in a batch.
struct Place {
    /// Position of the answer's first target.
    first: usize,
    /// Number of its targets.
    len: usize,
}

fn ask(
    questions: &[Question],
    window: usize,
    batch_size: usize,
    heads: &[Head],
    mut score: impl FnMut(&Batch) -> Result<Scores>,
) -> Result<Vec<QuestionResult>> {
    if questions.is_empty() || batch_size == 0 {
        return Err(Error::usage("there is no question to ask"));
    }
    if let Some(bad) = questions.iter().position(|q| q.prompt.is_empty() || q.answer.is_empty() || inputs(q) > window) {
        let q = &questions[bad];
        return Err(Error::usage(format!(
            "question {bad} has {} prompt and {} answer tokens; each must be at least 1, and together at most {}",
            q.prompt.len(),
            q.answer.len(),
            window + 1
        )));
    }
    let (mut first, mut probability, mut exact) = (vec![0usize; heads.len()], vec![0.0f64; heads.len()], vec![0usize; heads.len()]);
    let mut rest = questions;
    while !rest.is_empty() {
        let (batch, places) = pack(&mut rest, window, batch_size);
        let scores = score(&batch)?;
        for head in 0..heads.len() {
            for place in &places {
                let targets = place.first..place.first + place.len;
                first[head] += usize::from(scores.correct[head][place.first]);
                probability[head] += f64::from(scores.log_probs[head][place.first]).exp();
                exact[head] += usize::from(scores.correct[head][targets].iter().all(|&correct| correct));
            }
        }
    }
    let count = questions.len() as f64;
    let result = |(h, &head): (usize, &Head)| QuestionResult {
        head,
        questions: questions.len(),
        first_token_accuracy: first[h] as f64 / count,
        first_token_probability: probability[h] / count,
        exact_match: exact[h] as f64 / count,
    };
    Ok(heads.iter().enumerate().map(result).collect())
}

/// Input tokens of a question: all but the answer's last token, which is only a target.
fn inputs(question: &Question) -> usize {
    question.prompt.len() + question.answer.len() - 1
}

/// Takes questions from the front of `rest`, in order, as many as fit into a batch; each is a document of its own in its row.
fn pack(rest: &mut &[Question], window: usize, batch_size: usize) -> (Batch, Vec<Place>) {
    let mut rows: Vec<Vec<&Question>> = Vec::new();
    let mut used = window;
    while let Some((question, others)) = rest.split_first() {
        if used + inputs(question) > window {
            if rows.len() == batch_size {
                break;
            }
            rows.push(Vec::new());
            used = 0;
        }
        used += inputs(question);
        if let Some(row) = rows.last_mut() {
            row.push(question);
        }
        *rest = others;
    }
    let length = rows.iter().map(|row| row.iter().map(|q| inputs(q)).sum()).max().unwrap_or(0);
    let size = rows.len() * length;
    let (mut tokens, mut targets, mut starts) = (vec![0; size], vec![IGNORE; size], vec![0u32; size]);
    let mut places = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let begin = index * length;
        let mut at = 0;
        for question in row {
            let (prompt, answer) = (question.prompt.len(), question.answer.len());
            let whole = question.prompt.iter().chain(&question.answer).take(inputs(question));
            tokens[begin + at..].iter_mut().zip(whole).for_each(|(slot, &token)| *slot = token);
            let first = begin + at + prompt - 1;
            targets[first..first + answer].copy_from_slice(&question.answer);
            starts[begin + at..begin + at + inputs(question)].fill(at as u32);
            places.push(Place { first, len: answer });
            at += inputs(question);
        }
        starts[begin + at..begin + length].fill(at as u32);
    }
    (Batch { batch_size: rows.len(), sequence_length: length, tokens, targets, document_starts: Some(starts) }, places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Answers with the input token plus one, with probability ½ (its own document's first token must be even, to catch rows that mix).
    fn score(batch: &Batch) -> Result<Scores> {
        let starts = batch.document_starts.as_ref().unwrap();
        let correct = (0..batch.tokens.len())
            .map(|i| {
                let first = i / batch.sequence_length * batch.sequence_length + starts[i] as usize;
                batch.targets[i] == batch.tokens[i] + 1 && batch.tokens[first].is_multiple_of(2)
            })
            .collect();
        Ok(Scores { log_probs: vec![vec![0.5f32.ln(); batch.tokens.len()]], correct: vec![correct], hidden: Vec::new() })
    }

    #[test]
    fn first_tokens_and_whole_answers_are_told_apart() {
        let question = |prompt: &[u32], answer: &[u32]| Question { prompt: prompt.into(), answer: answer.into() };
        let asked = [
            question(&[2, 5], &[6, 7]), // all right
            question(&[4, 5], &[6, 9]), // the first token only
            question(&[6, 5], &[8, 9]), // the second token only
            question(&[3, 5], &[6, 7]), // an odd document: nothing
        ];
        for (window, batch_size) in [(3, 1), (7, 2), (100, 1)] {
            let results = ask(&asked, window, batch_size, &[Head::Base], score).unwrap();
            let expected = QuestionResult {
                head: Head::Base,
                questions: 4,
                first_token_accuracy: 0.5,
                first_token_probability: results[0].first_token_probability,
                exact_match: 0.25,
            };
            assert_eq!(results, [expected]);
            assert!((results[0].first_token_probability - 0.5).abs() < 1e-7);
        }
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        let long = Question { prompt: vec![1; 5], answer: vec![2; 5] };
        let error = ask(&[long], 8, 1, &[Head::Base], score).unwrap_err().to_string();
        assert!(error.contains("question 0 has 5 prompt and 5 answer tokens") && error.contains("at most 9"), "{error}");
        assert!(ask(&[], 8, 1, &[Head::Base], score).is_err());
        assert!(ask(&[Question { prompt: vec![1], answer: vec![] }], 8, 1, &[Head::Base], score).is_err());
    }

    proptest! {
        #[test]
        fn every_question_is_asked_once_whatever_the_batches(
            lengths in prop::collection::vec((1usize..6, 1usize..4), 1..30), window in 8usize..20, batch_size in 1usize..5,
        ) {
            let asked: Vec<Question> = lengths.iter().enumerate().map(|(i, &(p, a))| {
                let token = |j: usize| (i * 100 + j) as u32;
                Question { prompt: (0..p).map(token).collect(), answer: (p..p + a).map(token).collect() }
            }).collect();
            let mut seen = Vec::new();
            let mut rest = asked.as_slice();
            while !rest.is_empty() {
                let (batch, places) = pack(&mut rest, window, batch_size);
                prop_assert!(batch.batch_size <= batch_size && batch.sequence_length <= window);
                for place in places {
                    let row = place.first / batch.sequence_length * batch.sequence_length;
                    let start = row + batch.document_starts.as_ref().unwrap()[place.first] as usize;
                    seen.push(Question {
                        prompt: batch.tokens[start..=place.first].to_vec(),
                        answer: batch.targets[place.first..place.first + place.len].to_vec(),
                    });
                }
            }
            prop_assert_eq!(seen, asked);
        }
    }
}
