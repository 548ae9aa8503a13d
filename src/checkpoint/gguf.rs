//! The GGUF container, versions 2 and 3: every count, length and offset is checked against the file's size before it is used.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use super::encoding::Encoding;
use super::weights::{Entry, Weights};
use crate::error::{Error, IoContext, Result};
use crate::files::{OffsetFile, OffsetReader};

const MAGIC: [u8; 4] = *b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
/// The longest key or tensor name.
const MAX_NAME: u64 = 1 << 16;
/// The longest string value: a chat template takes a few KiB.
const MAX_STRING: u64 = 16 << 20;
const MAX_DIMENSIONS: u32 = 4;
/// Depth of arrays in arrays that is read past.
const MAX_DEPTH: u32 = 4;

/// The metadata of a GGUF file; arrays stay in the file until they are asked for.
pub(crate) struct Gguf {
    pub path: PathBuf,
    metadata: BTreeMap<String, Metadatum>,
}

#[derive(Debug, Clone)]
enum Metadatum {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    Array { kind: u32, count: u64, offset: u64 },
}

impl Gguf {
    /// Reads metadata and tensor list; the tensors keep their GGUF names and, row-major, the Hugging Face order of dimensions.
    pub(super) fn open(path: &Path) -> Result<(Self, Weights)> {
        let file = OffsetFile::open(path)?;
        let (gguf, entries) = {
            let mut parser = Parser::new(&file, 0);
            let (tensors, pairs) = parser.header()?;
            let mut gguf = Self { path: path.to_path_buf(), metadata: BTreeMap::new() };
            for _ in 0..pairs {
                let key = parser.string("a metadata key", MAX_NAME)?;
                let kind = parser.u32()?;
                let value = parser.value(kind, &key)?;
                if gguf.metadata.insert(key.clone(), value).is_some() {
                    return Err(Error::file(path, format_args!("has the metadata key `{key}` twice")));
                }
            }
            let alignment = gguf.u64("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT);
            if !alignment.is_power_of_two() || alignment > 1 << 30 {
                return Err(Error::file(path, format_args!("`general.alignment` is {alignment}; a power of two was expected")));
            }
            (gguf, parser.tensors(tensors, alignment)?)
        };
        Ok((gguf, Weights { files: vec![file], entries }))
    }

    fn expected(&self, key: &str, what: &str, found: &Metadatum) -> Error {
        let found = match found {
            Metadatum::Array { count, .. } => format!("an array of {count}"),
            Metadatum::Text(text) => format!("the text {:?}", text.chars().take(40).collect::<String>()),
            other => format!("{other:?}"),
        };
        Error::file(&self.path, format_args!("metadata `{key}` is {found}; {what} was expected"))
    }

    pub fn u64(&self, key: &str) -> Result<Option<u64>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(&Metadatum::Unsigned(value)) => Ok(Some(value)),
            Some(&Metadatum::Signed(value)) if value >= 0 => Ok(Some(value as u64)),
            Some(other) => Err(self.expected(key, "a whole number", other)),
        }
    }

    pub fn f64(&self, key: &str) -> Result<Option<f64>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(&Metadatum::Float(value)) => Ok(Some(value)),
            Some(&Metadatum::Unsigned(value)) => Ok(Some(value as f64)),
            Some(&Metadatum::Signed(value)) => Ok(Some(value as f64)),
            Some(other) => Err(self.expected(key, "a number", other)),
        }
    }

    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(&Metadatum::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(self.expected(key, "true or false", other)),
        }
    }

    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Metadatum::Text(value)) => Ok(Some(value)),
            Some(other) => Err(self.expected(key, "a text", other)),
        }
    }

    /// A number, or the one number that all entries of an array are (some converters write one a layer).
    pub fn u64_of_all_layers(&self, key: &str) -> Result<Option<u64>> {
        if !matches!(self.metadata.get(key), Some(Metadatum::Array { .. })) {
            return self.u64(key);
        }
        let values = self.integers(key)?.unwrap_or_default();
        match values.first() {
            Some(&first) if first >= 0 && values.iter().all(|&v| v == first) => Ok(Some(first as u64)),
            _ => Err(Error::file(
                &self.path,
                format_args!("metadata `{key}` differs between layers; only models with like layers can be read"),
            )),
        }
    }

    pub fn strings(&self, key: &str) -> Result<Option<Vec<String>>> {
        self.array(key, "an array of texts", |parser, kind| match kind {
            8 => parser.string("an array's text", MAX_STRING).map(Some),
            _ => Ok(None),
        })
    }

    pub fn integers(&self, key: &str) -> Result<Option<Vec<i64>>> {
        self.array(key, "an array of whole numbers", |parser, kind| {
            Ok(match parser.value(kind, key)? {
                Metadatum::Unsigned(value) => i64::try_from(value).ok(),
                Metadatum::Signed(value) => Some(value),
                _ => None,
            })
        })
    }

    pub fn floats(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.array(key, "an array of floats", |parser, kind| {
            Ok(match parser.value(kind, key)? {
                Metadatum::Float(value) => Some(value as f32),
                _ => None,
            })
        })
    }

    fn array<T>(&self, key: &str, what: &str, read: impl Fn(&mut Parser, u32) -> Result<Option<T>>) -> Result<Option<Vec<T>>> {
        let (kind, count, offset) = match self.metadata.get(key) {
            None => return Ok(None),
            Some(&Metadatum::Array { kind, count, offset }) => (kind, count, offset),
            Some(other) => return Err(self.expected(key, what, other)),
        };
        let file = OffsetFile::open(&self.path)?;
        let mut parser = Parser::new(&file, offset);
        let mut values = Vec::new();
        for _ in 0..count {
            let value = read(&mut parser, kind)?;
            values.push(value.ok_or_else(|| self.expected(key, what, &Metadatum::Array { kind, count, offset }))?);
        }
        Ok(Some(values))
    }
}

