//! The files under a folder of evaluation sets, those inside tar archives included, and which of them holds a task's split.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use glob::{MatchOptions, Pattern};

use super::source::{Split, Wanted};
use crate::error::{Error, IoContext, Result};

/// The largest file that is read, compressed or not: the largest of the sets has a twentieth of it.
pub const MAX_BYTES: u64 = 1 << 30;
/// Folders within folders that are looked into.
const MAX_DEPTH: usize = 8;
/// Files that are looked at before a folder is taken for a wrong one.
const MAX_FILES: usize = 200_000;

/// A folder of evaluation sets.
#[derive(Debug)]
pub struct Library {
    folder: PathBuf,
    entries: Vec<Entry>,
}

/// One file.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its path, for messages; a file in an archive stands below the archive's.
    pub path: PathBuf,
    /// Where it is below the folder, in lower case and without the suffix of its compression.
    name: String,
    /// What it holds, where it stands in an archive.
    content: Option<Arc<Vec<u8>>>,
}

impl Library {
    /// Looks at everything under `folder`.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::File`] for an archive that is damaged, or a folder of too many files to be one of evaluation sets.
    pub fn open(folder: &Path) -> Result<Self> {
        if !folder.is_dir() {
            return Err(Error::usage(format!("{}: no folder of evaluation sets is here", folder.display())));
        }
        let mut library = Self { folder: folder.to_path_buf(), entries: Vec::new() };
        library.look(folder, "", MAX_DEPTH)?;
        // Shards are read in the order of their names, and what is found must not depend on the file system.
        library.entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(library)
    }

    fn look(&mut self, folder: &Path, prefix: &str, depth: usize) -> Result<()> {
        for entry in fs::read_dir(folder).at(folder)? {
            let entry = entry.at(folder)?;
            let path = entry.path();
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy().to_lowercase());
            // A link that leads nowhere is nobody's data.
            let Ok(meta) = fs::metadata(&path) else { continue };
            if meta.is_dir() {
                if depth > 0 && !entry.file_name().to_string_lossy().starts_with('.') {
                    self.look(&path, &format!("{name}/"), depth - 1)?;
                }
            } else if is_archive(&name) {
                self.unpack(&path, &name)?;
            } else if meta.is_file() {
                self.entries.push(Entry { path, name: uncompressed(&name).to_owned(), content: None });
            }
            if self.entries.len() > MAX_FILES {
                return Err(Error::file(
                    &self.folder,
                    format!("holds more than {MAX_FILES} files; give the folder of the evaluation sets alone"),
                ));
            }
        }
        Ok(())
    }

    /// Takes note of an archive's files of data.
    fn unpack(&mut self, path: &Path, name: &str) -> Result<()> {
        let damaged = |error: std::io::Error| Error::file(path, format!("cannot be read as a tar archive: {error}"));
        let handle = BufReader::new(File::open(path).at(path)?);
        let mut archive = tar::Archive::new(decompress(handle, name).map_err(damaged)?.take(MAX_BYTES));
        for member in archive.entries().map_err(damaged)? {
            let mut member = member.map_err(damaged)?;
            if !member.header().entry_type().is_file() {
                continue;
            }
            let inside = member.path().map_err(damaged)?.into_owned();
            let lower = inside.to_string_lossy().to_lowercase();
            let data = ["jsonl", "json", "csv", "tsv", "parquet"].iter().any(|kind| uncompressed(&lower).ends_with(&format!(".{kind}")));
            if !data || member.size() > MAX_BYTES {
                continue;
            }
            let mut content = Vec::new();
            member.read_to_end(&mut content).map_err(damaged)?;
            let name = format!("{name}/{}", uncompressed(&lower));
            self.entries.push(Entry { path: path.join(inside), name, content: Some(Arc::new(content)) });
        }
        Ok(())
    }

    /// The files that hold a split, in order; `None` where there are none. Of several forms of a set the first in the order of
    /// [`Wanted::patterns`] counts.
    ///
    /// # Errors
    /// [`Error::Usage`] where two folders hold it in the same form.
    pub fn find(&self, wanted: &Wanted, split: Split) -> Result<Option<Vec<Entry>>> {
        for pattern in wanted.patterns(split) {
            let found = self.matching(&pattern);
            let Some((first, rest)) = found.split_first() else { continue };
            let other = |entry: &&Entry| entry.path.parent() != first.path.parent() || !entry.name.ends_with(".parquet");
            if let Some(other) = rest.iter().find(|entry| other(entry)) {
                return Err(Error::usage(format!(
                    "{} is there twice: {} and {}; leave one of them in {}",
                    wanted.name,
                    first.path.display(),
                    other.path.display(),
                    self.folder.display()
                )));
            }
            return Ok(Some(found));
        }
        Ok(None)
    }

    /// Files whose path ends as `pattern` says, whole names of folders at a time.
    fn matching(&self, pattern: &str) -> Vec<Entry> {
        let options = MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };
        let Ok(glob) = Pattern::new(&pattern.to_lowercase()) else { return Vec::new() };
        let depth = pattern.matches('/').count();
        let tail = |name: &str| name.rmatch_indices('/').nth(depth).map_or(0, |(at, _)| at + 1);
        self.entries.iter().filter(|entry| glob.matches_with(&entry.name[tail(&entry.name)..], options)).cloned().collect()
    }

    /// The error that a split is missing: what was looked for, and where it can be had.
    pub fn missing(&self, wanted: &Wanted, splits: &[Split]) -> Error {
        let patterns: Vec<String> = splits.iter().flat_map(|&split| wanted.patterns(split)).collect();
        let names: Vec<&str> = splits.iter().map(|split| split.as_str()).collect();
        Error::usage(format!(
            "{}: no {} split in {}; looked for {}\n  hint: {}",
            wanted.name,
            names.join(" or "),
            self.folder.display(),
            patterns.join(", "),
            wanted.origin()
        ))
    }
}

