//! Corpora: from files to batches of tokens.
//!
//! 1. [`reader`]: JSONL, plain text and Parquet, document by document, with errors that name file and line.
//! 2. [`corpus`]: which files a path means, and how they are to be read.
//! 3. [`cache`]: a corpus tokenised once, beside the runs; read at offsets ever after.
//! 4. [`order`]: seeded permutations that need no memory.
//! 5. [`stream`]: the endless training stream, mixed, shuffled, packed, and resumed at once.
//! 6. [`held_out`] and [`windows`]: evaluation corpora, and windows in which every token is scored once.
//! 7. [`biography`]: the synthetic people of the controlled benchmark.

pub mod batch;
pub mod biography;
pub mod cache;
mod cache_file;
mod cache_writer;
pub mod corpus;
pub mod encoder;
pub mod held_out;
pub mod order;
pub(crate) mod parquet;
pub mod reader;
mod rows;
pub mod stream;
pub mod windows;

use crate::error::Result;

pub use batch::{Batch, IGNORE};
pub use cache::{Progress, Skipped, TokenCache};
pub use corpus::{CorpusConfig, Format, Split};
pub use encoder::Encoder;
pub use held_out::{Document, HeldOut, HeldOutConfig};
pub use stream::{StreamConfig, StreamState, TrainSource, TrainStream};
pub use windows::{ScoredBatch, WindowConfig, Windows};

/// What turns text into tokens: all that the data modules ask of a tokenizer.
pub trait Encode: Send + Sync {
    /// The tokens of `text`, without special tokens at its ends.
    ///
    /// # Errors
    /// When the tokenizer refuses the text.
    fn encode(&self, text: &str) -> Result<Vec<u32>>;

    /// The token that ends a document, if the tokenizer has one.
    fn end_of_text(&self) -> Option<u32>;

    /// A hash of everything that decides what [`encode`](Encode::encode) returns, so that cached tokens are never used with another tokenizer.
    fn fingerprint(&self) -> String;
}
