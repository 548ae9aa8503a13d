//! Pages whose counts are checked before the parquet crate takes memory for them: it makes room for as many values as a dictionary, or the lengths before
//! delta-encoded texts, claim to have, and for every text that shares its beginning with the one before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parquet::basic::{Compression, Encoding, Type};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::Result;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::schema::types::ColumnDescriptor;

use super::file::ParquetFile;
use super::thrift::{damaged, number, zigzag};
use super::unpack::Packed;

/// The most values of a delta-encoded page, each of which takes four bytes, and none of the page where all are alike. Writers begin another page after a MiB
/// or some 100,000 values.
const MOST_VALUES: u64 = 1 << 25;
/// The most bytes of a page's texts that are the beginnings of the texts before them, where the page itself is not longer.
const MOST_SHARED_BYTES: u64 = 256 << 20;
/// The most bytes of a value of fixed length; a UUID and a decimal of 38 digits have 16.
const MOST_FIXED_BYTES: u64 = 4096;

/// How many more values may be read, of all columns that share it.
pub(super) type ValuesLeft = Arc<AtomicU64>;

/// The pages of a column.
pub(super) struct CheckedPages {
    file: ParquetFile,
    pages: SerializedPageReader<ParquetFile>,
    packed: Option<Packed>,
    kind: Kind,
    left: ValuesLeft,
}

/// What is known of a column's values.
#[derive(Clone, Copy)]
struct Kind {
    /// Bits that say for each value in which list it stands, and in which parts of its place there is something; 0 where there can be but one answer.
    level_bits: [u64; 2],
    /// Bytes that a value in a dictionary takes at least; 0 for the eighth of one.
    least_bytes: u64,
}

impl Kind {
    fn of(column: &ColumnDescriptor) -> Result<Self> {
        let bits = |most: i16| u64::from(i16::BITS - most.leading_zeros());
        let least_bytes = match column.physical_type() {
            Type::BOOLEAN => 0,
            // Every text has its length before it.
            Type::INT32 | Type::FLOAT | Type::BYTE_ARRAY => 4,
            Type::INT64 | Type::DOUBLE => 8,
            Type::INT96 => 12,
            Type::FIXED_LEN_BYTE_ARRAY => match u64::try_from(column.type_length()) {
                Ok(length @ 1..=MOST_FIXED_BYTES) => length,
                _ => return Err(damaged(format!("a column claims to have values of {} bytes", column.type_length()))),
            },
        };
        Ok(Self { level_bits: [bits(column.max_rep_level()), bits(column.max_def_level())], least_bytes })
    }
}

