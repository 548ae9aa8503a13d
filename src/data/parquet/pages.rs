//! Pages whose counts are checked before the parquet crate takes memory for them: it makes room for as many values as a dictionary, or the lengths before
//! delta-encoded texts, claim to have.

use std::sync::Arc;

use parquet::basic::{Compression, Encoding};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::Result;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::serialized_reader::SerializedPageReader;

use super::file::ParquetFile;
use super::thrift::{damaged, number};
use super::unpack::Packed;

/// The most values of a delta-encoded page, each of which takes four bytes, and none of the page where all are alike. Writers begin another page after a MiB
/// or some 100,000 values.
const MOST_VALUES: u64 = 1 << 25;

/// The pages of a column of texts.
pub(super) struct CheckedPages {
    file: ParquetFile,
    pages: SerializedPageReader<ParquetFile>,
    packed: Option<Packed>,
    /// Whether the column can be null, so that its pages say which values are.
    optional: bool,
}

impl CheckedPages {
    /// Those of the column with that index in a row group.
    ///
    /// # Errors
    /// [`ParquetError`](parquet::errors::ParquetError) where the column is packed in a way that is unknown.
    pub fn new(file: &ParquetFile, group: &RowGroupMetaData, column: usize, optional: bool) -> Result<Self> {
        let mut chunk = group.column(column).clone();
        let packed = Packed::of(chunk.compression());
        if packed.is_some() {
            // So the crate hands out pages as they lie in the file.
            chunk = chunk.into_builder().set_compression(Compression::UNCOMPRESSED).build()?;
        }
        let pages = SerializedPageReader::new(Arc::new(file.clone()), &chunk, usize::try_from(group.num_rows())?, None)?;
        Ok(Self { file: file.clone(), pages, packed, optional })
    }
}

impl Iterator for CheckedPages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for CheckedPages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let Some(mut page) = self.pages.get_next_page()? else { return Ok(None) };
        if let Some(packed) = self.packed {
            page = packed.unpack(page, self.file.claimed())?;
        }
        check(&page, self.optional)?;
        Ok(Some(page))
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.pages.at_record_boundary()
    }
}

fn check(page: &Page, optional: bool) -> Result<()> {
    let (num_values, encoding) = (u64::from(page.num_values()), page.encoding());
    let start = match page {
        // Every text has its length before it.
        Page::DictionaryPage { buf, .. } if num_values > buf.len() as u64 / 4 => {
            return Err(damaged(format!("a dictionary of {} bytes claims to have {num_values} texts", buf.len())));
        }
        Page::DictionaryPage { .. } => return Ok(()),
        Page::DataPageV2 { def_levels_byte_len, rep_levels_byte_len, .. } => {
            u64::from(*def_levels_byte_len) + u64::from(*rep_levels_byte_len)
        }
        Page::DataPage { .. } if !optional => 0,
        Page::DataPage { def_level_encoding: Encoding::RLE, buf, .. } => {
            4 + buf.first_chunk().map_or(0, |length| u64::from(u32::from_le_bytes(*length)))
        }
        // A bit each.
        Page::DataPage { .. } => num_values.div_ceil(8),
    };
    if !matches!(encoding, Encoding::DELTA_LENGTH_BYTE_ARRAY | Encoding::DELTA_BYTE_ARRAY) {
        return Ok(());
    }
    let mut lengths = Deltas { bytes: split(page.buffer(), start)?.1 };
    lengths.pass(num_values)?;
    // How much each has of the one before it, and then the lengths of the rest.
    if encoding == Encoding::DELTA_BYTE_ARRAY {
        lengths.pass(num_values)?;
    }
    Ok(())
}

/// A page's bytes in two: what says which values are null, and from `start` on the values.
pub(super) fn split(page: &[u8], start: u64) -> Result<(&[u8], &[u8])> {
    let parts = usize::try_from(start).ok().and_then(|start| page.split_at_checked(start));
    parts.ok_or_else(|| damaged(format!("a page of {} bytes ends before its values, at byte {start}", page.len())))
}

/// Numbers as differences in blocks, of which each has its smallest difference, the bits that the others take beyond it, and those bits.
struct Deltas<'a> {
    bytes: &'a [u8],
}

