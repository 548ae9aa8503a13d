//! One string column of a Parquet file, without Arrow. What the parquet crate believes is checked before it sees it: headers in [`mod@file`], pages in [`pages`].

mod file;
mod pages;
mod shapes;
mod thrift;
mod unpack;

use std::fs::File;
use std::path::Path;

use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, get_column_reader};
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{FileReader, Length, SerializedFileReader};

use super::reader::{OnBad, RawDocument, forgive};
use crate::error::{Error, Result};
use crate::guard;
use file::ParquetFile;
use pages::CheckedPages;

/// Rows taken at a time: enough to be fast, few enough to bound the memory.
const ROWS: usize = 256;

/// Hands every row of the column `field` to `each`.
pub(super) fn read(
    file: &Path,
    handle: File,
    field: &str,
    max_document_bytes: usize,
    each: &mut dyn FnMut(RawDocument) -> Result<()>,
    mut bad: OnBad,
) -> Result<()> {
    let damaged = |e: ParquetError| Error::file(file, format!("cannot read as Parquet, the file is truncated or damaged: {e}"));
    let parquet = ParquetFile::new(handle).map_err(damaged)?;
    let reader = guarded(|| SerializedFileReader::new(parquet.clone())).map_err(damaged)?;
    let (column, optional) = find_column(file, &reader, field)?;
    let mut row = 0u64;
    for group in 0..reader.num_row_groups() {
        check_place(reader.metadata().row_group(group).column(column), parquet.len()).map_err(damaged)?;
        let values = guarded(|| {
            let pages = CheckedPages::new(&parquet, reader.metadata().row_group(group), column, optional)?;
            let description = reader.metadata().file_metadata().schema_descr().column(column);
            Ok(get_column_reader(description, Box::new(pages)))
        })
        .map_err(damaged)?;
        let ColumnReader::ByteArrayColumnReader(mut values) = values else {
            return Err(Error::file(file, format!("the column {field:?} is not stored as strings in every row group")));
        };
        let (mut texts, mut defined): (Vec<ByteArray>, Vec<i16>) = (Vec::new(), Vec::new());
        loop {
            texts.clear();
            defined.clear();
            let levels = optional.then_some(&mut defined);
            let (records, _, _) = guarded(|| values.read_records(ROWS, levels, None, &mut texts)).map_err(damaged)?;
            if records == 0 {
                break;
            }
            let present = |row: usize| !optional || defined.get(row).is_some_and(|&level| level > 0);
            if texts.len() != (0..records).filter(|&row| present(row)).count() {
                return Err(damaged(ParquetError::General(format!("{records} rows hold {} texts", texts.len()))));
            }
            let mut found = texts.iter();
            for index in 0..records {
                row += 1;
                let text = if present(index) { found.next() } else { None };
                match text_of(file, field, row, text, max_document_bytes) {
                    Ok(text) => each(RawDocument { text, line: row })?,
                    Err(error) => forgive(Err(error), &mut bad)?,
                }
            }
        }
    }
    Ok(())
}

/// The text of one row.
fn text_of(file: &Path, field: &str, row: u64, text: Option<&ByteArray>, most: usize) -> Result<String> {
    let fault = |message: String| Error::file(file, format!("row {row}: {message}"));
    let text = text.ok_or_else(|| fault(format!("the column {field:?} is null")))?;
    if text.len() > most {
        return Err(fault(format!("the text is longer than {most} bytes")));
    }
    let text = std::str::from_utf8(text.data());
    text.map(String::from).map_err(|e| fault(format!("invalid UTF-8 at byte {} of {field:?}", e.valid_up_to() + 1)))
}

/// Whether the column's pages lie within the file.
fn check_place(column: &ColumnChunkMetaData, size: u64) -> std::result::Result<(), ParquetError> {
    let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset()).min(column.data_page_offset());
    let end = start.checked_add(column.compressed_size());
    let inside = |end: i64| start >= 0 && column.compressed_size() >= 0 && u64::try_from(end).is_ok_and(|end| end <= size);
    if end.is_some_and(inside) {
        return Ok(());
    }
    Err(ParquetError::General(format!("a column should lie at byte {start} with {} bytes, the file has {size}", column.compressed_size())))
}

/// Runs a call into the parquet crate, which panics on some kinds of damage, and turns that into an error.
fn guarded<T>(call: impl FnOnce() -> std::result::Result<T, ParquetError>) -> std::result::Result<T, ParquetError> {
    // Whatever the call was working on is dropped with the error, so nothing half-changed is seen again.
    guard::guarded(call).unwrap_or_else(|| Err(ParquetError::General("its contents contradict each other".into())))
}

/// The index of the string column `field`, and whether it can be null.
fn find_column(file: &Path, reader: &SerializedFileReader<ParquetFile>, field: &str) -> Result<(usize, bool)> {
    let schema = reader.metadata().file_metadata().schema_descr();
    let Some((index, column)) = schema.columns().iter().enumerate().find(|(_, c)| c.path().parts() == [field]) else {
        let names: Vec<String> = schema.columns().iter().take(20).map(|c| c.path().string()).collect();
        return Err(Error::file(file, format!("no column {field:?}; set `text_field` to one of {}", names.join(", "))));
    };
    if column.physical_type() != Type::BYTE_ARRAY || column.max_rep_level() != 0 {
        return Err(Error::file(file, format!("the column {field:?} must hold one string a row, found {}", column.physical_type())));
    }
    Ok((index, column.max_def_level() > 0))
}
