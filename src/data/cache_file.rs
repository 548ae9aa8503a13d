//! The file of a token cache, read at offsets: where its parts lie, and bytes that are what their checksums say.
//!
//! It is `magic · tokens (u32) · documents (end of its tokens: u64, bytes of its text: u64) · meta (JSON) · checksums · footer`, all little-endian; the footer
//! is `tokens: u64 · documents: u64 · length of meta: u64 · CRC-32C of checksums and these numbers: u64 · magic`. There is a CRC-32C (u32) for every 64 KiB
//! before the checksums; each is compared when something in its block is first read, so that no damaged token is ever trained on and opening stays
//! independent of the number of tokens.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::files::OffsetFile;

pub(super) const MAGIC: &[u8; 8] = b"TRTOKEN2";
/// Bytes that share a checksum.
pub(super) const BLOCK: usize = 1 << 16;
/// Bytes of a checksum.
const SUM_BYTES: usize = 4;
const FOOTER_BYTES: usize = 40;
/// Where the checksum stands in the footer: the numbers before it are under it.
const FOOTER_SUM: usize = 24;
const TOKEN_BYTES: u64 = 4;
const DOCUMENT_BYTES: u64 = 16;

/// What the footer says, where that fits the file's length.
#[derive(Debug, Clone, Copy)]
struct Layout {
    tokens: u64,
    documents: u64,
    meta_bytes: u64,
    /// Bytes that have checksums: all up to the first of these.
    content: u64,
}

impl Layout {
    /// Of a file with so many bytes before its footer.
    fn of(footer: &[u8; FOOTER_BYTES], body: u64) -> Option<Self> {
        let [tokens, documents, meta_bytes] = [0, 8, 16].map(|at| number(&footer[at..at + 8]));
        let parts = [MAGIC.len() as u64, tokens.checked_mul(TOKEN_BYTES)?, documents.checked_mul(DOCUMENT_BYTES)?, meta_bytes];
        let content = parts.into_iter().try_fold(0u64, u64::checked_add)?;
        let sums = content.div_ceil(BLOCK as u64).checked_mul(SUM_BYTES as u64)?;
        let whole = footer.ends_with(MAGIC) && documents > 0 && content.checked_add(sums)? == body;
        whole.then_some(Self { tokens, documents, meta_bytes, content })
    }
}

/// An open token cache whose footer and checksums are whole.
#[derive(Debug)]
pub(super) struct CacheFile {
    file: OffsetFile,
    layout: Layout,
    /// The CRC-32C of every block.
    sums: Vec<u32>,
    /// A bit for every block that was compared with its checksum.
    verified: Vec<AtomicU64>,
}

impl CacheFile {
    /// The cache at `path` and its meta data; `None` where there is none, or where magic, footer, sizes, the checksums' own checksum or the block of the meta
    /// data say that it is damaged.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(path: &Path) -> Result<Option<(Self, Vec<u8>)>> {
        let file = match OffsetFile::open(path) {
            Ok(file) => file,
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(body) = file.len.checked_sub(FOOTER_BYTES as u64) else { return Ok(None) };
        let mut footer = [0; FOOTER_BYTES];
        file.read_exact_at(body, &mut footer)?;
        let Some(layout) = Layout::of(&footer, body) else { return Ok(None) };
        let (numbers, rest) = footer.split_at(FOOTER_SUM);
        // As many as the file has bytes for.
        let mut sums = vec![0; (body - layout.content) as usize];
        file.read_exact_at(layout.content, &mut sums)?;
        if u64::from(crc32c::crc32c_append(crc32c::crc32c(&sums), numbers)) != number(&rest[..8]) {
            return Ok(None);
        }
        let sums: Vec<u32> = sums.chunks_exact(SUM_BYTES).map(|sum| u32::from_le_bytes([sum[0], sum[1], sum[2], sum[3]])).collect();
        let verified = (0..sums.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let cache = Self { file, layout, sums, verified };
        let mut magic = *MAGIC;
        cache.file.read_exact_at(0, &mut magic)?;
        let meta = cache.read(layout.content - layout.meta_bytes..layout.content)?;
        Ok(meta.filter(|_| magic == *MAGIC).map(|meta| (cache, meta)))
    }

    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Tokens of all documents.
    pub fn tokens(&self) -> u64 {
        self.layout.tokens
    }

    /// Documents; at least 1.
    pub fn documents(&self) -> u64 {
        self.layout.documents
    }

    /// The bytes of the tokens at `range`; `None` where there are no such tokens or they are damaged.
    pub fn tokens_at(&self, range: Range<u64>) -> Result<Option<Vec<u8>>> {
        if range.start > range.end || range.end > self.layout.tokens {
            return Ok(None);
        }
        let at = |token: u64| MAGIC.len() as u64 + token * TOKEN_BYTES;
        self.read(at(range.start)..at(range.end))
    }

    /// Where the tokens of a document begin and end, and the bytes of its text; `None` where there is no such document or the table is damaged.
    pub fn document(&self, index: u64) -> Result<Option<(Range<u64>, u64)>> {
        if index >= self.layout.documents {
            return Ok(None);
        }
        let at = |document: u64| MAGIC.len() as u64 + self.layout.tokens * TOKEN_BYTES + document * DOCUMENT_BYTES;
        // It begins where the one before it ends.
        let Some(entries) = self.read(at(index.saturating_sub(1))..at(index + 1))? else { return Ok(None) };
        let (before, entry) = entries.split_at(entries.len() - DOCUMENT_BYTES as usize);
        let start = if before.is_empty() { 0 } else { number(&before[..8]) };
        Ok(Some((start..number(&entry[..8]), number(&entry[8..]))))
    }

    /// The bytes at `range` of the content; `None` where a block of them is not what its checksum says.
    fn read(&self, range: Range<u64>) -> Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let (mut done, mut whole) = (0, Vec::new());
        while done < bytes.len() {
            let at = range.start + done as u64;
            let block = at / BLOCK as u64;
            let begin = block * BLOCK as u64;
            let end = self.layout.content.min(begin + BLOCK as u64);
            let part = bytes.len().min(done + (end - at) as usize);
            let (word, bit) = (&self.verified[block as usize / 64], 1 << (block % 64));
            // Nothing but the bit itself is handed from thread to thread: at worst a block is compared twice.
            if word.load(Ordering::Relaxed) & bit == 0 {
                whole.resize((end - begin) as usize, 0);
                self.file.read_exact_at(begin, &mut whole)?;
                if crc32c::crc32c(&whole) != self.sums[block as usize] {
                    return Ok(None);
                }
                word.fetch_or(bit, Ordering::Relaxed);
                bytes[done..part].copy_from_slice(&whole[(at - begin) as usize..][..part - done]);
            } else {
                self.file.read_exact_at(at, &mut bytes[done..part])?;
            }
            done = part;
        }
        Ok(Some(bytes))
    }
}

/// A number of eight bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}