impl<'a> Deltas<'a> {
    /// Passes over as many numbers as there are said to be, which must not be more than a page's values.
    fn pass(&mut self, num_values: u64) -> Result<()> {
        let (block, parts, count) = (self.number()?, self.number()?, self.number()?);
        if count > num_values || count > MOST_VALUES {
            return Err(damaged(format!("a page of {num_values} values claims to have the lengths of {count}")));
        }
        let part = block.checked_div(parts).filter(|&part| part > 0 && part.is_multiple_of(32));
        let part = part.ok_or_else(|| damaged(format!("lengths come in blocks of {block} in {parts} parts")))?;
        self.number()?;
        let mut left = count.saturating_sub(1);
        while left > 0 {
            self.number()?;
            let widths = self.take(parts)?;
            for &width in widths {
                if left == 0 {
                    break;
                }
                self.take(u64::from(width).saturating_mul(part / 8))?;
                left = left.saturating_sub(part);
            }
        }
        Ok(())
    }

    fn number(&mut self) -> Result<u64> {
        number(|| Ok(self.take(1)?[0]))
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8]> {
        let (taken, left) = usize::try_from(count)
            .ok()
            .and_then(|count| self.bytes.split_at_checked(count))
            .ok_or_else(|| damaged(format!("a page claims {count} bytes of lengths where {} are left", self.bytes.len())))?;
        self.bytes = left;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lengths 1, 2 and 1, or what is said to be `count` of them: blocks of 128 in four parts, the first length, and differences of two bits from -1 on.
    fn lengths(count: &[u8]) -> Vec<u8> {
        [&[0x80, 1, 4], count, &[2], &[1, 2, 0, 0, 0], &[0b0010, 0, 0, 0, 0, 0, 0, 0]].concat()
    }

    fn page(buf: Vec<u8>, num_values: u32, encoding: Encoding) -> Page {
        let levels = Encoding::RLE;
        Page::DataPage { buf: buf.into(), num_values, encoding, def_level_encoding: levels, rep_level_encoding: levels, statistics: None }
    }

    fn message(page: Page, optional: bool) -> String {
        check(&page, optional).map_or_else(|error| error.to_string(), |()| "fine".into())
    }

    #[test]
    fn lengths_are_no_more_than_a_page_has_values() {
        const LENGTHS: Encoding = Encoding::DELTA_LENGTH_BYTE_ARRAY;
        assert_eq!(message(page(lengths(&[3]), 3, LENGTHS), false), "fine");
        assert!(message(page(lengths(&[3]), 2, LENGTHS), false).contains("claims to have the lengths of 3"));
        // As many as the page claims, and more than any has.
        let most = [0xff, 0xff, 0xff, 0xff, 7];
        assert!(message(page(lengths(&most), i32::MAX as u32, LENGTHS), false).contains("claims to have the lengths of 2147483647"));
        // Another encoding does not begin in this way.
        assert_eq!(message(page(lengths(&most), 3, Encoding::PLAIN), false), "fine");
        for cut in 0..lengths(&[3]).len() {
            assert!(message(page(lengths(&[3])[..cut].to_vec(), 3, LENGTHS), false).contains("where"), "{cut}");
        }
        assert!(message(page(vec![0x80, 1, 0, 3, 2], 3, LENGTHS), false).contains("blocks of 128 in 0 parts"));
        assert!(message(page(vec![0x80, 1, 8, 3, 2], 3, LENGTHS), false).contains("blocks of 128 in 8 parts"));
    }

    #[test]
    fn lengths_are_found_behind_what_says_which_values_are_null_and_behind_each_other() {
        const BOTH: Encoding = Encoding::DELTA_BYTE_ARRAY;
        let most = [0xff, 0xff, 0xff, 0xff, 7];
        let levels = [2, 0, 0, 0, 6, 1];
        let both = |second: &[u8]| [&levels[..], &lengths(&[3]), &lengths(second)].concat();
        assert_eq!(message(page(both(&[3]), 3, BOTH), true), "fine");
        assert!(message(page(both(&most), 3, BOTH), true).contains("claims to have the lengths of 2147483647"));
        assert!(message(page(vec![9, 0, 0, 0], 3, BOTH), true).contains("ends before its values, at byte 13"));
        let second = |def_levels_byte_len| Page::DataPageV2 {
            buf: both(&most).into(),
            num_values: 3,
            encoding: BOTH,
            num_nulls: 0,
            num_rows: 3,
            def_levels_byte_len,
            rep_levels_byte_len: 2,
            is_compressed: false,
            statistics: None,
        };
        assert!(message(second(4), true).contains("claims to have the lengths of 2147483647"));
        assert!(message(second(u32::MAX), true).contains("ends before its values"));
    }

    #[test]
    fn a_dictionary_has_no_more_texts_than_bytes_for_their_lengths() {
        let dictionary =
            |num_values| Page::DictionaryPage { buf: vec![0; 12].into(), num_values, encoding: Encoding::PLAIN, is_sorted: false };
        assert_eq!(message(dictionary(3), true), "fine");
        assert!(message(dictionary(4), true).contains("a dictionary of 12 bytes claims to have 4 texts"));
    }
}
