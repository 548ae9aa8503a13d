//! Tensors in files: where each lies, and how it is read without ever holding more than a few MiB of the file.

use std::collections::BTreeMap;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::base::TensorInfo;
use super::encoding::Encoding;
use crate::error::{Error, Result};
use crate::files::OffsetFile;

/// Bytes read at a time.
const CHUNK: usize = 4 << 20;
/// Weights below which one thread decodes alone.
const SMALL: usize = 1 << 14;

/// Where a tensor lies.
pub(super) struct Entry {
    /// How it is stored; `None` for a kind that cannot be read (an index table, say), which is an error only when it is asked for.
    pub encoding: Option<Encoding>,
    pub dtype: String,
    pub shape: Vec<usize>,
    /// Index of its file.
    pub file: usize,
    pub offset: u64,
    pub bytes: u64,
    /// Set where the rows of each of so many heads are interleaved (rotary pairs side by side), as GGUF files keep q and k.
    pub interleaved_heads: Option<usize>,
}

/// Tensors by name, in one file or several.
pub(super) struct Weights {
    pub files: Vec<OffsetFile>,
    pub entries: BTreeMap<String, Entry>,
}

impl Weights {
    pub fn infos(&self) -> Vec<TensorInfo> {
        let info = |(name, e): (&String, &Entry)| TensorInfo {
            name: name.clone(),
            dtype: e.dtype.clone(),
            shape: e.shape.clone(),
            bytes: e.bytes,
        };
        self.entries.iter().map(info).collect()
    }

    /// The values of an entry, row-major.
    pub fn read(&self, name: &str, entry: &Entry) -> Result<Vec<f32>> {
        let file = &self.files[entry.file];
        let wrong = |message: String| Error::file(&file.path, format_args!("tensor `{name}` {message}"));
        let Some(encoding) = entry.encoding else {
            return Err(wrong(format!("is stored as {}; what can be read is {}", entry.dtype, Encoding::names())));
        };
        // The reader of the header has checked that the bytes lie inside the file, so this is bounded by its size.
        let count: usize = entry.shape.iter().product();
        let mut values = vec![0.0; count];
        if count == 0 {
            return Ok(values);
        }
        let row = if entry.shape.len() > 1 { count / entry.shape[0] } else { entry.interleaved_heads.map_or(count, |_| 1) };
        let Some(row_bytes) = encoding.bytes(row as u64).map(|bytes| bytes as usize) else {
            return Err(wrong(format!(
                "has rows of {row}, not a multiple of the {} weights of a {} block",
                encoding.block_size(),
                encoding.name()
            )));
        };
        let head_rows = match entry.interleaved_heads {
            None => 1,
            Some(heads) if (count / row).is_multiple_of(2 * heads) => count / row / heads,
            Some(heads) => return Err(wrong(format!("has {} rows, which {heads} heads cannot share evenly", count / row))),
        };
        let chunk_rows = (CHUNK / row_bytes / head_rows).max(1) * head_rows;
        let mut buffer = vec![0; (chunk_rows * row_bytes).min(entry.bytes as usize)];
        let mut offset = entry.offset;
        for out in values.chunks_mut(chunk_rows * row) {
            let buffer = &mut buffer[..out.len() / row * row_bytes];
            file.read_exact_at(offset, buffer)?;
            offset += buffer.len() as u64;
            let decode = |(index, out): (usize, &mut [f32])| {
                let from = source_row(index, head_rows);
                encoding.decode(&buffer[from * row_bytes..][..row_bytes], out);
            };
            // Waking other threads costs more than a small tensor.
            if out.len() < SMALL {
                out.chunks_mut(row).enumerate().for_each(decode);
            } else {
                out.par_chunks_mut(row).with_min_len(SMALL / row + 1).enumerate().for_each(decode);
            }
        }
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(at) => Err(wrong(format!("holds {} at position {at}: the file is damaged, or its training had failed", values[at]))),
        }
    }

    /// Feeds an entry's bytes, as they are stored, to a hash.
    pub fn hash(&self, entry: &Entry, hash: &mut Sha256, buffer: &mut Vec<u8>) -> Result<()> {
        let mut done = 0;
        while done < entry.bytes {
            buffer.resize((entry.bytes - done).min(CHUNK as u64) as usize, 0);
            self.files[entry.file].read_exact_at(entry.offset + done, buffer)?;
            hash.update(&buffer[..]);
            done += buffer.len() as u64;
        }
        Ok(())
    }
}

/// The stored row that is row `index` of the tensor: the rows `0, 2, 4, …, 1, 3, 5, …` of each head, or the same row where heads are plain.
fn source_row(index: usize, head_rows: usize) -> usize {
    if head_rows == 1 {
        return index;
    }
    let (head, row) = (index / head_rows, index % head_rows);
    let half = head_rows / 2;
    head * head_rows + row % half * 2 + row / half
}
