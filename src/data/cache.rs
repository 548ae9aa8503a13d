//! A corpus, tokenised once and read at offsets ever after (`docs/decisions/0002-token-cache.md` says why; `cache_file`, what lies where).
//!
//! A cache is written beside, synced and renamed, and never changed after that.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Encode;
use super::cache_file::CacheFile;
use super::cache_writer;
use super::corpus::CorpusConfig;
use crate::checkpoint::atomic;
use crate::error::{Error, IoContext, Result};
use crate::files::{here, hex};

/// So many documents that were left out are told of in words.
const TOLD: usize = 3;

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
        let folder = here(path.parent().unwrap_or(Path::new("")));
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
    file: CacheFile,
    meta: Meta,
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
        atomic::create_folders(folder)?;
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
        let Some((file, meta)) = CacheFile::open(path)? else { return Ok(None) };
        Ok(serde_json::from_slice(&meta).ok().map(|meta| Self { file, meta }))
    }

    /// The cache file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Number of documents; at least 1.
    pub fn documents(&self) -> u64 {
        self.file.documents()
    }

    /// Tokens of all documents, without any that end or begin them.
    pub fn tokens(&self) -> u64 {
        self.file.tokens()
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
    /// When there is no such document, the cache cannot be read or is damaged.
    pub fn document(&self, index: u64) -> Result<(Range<u64>, u64)> {
        if index >= self.documents() {
            return Err(Error::file(self.path(), format!("no document {index}; the corpus has {}", self.documents())));
        }
        let (range, bytes) = self.file.document(index)?.ok_or_else(|| self.damaged())?;
        if range.start >= range.end || range.end > self.tokens() {
            return Err(self.damaged());
        }
        Ok((range, bytes))
    }

    /// Appends the tokens at `range` to `out`.
    ///
    /// # Errors
    /// When the range leaves the corpus, the cache cannot be read or is damaged.
    pub fn read(&self, range: Range<u64>, out: &mut Vec<u32>) -> Result<()> {
        let bytes = self.file.tokens_at(range)?.ok_or_else(|| self.damaged())?;
        let first = out.len();
        out.extend(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        if out[first..].iter().any(|&token| token > self.meta.largest_token) {
            return Err(self.damaged());
        }
        Ok(())
    }

    fn damaged(&self) -> Error {
        Error::file(self.path(), "the token cache is damaged; delete it, it will be made again")
    }
}

/// SHA-256 of a value's JSON, in hexadecimal.
fn hash_of(value: &impl Serialize) -> Result<String> {
    let json = serde_json::to_vec(value).map_err(|e| Error::usage(format!("cannot describe a corpus: {e}")))?;
    Ok(hex(Sha256::digest(json)))
}