impl Entry {
    /// Everything it holds, decompressed.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::File`] for one that is damaged or too large.
    pub fn read(&self) -> Result<Vec<u8>> {
        let name = self.path.to_string_lossy().to_lowercase();
        let mut bytes = Vec::new();
        let handle: Box<dyn Read + '_> = match &self.content {
            Some(content) => Box::new(content.as_slice()),
            None => Box::new(File::open(&self.path).at(&self.path)?),
        };
        let damaged = |error: std::io::Error| match uncompressed(&name) == name && self.content.is_none() {
            true => Error::io(&self.path, error),
            false => Error::file(&self.path, format!("cannot be decompressed: {error}")),
        };
        let reader = decompress(BufReader::new(handle), &name).map_err(damaged)?;
        reader.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(damaged)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(Error::file(&self.path, format!("holds more than {MAX_BYTES} bytes; is this an evaluation set?")));
        }
        Ok(bytes)
    }

    /// The suffix that tells its format, in lower case.
    pub fn format(&self) -> &str {
        self.name.rsplit_once('.').map_or("", |(_, format)| format)
    }
}

fn is_archive(name: &str) -> bool {
    [".tar", ".tgz"].iter().any(|suffix| uncompressed(name).ends_with(suffix))
}

fn uncompressed(name: &str) -> &str {
    name.strip_suffix(".zst").or_else(|| name.strip_suffix(".gz")).unwrap_or(name)
}

/// What `reader` gives, decompressed as the suffix of `name` says.
fn decompress<'a>(reader: impl std::io::BufRead + 'a, name: &str) -> std::io::Result<Box<dyn Read + 'a>> {
    Ok(if name.ends_with(".zst") {
        Box::new(zstd::stream::read::Decoder::with_buffer(reader)?)
    } else if name.ends_with(".gz") || name.ends_with(".tgz") {
        Box::new(flate2::bufread::MultiGzDecoder::new(reader))
    } else {
        Box::new(reader)
    })
}
