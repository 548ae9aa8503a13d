//! A corpus, tokenised once and memory-mapped ever after (`docs/decisions/0002-token-cache.md` says why).
//!
//! A cache file is `magic · tokens (u32) · documents (end of its tokens: u64, bytes of its text: u64) · meta (JSON) · checksums · footer`, all little-endian;
//! the footer is `tokens: u64 · documents: u64 · length of meta: u64 · CRC-32C of checksums and these numbers: u64 · magic`. There is a CRC-32C (u32) for every
//! 64 KiB before the checksums; each is compared when something in its block is first read, so that no damaged token is ever trained on and opening stays
//! independent of the size. A cache is written beside, synced and renamed.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Encode;
use super::cache_writer;
use super::corpus::CorpusConfig;
use crate::error::{Error, IoContext, Result};
use crate::files::hex;

pub(super) const MAGIC: &[u8; 8] = b"TRTOKEN2";
pub(super) const FOOTER_BYTES: u64 = 40;
/// Bytes that share a checksum.
pub(super) const BLOCK: usize = 1 << 16;
/// So many documents that were left out are told of in words.
const TOLD: usize = 3;
pub(super) const DOCUMENT_BYTES: u64 = 16;

/// How far the tokenising of a corpus has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The corpus, as its path was given.
    pub corpus: String,
    /// Whether another process is tokenising it and this one waits.
    pub waiting: bool,
    /// Bytes read from the files, compressed as they are.
    pub bytes_done: u64,
    /// Bytes of all files.
    pub bytes_total: u64,
    /// Documents tokenised.
    pub documents: u64,
    /// Tokens written.
    pub tokens: u64,
}

/// What is told about progress; an error that it returns (the user stopped the work) ends the tokenising.
pub type OnProgress<'a> = &'a mut dyn FnMut(&Progress) -> Result<()>;

/// What is known of a file without reading it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileStamp {
    pub path: PathBuf,
    pub bytes: u64,
    pub modified_ns: u128,
}

impl FileStamp {
    pub(super) fn of(path: &Path) -> Result<Self> {
        // Where its folder really is, but under the name that it has there: of a link (as in the Hub's cache) that one tells what it holds.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let path = folder.canonicalize().at(path)?.join(path.file_name().unwrap_or_default());
        let metadata = path.metadata().at(&path)?;
        let modified = metadata.modified().at(&path)?;
        let modified_ns = modified.duration_since(UNIX_EPOCH).map_or(0, |age| age.as_nanos());
        Ok(Self { path, bytes: metadata.len(), modified_ns })
    }
}

/// What a cache was made from; its hash names the cache file.
#[derive(Debug, Serialize)]
pub(super) struct Origin<'a> {
    pub version: u32,
    pub tokenizer: String,
    pub corpus: &'a CorpusConfig,
    pub files: Vec<FileStamp>,
}

/// Documents that could not be read and were left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// How many.
    pub documents: u64,
    /// What is wrong with the first of them.
    pub first: Vec<String>,
}

impl Skipped {
    /// Counts one more.
    pub(super) fn add(&mut self, error: String) {
        self.documents += 1;
        if self.first.len() < TOLD {
            self.first.push(error);
        }
    }
}

/// What a cache says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    /// SHA-256 of all documents' lengths and tokens.
    pub fingerprint: String,
    /// The largest token, so that damaged ones are noticed.
    pub largest_token: u32,
    /// Bytes of all documents' texts.
    pub text_bytes: u64,
    /// What is not in it.
    #[serde(default)]
    pub skipped: Skipped,
}

/// A tokenised corpus on disk.
#[derive(Debug)]
pub struct TokenCache {
    path: PathBuf,
    map: Mmap,
    tokens: u64,
    documents: u64,
    meta: Meta,
    /// Bytes that have checksums.
    content: usize,
    /// A bit for every block that was compared with its checksum.
    verified: Vec<AtomicU64>,
}

