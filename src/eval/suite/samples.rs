//! What every item came to, one JSON object a line: for readers, and to go on from after a stop.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::item::Gold;
use super::metric::ItemResult;
use super::score::ItemScores;
use super::task::Task;
use crate::error::{Error, IoContext, Result};
use crate::eval::Speaker;

/// The first line of a file: what its other lines are about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The version of these fields; it grows when one changes its meaning.
    pub version: u32,
    /// What was measured, in words.
    pub model: String,
    /// The heads and routers, in the order of each item's results.
    pub heads: Vec<String>,
    /// A hash of everything that decides the results: weights, arithmetic, items, examples, routers.
    pub fingerprint: String,
}

impl Header {
    /// The version of the lines.
    pub const VERSION: u32 = 1;

    /// Whether it is about the same, wherever the model lies.
    fn fits(&self, other: &Self) -> bool {
        (self.version, &self.heads, &self.fingerprint) == (other.version, &other.heads, &other.fingerprint)
    }
}

/// A line about an item.
#[derive(Serialize)]
struct Line<'a> {
    task: Task,
    index: usize,
    gold: Right<'a>,
    truncated: bool,
    results: Vec<Outcome<'a>>,
}

/// The right choice, or for each choice whether it is true.
#[derive(Serialize)]
#[serde(untagged)]
enum Right<'a> {
    Index(usize),
    Labels(&'a [bool]),
}

/// What a head or router made of it.
#[derive(Serialize)]
struct Outcome<'a> {
    head: Speaker,
    log_likelihoods: &'a [f32],
    #[serde(flatten)]
    result: ItemResult,
}

/// A line as far as it is read again.
#[derive(Deserialize)]
struct ReadLine {
    task: String,
    index: usize,
    truncated: bool,
    results: Vec<ReadOutcome>,
}

#[derive(Deserialize)]
struct ReadOutcome {
    log_likelihoods: Vec<f32>,
}

/// A file of samples that is being written.
#[derive(Debug)]
pub struct Samples {
    path: PathBuf,
    file: File,
    done: BTreeMap<String, Vec<ItemScores>>,
}

impl Samples {
    /// A new file; what was there is replaced.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(path: &Path, header: &Header) -> Result<Self> {
        let file = File::create(path).at(path)?;
        let mut samples = Self { path: path.to_path_buf(), file, done: BTreeMap::new() };
        samples.line(header)?;
        Ok(samples)
    }

    /// A file to go on with: its whole lines are kept, half a line at its end is not. Where there is none yet, a new one.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] where it is about something else, or a line in it is damaged.
    pub fn resume(path: &Path, header: &Header) -> Result<Self> {
        if !path.exists() {
            return Self::create(path, header);
        }
        let file = File::options().read(true).write(true).open(path).at(path)?;
        let mut samples = Self { path: path.to_path_buf(), file, done: BTreeMap::new() };
        let whole = samples.read(header)?;
        if whole == 0 {
            return Self::create(path, header);
        }
        samples.file.set_len(whole).at(path)?;
        samples.file.seek(SeekFrom::End(0)).at(path)?;
        Ok(samples)
    }

    /// Whether a file is about the same; `false` where there is none.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn fits(path: &Path, header: &Header) -> Result<bool> {
        if !path.exists() {
            return Ok(false);
        }
        let mut line = String::new();
        // Bytes that are no text are no header either.
        let read = BufReader::new(File::open(path).at(path)?).read_line(&mut line);
        Ok(read.is_ok() && serde_json::from_str::<Header>(&line).is_ok_and(|found| found.fits(header)))
    }

    /// Reads all lines and returns how many bytes the whole ones are.
    fn read(&mut self, header: &Header) -> Result<u64> {
        let (mut reader, mut bytes, mut line, mut number) = (BufReader::new(&self.file), 0, Vec::new(), 0);
        loop {
            line.clear();
            let length = reader.read_until(b'\n', &mut line).at(&self.path)?;
            if length == 0 || line.last() != Some(&b'\n') {
                return Ok(bytes);
            }
            number += 1;
            let damaged = |error: serde_json::Error| Error::file(&self.path, format!("line {number}: {error}"));
            if number == 1 {
                let found: Header = serde_json::from_slice(&line).map_err(|_| {
                    Error::file(&self.path, "its first line is not that of a samples file; --samples without --resume would replace it")
                })?;
                if !found.fits(header) {
                    return Err(Error::file(
                        &self.path,
                        format!(
                            "is about something else ({}), or the model, the data, the examples or the routers have changed\n  hint: leave out --resume to begin anew, or name another file with --samples",
                            found.model
                        ),
                    ));
                }
            } else {
                let ReadLine { task, index, truncated, results } = serde_json::from_slice(&line).map_err(damaged)?;
                let items = self.done.entry(task).or_default();
                if index != items.len() || results.len() != header.heads.len() {
                    return Err(Error::file(
                        &self.path,
                        format!("line {number}: item {index} is out of its order, or lacks a head's results"),
                    ));
                }
                let log_likelihoods = results.into_iter().map(|outcome| outcome.log_likelihoods).collect();
                items.push(ItemScores { index, log_likelihoods, truncated });
            }
            bytes += length as u64;
        }
    }

    /// Items of a task that were measured before.
    pub fn take(&mut self, task: Task) -> Vec<ItemScores> {
        self.done.remove(task.name).unwrap_or_default()
    }

    /// Appends an item.
    ///
    /// # Errors
    /// [`Error::Io`] (a full disk).
    pub fn write(&mut self, task: Task, gold: &Gold, scores: &ItemScores, results: &[(Speaker, ItemResult)]) -> Result<()> {
        let gold = match gold {
            Gold::Index(gold) => Right::Index(*gold),
            Gold::Labels(labels) => Right::Labels(labels),
        };
        let outcomes = results.iter().zip(&scores.log_likelihoods);
        let results = outcomes.map(|(&(head, result), log_likelihoods)| Outcome { head, log_likelihoods, result }).collect();
        self.line(&Line { task, index: scores.index, gold, truncated: scores.truncated, results })
    }

    fn line(&mut self, value: &impl Serialize) -> Result<()> {
        let mut line =
            serde_json::to_string(value).map_err(|error| Error::file(&self.path, format!("an item cannot be written as JSON: {error}")))?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).at(&self.path)
    }
}
