//! Questions with one right answer: how often the answer's first token, and the whole answer, is what a head or a router would say.

use serde::Serialize;

use super::Speaker;
use crate::data::batch::{Batch, IGNORE};
use crate::error::{Error, Result};
use crate::model::{Head, Model, Scores};
use crate::route::{self, Route, Router, Signals};

/// A question and its answer, in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What the model is given.
    pub prompt: Vec<u32>,
    /// What it should say next.
    pub answer: Vec<u32>,
}

/// How one head answered, or the heads under a router.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct QuestionResult {
    /// The head or router.
    pub head: Speaker,
    /// Number of questions.
    pub questions: usize,
    /// Share of questions whose answer's first token was the most probable one of the head that spoke.
    pub first_token_accuracy: f64,
    /// Mean probability of the answer's first token.
    pub first_token_probability: f64,
    /// Share of questions of whose answer this holds for every token: what greedy generation would give, by a head or by whichever head speaks.
    pub exact_match: f64,
}

/// Asks every question, in batches of up to `batch_size` rows of up to `window` tokens; the results are those of the heads, then of the routers.
/// To a router every question is a document, and its prompt is evidence.
///
/// # Errors
/// No question, an empty prompt or answer, a question longer than the window, or routers for a model with one head.
///
/// # Paper
/// Section 4.1: hard and soft first-token accuracy.
pub fn questions(
    model: &Model,
    questions: &[Question],
    window: usize,
    batch_size: usize,
    routers: &[Router],
) -> Result<Vec<QuestionResult>> {
    let (extras, routes) = route::begin(model, routers)?;
    ask(questions, window, batch_size, (model.heads(), &routes), |batch| model.score_with(batch, extras))
}

/// Where a question's answer is predicted in a batch.
struct Place {
    /// Position of the prompt's first token.
    start: usize,
    /// Position of the answer's first target.
    first: usize,
    /// Number of its targets.
    len: usize,
}

fn ask(
    questions: &[Question],
    window: usize,
    batch_size: usize,
    (heads, routes): (&[Head], &[Route]),
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
    let speakers: Vec<Speaker> =
        heads.iter().map(|&head| Speaker::Head(head)).chain(routes.iter().map(|r| Speaker::Router(r.router()))).collect();
    let mut tallies = vec![Tally::default(); speakers.len()];
    let mut rest = questions;
    while !rest.is_empty() {
        let (batch, places) = pack(&mut rest, window, batch_size);
        let scores = score(&batch)?;
        for place in &places {
            for (index, speaker) in speakers.iter().enumerate() {
                match speaker {
                    Speaker::Head(_) => {
                        let answer = place.first..place.first + place.len;
                        tallies[index].add(answer.map(|at| (f64::from(scores.log_probs[index][at]), scores.correct[index][at])));
                    }
                    Speaker::Router(_) => {
                        let route = routes[index - heads.len()].clone();
                        tallies[index].add(routed(route, &batch.tokens, &scores, place).into_iter());
                    }
                }
            }
        }
    }
    let count = questions.len() as f64;
    let result = |(&head, tally): (&Speaker, &Tally)| QuestionResult {
        head,
        questions: questions.len(),
        first_token_accuracy: tally.first as f64 / count,
        first_token_probability: tally.probability / count,
        exact_match: tally.exact as f64 / count,
    };
    Ok(speakers.iter().zip(&tallies).map(result).collect())
}

/// Right answers so far.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    first: usize,
    probability: f64,
    exact: usize,
}

impl Tally {
    /// Adds an answer: for each token its log-probability, and whether it would have been said.
    fn add(&mut self, mut answer: impl Iterator<Item = (f64, bool)>) {
        let Some((log_prob, correct)) = answer.next() else { return };
        self.first += usize::from(correct);
        self.probability += log_prob.exp();
        self.exact += usize::from(correct && answer.all(|(_, correct)| correct));
    }
}

