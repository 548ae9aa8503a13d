//! Multiple-choice tasks, with the numbers of lm-evaluation-harness.
//!
//! 1. [`task`]: which tasks there are. [`source`]: their splits and files. [`library`]: the files of a folder. [`record`]: their rows.
//! 2. [`item`]: an item of any task, made by one file a family (`arc`, `hellaswag`, `mmlu`, `winogrande`, `truthfulqa`, `kobest`).
//! 3. [`data`]: a task's items with the examples before each, drawn with [`python`]'s random numbers.
//! 4. [`request`]: from texts to tokens. [`score`]: from tokens to log-likelihoods, with what prompts have in common computed once.
//! 5. [`metric`]: from log-likelihoods to metrics. [`samples`]: every item on disk, to go on from. [`result`]: all of it together.

mod arc;
pub mod data;
mod hellaswag;
pub mod item;
mod kobest;
pub mod library;
pub mod metric;
mod mmlu;
pub mod python;
pub mod record;
pub mod request;
pub mod result;
pub mod samples;
pub mod score;
pub mod selection;
pub mod source;
pub mod task;
#[cfg(test)]
mod tests;
mod truthfulqa;
mod winogrande;

use std::path::Path;
use std::time::Instant;

use sha2::{Digest, Sha256};

use super::Speaker;
use crate::error::Result;
use crate::files::hex;
use crate::model::{Extras, Forest, Model};
use crate::ops::pool::release_unused;
use crate::route::{self, Router};
use crate::tokenizer::Tokenizer;
pub use data::TaskData;
pub use library::Library;
use metric::{ItemResult, of_item, of_task};
pub use request::{Bos, Prompter, Request};
pub use result::{SpeakerResult, SuiteResult, TaskResult};
pub use samples::{Header, Samples};
use score::ItemScores;
pub use selection::{Group, Selection};
pub use task::{Metric, Task};

/// Tasks, read and ready to be asked of any model.
#[derive(Debug)]
pub struct Suite {
    selection: Selection,
    tasks: Vec<TaskData>,
}

/// How a suite is asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings<'a> {
    /// Measured beside the heads.
    pub routers: &'a [Router],
    /// Whether a token begins every prompt.
    pub bos: Bos,
    /// Tokens that a forward pass has at least, where there are so many.
    pub batch_tokens: usize,
}

/// The tokens of a forward pass, unless others are asked for: enough for the products to be fast, few enough to stop soon.
pub const BATCH_TOKENS: usize = 2048;

/// Tokens by which a model's weights are told from others.
const PROBE: usize = 32;

/// How far a suite is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The task.
    pub task: Task,
    /// Items done of all tasks.
    pub done: usize,
    /// Items of all tasks.
    pub total: usize,
}

impl Suite {
    /// Reads the tasks from the files under `folder`, of each the first `limit` items.
    ///
    /// # Errors
    /// As [`Library::open`] and [`TaskData::load`].
    pub fn open(folder: &Path, selection: Selection, limit: Option<usize>) -> Result<Self> {
        let library = Library::open(folder)?;
        let load = |&(task, few_shot): &(Task, usize)| TaskData::load(&library, task, few_shot, limit);
        let tasks = selection.tasks.iter().map(load).collect::<Result<_>>()?;
        Ok(Self { selection, tasks })
    }

    /// The tasks.
    pub fn tasks(&self) -> &[TaskData] {
        &self.tasks
    }

    /// Items of all tasks.
    pub fn items(&self) -> usize {
        self.tasks.iter().map(|task| task.items.len()).sum()
    }

