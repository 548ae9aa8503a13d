//! The endless training stream: mixed by weight, shuffled, packed, and resumed at once.
//!
//! Every source is a [`TokenCache`]. An epoch visits its documents in a seeded [`Permutation`], so the order needs no memory, the shuffle is
//! global, and a position is a few numbers. Several documents are open at a time, one a *lane*; successive windows come from successive
//! lanes, so that a long document does not fill a batch by itself.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Encode;
use super::batch::{Batch, IGNORE};
use super::cache::{OnProgress, TokenCache};
use super::corpus::{CorpusConfig, Format, Split, default_text_field};
use super::order::Permutation;
use super::rows::Rows;
use crate::error::{Error, Result};

/// One weighted source of training text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSource {
    /// A file, a glob pattern, or a folder.
    pub path: String,
    /// The share of this source in the training tokens, relative to the other sources.
    #[serde(default = "default_weight")]
    pub weight: f64,
    /// The JSON field or Parquet column that holds the text.
    #[serde(default = "default_text_field")]
    pub text_field: String,
    /// What the files hold, where the suffix does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// How plain text files are cut into documents.
    #[serde(default)]
    pub split: Split,
    /// Whether documents that cannot be read are left out and counted, rather than an error.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skip_bad_records: bool,
}

fn default_weight() -> f64 {
    1.0
}

impl TrainSource {
    /// A source at `path` with weight 1, read in the default way.
    pub fn new(path: impl Into<String>) -> Self {
        let corpus = CorpusConfig::new(path);
        let CorpusConfig { path, text_field, format, split, skip_bad_records } = corpus;
        Self { path, weight: default_weight(), text_field, format, split, skip_bad_records }
    }

    /// The corpus, without its weight.
    pub fn corpus(&self) -> CorpusConfig {
        CorpusConfig {
            path: self.path.clone(),
            text_field: self.text_field.clone(),
            format: self.format,
            split: self.split,
            skip_bad_records: self.skip_bad_records,
        }
    }
}

/// Epochs of a source before its random numbers meet those of the next.
const MOST_EPOCHS: u64 = 1 << 32;
/// Tokens of a source before its position counts as damaged.
const MOST_TOKENS: u64 = 1 << 56;

/// What a training stream is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamConfig {
    /// The sources.
    pub train: Vec<TrainSource>,
    /// Tokens a window.
    pub sequence_length: usize,
    /// Whether attention and positions stop at document borders.
    #[serde(default)]
    pub document_mask: bool,
    /// Documents of a source that are open at a time; with 1, a long document fills whole batches.
    #[serde(default = "default_open_documents")]
    pub open_documents: usize,
    /// Whether documents are put one after another until a window is full; otherwise every window is one whole document, filled up at its end.
    #[serde(default = "packing_is_default", skip_serializing_if = "is_packing")]
    pub packing: bool,
    /// Only what follows the last occurrence of this text in a document counts in the loss: the answer, and not its question. Without `packing` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_template: Option<String>,
}

fn default_open_documents() -> usize {
    8
}

fn packing_is_default() -> bool {
    true
}

fn is_packing(packing: &bool) -> bool {
    *packing
}

impl StreamConfig {
    /// A stream of `sources`, packed to `sequence_length`, without document masks.
    pub fn new(sources: Vec<TrainSource>, sequence_length: usize) -> Self {
        Self {
            train: sources,
            sequence_length,
            document_mask: false,
            open_documents: default_open_documents(),
            packing: packing_is_default(),
            response_template: None,
        }
    }

    /// Checks what can be checked without touching a file.
    ///
    /// # Errors
    /// When there is no source, a weight is not a positive number, a length is zero, or there is a template and `packing`.
    pub fn validate(&self) -> Result<()> {
        if self.train.is_empty() {
            return Err(Error::usage("data.train names no corpus"));
        }
        if self.sequence_length == 0 || self.sequence_length > 1 << 24 {
            return Err(Error::usage(format!("data.sequence_length must be 1 to {}, found {}", 1 << 24, self.sequence_length)));
        }
        if self.packing && self.response_template.is_some() {
            return Err(Error::usage(
                "data.response_template: answers are told from questions only where every window is one document\n  hint: packing = false",
            ));
        }
        if self.open_documents == 0 || self.open_documents > 1 << 16 {
            return Err(Error::usage(format!("data.open_documents must be 1 to {}, found {}", 1 << 16, self.open_documents)));
        }
        match self.train.iter().find(|source| !(source.weight > 0.0 && source.weight.is_finite())) {
            Some(bad) => Err(Error::usage(format!("data.train: the weight of {:?} must be positive, found {}", bad.path, bad.weight))),
            None => Ok(()),
        }
    }
}

/// Where a [`TrainStream`] stands; all that is needed to go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamState {
    /// The seed of the order.
    pub seed: u64,
    /// One position a source.
    pub sources: Vec<SourceState>,
}

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
struct Source {
    cache: TokenCache,
    share: f64,
    stream: u64,
    state: SourceState,
    epoch: u64,
    order: Permutation,
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

impl Source {
    fn new(cache: TokenCache, share: f64, index: u64, seed: u64) -> Self {
        let stream = index * MOST_EPOCHS;
        let order = Permutation::new(cache.documents(), seed, stream);
        let state = SourceState { fingerprint: cache.fingerprint().into(), tokens: 0, opened: 0, next_lane: 0, lanes: Vec::new() };
        Self { cache, share, stream, state, epoch: 0, order }
    }

    /// Opens the next document of the endless order.
    fn open_next(&mut self, seed: u64) -> Lane {
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
    fn window(&mut self, length: usize, end_of_text: Option<u32>, seed: u64, batch: &mut Batch) -> Result<()> {
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
    fn row(&mut self, rows: &Rows, seed: u64, batch: &mut Batch) -> Result<()> {
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
    fn check(&self, saved: &SourceState, ends: bool) -> Result<()> {
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
