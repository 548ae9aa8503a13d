//! Which files a corpus consists of, and how they are to be read.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, IoContext, Result};
use crate::files::here;
use crate::files::pattern::{PathPattern, Places, WILDCARDS};
use crate::hub::{self, HubName};

/// Suffixes that are read, as error messages name them.
const KNOWN_SUFFIXES: &str = ".jsonl, .ndjson, .txt, .text (each also with .gz or .zst) and .parquet";

/// Folders that are searched within each other.
const MAX_DEPTH: usize = 64;

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
            let files = self.search(&path, &PathPattern::default())?;
            if files.is_empty() {
                return Err(Error::file(&path, format!("the folder holds no corpus file; known suffixes are {KNOWN_SUFFIXES}")));
            }
            return Ok(files);
        }
        if path.exists() {
            self.format_of(&path)?;
            return Ok(vec![path]);
        }
        if !self.path.contains(WILDCARDS) {
            return Err(Error::file(&path, "no such file, folder or glob match"));
        }
        let pattern =
            PathPattern::new(&self.path).map_err(|e| Error::usage(format!("corpus path {:?} is not a valid glob: {e}", self.path)))?;
        let files = self.search(&base.join(&pattern.root), &pattern)?;
        if files.is_empty() {
            return Err(Error::file(path, format!("the glob matches no corpus file; known suffixes are {KNOWN_SUFFIXES}")));
        }
        Ok(files)
    }

    /// What a pattern matches below `root`, sorted; of a folder that it matches the known files in it and below, hidden ones left out.
    fn search(&self, root: &Path, pattern: &PathPattern) -> Result<Vec<PathBuf>> {
        let mut search = Search { corpus: self, pattern, files: Vec::new(), above: Vec::new() };
        if here(root).is_dir() {
            search.folder(root, &pattern.start(), false)?;
        }
        search.files.sort();
        Ok(search.files)
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

/// A walk down a tree.
struct Search<'a> {
    corpus: &'a CorpusConfig,
    pattern: &'a PathPattern,
    files: Vec<PathBuf>,
    /// The folders that we are in.
    above: Vec<PathBuf>,
}

impl Search<'_> {
    /// Adds what is in `folder` and below: what the pattern matches, or `all` known files.
    fn folder(&mut self, folder: &Path, places: &Places, all: bool) -> Result<()> {
        let all = all || self.pattern.matches(places, true);
        let real = here(folder).canonicalize().at(folder)?;
        // A link back to where we are has nothing that isn't found anyway, and no end.
        if self.above.contains(&real) {
            return Ok(());
        }
        if self.above.len() > MAX_DEPTH {
            return Err(Error::file(folder, format!("more than {MAX_DEPTH} folders deep")));
        }
        self.above.push(real);
        for entry in std::fs::read_dir(here(folder)).at(folder)? {
            let name = entry.at(folder)?.file_name();
            let path = folder.join(&name);
            let name = name.to_string_lossy();
            let places = self.pattern.step(places, &name);
            let all = all && !name.starts_with('.');
            if path.is_dir() {
                if all || !places.is_empty() {
                    self.folder(&path, &places, all)?;
                }
            } else if all && known(&path).is_some() || self.pattern.matches(&places, false) && self.corpus.format_of(&path).is_ok() {
                self.files.push(path);
            }
        }
        self.above.pop();
        Ok(())
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
