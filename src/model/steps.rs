//! Reading one sequence step by step, as generation does.

use super::{Cache, Extras, Model, Scores};
use crate::data::batch::IGNORE;
use crate::error::{Error, Result};
use crate::ops::head::Part;
use crate::ops::on_workers;
use crate::ops::sequence::Sequence;
use crate::ops::tape::Tape;
use std::sync::Arc;

impl Model {
    /// An empty cache for up to `capacity` tokens of one sequence.
    pub fn new_cache(&self, capacity: usize) -> Cache {
        let rows = self.layers.len().max(self.beside.as_ref().map_or(0, |beside| beside.base.layers.len()));
        Cache::new(capacity.min(self.rope.positions()), rows, self.rings.len() + 1)
    }

    /// Appends `tokens` to the sequence and returns the logits of the last position, `[vocab_size]`, for each head in the order of [`Model::heads`].
    ///
    /// # Errors
    /// A token outside the vocabulary, no token, or a full cache.
    pub fn step(&self, cache: &mut Cache, tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
        self.advance(cache, tokens, |tape, heads| tape.head_logits(heads, tokens.len() - 1))
    }

    /// [`Model::step`], and what each head made of `tokens` themselves: position `i` of the scores is about token `i + 1`, and the last, whose
    /// target is yet to come, is ignored. It is what a router learns from a prompt. Of `extras` there are no hidden states.
    ///
    /// # Errors
    /// As [`Model::step`].
    pub fn read(&self, cache: &mut Cache, tokens: &[u32], extras: Extras) -> Result<(Vec<Vec<f32>>, Scores)> {
        let targets: Vec<u32> = tokens.iter().skip(1).copied().chain([IGNORE]).collect();
        self.advance(cache, tokens, |tape, heads| {
            let logits = tape.head_logits(heads, tokens.len() - 1);
            (logits, Scores::new(tape.head_scores(heads, &targets, extras.compare())))
        })
    }

    /// Appends `tokens`, of which there is at least one, to the sequence, and lets `read` look at the heads over them.
    fn advance<'m, T: Send>(
        &'m self,
        cache: &mut Cache,
        tokens: &[u32],
        read: impl FnOnce(&Tape<'m>, &[Part<'_, 'm>]) -> T + Send,
    ) -> Result<T> {
        on_workers(|| self.advance_here(cache, tokens, read))
    }

    fn advance_here<'m, T>(&'m self, cache: &mut Cache, tokens: &[u32], read: impl FnOnce(&Tape<'m>, &[Part<'_, 'm>]) -> T) -> Result<T> {
        let sequence = self.append(cache, tokens)?;
        let mut tape = Tape::inference(&self.parameters, self.precision);
        let (preserved, adapted) = self.streams(&mut tape, tokens, &sequence, Some(cache));
        cache.length += tokens.len();
        Ok(self.with_heads(&mut tape, preserved, adapted, read))
    }

    /// Where `tokens` stand behind what is in the cache.
    pub(super) fn append(&self, cache: &Cache, tokens: &[u32]) -> Result<Arc<Sequence>> {
        self.check_tokens(tokens)?;
        let (past, length) = (cache.length, tokens.len());
        if length == 0 || past + length > cache.capacity {
            return Err(Error::usage(format!("{length} tokens after {past} do not fit a context of {} tokens", cache.capacity)));
        }
        let positions = (past as u32..(past + length) as u32).collect();
        Ok(Arc::new(Sequence { batch: 1, length, positions, starts: None, forest: None }))
    }
}
