//! A task's items and the examples before them, read from a folder.

use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::item::{Item, description};
use super::library::Library;
use super::python::Random;
use super::record::{self, Record};
use super::source::{Split, Wanted};
use super::task::{Family, Task};
use super::{mmlu, truthfulqa};
use crate::error::{Error, Result};
use crate::files::hex;

/// The seed of every task's examples.
const SEED: u32 = 1234;

/// A task, ready to be asked.
#[derive(Debug)]
pub struct TaskData {
    /// The task.
    pub task: Task,
    /// Examples before each question.
    pub few_shot: usize,
    /// Where the examples come from; `None` at zero.
    pub pool_split: Option<Split>,
    /// What is measured on, at most as many as were asked for.
    pub items: Vec<Item>,
    /// The files that were read.
    pub files: Vec<PathBuf>,
    /// A hash of what decides the prompts: items, examples and their number.
    pub fingerprint: String,
    description: String,
    pool: Vec<Item>,
    /// The examples of each item, by their place in the pool.
    shots: Vec<Vec<usize>>,
}

impl TaskData {
    /// Reads the first `limit` items of a task, and draws the examples before each as lm-evaluation-harness does.
    ///
    /// # Errors
    /// [`Error::Usage`] where data is missing or there are fewer examples than were asked for; [`Error::File`] naming a malformed line.
    pub fn load(library: &Library, task: Task, few_shot: usize, limit: Option<usize>) -> Result<Self> {
        let wanted = Wanted::new(task);
        let mut files = Vec::new();
        let mut hash = Sha256::new();
        let measured = wanted.measured();
        let Some(items) = read(library, &wanted, measured, limit.unwrap_or(usize::MAX), &mut files, &mut hash)? else {
            return Err(library.missing(&wanted, &[measured]));
        };
        if items.is_empty() {
            return Err(Error::usage(format!("{task}: no item in {}", shown(&files))));
        }
        let (mut pool, mut pool_split) = (Vec::new(), None);
        if few_shot > 0 {
            for &split in wanted.pools() {
                if let Some(found) = read(library, &wanted, split, usize::MAX, &mut files, &mut hash)? {
                    (pool, pool_split) = (found, Some(split));
                    break;
                }
            }
            if pool_split.is_none() {
                return Err(library.missing(&wanted, wanted.pools()));
            }
        }
        hash.update(format!("{task} {few_shot} {}", items.len()));
        let fingerprint = hex(hash.finalize());
        let mut data =
            Self { task, few_shot, pool_split, items, files, fingerprint, description: description(task), pool, shots: Vec::new() };
        if let Some(split) = pool_split {
            data.shots = data.draw(split, measured)?;
        }
        Ok(data)
    }

    /// The examples of each item in turn, from one stream of random numbers.
    fn draw(&self, split: Split, measured: Split) -> Result<Vec<Vec<usize>>> {
        let (n, pool) = (self.few_shot, self.pool.len());
        // Where an item may meet itself, one more is drawn and the item taken out.
        let apart = matches!(self.task.family, Family::HellaSwag | Family::WinoGrande) || split == measured;
        let first = self.task.family == Family::Mmlu;
        let most = if apart && !first { pool.saturating_sub(1) } else { pool };
        if n > most {
            return Err(Error::usage(format!(
                "{}: {n} examples were asked for, and the {} split has {pool} items, of which {most} can stand before a question\n  hint: --few-shot {}:{most} or fewer",
                self.task,
                split.as_str(),
                self.task
            )));
        }
        if first {
            return Ok(vec![(0..n).collect(); self.items.len()]);
        }
        let too_few = || Error::usage(format!("{}: its pool of {pool} examples has too few that differ from an item", self.task));
        let mut random = Random::new(SEED);
        let mut draw_one = |item: &Item| -> Result<Vec<usize>> {
            if !apart {
                return random.sample(pool, n).ok_or_else(too_few);
            }
            let differs = |&at: &usize| self.pool[at].record != item.record;
            let drawn: Vec<usize> = random.sample(pool, n + 1).ok_or_else(too_few)?.into_iter().filter(differs).take(n).collect();
            if drawn.len() == n {
                return Ok(drawn);
            }
            // A pool that holds the item several times.
            let rest: Vec<usize> = (0..pool).filter(differs).collect();
            Ok(random.sample(rest.len(), n).ok_or_else(too_few)?.into_iter().map(|at| rest[at]).collect())
        };
        self.items.iter().map(&mut draw_one).collect()
    }

    /// The split that examples come from where it is there.
    pub fn usual_pool(&self) -> Split {
        Wanted::new(self.task).pools().first().copied().unwrap_or(Split::Train)
    }

    /// What stands before an item's own text: the description and the examples.
    pub fn prefix(&self, index: usize) -> String {
        let shots = self.shots.get(index).into_iter().flatten();
        shots.fold(self.description.clone(), |text, &at| text + &self.pool[at].shot())
    }
}

fn shown(files: &[PathBuf]) -> String {
    files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The items of a split; `None` where no file holds it.
fn read(
    library: &Library,
    wanted: &Wanted,
    split: Split,
    limit: usize,
    files: &mut Vec<PathBuf>,
    hash: &mut Sha256,
) -> Result<Option<Vec<Item>>> {
    let Some(entries) = library.find(wanted, split)? else { return Ok(None) };
    let mut items: Vec<Item> = Vec::new();
    for entry in &entries {
        let left = limit - items.len();
        if left == 0 {
            break;
        }
        let records: Vec<Record> = match wanted.task().family {
            Family::TruthfulQaMc1 | Family::TruthfulQaMc2 => truthfulqa::read(entry, left)?,
            Family::Mmlu if entry.format() == "csv" => record::read(entry, Some(&mmlu::COLUMNS), left)?,
            _ => record::read(entry, None, left)?,
        };
        for record in records {
            hash.update(serde_json::Value::Object(record.values.clone()).to_string());
            items.push(Item::of(wanted.task(), record)?);
        }
        files.push(entry.path.clone());
    }
    Ok(Some(items))
}
