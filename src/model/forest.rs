//! Scoring many sequences at once, with what they begin with in common computed once.

use super::{Extras, Model, Scores};
use crate::error::{Error, Result};
use crate::ops::attention::Segment;
use crate::ops::on_workers;
use crate::ops::sequence::Sequence;
use crate::ops::tape::{Tape, Var};
use crate::ops::tensor::Tensor;
use std::collections::HashMap;
use std::sync::Arc;

/// Token sequences, each with targets of its own; rows that several have in common at their beginning are held, and computed, once.
/// There is no padding, and what a sequence scores does not depend on what else is in the forest.
#[derive(Debug, Clone, Default)]
pub struct Forest {
    /// One a row.
    tokens: Vec<u32>,
    /// Place of each row in its sequence.
    positions: Vec<u32>,
    /// The segment that each row is in.
    segment_of: Vec<u32>,
    segments: Vec<Segment>,
    /// The row that follows a row (or begins a sequence) with a token.
    next: HashMap<(Option<u32>, u32), u32>,
    /// Rows that predict, and what.
    predictions: Vec<(u32, u32)>,
    prediction_of: HashMap<(u32, u32), usize>,
}

impl Forest {
    /// An empty forest.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of rows: what a forward pass costs.
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Number of predictions asked for.
    pub fn predictions(&self) -> usize {
        self.predictions.len()
    }

    /// Adds a sequence of which the tokens from `first` on are to be scored, and returns for each of them its place in the [`Scores`] of
    /// [`Model::score_forest`]. `first` is at least 1: nothing predicts a sequence's first token.
    ///
    /// # Panics
    /// Where `first` is 0 or lies beyond the end.
    pub fn add(&mut self, tokens: &[u32], first: usize) -> Vec<usize> {
        assert!((1..=tokens.len()).contains(&first), "a sequence of {} tokens is scored from its {first}th on", tokens.len());
        let mut last = None;
        let mut predicted = Vec::with_capacity(tokens.len() - first);
        for (place, pair) in tokens.windows(2).enumerate() {
            let row = match self.next.get(&(last, pair[0])) {
                Some(&row) => row,
                None => self.push(last, pair[0], place as u32),
            };
            last = Some(row);
            if place + 1 >= first {
                let (next, predictions) = (self.predictions.len(), &mut self.predictions);
                predicted.push(*self.prediction_of.entry((row, pair[1])).or_insert_with(|| {
                    predictions.push((row, pair[1]));
                    next
                }));
            }
        }
        predicted
    }

    /// A new row after `last`.
    fn push(&mut self, last: Option<u32>, token: u32, position: u32) -> u32 {
        let row = self.tokens.len();
        let segment = last.map(|last| (last as usize, self.segment_of[last as usize] as usize));
        match segment {
            // The row before it is the end of the newest segment, which grows.
            Some((last, _)) if last + 1 == row => {
                if let Some(newest) = self.segments.last_mut() {
                    newest.rows.end += 1;
                }
            }
            Some((last, segment)) => {
                let Segment { past, rows } = &self.segments[segment];
                let past = past.iter().cloned().chain(std::iter::once(rows.start..last + 1)).collect();
                self.segments.push(Segment { past, rows: row..row + 1 });
            }
            None => self.segments.push(Segment { past: Vec::new(), rows: row..row + 1 }),
        }
        self.tokens.push(token);
        self.positions.push(position);
        self.segment_of.push(self.segments.len() as u32 - 1);
        self.next.insert((last, token), row as u32);
        row as u32
    }
}

impl Model {
    /// Forward of all sequences of a forest through every head: one entry a prediction, in the order of the places that [`Forest::add`] gave.
    /// Of `extras` there are no hidden states.
    ///
    /// # Errors
    /// A token outside the vocabulary, or a sequence longer than the model's positions.
    pub fn score_forest(&self, forest: &Forest, extras: Extras) -> Result<Scores> {
        self.check_tokens(&forest.tokens)?;
        if let Some((_, target)) = forest.predictions.iter().find(|(_, target)| *target as usize >= self.config.vocab_size) {
            return Err(Error::usage(format!("target {target} is outside the model's vocabulary of {} tokens", self.config.vocab_size)));
        }
        let longest = forest.positions.iter().max().map_or(0, |&position| position as usize + 1);
        if longest > self.rope.positions() {
            return Err(Error::usage(format!("a sequence of {longest} tokens exceeds the model's {} positions", self.rope.positions())));
        }
        if forest.predictions.is_empty() {
            let none = || vec![Vec::new(); self.heads.len()];
            return Ok(Scores { log_probs: none(), correct: vec![Vec::new(); self.heads.len()], largest: none(), ..Scores::default() });
        }
        on_workers(|| Ok(self.score_forest_here(forest, extras)))
    }

    fn score_forest_here(&self, forest: &Forest, extras: Extras) -> Scores {
        let (length, positions) = (forest.rows(), forest.positions.clone());
        let sequence = Arc::new(Sequence { batch: 1, length, positions, starts: None, forest: Some(forest.segments.clone()) });
        let mut tape = Tape::inference(&self.parameters, self.precision);
        let (preserved, adapted) = self.streams(&mut tape, &forest.tokens, &sequence, None);
        let (rows, targets): (Vec<u32>, Vec<u32>) = forest.predictions.iter().copied().unzip();
        // Only rows that predict go through the heads, which cost as much as several layers.
        let select = |x: Var, tape: &Tape<'_>| {
            let cols = x.value().cols();
            let mut out = Tensor::scratch(rows.len(), cols);
            for (to, &row) in out.data_mut().chunks_exact_mut(cols).zip(&rows) {
                to.copy_from_slice(&x.value().data()[row as usize * cols..][..cols]);
            }
            tape.constant(out)
        };
        let preserved = preserved.map(|x| select(x, &tape));
        let adapted = adapted.into_iter().map(|x| select(x, &tape)).collect();
        Scores::new(self.with_heads(&mut tape, preserved, adapted, |tape, heads| tape.head_scores(heads, &targets, extras.compare())))
    }
}