impl TokenCache {
    /// Opens the cache of `corpus` in `folder`, and makes it first if it is not there or no longer fits.
    ///
    /// Texts are tokenised in parallel and in bounded memory. A second process that wants the same cache waits for the first.
    ///
    /// # Errors
    /// When a corpus file cannot be read, the corpus holds no tokens, or the cache cannot be written.
    pub fn open(corpus: &CorpusConfig, base: &Path, folder: &Path, encoder: &dyn Encode, progress: OnProgress) -> Result<Self> {
        let files = corpus.files(base)?;
        let stamps = files.iter().map(|file| FileStamp::of(file)).collect::<Result<Vec<_>>>()?;
        let origin = Origin { version: 1, tokenizer: encoder.fingerprint(), corpus, files: stamps };
        let path = folder.join(format!("{}.tokens", &hash_of(&origin)?[..32]));
        if let Some(cache) = Self::load(&path)? {
            return Ok(cache);
        }
        std::fs::create_dir_all(folder).at(folder)?;
        let mut report = Progress {
            corpus: corpus.path.clone(),
            waiting: false,
            bytes_done: 0,
            bytes_total: origin.files.iter().map(|file| file.bytes).sum(),
            documents: 0,
            tokens: 0,
        };
        let lock = cache_writer::lock(&path, &mut report, progress)?;
        // The process that held the lock before has most likely written it.
        if let Some(cache) = Self::load(&path)? {
            return Ok(cache);
        }
        cache_writer::build(&path, &origin, encoder, &mut report, progress)?;
        drop(lock);
        Self::load(&path)?.ok_or_else(|| Error::file(&path, "the token cache that was just written cannot be read back"))
    }