/// The answer at `place` under a router that has read the prompt.
fn routed(mut route: Route, tokens: &[u32], scores: &Scores, place: &Place) -> Vec<(f64, bool)> {
    let mut answer = Vec::with_capacity(place.len);
    for at in place.start..place.first + place.len {
        let of = |rows: &[Vec<f32>]| rows.iter().map(|row| row[at]).collect::<Vec<f32>>();
        let (log_probs, largest) = (of(&scores.log_probs), of(&scores.largest));
        let cosine = scores.cosine.get(at).copied().unwrap_or_default();
        let signals = Signals { largest: &largest, cosine, contrast: scores.contrast.get(at).copied(), read: tokens[at] };
        if at >= place.first {
            let decision = route.decide(signals);
            answer.push((decision.log_prob(&log_probs), scores.correct[decision.speaker(&largest)][at]));
        }
        route.observe(signals, &log_probs);
    }
    answer
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
            // All of them: a router also learns from the prompt.
            let predicted = question.prompt.iter().chain(&question.answer).skip(1);
            targets[begin + at..].iter_mut().zip(predicted).for_each(|(slot, &token)| *slot = token);
            starts[begin + at..begin + at + inputs(question)].fill(at as u32);
            places.push(Place { start: begin + at, first, len: answer });
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
        Ok(Scores { log_probs: vec![vec![0.5f32.ln(); batch.tokens.len()]], correct: vec![correct], ..Scores::default() })
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
            let results = ask(&asked, window, batch_size, (&[Head::Base], &[]), score).unwrap();
            let expected = QuestionResult {
                head: Speaker::Head(Head::Base),
                questions: 4,
                first_token_accuracy: 0.5,
                first_token_probability: results[0].first_token_probability,
                exact_match: 0.25,
            };
            assert_eq!(results, [expected]);
            assert!((results[0].first_token_probability - 0.5).abs() < 1e-7);
        }
    }

    /// The first head knows prompts and nothing else, the second knows answers: who has read the prompt trusts the first, who asks how sure they are
    /// finds the second.
    #[test]
    fn a_router_reads_the_prompt_before_it_answers() {
        let heads: &[Head] = &[Head::Preservation, Head::Adaptation];
        let routers = ["bayes:share=0", "confidence", "adapt"].map(|text| text.parse::<Router>().unwrap());
        let score = |batch: &Batch| {
            // Answers are tokens from 100 on.
            let of =
                |prompt: f32, answer: f32| -> Vec<f32> { batch.targets.iter().map(|&t| if t >= 100 { answer } else { prompt }).collect() };
            let log_probs = vec![of(-0.1, -5.0), of(-3.0, -0.2)];
            let correct = vec![vec![false; batch.targets.len()], vec![true; batch.targets.len()]];
            Ok(Scores { log_probs, correct, largest: vec![of(-0.1, -1.0), of(-2.0, -0.2)], ..Scores::default() })
        };
        let asked = [Question { prompt: vec![1, 2, 3, 4], answer: vec![100, 101] }, Question { prompt: vec![5], answer: vec![102] }];
        let routes = routers.map(|router| Route::new(router, heads.len()));
        let results = ask(&asked, 16, 2, (heads, &routes), score).unwrap();
        let names: Vec<String> = results.iter().map(|r| r.head.to_string()).collect();
        assert_eq!(names, ["preservation", "adaptation", "bayes:share=0", "confidence", "adapt"]);
        let right: Vec<f64> = results.iter().map(|r| r.first_token_accuracy).collect();
        // The prompt of one token was predicted by nobody: with equal weights the head speaks whose favourite is the more probable.
        assert_eq!(right, [0.0, 1.0, 0.5, 1.0, 1.0]);
        // Of four prompt tokens three were predicted; the second head is e^(-8.7) times as likely to be right about the first question.
        let weight = 1.0 / (1.0 + 8.7f64.exp());
        let expected = ((1.0 - weight) * (-5f64).exp() + weight * (-0.2f64).exp() + ((-5f64).exp() + (-0.2f64).exp()) / 2.0) / 2.0;
        assert!((results[2].first_token_probability - expected).abs() < 1e-6, "{} {expected}", results[2].first_token_probability);
        // Within the answer the second head earns what it had lost.
        assert_eq!((results[2].exact_match, results[3].exact_match), (0.5, 1.0));
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        let long = Question { prompt: vec![1; 5], answer: vec![2; 5] };
        let error = ask(&[long], 8, 1, (&[Head::Base], &[]), score).unwrap_err().to_string();
        assert!(error.contains("question 0 has 5 prompt and 5 answer tokens") && error.contains("at most 9"), "{error}");
        assert!(ask(&[], 8, 1, (&[Head::Base], &[]), score).is_err());
        assert!(ask(&[Question { prompt: vec![1], answer: vec![] }], 8, 1, (&[Head::Base], &[]), score).is_err());
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