    /// The first line of a samples file about a model, described by its path or step. It is another for other weights or arithmetic: what the
    /// heads make of a few tokens, to the bit, is part of its hash.
    ///
    /// # Errors
    /// As [`Model::score_forest`].
    pub fn header(&self, model: &Model, settings: Settings<'_>, description: &str) -> Result<Header> {
        let mut hash = Sha256::new();
        let heads: Vec<String> = speakers(model, settings.routers).iter().map(ToString::to_string).collect();
        hash.update(format!("{:?} {}", settings.bos, heads.join(",")));
        let (vocabulary, length) = (model.config().vocab_size as u64, model.config().max_position_embeddings.min(PROBE));
        let probe: Vec<u32> = (0..length as u64).map(|i| (i * 7919 % vocabulary) as u32).collect();
        let mut forest = Forest::new();
        forest.add(&probe, 1);
        for values in model.score_forest(&forest, Extras::default())?.log_probs {
            values.iter().for_each(|value| hash.update(value.to_le_bytes()));
        }
        self.tasks.iter().for_each(|task| hash.update(&task.fingerprint));
        let fingerprint = hex(hash.finalize());
        Ok(Header { version: Header::VERSION, model: description.to_owned(), heads, fingerprint })
    }

    /// Asks a model everything. With `samples` every item is written there, and what stands there already is not asked again. `progress` hears of
    /// every batch, after it was written, and ends the evaluation with an error.
    ///
    /// # Errors
    /// Routers for a model with one head, a choice that the model cannot take, and whatever scoring, writing or `progress` returns.
    pub fn evaluate(
        &self,
        model: &Model,
        tokenizer: &Tokenizer,
        settings: Settings<'_>,
        mut samples: Option<&mut Samples>,
        progress: &mut dyn FnMut(Progress) -> Result<()>,
    ) -> Result<SuiteResult> {
        route::check(model, settings.routers)?;
        let prompter = Prompter::new(tokenizer, settings.bos, model.config().max_position_embeddings);
        let speakers = speakers(model, settings.routers);
        let (mut before, total) = (0, self.items());
        let mut results = Vec::with_capacity(self.tasks.len());
        release_unused();
        for data in &self.tasks {
            let task = data.task;
            let started = Instant::now();
            let mut scores = samples.as_mut().map_or(Vec::new(), |samples| samples.take(task));
            let known = scores.len().min(data.items.len());
            progress(Progress { task, done: before + known, total })?;
            score::score(model, &prompter, data, settings.routers, settings.batch_tokens, known, &mut |batch| {
                for item in &batch {
                    if let Some(samples) = samples.as_mut() {
                        samples.write(task, &data.items[item.index].gold, item, &of_speakers(data, item, &speakers))?;
                    }
                }
                scores.extend(batch);
                progress(Progress { task, done: before + scores.len(), total })
            })?;
            before += data.items.len();
            let measured = (data.items.len() - known, started.elapsed().as_secs_f64());
            results.push(task_result(data, &scores, &speakers, measured));
        }
        release_unused();
        Ok(SuiteResult::new(settings.bos, results, &self.selection))
    }
}

/// The heads of a model, then the routers.
fn speakers(model: &Model, routers: &[Router]) -> Vec<Speaker> {
    model.heads().iter().map(|&head| Speaker::Head(head)).chain(routers.iter().map(|&router| Speaker::Router(router))).collect()
}

fn of_speakers(data: &TaskData, scores: &ItemScores, speakers: &[Speaker]) -> Vec<(Speaker, ItemResult)> {
    let item = &data.items[scores.index];
    speakers.iter().zip(&scores.log_likelihoods).map(|(&speaker, lls)| (speaker, of_item(data.task, item, lls))).collect()
}

fn task_result(data: &TaskData, scores: &[ItemScores], speakers: &[Speaker], measured: (usize, f64)) -> TaskResult {
    let items: Vec<Vec<(Speaker, ItemResult)>> = scores.iter().map(|item| of_speakers(data, item, speakers)).collect();
    let of = |(index, &head): (usize, &Speaker)| {
        let results: Vec<ItemResult> = items.iter().map(|item| item[index].1).collect();
        SpeakerResult { head, metrics: of_task(data.task, &data.items, &results) }
    };
    TaskResult {
        task: data.task,
        split: source::Wanted::new(data.task).measured(),
        items: data.items.len(),
        few_shot: data.few_shot,
        few_shot_split: data.pool_split,
        truncated_items: scores.iter().filter(|item| item.truncated).count(),
        results: speakers.iter().enumerate().map(of).collect(),
        measured_items: measured.0,
        seconds: measured.1,
    }
}