    /// The cache at `path`; `None` when there is none or it is damaged, since it can be made again.
    fn load(path: &Path) -> Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(path, e)),
        };
        if file.metadata().at(path)?.len() < MAGIC.len() as u64 + FOOTER_BYTES {
            return Ok(None);
        }
        // SAFETY: caches are never changed in place, only replaced by a rename, which leaves this mapping as it is.
        let map = unsafe { Mmap::map(&file) }.at(path)?;
        let Some((tokens, documents, content, meta)) = Self::layout(&map) else { return Ok(None) };
        let verified = (0..content.div_ceil(BLOCK).div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Ok(Some(Self { path: path.to_path_buf(), map, tokens, documents, meta, content, verified }))
    }

    /// Checks magic, footer, sizes, the checksums' own checksum, and the blocks that hold the meta data; says how many bytes have checksums.
    fn layout(map: &[u8]) -> Option<(u64, u64, usize, Meta)> {
        let (body, footer) = map.split_at_checked(map.len().checked_sub(FOOTER_BYTES as usize)?)?;
        let number = |at: usize| footer.get(at..at + 8).map(|b| u64::from_le_bytes(b.try_into().unwrap_or_default()));
        let (tokens, documents, meta_bytes, sum) = (number(0)?, number(8)?, number(16)?, number(24)?);
        let content = tokens.checked_mul(4)?.checked_add(documents.checked_mul(DOCUMENT_BYTES)?)?.checked_add(meta_bytes)?;
        let content = usize::try_from(content.checked_add(MAGIC.len() as u64)?).ok()?;
        let sums = content.div_ceil(BLOCK).checked_mul(4)?;
        let whole = body.starts_with(MAGIC) && footer.ends_with(MAGIC) && content.checked_add(sums)? == body.len();
        if !whole || documents == 0 || u64::from(crc32c::crc32c_append(crc32c::crc32c(&body[content..]), &footer[..24])) != sum {
            return None;
        }
        let meta = content - meta_bytes as usize;
        if !(meta / BLOCK..content.div_ceil(BLOCK)).all(|block| Self::block_is_whole(map, content, block)) {
            return None;
        }
        Some((tokens, documents, content, serde_json::from_slice(&body[meta..content]).ok()?))
    }

    /// Whether a block is what its checksum says.
    fn block_is_whole(map: &[u8], content: usize, block: usize) -> bool {
        let bytes = &map[block * BLOCK..content.min((block + 1) * BLOCK)];
        let sum = &map[content + 4 * block..][..4];
        crc32c::crc32c(bytes).to_le_bytes() == sum
    }

    /// Compares the blocks that `bytes` touches with their checksums, those that were not compared before.
    fn verify(&self, bytes: Range<usize>) -> Result<()> {
        for block in bytes.start / BLOCK..bytes.end.div_ceil(BLOCK) {
            let (word, bit) = (&self.verified[block / 64], 1u64 << (block % 64));
            // Nothing but the bit itself is handed from thread to thread: at worst a block is compared twice.
            if word.load(Ordering::Relaxed) & bit == 0 {
                if !Self::block_is_whole(&self.map, self.content, block) {
                    return Err(self.damaged());
                }
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// The cache file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of documents; at least 1.
    pub fn documents(&self) -> u64 {
        self.documents
    }

    /// Tokens of all documents, without any that end or begin them.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Bytes of all documents' texts in UTF-8.
    pub fn text_bytes(&self) -> u64 {
        self.meta.text_bytes
    }

    /// A hash of the tokens and of how they are cut into documents.
    pub fn fingerprint(&self) -> &str {
        &self.meta.fingerprint
    }

    /// Documents of the corpus that are not in the cache because they could not be read (`skip_bad_records`).
    pub fn skipped(&self) -> &Skipped {
        &self.meta.skipped
    }

    /// The largest token that occurs.
    pub fn largest_token(&self) -> u32 {
        self.meta.largest_token
    }

    /// Where the tokens of document `index` stand, and how many bytes its text has.
    ///
    /// # Errors
    /// When there is no such document or the cache is damaged.
    pub fn document(&self, index: u64) -> Result<(Range<u64>, u64)> {
        if index >= self.documents {
            return Err(Error::file(&self.path, format!("no document {index}; the corpus has {}", self.documents)));
        }
        let start = if index == 0 { 0 } else { self.index_number(index - 1, 0)? };
        let (end, bytes) = (self.index_number(index, 0)?, self.index_number(index, 8)?);
        if start >= end || end > self.tokens {
            return Err(self.damaged());
        }
        Ok((start..end, bytes))
    }

    /// Appends the tokens at `range` to `out`.
    ///
    /// # Errors
    /// When the range leaves the corpus or the cache is damaged.
    pub fn read(&self, range: Range<u64>, out: &mut Vec<u32>) -> Result<()> {
        if range.start > range.end || range.end > self.tokens {
            return Err(self.damaged());
        }
        let at = |token: u64| MAGIC.len() + 4 * token as usize;
        self.verify(at(range.start)..at(range.end))?;
        let first = out.len();
        out.extend(self.map[at(range.start)..at(range.end)].chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        if out[first..].iter().any(|&token| token > self.meta.largest_token) {
            return Err(self.damaged());
        }
        Ok(())
    }

    /// One number of the document table; the caller has checked `index`, and `layout` the table's size.
    fn index_number(&self, index: u64, offset: usize) -> Result<u64> {
        let at = MAGIC.len() + 4 * self.tokens as usize + (index * DOCUMENT_BYTES) as usize + offset;
        self.verify(at..at + 8)?;
        Ok(self.map[at..at + 8].iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn damaged(&self) -> Error {
        Error::file(&self.path, "the token cache is damaged; delete it, it will be made again")
    }
}

/// SHA-256 of a value's JSON, in hexadecimal.
fn hash_of(value: &impl Serialize) -> Result<String> {
    let json = serde_json::to_vec(value).map_err(|e| Error::usage(format!("cannot describe a corpus: {e}")))?;
    Ok(hex(Sha256::digest(json)))
}