/// A cursor that knows how much of the file is left.
struct Parser<'a> {
    file: &'a OffsetFile,
    reader: BufReader<OffsetReader<'a>>,
    position: u64,
}

impl<'a> Parser<'a> {
    fn new(file: &'a OffsetFile, position: u64) -> Self {
        Self { file, reader: BufReader::with_capacity(1 << 16, file.reader(position)), position }
    }

    fn wrong(&self, message: impl std::fmt::Display) -> Error {
        Error::file(&self.file.path, message)
    }

    fn left(&self) -> u64 {
        self.file.len.saturating_sub(self.position)
    }

    /// Claims the next `count` bytes, or says what is cut off.
    fn claim(&mut self, count: u64, what: &str) -> Result<()> {
        if count > self.left() {
            return Err(self.wrong(format_args!(
                "is cut short or damaged: {what} at byte {} takes {count} bytes, and {} are left",
                self.position,
                self.left()
            )));
        }
        self.position += count;
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.claim(N as u64, "a number")?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).at(&self.file.path)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn string(&mut self, what: &str, limit: u64) -> Result<String> {
        let length = self.u64()?;
        if length > limit {
            return Err(self.wrong(format_args!("is damaged: {what} at byte {} says it is {length} bytes long", self.position)));
        }
        self.claim(length, what)?;
        let mut bytes = vec![0; length as usize];
        self.reader.read_exact(&mut bytes).at(&self.file.path)?;
        String::from_utf8(bytes).map_err(|_| self.wrong(format_args!("is damaged: {what} before byte {} is not UTF-8", self.position)))
    }

    fn skip(&mut self, count: u64, what: &str) -> Result<()> {
        self.claim(count, what)?;
        // A claim lies inside the file, whose length a signed number holds.
        self.reader.seek_relative(count as i64).at(&self.file.path)
    }

    /// Number of tensors and of metadata pairs.
    fn header(&mut self) -> Result<(u64, u64)> {
        if self.left() < 24 {
            return Err(self.wrong(format_args!("is {} bytes long, too short for a GGUF file", self.file.len)));
        }
        let magic: [u8; 4] = self.bytes()?;
        if magic != MAGIC {
            return Err(self.wrong("does not begin as a GGUF file does; a Hugging Face directory or a .gguf file was expected"));
        }
        match self.u32()? {
            2 | 3 => {}
            version if matches!(version.swap_bytes(), 1..=3) => {
                return Err(self.wrong("is a big-endian GGUF file; only little-endian ones can be read"));
            }
            version => return Err(self.wrong(format_args!("is GGUF version {version}; versions 2 and 3 can be read"))),
        }
        let (tensors, pairs) = (self.u64()?, self.u64()?);
        // The least a tensor's entry takes: name, dimensions, kind, offset; and a pair: key, kind, value.
        if tensors > self.left() / 32 || pairs > self.left() / 13 {
            return Err(self.wrong(format_args!(
                "says it has {tensors} tensors and {pairs} metadata pairs, more than its {} bytes hold",
                self.file.len
            )));
        }
        Ok((tensors, pairs))
    }

    fn value(&mut self, kind: u32, key: &str) -> Result<Metadatum> {
        Ok(match kind {
            0 => Metadatum::Unsigned(u64::from(self.bytes::<1>()?[0])),
            1 => Metadatum::Signed(i64::from(i8::from_le_bytes(self.bytes()?))),
            2 => Metadatum::Unsigned(u64::from(u16::from_le_bytes(self.bytes()?))),
            3 => Metadatum::Signed(i64::from(i16::from_le_bytes(self.bytes()?))),
            4 => Metadatum::Unsigned(u64::from(self.u32()?)),
            5 => Metadatum::Signed(i64::from(i32::from_le_bytes(self.bytes()?))),
            6 => Metadatum::Float(f64::from(f32::from_le_bytes(self.bytes()?))),
            7 => Metadatum::Bool(self.bytes::<1>()?[0] != 0),
            8 => Metadatum::Text(self.string(&format!("metadata `{key}`"), MAX_STRING)?),
            9 => {
                let (kind, count) = (self.u32()?, self.u64()?);
                let offset = self.position;
                self.skip_array(kind, count, key, 0)?;
                Metadatum::Array { kind, count, offset }
            }
            10 => Metadatum::Unsigned(self.u64()?),
            11 => Metadatum::Signed(i64::from_le_bytes(self.bytes()?)),
            12 => Metadatum::Float(f64::from_le_bytes(self.bytes()?)),
            other => return Err(self.wrong(format_args!("is damaged: metadata `{key}` is of the unknown kind {other}"))),
        })
    }

