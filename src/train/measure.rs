//! The held-out corpora and tasks of a recipe, measured as it says.

use std::path::Path;

use crate::checkpoint::{BaseCheckpoint, atomic};
use crate::data::{Encode, HeldOut, HeldOutConfig, Progress, Skipped, WindowConfig};
use crate::error::Result;
use crate::eval::suite::{self, Samples, Settings};
use crate::eval::{CorpusResult, Measure, Reference, perplexity};
use crate::model::Model;
use crate::ops::pool::release_unused;
use crate::recipe::Recipe;
use crate::route::Router;
use crate::tokenizer::Tokenizer;

/// What a run is measured on.
pub struct Suite {
    /// Held-out corpora, each with its group: `learn` or `forget`.
    corpora: Vec<(&'static str, HeldOut)>,
    windows: WindowConfig,
    representation: bool,
    /// Measured beside the heads.
    routers: Vec<Router>,
    /// The base that a fully fine-tuned model's representation is compared with.
    base: Option<Model>,
    tasks: Option<Tasks>,
}

/// Multiple-choice tasks, and what asks them.
struct Tasks {
    suite: suite::Suite,
    tokenizer: Tokenizer,
    bos: suite::Bos,
}

impl Suite {
    /// Opens the corpora of `recipe`, tokenising those that are not in `cache_folder` yet. `bos` is put before every document.
    ///
    /// # Errors
    /// Whatever reading a corpus or the base returns.
    pub fn open(
        recipe: &Recipe,
        checkpoint: &BaseCheckpoint,
        encoder: &dyn Encode,
        bos: Option<u32>,
        cache_folder: &Path,
        progress: &mut dyn FnMut(&Progress) -> Result<()>,
    ) -> Result<Self> {
        let mut corpora = Vec::new();
        let groups = [("learn", &recipe.data.learn), ("forget", &recipe.data.forget)];
        let configs = groups.iter().flat_map(|(group, list)| list.iter().map(|config| (*group, config)));
        for (group, config) in configs.collect::<Vec<(&'static str, &HeldOutConfig)>>() {
            corpora.push((group, HeldOut::open(config, Path::new(""), cache_folder, encoder, progress)?));
        }
        let eval = &recipe.eval;
        // A widened model carries its base with it, and a pair has it beside.
        let needs_base = eval.representation && !recipe.has_two_heads() && !corpora.is_empty();
        let base = if needs_base { Some(Model::from_base(checkpoint, recipe.model.dtype, false)?) } else { None };
        let windows = WindowConfig { window: eval.window, stride: eval.stride, batch_size: eval.batch_size, bos };
        let tasks = match &eval.suite {
            Some(config) => Some(Tasks {
                suite: suite::Suite::open(&config.data, config.selection()?, config.limit)?,
                tokenizer: checkpoint.tokenizer()?,
                bos: config.bos,
            }),
            None => None,
        };
        Ok(Self { corpora, windows, representation: eval.representation, routers: recipe.routers.clone(), base, tasks })
    }

    /// Whether there is nothing to measure on.
    pub fn is_empty(&self) -> bool {
        self.corpora.is_empty() && self.tasks.is_none()
    }

    /// Names of the corpora with documents that could not be read, and which these are.
    pub fn skipped(&self) -> impl Iterator<Item = (&str, &Skipped)> {
        self.corpora.iter().map(|(_, corpus)| (corpus.name(), corpus.skipped())).filter(|(_, skipped)| skipped.documents > 0)
    }

    /// Tokens in all corpora.
    pub fn tokens(&self) -> u64 {
        self.corpora.iter().map(|(_, corpus)| corpus.tokens()).sum()
    }

    /// Measures `model` on every corpus; `progress` is told how many tokens of all are scored, and ends the measurement with an error.
    ///
    /// # Errors
    /// Whatever scoring or `progress` returns.
    pub fn evaluate(&self, model: &Model, progress: &mut dyn FnMut(u64) -> Result<()>) -> Result<Vec<(&'static str, CorpusResult)>> {
        let reference = match (&self.base, self.representation) {
            (_, false) => Reference::None,
            (Some(base), true) => Reference::Model(base),
            (None, true) => Reference::Preservation,
        };
        let measure = Measure { windows: self.windows, reference, routers: &self.routers };
        let mut before = 0;
        let mut results = Vec::new();
        release_unused();
        for (group, corpus) in &self.corpora {
            let result = perplexity(model, corpus, measure, None, &mut |tokens| progress(before + tokens))?;
            before += result.scored_tokens;
            results.push((*group, result));
        }
        release_unused();
        Ok(results)
    }

    /// Asks `model`, as it is after `step` steps, the multiple-choice tasks, and returns numbers by name; none where there are no tasks. Every item is
    /// written to a file in `folder`, from which a measurement that was stopped goes on; `progress` is told how many items of how many are done.
    ///
    /// # Errors
    /// Whatever asking, writing or `progress` returns.
    pub fn evaluate_tasks(
        &self,
        model: &Model,
        step: u64,
        folder: &Path,
        progress: &mut dyn FnMut(u64, u64) -> Result<()>,
    ) -> Result<Vec<(String, f64)>> {
        let Some(Tasks { suite, tokenizer, bos }) = &self.tasks else { return Ok(Vec::new()) };
        let settings = Settings { routers: &self.routers, bos: *bos, batch_tokens: suite::BATCH_TOKENS };
        let header = suite.header(model, settings, &format!("step {step}"))?;
        atomic::create_folders(folder)?;
        let path = folder.join(format!("step-{step:06}.jsonl"));
        let mut samples = if Samples::fits(&path, &header)? { Samples::resume(&path, &header) } else { Samples::create(&path, &header) }?;
        let result = suite.evaluate(model, tokenizer, settings, Some(&mut samples), &mut |p| progress(p.done as u64, p.total as u64))?;
        Ok(result.metrics())
    }
}
