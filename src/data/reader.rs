//! Corpus files, read document by document in bounded memory.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};

use super::corpus::{Compression, CorpusConfig, Format, Split};
use super::parquet;
use crate::error::{Error, IoContext, Result};

/// The longest line or document that is read, so that a damaged file cannot fill the memory.
pub const MAX_DOCUMENT_BYTES: usize = 64 << 20;

/// One document as it stands in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawDocument {
    /// The text.
    pub text: String,
    /// The line (or, in Parquet, the row) at which it begins, counted from 1.
    pub line: u64,
}

/// A document that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRecord {
    /// What is wrong with it, with file and line.
    pub error: String,
}

/// What is told of documents that are left out; `None` where a bad one is an error.
pub type OnBad<'a> = Option<&'a mut dyn FnMut(BadRecord)>;

/// Reads `file` as `corpus` says and hands every document with visible text to `each`.
///
/// `bytes_read` grows by the bytes taken from the disk, for progress. Documents that hold only white space are left out.
///
/// # Errors
/// When the file cannot be read or decompressed, is not valid UTF-8, a line is no JSON object, its text field is missing or no string,
/// a line or document exceeds `max_document_bytes`, or `each` fails. File and line are named. What is wrong with one document alone is told to `bad`
/// instead where that is given (`skip_bad_records`), and the next one is read.
pub fn read_documents(
    file: &Path,
    corpus: &CorpusConfig,
    max_document_bytes: usize,
    bytes_read: &Arc<AtomicU64>,
    each: &mut dyn FnMut(RawDocument) -> Result<()>,
    bad: OnBad,
) -> Result<()> {
    let mut visible = |document: RawDocument| if document.text.trim().is_empty() { Ok(()) } else { each(document) };
    let (format, compression) = corpus.format_of(file)?;
    let handle = File::open(file).at(file)?;
    if format == Format::Parquet {
        let size = handle.metadata().at(file)?.len();
        parquet::texts(file, handle, &corpus.text_field, max_document_bytes, &mut visible, bad)?;
        bytes_read.fetch_add(size, Ordering::Relaxed);
        return Ok(());
    }
    let counted = BufReader::with_capacity(1 << 17, Counted { inner: handle, bytes: Arc::clone(bytes_read) });
    let decoded: Box<dyn Read> = match compression {
        Compression::None => Box::new(counted),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(counted)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(counted).at(file)?),
    };
    let reader = BufReader::with_capacity(1 << 17, decoded);
    let mut lines = Lines { file, compression, reader, line: 0, limit: max_document_bytes, forgiving: bad.is_some() };
    match format {
        Format::Jsonl => jsonl(&mut lines, &corpus.text_field, &mut visible, bad),
        _ => text(&mut lines, corpus.split, &mut visible, bad),
    }
}

/// Counts what is read from the disk.
struct Counted {
    inner: File,
    bytes: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Lines of bounded length that know their number.
struct Lines<'a> {
    file: &'a Path,
    compression: Compression,
    reader: BufReader<Box<dyn Read>>,
    line: u64,
    limit: usize,
    /// Whether what is too long is read past.
    forgiving: bool,
}

impl Lines<'_> {
    /// Reads the next line with its line end into `buffer`; `None` at the end of the file, and an error in its place where it is too long (it is passed over).
    fn next(&mut self, buffer: &mut Vec<u8>) -> Result<Option<std::result::Result<(), Error>>> {
        buffer.clear();
        self.line += 1;
        let mut too_long = false;
        let mut empty = true;
        loop {
            let available = match self.reader.fill_buf() {
                Ok(bytes) => bytes,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(self.unreadable(e)),
            };
            let newline = available.iter().position(|&b| b == b'\n');
            let count = newline.map_or(available.len(), |at| at + 1);
            let ends = newline.is_some() || count == 0;
            empty &= count == 0;
            if buffer.len() + count > self.limit {
                too_long = true;
                buffer.clear();
                if !self.forgiving {
                    return Ok(Some(Err(self.too_long())));
                }
            } else if !too_long {
                buffer.extend_from_slice(&available[..count]);
            }
            self.reader.consume(count);
            if ends {
                return Ok(match (empty, too_long) {
                    (true, _) => None,
                    (_, true) => Some(Err(self.too_long())),
                    _ => Some(Ok(())),
                });
            }
        }
    }

    fn too_long(&self) -> Error {
        self.fault(format!("the line is longer than {} bytes; is this the right format?", self.limit))
    }

    /// The line as text, without a byte order mark in the first one.
    fn utf8<'b>(&self, bytes: &'b [u8]) -> Result<&'b str> {
        let bytes = if self.line == 1 { bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes) } else { bytes };
        std::str::from_utf8(bytes).map_err(|e| self.fault(format!("invalid UTF-8 at byte {} of the line", e.valid_up_to() + 1)))
    }

    fn unreadable(&self, error: std::io::Error) -> Error {
        match self.compression {
            Compression::None => Error::io(self.file, error),
            kind => {
                let kind = if kind == Compression::Gzip { "gzip" } else { "zstd" };
                self.fault(format!("cannot decompress: the {kind} data is truncated or damaged ({error})"))
            }
        }
    }

    fn fault(&self, message: impl fmt::Display) -> Error {
        Error::file(self.file, format!("line {}: {message}", self.line))
    }
}