    fn skip_array(&mut self, kind: u32, count: u64, key: &str, depth: u32) -> Result<()> {
        let what = format!("metadata `{key}`, an array of {count},");
        let width = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            8 => {
                // Each text takes at least its length.
                self.refuse_count(count, 8, &what)?;
                for _ in 0..count {
                    let length = self.u64()?;
                    self.skip(length, &what)?;
                }
                return Ok(());
            }
            9 if depth < MAX_DEPTH => {
                self.refuse_count(count, 12, &what)?;
                for _ in 0..count {
                    let (kind, count) = (self.u32()?, self.u64()?);
                    self.skip_array(kind, count, key, depth + 1)?;
                }
                return Ok(());
            }
            other => return Err(self.wrong(format_args!("is damaged: {what} is of the unknown kind {other}"))),
        };
        self.refuse_count(count, width, &what)?;
        self.skip(count * width, &what)
    }

    fn refuse_count(&self, count: u64, least: u64, what: &str) -> Result<()> {
        if count > self.left() / least {
            return Err(self.wrong(format_args!("is cut short or damaged: {what} does not fit the {} bytes that are left", self.left())));
        }
        Ok(())
    }

    fn tensors(&mut self, count: u64, alignment: u64) -> Result<BTreeMap<String, Entry>> {
        let mut entries = BTreeMap::new();
        for _ in 0..count {
            let name = self.string("a tensor's name", MAX_NAME)?;
            let entry = self.tensor(&name, alignment)?;
            if entries.insert(name.clone(), entry).is_some() {
                return Err(self.wrong(format_args!("has the tensor `{name}` twice")));
            }
        }
        // The data begin at the next multiple of the alignment, even where there are none.
        let start = self.position.div_ceil(alignment) * alignment;
        let mut end = 0;
        let mut in_order: Vec<(&String, &mut Entry)> = entries.iter_mut().collect();
        in_order.sort_by_key(|(_, entry)| entry.offset);
        for (name, entry) in in_order {
            let stop = entry.offset.checked_add(entry.bytes).and_then(|stop| stop.checked_add(start));
            if stop.is_none_or(|stop| stop > self.file.len) {
                return Err(self.wrong(format_args!(
                    "is cut short or damaged: tensor `{name}` ({}, shape {:?}) lies beyond the end of the file ({} bytes)",
                    entry.dtype, entry.shape, self.file.len
                )));
            }
            if entry.offset < end {
                return Err(self.wrong(format_args!("is damaged: tensor `{name}` overlaps another")));
            }
            end = entry.offset + entry.bytes;
            entry.offset += start;
        }
        Ok(entries)
    }

    fn tensor(&mut self, name: &str, alignment: u64) -> Result<Entry> {
        let dimensions = self.u32()?;
        if dimensions == 0 || dimensions > MAX_DIMENSIONS {
            return Err(
                self.wrong(format_args!("is damaged: tensor `{name}` has {dimensions} dimensions; 1 to {MAX_DIMENSIONS} were expected"))
            );
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.push(self.u64()?);
        }
        let kind = self.u32()?;
        let offset = self.u64()?;
        let encoding = Encoding::from_gguf(kind).ok_or_else(|| {
            self.wrong(format_args!("tensor `{name}` is stored in GGUF's kind {kind}; what can be read is {}", Encoding::names()))
        })?;
        let count = shape.iter().try_fold(1u64, |n, &size| n.checked_mul(size).filter(|&n| n > 0 && n <= isize::MAX as u64 / 4));
        // The first dimension is the one that lies together; blocks do not cross it.
        let bytes = count.and_then(|count| encoding.bytes(shape[0]).and_then(|row| row.checked_mul(count / shape[0])));
        let Some(bytes) = bytes else {
            return Err(self.wrong(format_args!("is damaged: tensor `{name}` of kind {} cannot have the shape {shape:?}", encoding.name())));
        };
        if !offset.is_multiple_of(alignment) {
            return Err(self.wrong(format_args!("is damaged: tensor `{name}` lies at {offset}, not a multiple of {alignment}")));
        }
        let shape = shape.into_iter().rev().map(|size| size as usize).collect();
        Ok(Entry { encoding: Some(encoding), dtype: encoding.name().into(), shape, file: 0, offset, bytes, interleaved_heads: None })
    }
}
