//! Makes token caches: one process at a time, in bounded memory, all or nothing.

use std::cell::RefCell;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::Encode;
use super::cache::{FileStamp, Meta, OnProgress, Origin, Progress, Skipped};
use super::cache_file::{BLOCK, MAGIC};
use super::reader::{BadRecord, MAX_DOCUMENT_BYTES, RawDocument, read_documents};
use crate::checkpoint::atomic;
use crate::error::{Error, IoContext, Result};
use crate::files::hex;

/// Texts are tokenised together up to this many bytes: enough to keep every core busy, little enough to report and to stop often.
const CHUNK_BYTES: usize = 1 << 20;
/// The same bound for many short documents.
const CHUNK_DOCUMENTS: usize = 16_384;
/// How often a waiting process looks whether the lock is free.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// Holds the lock of the cache at `path`; waits for it as long as `progress` lets it.
pub(super) fn lock(path: &Path, report: &mut Progress, progress: OnProgress) -> Result<File> {
    let path = path.with_extension("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).at(&path)?;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => {
                report.waiting = true;
                progress(report)?;
                std::thread::sleep(LOCK_POLL);
            }
            // Some network file systems have no locks. Temporary names carry the process number, so at worst the work is done twice.
            Err(TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Unsupported => break,
            Err(TryLockError::Error(e)) => return Err(Error::io(&path, e)),
        }
    }
    report.waiting = false;
    Ok(file)
}

/// Tokenises the corpus into the cache file at `path`.
pub(super) fn build(path: &Path, origin: &Origin, encoder: &dyn Encode, report: &mut Progress, progress: OnProgress) -> Result<()> {
    remove_leftovers(path);
    let mut writer = Writer::create(path)?;
    let bytes_read = Arc::new(AtomicU64::new(0));
    let mut chunk = Chunk::default();
    let skipped = RefCell::new(Skipped::default());
    let mut bad = |record: BadRecord| skipped.borrow_mut().add(record.error);
    progress(report)?;
    for (index, stamp) in origin.files.iter().enumerate() {
        let bad = if origin.corpus.skip_bad_records { Some(&mut bad as _) } else { None };
        let mut each = |document: RawDocument| {
            chunk.bytes += document.text.len();
            chunk.documents.push((index, document));
            if chunk.bytes >= CHUNK_BYTES || chunk.documents.len() >= CHUNK_DOCUMENTS {
                report.bytes_done = bytes_read.load(Ordering::Relaxed).min(report.bytes_total);
                chunk.flush(origin, encoder, &mut writer, &skipped, report, progress)?;
            }
            Ok(())
        };
        read_documents(&stamp.path, origin.corpus, MAX_DOCUMENT_BYTES, &bytes_read, &mut each, bad)?;
        if FileStamp::of(&stamp.path)? != *stamp {
            return Err(Error::file(&stamp.path, "the file changed while it was read; start again when it is complete"));
        }
    }
    report.bytes_done = report.bytes_total;
    chunk.flush(origin, encoder, &mut writer, &skipped, report, progress)?;
    let skipped = skipped.into_inner();
    if writer.documents == 0 {
        let files: Vec<_> = origin.files.iter().take(3).map(|file| file.path.display().to_string()).collect();
        let more = if origin.files.len() > 3 { ", …" } else { "" };
        let bad = match skipped.first.first() {
            Some(first) => format!("; {} could not be read and were skipped, the first because of {first}", skipped.documents),
            None => String::new(),
        };
        return Err(Error::usage(format!(
            "the corpus {:?} is empty: {} file(s) without any text ({}{more}){bad}",
            origin.corpus.path,
            origin.files.len(),
            files.join(", ")
        )));
    }
    writer.finish(path, skipped)
}

