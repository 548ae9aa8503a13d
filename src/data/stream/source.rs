//! One source of a training stream, and where it stands.

use serde::{Deserialize, Serialize};

use crate::data::batch::{Batch, IGNORE};
use crate::data::cache::TokenCache;
use crate::data::order::Permutation;
use crate::data::rows::Rows;
use crate::error::{Error, Result};

/// Epochs of a source before its random numbers meet those of the next.
const MOST_EPOCHS: u64 = 1 << 32;
/// Tokens of a source before its position counts as damaged.
const MOST_TOKENS: u64 = 1 << 56;

/// Where one source stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceState {
    /// The corpus this position belongs to.
    pub fingerprint: String,
    /// Tokens taken so far.
    pub tokens: u64,
    /// Documents opened so far, over all epochs.
    pub opened: u64,
    /// The lane that gives the next window.
    pub next_lane: usize,
    /// The open documents.
    pub lanes: Vec<Lane>,
}

/// An open document and the token to go on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lane {
    /// The document's index in the corpus.
    pub document: u64,
    /// The first of its tokens that has not been taken; one past its tokens stands for the token that ends it.
    pub offset: u64,
}

/// One source at work.
pub(super) struct Source {
    pub cache: TokenCache,
    /// Of all tokens.
    pub share: f64,
    stream: u64,
    pub state: SourceState,
    epoch: u64,
    order: Permutation,
}

impl Source {
    pub fn new(cache: TokenCache, share: f64, index: u64, seed: u64) -> Self {
        let stream = index * MOST_EPOCHS;
        let order = Permutation::new(cache.documents(), seed, stream);
        let state = SourceState { fingerprint: cache.fingerprint().into(), tokens: 0, opened: 0, next_lane: 0, lanes: Vec::new() };
        Self { cache, share, stream, state, epoch: 0, order }
    }

    /// Opens the next document of the endless order.
    pub fn open_next(&mut self, seed: u64) -> Lane {
        let documents = self.cache.documents();
        let (epoch, position) = (self.state.opened / documents, self.state.opened % documents);
        if epoch != self.epoch {
            self.epoch = epoch;
            self.order = Permutation::new(documents, seed, self.stream + epoch);
        }
        self.state.opened += 1;
        Lane { document: self.order.at(position), offset: 0 }
    }

    /// Appends one window. Its last target is the token that the lane's next window begins with.
    pub fn window(&mut self, length: usize, end_of_text: Option<u32>, seed: u64, batch: &mut Batch) -> Result<()> {
        let lane_index = self.state.next_lane;
        self.state.next_lane = (lane_index + 1) % self.state.lanes.len();
        let mut lane = self.state.lanes[lane_index];
        let first = batch.tokens.len();
        let filled = |batch: &Batch| batch.tokens.len() - first;
        while filled(batch) < length {
            let start = filled(batch);
            lane.offset += self.take(lane, length - start, end_of_text, &mut batch.tokens)?;
            if let Some(starts) = &mut batch.document_starts {
                starts.resize(batch.tokens.len(), start as u32);
            }
            if self.exhausted(lane, end_of_text)? {
                lane = self.open_next(seed);
            }
        }
        batch.targets.extend_from_slice(&batch.tokens[first + 1..]);
        self.take(lane, 1, end_of_text, &mut batch.targets)?;
        if let Some(starts) = &batch.document_starts {
            // No document predicts the first token of the next.
            for at in first..batch.tokens.len() {
                let next = starts.get(at + 1).copied();
                let ends = if at + 1 == first + length { lane.offset == 0 } else { next != Some(starts[at]) };
                if ends {
                    batch.targets[at] = IGNORE;
                }
            }
        }
        self.state.tokens += length as u64;
        self.state.lanes[lane_index] = lane;
        Ok(())
    }

    /// Appends a window that is the next document, and nothing else.
    pub fn row(&mut self, rows: &Rows, seed: u64, batch: &mut Batch) -> Result<()> {
        rows.append(&self.cache, self.state.lanes[0].document, batch)?;
        self.state.tokens += batch.sequence_length as u64;
        self.state.lanes[0] = self.open_next(seed);
        Ok(())
    }

    /// Appends up to `count` tokens of the lane's document, with the token that ends it, and says how many.
    fn take(&self, lane: Lane, count: usize, end_of_text: Option<u32>, out: &mut Vec<u32>) -> Result<u64> {
        let (range, _) = self.cache.document(lane.document)?;
        let begin = (range.start + lane.offset).min(range.end);
        let end = range.end.min(begin + count as u64);
        self.cache.read(begin..end, out)?;
        let mut taken = end - begin;
        if end == range.end
            && taken < count as u64
            && let Some(token) = end_of_text
        {
            out.push(token);
            taken += 1;
        }
        Ok(taken)
    }

    /// Whether nothing of the lane's document is left.
    fn exhausted(&self, lane: Lane, end_of_text: Option<u32>) -> Result<bool> {
        let (range, _) = self.cache.document(lane.document)?;
        Ok(lane.offset >= range.end - range.start + u64::from(end_of_text.is_some()))
    }

    /// Whether a saved position can be one of this source.
    pub fn check(&self, saved: &SourceState, ends: bool) -> Result<()> {
        if saved.fingerprint != self.cache.fingerprint() {
            return Err(Error::file(
                self.cache.path(),
                "the corpus or the tokenizer changed since the data position was saved, so the run cannot go on bit for bit",
            ));
        }
        // Neither can be reached, and what is counted on from there stays countable.
        let possible = saved.opened / self.cache.documents() < MOST_EPOCHS && saved.tokens < MOST_TOKENS;
        let mut valid = possible && !saved.lanes.is_empty() && saved.next_lane < saved.lanes.len();
        for lane in &saved.lanes {
            valid = valid && lane.document < self.cache.documents() && {
                let (range, _) = self.cache.document(lane.document)?;
                lane.offset < range.end - range.start + u64::from(ends)
            };
        }
        if valid {
            Ok(())
        } else {
            Err(Error::file(self.cache.path(), "the saved data position does not fit this corpus; the checkpoint is damaged"))
        }
    }
}
