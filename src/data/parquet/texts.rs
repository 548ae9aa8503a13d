//! One string column of a Parquet file.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::Type;
use parquet::column::reader::ColumnReader;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};

use super::file::ParquetFile;
use super::group::CheckedGroup;
use super::{guarded, open};
use crate::data::reader::{OnBad, RawDocument, forgive};
use crate::error::{Error, Result};

/// Rows taken at a time: enough to be fast, few enough to bound the memory.
const ROWS: usize = 256;

/// Hands every row of the column `field` to `each`.
pub fn texts(
    file: &Path,
    handle: File,
    field: &str,
    max_document_bytes: usize,
    each: &mut dyn FnMut(RawDocument) -> Result<()>,
    mut bad: OnBad,
) -> Result<()> {
    let damaged = |e: ParquetError| Error::file(file, format!("cannot read as Parquet, the file is truncated or damaged: {e}"));
    let parquet = ParquetFile::new(handle).map_err(damaged)?;
    let reader = open(&parquet).map_err(damaged)?;
    let (column, optional) = find_column(file, &reader, field)?;
    // They are handed on as they are read.
    let left = Arc::new(u64::MAX.into());
    let mut row = 0u64;
    for group in 0..reader.num_row_groups() {
        let group = CheckedGroup { file: &parquet, metadata: reader.metadata().row_group(group), left: Arc::clone(&left) };
        let values = guarded(|| group.get_column_reader(column)).map_err(damaged)?;
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