impl CheckedPages {
    /// Those of the column with that index in a row group.
    ///
    /// # Errors
    /// [`ParquetError`](parquet::errors::ParquetError) where the column is packed in a way that is unknown.
    pub fn new(file: &ParquetFile, group: &RowGroupMetaData, column: usize, left: ValuesLeft) -> Result<Self> {
        let file = file.for_column();
        let mut chunk = group.column(column).clone();
        let kind = Kind::of(chunk.column_descr())?;
        let packed = Packed::of(chunk.compression());
        if packed.is_some() {
            // So the crate hands out pages as they lie in the file.
            chunk = chunk.into_builder().set_compression(Compression::UNCOMPRESSED).build()?;
        }
        let pages = SerializedPageReader::new(Arc::new(file.clone()), &chunk, usize::try_from(group.num_rows())?, None)?;
        Ok(Self { file, pages, packed, kind, left })
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
        check(&page, self.kind)?;
        if page.is_data_page() {
            let count = u64::from(page.num_values());
            let enough = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(count));
            enough.map_err(|left| damaged(format!("a page has {count} values, where {left} more are read at most")))?;
        }
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

fn check(page: &Page, kind: Kind) -> Result<()> {
    let (num_values, encoding) = (u64::from(page.num_values()), page.encoding());
    let mut start = 0;
    match page {
        Page::DictionaryPage { buf, .. } => {
            let length = buf.len() as u64;
            let most = length.checked_div(kind.least_bytes).unwrap_or(8 * length);
            if num_values > most {
                return Err(damaged(format!("a dictionary of {length} bytes claims to have {num_values} values")));
            }
            return Ok(());
        }
        Page::DataPageV2 { def_levels_byte_len, rep_levels_byte_len, .. } => {
            start = u64::from(*def_levels_byte_len) + u64::from(*rep_levels_byte_len);
        }
        Page::DataPage { buf, rep_level_encoding, def_level_encoding, .. } => {
            for (bits, encoding) in kind.level_bits.into_iter().zip([rep_level_encoding, def_level_encoding]) {
                start += match encoding {
                    _ if bits == 0 => 0,
                    Encoding::RLE => 4 + split(buf, start)?.1.first_chunk().map_or(0, |length| u64::from(u32::from_le_bytes(*length))),
                    _ => (num_values * bits).div_ceil(8),
                };
            }
        }
    }
    if !matches!(encoding, Encoding::DELTA_LENGTH_BYTE_ARRAY | Encoding::DELTA_BYTE_ARRAY) {
        return Ok(());
    }
    let values = split(page.buffer(), start)?.1;
    let mut lengths = Deltas { bytes: values };
    // How much each has of the one before it, and then the lengths of the rest.
    if encoding == Encoding::DELTA_BYTE_ARRAY {
        let shared = lengths.pass(num_values)?;
        if shared > MOST_SHARED_BYTES.max(values.len() as u64) {
            return Err(damaged(format!("a page of {} bytes claims that {shared} more are those of the texts before", values.len())));
        }
    }
    lengths.pass(num_values).map(drop)
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
    /// Passes over as many numbers as there are said to be, which must not be more than a page's values, and returns their sum.
    fn pass(&mut self, num_values: u64) -> Result<u64> {
        let (block, parts, count) = (self.number()?, self.number()?, self.number()?);
        if count > num_values || count > MOST_VALUES {
            return Err(damaged(format!("a page of {num_values} values claims to have the lengths of {count}")));
        }
        let part = block.checked_div(parts).filter(|&part| part > 0 && part.is_multiple_of(32));
        let part = part.ok_or_else(|| damaged(format!("lengths come in blocks of {block} in {parts} parts")))?;
        let mut last = self.signed()?;
        let mut sum = length(last)?;
        let mut left = count.saturating_sub(1);
        while left > 0 {
            let least = self.signed()?;
            let widths = self.take(parts)?;
            for &width in widths {
                if left == 0 {
                    break;
                }
                let packed = self.take(u64::from(width).saturating_mul(part / 8))?;
                let here = part.min(left);
                for index in 0..here {
                    last = last.wrapping_add(least).wrapping_add(bits(packed, index, width)?);
                    sum += length(last)?;
                }
                left -= here;
            }
        }
        Ok(sum)
    }

    /// A number that may be below zero, as lengths have it: of 32 bits.
    fn signed(&mut self) -> Result<i32> {
        let number = zigzag(self.number()?);
        i32::try_from(number).map_err(|_| damaged(format!("a page claims a length of {number}")))
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

/// What is read as a length.
fn length(number: i32) -> Result<u64> {
    u64::try_from(number).map_err(|_| damaged(format!("a page claims a length of {number}")))
}

/// The number at `index` of those that take `width` bits each, the lowest first.
fn bits(packed: &[u8], index: u64, width: u8) -> Result<i32> {
    if width > 32 {
        return Err(damaged(format!("lengths take {width} bits each")));
    }
    let at = index * u64::from(width);
    let mut eight = [0; 8];
    // Five bytes hold any 32 bits.
    packed.iter().skip((at / 8) as usize).zip(&mut eight).for_each(|(from, to)| *to = *from);
    Ok((u64::from_le_bytes(eight) >> (at % 8) & ((1 << width) - 1)) as u32 as i32)
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

    const REQUIRED: Kind = Kind { level_bits: [0, 0], least_bytes: 4 };
    const OPTIONAL: Kind = Kind { level_bits: [0, 1], least_bytes: 4 };
    const LIST: Kind = Kind { level_bits: [1, 2], least_bytes: 4 };

    fn message(page: Page, kind: Kind) -> String {
        check(&page, kind).map_or_else(|error| error.to_string(), |()| "fine".into())
    }

    #[test]
    fn lengths_are_no_more_than_a_page_has_values() {
        const LENGTHS: Encoding = Encoding::DELTA_LENGTH_BYTE_ARRAY;
        assert_eq!(message(page(lengths(&[3]), 3, LENGTHS), REQUIRED), "fine");
        assert!(message(page(lengths(&[3]), 2, LENGTHS), REQUIRED).contains("claims to have the lengths of 3"));
        // As many as the page claims, and more than any has.
        let most = [0xff, 0xff, 0xff, 0xff, 7];
        assert!(message(page(lengths(&most), i32::MAX as u32, LENGTHS), REQUIRED).contains("claims to have the lengths of 2147483647"));
        // Another encoding does not begin in this way.
        assert_eq!(message(page(lengths(&most), 3, Encoding::PLAIN), REQUIRED), "fine");
        for cut in 0..lengths(&[3]).len() {
            assert!(message(page(lengths(&[3])[..cut].to_vec(), 3, LENGTHS), REQUIRED).contains("where"), "{cut}");
        }
        assert!(message(page(vec![0x80, 1, 0, 3, 2], 3, LENGTHS), REQUIRED).contains("blocks of 128 in 0 parts"));
        assert!(message(page(vec![0x80, 1, 8, 3, 2], 3, LENGTHS), REQUIRED).contains("blocks of 128 in 8 parts"));
    }

    #[test]
    fn lengths_are_found_behind_what_says_which_values_are_null_and_behind_each_other() {
        const BOTH: Encoding = Encoding::DELTA_BYTE_ARRAY;
        let most = [0xff, 0xff, 0xff, 0xff, 7];
        let levels = [2, 0, 0, 0, 6, 1];
        let both = |second: &[u8]| [&levels[..], &lengths(&[3]), &lengths(second)].concat();
        assert_eq!(message(page(both(&[3]), 3, BOTH), OPTIONAL), "fine");
        assert!(message(page(both(&most), 3, BOTH), OPTIONAL).contains("claims to have the lengths of 2147483647"));
        assert!(message(page(vec![9, 0, 0, 0], 3, BOTH), OPTIONAL).contains("ends before its values, at byte 13"));
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
        assert!(message(second(4), OPTIONAL).contains("claims to have the lengths of 2147483647"));
        assert!(message(second(u32::MAX), OPTIONAL).contains("ends before its values"));
    }

    #[test]
    fn lengths_are_found_behind_the_levels_of_lists() {
        const LENGTHS: Encoding = Encoding::DELTA_LENGTH_BYTE_ARRAY;
        // Two levels in runs, each behind its length; and in bits, three of one each and three of two.
        let runs = [&[2, 0, 0, 0, 6, 0], &[3, 0, 0, 0, 6, 2, 9][..], &lengths(&[3])].concat();
        assert_eq!(message(page(runs.clone(), 3, LENGTHS), LIST), "fine");
        assert_ne!(message(page(runs, 3, LENGTHS), OPTIONAL), "fine");
        #[expect(deprecated, reason = "files of before 2014 have it")]
        let levels = Encoding::BIT_PACKED;
        let buf = [&[0b000, 0b10_10_10][..], &lengths(&[3])].concat().into();
        let (rep_level_encoding, def_level_encoding) = (levels, levels);
        let page = Page::DataPage { buf, num_values: 3, encoding: LENGTHS, def_level_encoding, rep_level_encoding, statistics: None };
        assert_eq!(message(page, LIST), "fine");
    }

    #[test]
    fn numbers_are_added_up_as_the_crate_decodes_them() {
        let sum = |bytes: &[u8], values| Deltas { bytes }.pass(values).map_err(|error| error.to_string());
        // 1, 2 and 1.
        assert_eq!(sum(&lengths(&[3]), 3), Ok(4));
        // 5, and then 9 more each time: the smallest difference is 9, and no bits are beyond it.
        assert_eq!(sum(&[0x80, 1, 4, 40, 10, 18, 0, 0, 0, 0], 40), Ok((0..40).map(|n| 5 + 9 * n).sum()));
        // Widths of 32 bits, of which the crate takes what is left of the sum: 1, and 2³¹ - 1 more.
        let wide = [&[0x80, 1, 4, 2, 2, 0, 32, 0, 0, 0][..], &0x7fff_fffeu32.to_le_bytes(), &[0; 124]].concat();
        assert_eq!(sum(&wide, 2), Ok(1 + 0x7fff_ffff));
        let below = [&[0x80, 1, 4, 2, 2, 0, 32, 0, 0, 0][..], &0x7fff_ffffu32.to_le_bytes(), &[0; 124]].concat();
        assert!(sum(&below, 2).unwrap_err().contains("a length of -2147483648"));
        assert!(sum(&[0x80, 1, 4, 2, 2, 0, 33, 0, 0, 0], 2).unwrap_err().contains("claims 132 bytes"));
        assert!(sum(&[&[0x80, 1, 4, 2, 2, 0, 33, 0, 0, 0][..], &[0; 132]].concat(), 2).unwrap_err().contains("33 bits each"));
        assert!(sum(&[0x80, 1, 4, 1, 1], 1).unwrap_err().contains("a length of -1"));
    }

    #[test]
    fn texts_are_not_the_beginnings_of_each_other_without_end() {
        const BOTH: Encoding = Encoding::DELTA_BYTE_ARRAY;
        // A text of 1 MiB, and 299 times all of it: differences of none after the first.
        let alike = [&[0x80, 1, 4, 0xac, 2][..], &[0x80, 0x80, 0x80, 1], &[0, 0, 0, 0, 0], &[0, 0, 0, 0, 0], &[0, 0, 0, 0, 0]].concat();
        assert_eq!(Deltas { bytes: &alike }.pass(300).map_err(|error| error.to_string()), Ok(300 << 20));
        assert!(message(page(alike, 300, BOTH), REQUIRED).contains("claims that 314572800 more are those of the texts before"));
    }

    #[test]
    fn a_dictionary_has_no_more_values_than_bytes_for_them() {
        let dictionary =
            |num_values| Page::DictionaryPage { buf: vec![0; 12].into(), num_values, encoding: Encoding::PLAIN, is_sorted: false };
        assert_eq!(message(dictionary(3), OPTIONAL), "fine");
        assert!(message(dictionary(4), OPTIONAL).contains("a dictionary of 12 bytes claims to have 4 values"));
        let truths = Kind { least_bytes: 0, ..REQUIRED };
        assert_eq!(message(dictionary(96), truths), "fine");
        assert!(message(dictionary(97), truths).contains("claims to have 97 values"));
    }
}
