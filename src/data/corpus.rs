//! Which files a corpus consists of, and how they are to be read.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, IoContext, Result};
use crate::hub::{self, HubName};

/// Suffixes that are read, as error messages name them.
const KNOWN_SUFFIXES: &str = ".jsonl, .ndjson, .txt, .text (each also with .gz or .zst) and .parquet";

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON object a line.
    Jsonl,
    /// Plain UTF-8 text.
    Text,
    /// Apache Parquet with a string column.
    Parquet,
}

/// How a plain text file is cut into documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// The file is one document.
    #[default]
    File,
    /// Blank lines stand between documents.
    BlankLines,
    /// Every line is a document.
    Lines,
}

/// How a file's bytes are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, one or more members.
    Gzip,
    /// Zstandard, one or more frames.
    Zstd,
}

/// A corpus: a file, a glob or a folder, and how to read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusConfig {
    /// A file, a glob pattern, a folder that is searched for files with known suffixes, or an `hf://` name of one of these.
    pub path: String,
    /// The JSON field or Parquet column that holds the text.
    #[serde(default = "default_text_field")]
    pub text_field: String,
    /// What the files hold, where the suffix does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// How plain text files are cut into documents.
    #[serde(default)]
    pub split: Split,
    /// Whether documents that cannot be read are left out and counted, rather than an error.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skip_bad_records: bool,
}

/// The field that holds the text unless a recipe names another.
pub(super) fn default_text_field() -> String {
    "text".into()
}

impl CorpusConfig {
    /// A corpus at `path`, read in the default way.
    pub fn new(path: impl Into<String>) -> Self {
        Self { path: path.into(), text_field: default_text_field(), format: None, split: Split::default(), skip_bad_records: false }
    }

    /// The files of this corpus, sorted; a relative path starts at `base`.
    ///
    /// # Errors
    /// When nothing is there, when a folder or glob holds no readable file, or when a single file's format is unknown.
    pub fn files(&self, base: &Path) -> Result<Vec<PathBuf>> {
        if let Some(name) = HubName::of(Path::new(&self.path))? {
            let wanted = |file: &Path| if self.format.is_some() { self.format_of(file).is_ok() } else { known(file).is_some() };
            let local = hub::local_corpus(&name, &wanted)?;
            let path = local.to_str().ok_or_else(|| Error::file(&local, "the Hub's cache needs a path that is valid UTF-8"))?;
            return Self { path: path.into(), ..self.clone() }.files(Path::new(""));
        }
        let path = base.join(&self.path);
        if self.path.is_empty() {
            return Err(Error::usage("a corpus has an empty path"));
        }
        if path.is_dir() {
            let mut files = Vec::new();
            self.search(&path, &mut files, 0)?;
            files.sort();
            if files.is_empty() {
                return Err(Error::file(&path, format!("the folder holds no corpus file; known suffixes are {KNOWN_SUFFIXES}")));
            }
            return Ok(files);
        }
        if path.exists() {
            self.format_of(&path)?;
            return Ok(vec![path]);
        }
        if !self.path.contains(['*', '?', '[']) {
            return Err(Error::file(&path, "no such file, folder or glob match"));
        }
        self.expand(base, &path)
    }

    /// The matches of a glob pattern; matching folders are searched.
    fn expand(&self, base: &Path, path: &Path) -> Result<Vec<PathBuf>> {
        let pattern = if Path::new(&self.path).is_absolute() || base.as_os_str().is_empty() {
            self.path.clone()
        } else {
            let base = base.to_str().ok_or_else(|| Error::file(base, "a glob needs a folder whose name is valid UTF-8"))?;
            format!("{}/{}", glob::Pattern::escape(base.trim_end_matches('/')), self.path)
        };
        let options = glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::default() };
        let matches = glob::glob_with(&pattern, options)
            .map_err(|e| Error::usage(format!("corpus path {:?} is not a valid glob: {e}", self.path)))?;
        let mut files = Vec::new();
        for found in matches {
            let found = found.map_err(|e| {
                let at = e.path().to_path_buf();
                Error::io(at, e.into())
            })?;
            if found.is_dir() {
                self.search(&found, &mut files, 0)?;
            } else if self.format_of(&found).is_ok() {
                files.push(found);
            }
        }
        files.sort();
        files.dedup();
        if files.is_empty() {
            return Err(Error::file(path, format!("the glob matches no corpus file; known suffixes are {KNOWN_SUFFIXES}")));
        }
        Ok(files)
    }

    /// Adds the known files below `folder`; hidden entries are left out.
    fn search(&self, folder: &Path, files: &mut Vec<PathBuf>, depth: usize) -> Result<()> {
        // A loop of symbolic links would never end otherwise.
        if depth > 64 {
            return Err(Error::file(folder, "more than 64 folders deep; is there a loop of symbolic links?"));
        }
        for entry in std::fs::read_dir(folder).at(folder)? {
            let entry = entry.at(folder)?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            if path.is_dir() {
                self.search(&path, files, depth + 1)?;
            } else if known(&path).is_some() {
                files.push(path);
            }
        }
        Ok(())
    }

    /// What `file` holds and how it is compressed.
    ///
    /// # Errors
    /// When neither the suffix nor this configuration tells, or when a Parquet file is compressed as a whole.
    pub fn format_of(&self, file: &Path) -> Result<(Format, Compression)> {
        let (suffix_format, compression) = split_suffix(file);
        let format = self.format.or(suffix_format).ok_or_else(|| {
            Error::file(file, format!("the suffix does not tell the format; known are {KNOWN_SUFFIXES}, or set `format` for this corpus"))
        })?;
        if format == Format::Parquet && compression != Compression::None {
            return Err(Error::file(file, "a Parquet file cannot be read through .gz or .zst; decompress it first"));
        }
        Ok((format, compression))
    }
}

/// The format by the suffix alone; `None` when the file is not one that is read.
fn known(file: &Path) -> Option<Format> {
    match split_suffix(file) {
        (Some(Format::Parquet), compression) if compression != Compression::None => None,
        (format, _) => format,
    }
}

/// The format and compression that the suffixes name.
fn split_suffix(file: &Path) -> (Option<Format>, Compression) {
    let name = file.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let (stem, compression) = match name.rsplit_once('.') {
        Some((stem, "gz")) => (stem, Compression::Gzip),
        Some((stem, "zst")) => (stem, Compression::Zstd),
        _ => (name.as_str(), Compression::None),
    };
    let format = match stem.rsplit_once('.').map(|(_, suffix)| suffix) {
        Some("jsonl" | "ndjson") => Some(Format::Jsonl),
        Some("txt" | "text") => Some(Format::Text),
        Some("parquet") => Some(Format::Parquet),
        _ => None,
    };
    (format, compression)
}
