//! The endless training stream: mixed by weight, shuffled, packed, and resumed at once.
//!
//! Every source is a [`TokenCache`]. An epoch visits its documents in a seeded [`Permutation`](super::order::Permutation), so the order needs no memory, the
//! shuffle is global, and a position is a few numbers. Several documents are open at a time, one a *lane*; successive windows come from successive lanes, so
//! that a long document does not fill a batch by itself.

mod config;
mod source;

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Encode;
use super::batch::Batch;
use super::cache::{OnProgress, TokenCache};
use super::rows::Rows;
use crate::error::{Error, Result};
use source::Source;

pub use config::{StreamConfig, TrainSource};
pub use source::{Lane, SourceState};

/// Where a [`TrainStream`] stands; all that is needed to go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamState {
    /// The seed of the order.
    pub seed: u64,
    /// One position a source.
    pub sources: Vec<SourceState>,
}

/// The endless stream of training batches.
pub struct TrainStream {
    sources: Vec<Source>,
    sequence_length: usize,
    document_mask: bool,
    end_of_text: Option<u32>,
    seed: u64,
    /// Where every window is one document.
    rows: Option<Rows>,
}

impl TrainStream {
    /// Opens the sources (tokenising those that are not in `cache_folder` yet) and stands at the beginning.
    ///
    /// Relative paths start at `base`.
    ///
    /// # Errors
    /// When the configuration is invalid or a corpus cannot be read, is empty, or cannot be cached; without `packing` when a document does not fit a window
    /// or lacks the template.
    pub fn new(
        config: &StreamConfig,
        base: &Path,
        cache_folder: &Path,
        encoder: &dyn Encode,
        seed: u64,
        progress: OnProgress,
    ) -> Result<Self> {
        config.validate()?;
        let total: f64 = config.train.iter().map(|source| source.weight).sum();
        let rows = if config.packing { None } else { Some(Rows::new(config, encoder)?) };
        let lanes = if rows.is_some() { 1 } else { config.open_documents };
        let mut sources = Vec::with_capacity(config.train.len());
        for (index, source) in config.train.iter().enumerate() {
            let cache = TokenCache::open(&source.corpus(), base, cache_folder, encoder, progress)?;
            if let Some(rows) = &rows {
                rows.check(&cache, &source.path)?;
            }
            let mut source = Source::new(cache, source.weight / total, index as u64, seed);
            source.state.lanes = (0..lanes).map(|_| source.open_next(seed)).collect();
            sources.push(source);
        }
        Ok(Self {
            sources,
            sequence_length: config.sequence_length,
            document_mask: config.document_mask,
            end_of_text: encoder.end_of_text(),
            seed,
            rows,
        })
    }

    /// The next `batch_size` windows.
    ///
    /// # Errors
    /// When a token cache is damaged.
    pub fn next_batch(&mut self, batch_size: usize) -> Result<Batch> {
        let size = batch_size * self.sequence_length;
        let mut batch = Batch {
            batch_size,
            sequence_length: self.sequence_length,
            tokens: Vec::with_capacity(size),
            targets: Vec::with_capacity(size),
            document_starts: (self.document_mask && self.rows.is_none()).then(|| Vec::with_capacity(size)),
        };
        for _ in 0..batch_size {
            let source = self.choose();
            let source = &mut self.sources[source];
            match &self.rows {
                None => source.window(self.sequence_length, self.end_of_text, self.seed, &mut batch)?,
                Some(rows) => source.row(rows, self.seed, &mut batch)?,
            }
        }
        Ok(batch)
    }

    /// The source that is furthest behind its share; the first of equals.
    fn choose(&self) -> usize {
        let taken: u64 = self.sources.iter().map(|source| source.state.tokens).sum();
        let after = (taken + self.sequence_length as u64) as f64;
        let deficit = |source: &Source| source.share * after - source.state.tokens as f64;
        let mut best = 0;
        for index in 1..self.sources.len() {
            if deficit(&self.sources[index]) > deficit(&self.sources[best]) {
                best = index;
            }
        }
        best
    }

    /// Tokens taken so far from every source, in the order of the configuration.
    pub fn tokens_by_source(&self) -> Vec<u64> {
        self.sources.iter().map(|source| source.state.tokens).collect()
    }

    /// The token caches, in the order of the configuration.
    pub fn caches(&self) -> impl Iterator<Item = &TokenCache> {
        self.sources.iter().map(|source| &source.cache)
    }

    /// Where the stream stands.
    pub fn state(&self) -> StreamState {
        StreamState { seed: self.seed, sources: self.sources.iter().map(|source| source.state.clone()).collect() }
    }

    /// Goes to `state`, at once: nothing is read or replayed.
    ///
    /// # Errors
    /// When the state belongs to other corpora, another tokenizer, another seed, or is damaged.
    pub fn restore(&mut self, state: &StreamState) -> Result<()> {
        if state.seed != self.seed {
            return Err(Error::usage(format!("the saved data position was made with seed {}, not {}", state.seed, self.seed)));
        }
        if state.sources.len() != self.sources.len() {
            return Err(Error::usage(format!(
                "the saved data position has {} sources, data.train {}",
                state.sources.len(),
                self.sources.len()
            )));
        }
        for (source, saved) in self.sources.iter().zip(&state.sources) {
            source.check(saved, self.end_of_text.is_some())?;
        }
        for (source, saved) in self.sources.iter_mut().zip(&state.sources) {
            source.state = saved.clone();
        }
        Ok(())
    }
}
