//! Pages by gzip and brotli, unpacked no further than they claim. The parquet crate unpacks them to their end, wherever that is, and looks at the size then;
//! two hundred bytes of brotli can be 256 MiB.

use std::io::Read;

use flate2::bufread::MultiGzDecoder;
use parquet::basic::Compression;
use parquet::column::page::Page;
use parquet::errors::Result;

use super::pages::split;
use super::thrift::damaged;

/// Bytes that brotli takes from a page at a time.
const BROTLI_BUFFER_BYTES: usize = 4096;

/// How pages are packed that are unpacked here.
#[derive(Clone, Copy)]
pub(super) enum Packed {
    Gzip,
    Brotli,
}

impl Packed {
    /// What a column is packed with, if the crate has no bound of its own for it.
    pub fn of(compression: Compression) -> Option<Self> {
        match compression {
            Compression::GZIP(_) => Some(Self::Gzip),
            Compression::BROTLI(_) => Some(Self::Brotli),
            _ => None,
        }
    }

    /// Unpacks a page that should have `claimed` bytes then.
    ///
    /// # Errors
    /// [`ParquetError`](parquet::errors::ParquetError) where it has more or fewer, or is damaged.
    pub fn unpack(self, mut page: Page, claimed: usize) -> Result<Page> {
        // Which values are null is not packed in pages of the second version.
        let start = match &page {
            Page::DataPageV2 { is_compressed: false, .. } => return Ok(page),
            Page::DataPageV2 { def_levels_byte_len, rep_levels_byte_len, .. } => {
                u64::from(*def_levels_byte_len) + u64::from(*rep_levels_byte_len)
            }
            _ => 0,
        };
        let (Page::DataPage { buf, .. } | Page::DataPageV2 { buf, .. } | Page::DictionaryPage { buf, .. }) = &mut page;
        let (levels, packed) = split(buf, start)?;
        *buf = match self {
            Self::Gzip => fill(levels, MultiGzDecoder::new(packed), claimed),
            Self::Brotli => fill(levels, brotli::Decompressor::new(packed, BROTLI_BUFFER_BYTES), claimed),
        }?
        .into();
        Ok(page)
    }
}

/// `levels`, and behind them what `values` has, of which no more than a byte more than is claimed is read.
fn fill(levels: &[u8], values: impl Read, claimed: usize) -> Result<Vec<u8>> {
    // What is claimed is in proportion to the page (`PageHeader`).
    let mut all = Vec::with_capacity(claimed);
    all.extend_from_slice(levels);
    // Where no value is left there may be nothing at all, not even an empty archive.
    if let Some(left) = claimed.checked_sub(levels.len()).filter(|&left| left > 0) {
        values.take(left as u64 + 1).read_to_end(&mut all)?;
    }
    if all.len() == claimed {
        return Ok(all);
    }
    let found = if all.len() > claimed { "more".into() } else { all.len().to_string() };
    Err(damaged(format!("a page claims to be {claimed} bytes when it is unpacked, and is {found}")))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use parquet::basic::Encoding;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn brotli(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        brotli::CompressorWriter::new(&mut out, 4096, 1, 22).write_all(bytes).unwrap();
        out
    }

    fn second(buf: Vec<u8>, levels: u32, is_compressed: bool) -> Page {
        Page::DataPageV2 {
            buf: buf.into(),
            num_values: 3,
            encoding: Encoding::PLAIN,
            num_nulls: 0,
            num_rows: 3,
            def_levels_byte_len: levels,
            rep_levels_byte_len: 0,
            is_compressed,
            statistics: None,
        }
    }

    fn unpacked(by: Packed, page: Page, claimed: usize) -> std::result::Result<Vec<u8>, String> {
        by.unpack(page, claimed).map(|page| page.buffer().to_vec()).map_err(|error| error.to_string())
    }

    #[test]
    fn pages_are_unpacked_to_what_they_claim() {
        let text = b"a text of a page, a text of a page".as_slice();
        for (by, packed) in [(Packed::Gzip, gzip(text)), (Packed::Brotli, brotli(text))] {
            let dictionary =
                || Page::DictionaryPage { buf: packed.clone().into(), num_values: 1, encoding: Encoding::PLAIN, is_sorted: false };
            assert_eq!(unpacked(by, dictionary(), text.len()), Ok(text.to_vec()));
            assert!(
                unpacked(by, dictionary(), text.len() - 1).unwrap_err().contains("claims to be 33 bytes when it is unpacked, and is more")
            );
            assert!(
                unpacked(by, dictionary(), text.len() + 1).unwrap_err().contains("claims to be 35 bytes when it is unpacked, and is 34")
            );
            for end in 0..packed.len() {
                let cut =
                    Page::DictionaryPage { buf: packed[..end].to_vec().into(), num_values: 1, encoding: Encoding::PLAIN, is_sorted: false };
                // Brotli's last byte may hold nothing of the text.
                assert!(unpacked(by, cut, text.len()).map_or(true, |found| found == text && end + 1 == packed.len()), "cut at {end}");
            }
        }
    }

    #[test]
    fn what_says_which_values_are_null_is_not_packed_in_pages_of_the_second_version() {
        let levels = [2u8, 1, 7];
        let whole = [&levels[..], &gzip(b"values")].concat();
        assert_eq!(unpacked(Packed::Gzip, second(whole.clone(), 3, true), 9), Ok([&levels[..], b"values"].concat()));
        assert_eq!(unpacked(Packed::Gzip, second(whole.clone(), 3, false), 9), Ok(whole.clone()));
        // All are null, and nothing is packed.
        assert_eq!(unpacked(Packed::Gzip, second(levels.to_vec(), 3, true), 3), Ok(levels.to_vec()));
        assert!(
            unpacked(Packed::Gzip, second(levels.to_vec(), 4, true), 9)
                .unwrap_err()
                .contains("a page of 3 bytes ends before its values, at byte 4")
        );
        assert!(
            unpacked(Packed::Gzip, second(whole, 3, true), 2)
                .unwrap_err()
                .contains("claims to be 2 bytes when it is unpacked, and is more")
        );
    }

    #[test]
    fn what_never_ends_is_left_a_byte_behind_what_it_claims() {
        let mut endless = std::io::repeat(7);
        assert!(
            fill(&[1], &mut endless, 1000).unwrap_err().to_string().contains("claims to be 1000 bytes when it is unpacked, and is more")
        );
        assert_eq!(fill(&[1], (&mut endless).take(999), 1000).unwrap().len(), 1000);
    }
}
