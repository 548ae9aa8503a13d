//! One string column of a Parquet file, without Arrow.

use std::fs::File;
use std::path::Path;

use parquet::basic::Type;
use parquet::column::reader::ColumnReader;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::reader::RawDocument;
use crate::error::{Error, Result};

/// Rows taken at a time: enough to be fast, few enough to bound the memory.
const ROWS: usize = 256;

/// Hands every row of the column `field` to `each`.
pub(super) fn read(
    file: &Path,
    handle: File,
    field: &str,
    max_document_bytes: usize,
    each: &mut dyn FnMut(RawDocument) -> Result<()>,
) -> Result<()> {
    let damaged = |e: ParquetError| Error::file(file, format!("cannot read as Parquet, the file is truncated or damaged: {e}"));
    let reader = SerializedFileReader::new(handle).map_err(damaged)?;
    let (column, optional) = find_column(file, &reader, field)?;
    let mut row = 0u64;
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group).map_err(damaged)?;
        let ColumnReader::ByteArrayColumnReader(mut values) = group.get_column_reader(column).map_err(damaged)? else {
            return Err(Error::file(file, format!("the column {field:?} is not stored as strings in every row group")));
        };
        let (mut texts, mut defined): (Vec<ByteArray>, Vec<i16>) = (Vec::new(), Vec::new());
        loop {
            texts.clear();
            defined.clear();
            let levels = optional.then_some(&mut defined);
            let (records, _, _) = values.read_records(ROWS, levels, None, &mut texts).map_err(damaged)?;
            if records == 0 {
                break;
            }
            let null = defined.iter().position(|&level| level == 0);
            for text in texts.iter().take(null.unwrap_or(records)) {
                row += 1;
                if text.len() > max_document_bytes {
                    return Err(Error::file(file, format!("row {row}: the text is longer than {max_document_bytes} bytes")));
                }
                let text = std::str::from_utf8(text.data())
                    .map_err(|e| Error::file(file, format!("row {row}: invalid UTF-8 at byte {} of {field:?}", e.valid_up_to() + 1)))?;
                each(RawDocument { text: text.into(), line: row })?;
            }
            if null.is_some() {
                return Err(Error::file(file, format!("row {}: the column {field:?} is null", row + 1)));
            }
        }
    }
    Ok(())
}

/// The index of the string column `field`, and whether it can be null.
fn find_column(file: &Path, reader: &SerializedFileReader<File>, field: &str) -> Result<(usize, bool)> {
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
