//! A row group of a Parquet file whose pages are checked.

use parquet::bloom_filter::Sbbf;
use parquet::column::page::PageReader;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use parquet::file::reader::{Length, RowGroupReader};
use parquet::record::reader::RowIter;
use parquet::schema::types::Type;

use super::file::ParquetFile;
use super::pages::{CheckedPages, ValuesLeft};

/// A row group as the parquet crate's readers of columns and rows take it.
pub(super) struct CheckedGroup<'a> {
    /// The file.
    pub file: &'a ParquetFile,
    /// What the file's metadata says of the group.
    pub metadata: &'a RowGroupMetaData,
    /// How many more values may be read, of all columns together.
    pub left: ValuesLeft,
}

impl RowGroupReader for CheckedGroup<'_> {
    fn metadata(&self) -> &RowGroupMetaData {
        self.metadata
    }

    fn num_columns(&self) -> usize {
        self.metadata.num_columns()
    }

    fn get_column_page_reader(&self, column: usize) -> Result<Box<dyn PageReader>> {
        check_place(self.metadata.column(column), self.file.len())?;
        Ok(Box::new(CheckedPages::new(self.file, self.metadata, column, self.left.clone())?))
    }

    fn get_column_bloom_filter(&self, _column: usize) -> Option<&Sbbf> {
        None
    }

    fn get_row_iter(&self, projection: Option<Type>) -> Result<RowIter<'_>> {
        RowIter::from_row_group(projection, self)
    }
}

/// Whether the column's pages lie within the file.
fn check_place(column: &ColumnChunkMetaData, size: u64) -> Result<()> {
    let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset()).min(column.data_page_offset());
    let end = start.checked_add(column.compressed_size());
    let inside = |end: i64| start >= 0 && column.compressed_size() >= 0 && u64::try_from(end).is_ok_and(|end| end <= size);
    if end.is_some_and(inside) {
        return Ok(());
    }
    Err(ParquetError::General(format!("a column should lie at byte {start} with {} bytes, the file has {size}", column.compressed_size())))
}
