//! Parquet files, without Arrow: [`texts`] hands out one string column of a corpus, [`rows`] whole rows of an evaluation set. What the parquet crate believes is
//! checked before it sees it: headers in [`mod@file`], pages in [`pages`].

mod file;
mod group;
mod pages;
mod rows;
mod shapes;
mod texts;
mod thrift;
mod unpack;

pub use rows::rows;
pub(super) use texts::texts;

use parquet::errors::ParquetError;
use parquet::file::reader::SerializedFileReader;

use crate::guard;
use file::ParquetFile;

/// Reads the metadata at the file's end.
fn open(file: &ParquetFile) -> std::result::Result<SerializedFileReader<ParquetFile>, ParquetError> {
    guarded(|| SerializedFileReader::new(file.clone()))
}

/// Runs a call into the parquet crate, which panics on some kinds of damage, and turns that into an error.
fn guarded<T>(call: impl FnOnce() -> std::result::Result<T, ParquetError>) -> std::result::Result<T, ParquetError> {
    // Whatever the call was working on is dropped with the error, so nothing half-changed is seen again.
    guard::guarded(call).unwrap_or_else(|| Err(ParquetError::General("its contents contradict each other".into())))
}
