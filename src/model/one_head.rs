//! One head of a model alone: nothing is computed that only the others need.

use super::layer::{StreamSequences, Streams};
use super::{Cache, Model, Scores};
use crate::data::batch::Batch;
use crate::error::{Error, Result};
use crate::ops::head::{Compare, Head, Part};
use crate::ops::on_workers;
use crate::ops::sequence::Sequence;
use crate::ops::tape::Tape;
use std::sync::Arc;

impl Model {
    /// [`Model::score`] of one head alone, by its place in [`Model::heads`]: what only the others need is not computed, and the results are the same bits.
    ///
    /// # Errors
    /// As [`Model::score`], and a head that there is not.
    pub fn score_head(&self, batch: &Batch, head: usize) -> Result<Scores> {
        self.check_head(head)?;
        on_workers(|| {
            let sequence = self.sequence(batch)?;
            let mut tape = Tape::inference(&self.parameters, self.precision);
            let streams = self.streams_of(&mut tape, &batch.tokens, &sequence, None, head);
            let scores = self.with_head(&mut tape, streams, head, |tape, part| tape.head_scores(part, &batch.targets, Compare::default()));
            Ok(Scores::new(scores))
        })
    }

    /// [`Model::step`] of one head alone, by its place in [`Model::heads`]: the preservation head costs what the base does, the adaptation head no
    /// second copy of the base stream, and the logits are the same bits. A cache belongs to the head it was begun with.
    ///
    /// # Errors
    /// As [`Model::step`], and a head that there is not.
    pub fn step_head(&self, cache: &mut Cache, tokens: &[u32], head: usize) -> Result<Vec<f32>> {
        self.check_head(head)?;
        on_workers(|| {
            let sequence = self.append(cache, tokens)?;
            let mut tape = Tape::inference(&self.parameters, self.precision);
            let streams = self.streams_of(&mut tape, tokens, &sequence, Some(cache), head);
            cache.length += tokens.len();
            Ok(self.with_head(&mut tape, streams, head, |tape, part| tape.head_logits(part, tokens.len() - 1)).swap_remove(0))
        })
    }

    /// The model that a head is of, and how many of its streams the head reads: the preservation head of a pair is another model's.
    fn of_head(&self, head: usize) -> (&Self, usize) {
        match &self.beside {
            Some(beside) if head == 0 => (&beside.base, 1),
            Some(_) => (self, 1),
            None => (self, head + 1),
        }
    }

    /// All layers without recording, as far as one head needs them: without a preserved copy, for the first stream alone is the base.
    fn streams_of<'m>(
        &'m self,
        tape: &mut Tape<'m>,
        tokens: &[u32],
        sequence: &Arc<Sequence>,
        mut cache: Option<&mut Cache>,
        head: usize,
    ) -> Streams {
        let (model, count) = self.of_head(head);
        let mut streams = model.embed(tape, tokens);
        streams.truncate(count);
        let sequences = StreamSequences::same(sequence);
        for index in 0..model.layers.len() {
            let slots = cache.as_mut().map(|c| c.slots(index, false));
            streams = model.layer(tape, index, streams, &sequences, slots);
        }
        streams
    }

    /// Lets `read` look at one head alone.
    fn with_head<'m, T>(
        &'m self,
        tape: &mut Tape<'m>,
        streams: Streams,
        head: usize,
        read: impl FnOnce(&Tape<'m>, &[Part<'_, 'm>]) -> T,
    ) -> T {
        let model = self.of_head(head).0;
        let normed = model.final_norms(tape, &streams);
        drop(streams);
        let products = model.head_products(&normed);
        read(tape, &[Part { head: Head { products: &products }, continues: false }])
    }

    fn check_head(&self, head: usize) -> Result<()> {
        if head < self.heads.len() {
            return Ok(());
        }
        Err(Error::usage(format!("there is no head {head}; the model has {}", self.heads.len())))
    }
}