/// Removes what killed processes left; whoever holds the lock is the only one at work.
fn remove_leftovers(path: &Path) {
    let (Some(folder), Some(stem)) = (path.parent(), path.file_stem()) else { return };
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let bytes = name.as_encoded_bytes();
        if bytes.starts_with(stem.as_encoded_bytes()) && bytes.ends_with(b".tmp") {
            // Best effort: a leftover costs space, nothing else.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Documents that are tokenised together, each with the index of its file.
#[derive(Default)]
struct Chunk {
    documents: Vec<(usize, RawDocument)>,
    bytes: usize,
}

impl Chunk {
    fn flush(
        &mut self,
        origin: &Origin,
        encoder: &dyn Encode,
        writer: &mut Writer,
        skipped: &RefCell<Skipped>,
        report: &mut Progress,
        progress: OnProgress,
    ) -> Result<()> {
        let encoded: Vec<Result<Vec<u32>>> = self.documents.par_iter().map(|(_, document)| encoder.encode(&document.text)).collect();
        for ((file, document), tokens) in self.documents.iter().zip(encoded) {
            let named = |e: Error| Error::file(&origin.files[*file].path, format!("line {}: {e}", document.line));
            match tokens.map_err(named) {
                Ok(tokens) => writer.push(&tokens, document.text.len() as u64)?,
                Err(error) if origin.corpus.skip_bad_records => skipped.borrow_mut().add(error.to_string()),
                Err(error) => return Err(error),
            }
        }
        self.documents.clear();
        self.bytes = 0;
        (report.documents, report.tokens) = (writer.documents, writer.tokens);
        progress(report)
    }
}

/// The two halves of a cache while it grows; both are removed unless [`Writer::finish`] completes.
struct Writer {
    tokens_file: Temporary,
    index_file: Temporary,
    hash: Sha256,
    tokens: u64,
    documents: u64,
    text_bytes: u64,
    largest_token: u32,
}

impl Writer {
    fn create(path: &Path) -> Result<Self> {
        let mut tokens_file = Temporary::create(path, "tokens")?;
        tokens_file.write(MAGIC)?;
        let index_file = Temporary::create(path, "index")?;
        Ok(Self { tokens_file, index_file, hash: Sha256::new(), tokens: 0, documents: 0, text_bytes: 0, largest_token: 0 })
    }

    /// Adds a document; one without tokens is left out.
    fn push(&mut self, tokens: &[u32], text_bytes: u64) -> Result<()> {
        let Some(&largest) = tokens.iter().max() else { return Ok(()) };
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        self.tokens_file.write(&bytes)?;
        self.tokens += tokens.len() as u64;
        self.documents += 1;
        self.text_bytes += text_bytes;
        self.largest_token = self.largest_token.max(largest);
        self.index_file.write(&self.tokens.to_le_bytes())?;
        self.index_file.write(&text_bytes.to_le_bytes())?;
        self.hash.update((tokens.len() as u64).to_le_bytes());
        self.hash.update(&bytes);
        Ok(())
    }

    /// Joins the halves, syncs, and gives the file its name.
    fn finish(mut self, path: &Path, skipped: Skipped) -> Result<()> {
        self.index_file.copy_into(&mut self.tokens_file)?;
        let (fingerprint, largest_token, text_bytes) = (hex(self.hash.finalize()), self.largest_token, self.text_bytes);
        let meta = Meta { fingerprint, largest_token, text_bytes, skipped };
        let meta = serde_json::to_vec(&meta).map_err(|e| Error::file(path, e))?;
        self.tokens_file.write(&meta)?;
        let mut sums = std::mem::take(&mut self.tokens_file.sums).finish();
        sums.extend([self.tokens, self.documents, meta.len() as u64].iter().flat_map(|number| number.to_le_bytes()));
        let sum = u64::from(crc32c::crc32c(&sums));
        self.tokens_file.write(&sums)?;
        self.tokens_file.write(&sum.to_le_bytes())?;
        self.tokens_file.write(MAGIC)?;
        self.tokens_file.persist(path)
    }
}

/// A file that is removed when dropped.
struct Temporary {
    path: PathBuf,
    file: BufWriter<File>,
    sums: Sums,
}

/// A CRC-32C of every [`BLOCK`] bytes that go by.
#[derive(Default)]
struct Sums {
    done: Vec<u8>,
    current: u32,
    filled: usize,
}

impl Sums {
    fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.filled));
            self.current = crc32c::crc32c_append(self.current, now);
            self.filled += now.len();
            if self.filled == BLOCK {
                self.close();
            }
            bytes = later;
        }
    }

    fn close(&mut self) {
        self.done.extend(self.current.to_le_bytes());
        (self.current, self.filled) = (0, 0);
    }

    /// All of them, little-endian.
    fn finish(mut self) -> Vec<u8> {
        if self.filled > 0 {
            self.close();
        }
        self.done
    }
}

impl Temporary {
    fn create(path: &Path, part: &str) -> Result<Self> {
        let path = path.with_extension(format!("{}.{part}.tmp", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).at(&path)?;
        Ok(Self { path, file: BufWriter::with_capacity(1 << 18, file), sums: Sums::default() })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.sums.add(bytes);
        self.file.write_all(bytes).at(&self.path)
    }

    fn copy_into(&mut self, other: &mut Self) -> Result<()> {
        self.file.flush().at(&self.path)?;
        let file = self.file.get_mut();
        file.rewind().at(&self.path)?;
        let mut buffer = vec![0; 1 << 18];
        loop {
            let count = file.read(&mut buffer).at(&self.path)?;
            if count == 0 {
                return Ok(());
            }
            other.write(&buffer[..count])?;
        }
    }

    fn persist(&mut self, path: &Path) -> Result<()> {
        self.file.flush().at(&self.path)?;
        self.file.get_ref().sync_all().at(&self.path)?;
        std::fs::rename(&self.path, path).at(path)?;
        atomic::sync_parent(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After `persist` nothing is left under this name; before, what is there is incomplete.
        let _ = std::fs::remove_file(&self.path);
    }
}