/// Passes an error about one document on, or tells it and goes on.
pub(super) fn forgive(result: Result<()>, bad: &mut OnBad) -> Result<()> {
    match (result, bad) {
        (Err(error @ Error::File { .. }), Some(bad)) => {
            bad(BadRecord { error: error.to_string() });
            Ok(())
        }
        (result, _) => result,
    }
}

/// One document a line; blank lines are left out.
fn jsonl(lines: &mut Lines, field: &str, each: &mut dyn FnMut(RawDocument) -> Result<()>, mut bad: OnBad) -> Result<()> {
    let mut buffer = Vec::new();
    while let Some(read) = lines.next(&mut buffer)? {
        let text = read.and_then(|()| text_of(lines, &buffer, field));
        match text {
            Ok(Some(text)) => each(RawDocument { text, line: lines.line })?,
            Ok(None) => {}
            Err(error) => forgive(Err(error), &mut bad)?,
        }
    }
    Ok(())
}

/// The text of one line of JSON; `None` for a blank one.
fn text_of(lines: &Lines, buffer: &[u8], field: &str) -> Result<Option<String>> {
    let line = lines.utf8(buffer)?;
    if line.trim().is_empty() {
        return Ok(None);
    }
    let mut parser = serde_json::Deserializer::from_str(line);
    let found = TextField(field).deserialize(&mut parser).and_then(|found| parser.end().map(|()| found));
    // serde_json counts lines from the start of its input, which is always one line here.
    let found = found.map_err(|e| {
        let full = e.to_string();
        let what = full.rsplit_once(" at line ").map_or(full.as_str(), |(what, _)| what);
        lines.fault(format!("not a valid JSON object: {what} (column {})", e.column()))
    })?;
    match found {
        Some(serde_json::Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(lines.fault(format!("the field {field:?} must be a string, found {}", type_name(&other)))),
        None => Err(lines.fault(format!("the object has no field {field:?}; set `text_field` to the field that holds the text"))),
    }
}

/// Plain text, cut as `split` says. A document with a line that cannot be read is left out as a whole.
fn text(lines: &mut Lines, split: Split, each: &mut dyn FnMut(RawDocument) -> Result<()>, mut bad: OnBad) -> Result<()> {
    let mut buffer = Vec::new();
    let mut document = RawDocument { text: String::new(), line: 1 };
    let mut spoilt = false;
    while let Some(read) = lines.next(&mut buffer)? {
        let line = match read.and_then(|()| lines.utf8(&buffer)) {
            Ok(line) => line,
            Err(error) => {
                if !std::mem::replace(&mut spoilt, split != Split::Lines) {
                    forgive(Err(error), &mut bad)?;
                }
                document.text.clear();
                continue;
            }
        };
        let blank = line.trim().is_empty();
        let ends = match split {
            Split::File => false,
            Split::BlankLines => blank,
            Split::Lines => true,
        };
        if !(spoilt || ends && blank) {
            if document.text.is_empty() {
                document.line = lines.line;
            }
            if document.text.len() + line.len() > lines.limit {
                let error = lines.fault(format!(
                    "the document that begins at line {} is longer than {} bytes; set `split` to \"blank-lines\" or \"lines\"",
                    document.line, lines.limit
                ));
                forgive(Err(error), &mut bad)?;
                spoilt = true;
                document.text.clear();
            } else {
                document.text.push_str(line);
            }
        }
        if ends {
            emit(&mut document, split, each)?;
            spoilt = false;
        }
    }
    emit(&mut document, split, each)
}

/// Hands the document on, if there is one, and begins the next.
fn emit(document: &mut RawDocument, split: Split, each: &mut dyn FnMut(RawDocument) -> Result<()>) -> Result<()> {
    if document.text.is_empty() {
        return Ok(());
    }
    let mut text = std::mem::take(&mut document.text);
    if split != Split::File {
        text.truncate(text.trim_end_matches(['\n', '\r']).len());
    }
    each(RawDocument { text, line: document.line })
}

/// The JSON name of a value's type.
fn type_name(value: &serde_json::Value) -> &'static str {
    match value {
        serde_json::Value::Null => "null",
        serde_json::Value::Bool(_) => "a boolean",
        serde_json::Value::Number(_) => "a number",
        serde_json::Value::String(_) => "a string",
        serde_json::Value::Array(_) => "an array",
        serde_json::Value::Object(_) => "an object",
    }
}

/// Takes one field out of an object and steps over the others without keeping them.
struct TextField<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for TextField<'_> {
    type Value = Option<serde_json::Value>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TextField<'_> {
    type Value = Option<serde_json::Value>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "an object with the field {:?}", self.0)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            if key == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}
