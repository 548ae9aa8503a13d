//! The training loop.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::checkpoint::{self, State};
use super::metrics::{EvalRecord, Metrics, Record, TrainRecord, unix_time};
use super::observe::{Resources, weight_norms};
use super::optimizer::{Optimizer, first_not_finite, gradient_norm};
use super::run_folder::{ResumePoint, RunFolder};
use super::spikes::SpikeState;
use crate::data::{Batch, TrainStream};
use crate::error::{Error, Result};
use crate::grow::file::format_version;
use crate::grow::ring::Standing;
use crate::model::{Block, Gradients, Model};
use crate::recipe::Recipe;

/// Measures a model after so many steps and returns numbers by name; with [`Error::Interrupted`] it gives up, and is called again on resuming.
pub type Evaluate<'a> = Box<dyn FnMut(&Model, u64) -> Result<Vec<(String, f64)>> + 'a>;

/// What the loop calls while it runs.
pub struct Hooks<'a> {
    /// When true, the loop finishes its step, writes a checkpoint and returns [`Error::Interrupted`].
    pub stop: &'a AtomicBool,
    /// Called when a measurement is due; `None` where there is nothing to measure on.
    pub evaluate: Option<Evaluate<'a>>,
    /// Told of every step and every measurement.
    pub on_record: Box<dyn FnMut(&Record) + 'a>,
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Outcome {
    /// Updates made in the whole run.
    pub steps: u64,
    /// Tokens read in the whole run.
    pub tokens: u64,
    /// Seconds spent training in the whole run.
    pub wall_seconds: f64,
    /// Values that are trained.
    pub trained_parameters: usize,
    /// Documents of the training corpora that could not be read and were left out.
    pub skipped_records: u64,
    /// Steps of the whole run whose updates were left out as spikes.
    pub skipped_steps: u64,
    /// Loss of the last step; `None` where none was left to do.
    pub loss: Option<f64>,
    /// The newest checkpoint.
    pub checkpoint: PathBuf,
}

/// A model being trained in a run folder.
pub struct Trainer {
    recipe: Recipe,
    model: Model,
    stream: TrainStream,
    optimizer: Optimizer,
    gradients: Gradients,
    blocks: Vec<Block>,
    folder: RunFolder,
    metrics: Metrics,
    standing: Standing,
    tokenizer: String,
    step: u64,
    spikes: SpikeState,
    /// Whether this step is still to be measured.
    evaluation_due: bool,
    tokens: u64,
    wall_seconds: f64,
    saved: Option<(u64, PathBuf)>,
}

impl Trainer {
    /// Puts a run together: `recipe` resolved, `model` of [`super::build`], which stands on `standing`, `stream` at its beginning. `resume` is where to go on;
    /// the model must then be the one restored from there.
    ///
    /// # Errors
    /// Whatever reading the optimizer's moments, moving the stream or opening the metrics returns.
    pub fn new(
        recipe: Recipe,
        model: Model,
        mut stream: TrainStream,
        folder: RunFolder,
        standing: Standing,
        tokenizer: String,
        resume: Option<&ResumePoint>,
    ) -> Result<Self> {
        let optimizer = match resume {
            None => Optimizer::new(recipe.train.adamw, model.parameters()),
            Some(point) => Optimizer::from_moments(recipe.train.adamw, checkpoint::load_moments(&point.path, model.parameters())?),
        };
        if let Some(point) = resume {
            stream.restore(&point.state.stream)?;
            if point.state.tokenizer != tokenizer {
                return Err(Error::file(point.path.join(checkpoint::STATE_FILE), "the run was started with another tokenizer"));
            }
        }
        let recipe = recipe.settled(model.growths().last().map(|growth| growth.placement.sink_layers));
        let metrics = folder.begin(&recipe, resume.map(|point| &point.state))?;
        let gradients = Gradients::zeros(model.parameters());
        let mut blocks: Vec<Block> = model.parameters().iter().map(|p| p.block).collect();
        blocks.sort_unstable();
        blocks.dedup();
        let (step, tokens, wall_seconds) = resume.map_or((0, 0, 0.0), |p| (p.state.step, p.state.tokens, p.state.wall_seconds));
        let spikes = resume.and_then(|point| point.state.spikes.clone()).unwrap_or_default();
        let evaluation_due = resume.map_or(recipe.eval.at_start, |point| point.state.evaluation_due);
        let saved = resume.map(|point| (point.state.step, point.path.clone()));
        Ok(Self {
            recipe,
            model,
            stream,
            optimizer,
            gradients,
            blocks,
            folder,
            metrics,
            standing,
            tokenizer,
            step,
            spikes,
            evaluation_due,
            tokens,
            wall_seconds,
            saved,
        })
    }

    /// Trains to the end of the recipe.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after a stop, with everything saved; [`Error::Numeric`] where the loss or a gradient is not finite, the last
    /// checkpoint being kept as it was; and whatever reading data, measuring or writing returns.
    pub fn run(&mut self, hooks: &mut Hooks) -> Result<Outcome> {
        let steps = self.recipe.train.schedule.steps;
        let every = |period: u64, step: u64| period > 0 && step.is_multiple_of(period);
        let mut loss = None;
        loop {
            if self.evaluation_due {
                self.evaluate(hooks)?;
            }
            if self.step >= steps || (self.step > 0 && every(self.recipe.train.checkpoint_every_steps, self.step)) {
                self.save()?;
            }
            if self.step >= steps {
                break;
            }
            if hooks.stop.load(Ordering::Relaxed) {
                return Err(self.interrupted());
            }
            let record = self.one_step()?;
            loss = Some(record.loss);
            self.evaluation_due = every(self.recipe.eval.every_steps, self.step) || self.step == steps;
            self.write(hooks, Record::Train(record))?;
        }
        Ok(Outcome {
            steps: self.step,
            tokens: self.tokens,
            wall_seconds: self.wall_seconds,
            trained_parameters: self.model.parameters().iter().map(|p| p.value.len()).sum(),
            skipped_records: self.stream.caches().map(|cache| cache.skipped().documents).sum(),
            skipped_steps: self.spikes.skipped,
            loss,
            checkpoint: self.save()?,
        })
    }

    /// One update: gradients of the mean loss over the step's targets, clipped, then AdamW; a spike updates nothing.
    fn one_step(&mut self) -> Result<TrainRecord> {
        let start = Instant::now();
        let train = &self.recipe.train;
        let number = self.step + 1;
        let batches: Vec<Batch> =
            (0..train.gradient_accumulation).map(|_| self.stream.next_batch(train.batch_size)).collect::<Result<_>>()?;
        let targets: usize = batches.iter().map(Batch::target_count).sum();
        let tokens: u64 = batches.iter().map(|b| b.tokens.len() as u64).sum();
        if targets == 0 {
            return Err(Error::Numeric(format!(
                "step {number}: no target counts, so there is no loss\n  hint: raise data.sequence_length"
            )));
        }
        self.gradients.clear();
        let mut nll = 0.0;
        let mut before = 0;
        for batch in &batches {
            self.model.place_dropout(number, before);
            before += batch.tokens.len() as u64;
            nll += self.model.loss_and_gradients(batch, &mut self.gradients, 1.0 / targets as f32, train.recompute)?.nll;
        }
        let loss = nll / targets as f64;
        if !loss.is_finite() {
            let cause = first_not_finite(self.model.parameters()).map(|name| format!(" (`{name}` is not finite)")).unwrap_or_default();
            return Err(self.not_finite(format!("the loss is {loss}{cause}")));
        }
        let norm = gradient_norm(self.model.parameters(), &self.gradients).map_err(|error| self.not_finite(error.to_string()))?;
        let limit = train.max_gradient_norm;
        let scale = if limit > 0.0 && norm > limit { (limit / norm) as f32 } else { 1.0 };
        let factor = train.schedule.factor(self.step);
        let rate = |block| train.learning_rates.of(block) * factor;
        let skipped = train.skip_spikes.is_some_and(|config| self.spikes.observe(config, loss, norm));
        if !skipped {
            // The bias corrections count the updates that were made.
            let update = number - self.spikes.skipped;
            let updated = self.optimizer.update(self.model.parameters_mut(), &self.gradients, scale, update, rate);
            updated.map_err(|error| self.not_finite(error.to_string()))?;
        }
        let learning_rates = self.blocks.iter().map(|&block| (block.to_string(), rate(block))).collect();
        let seconds = start.elapsed().as_secs_f64();
        self.step = number;
        self.tokens += tokens;
        self.wall_seconds += seconds;
        Ok(TrainRecord {
            step: number,
            loss,
            gradient_norm: norm,
            learning_rates,
            skipped,
            tokens: self.tokens,
            tokens_per_second: tokens as f64 / seconds.max(1e-9),
            wall_seconds: self.wall_seconds,
            unix_time: unix_time(),
        })
    }

    fn not_finite(&self, what: String) -> Error {
        let kept = match &self.saved {
            Some((_, path)) => format!("the last checkpoint, {}, is as it was", path.display()),
            None => "no checkpoint had been written yet".into(),
        };
        Error::Numeric(format!(
            "step {}: {what}; {kept}\n  hint: a lower train.learning_rate, more train.warmup_steps or a smaller train.max_gradient_norm may help",
            self.step + 1
        ))
    }

    fn evaluate(&mut self, hooks: &mut Hooks) -> Result<()> {
        if let Some(evaluate) = hooks.evaluate.as_mut() {
            let values = match evaluate(&self.model, self.step) {
                Err(Error::Interrupted(_)) => return Err(self.interrupted()),
                other => other?,
            };
            let values = values.into_iter().chain(weight_norms(self.model.parameters()));
            let values = values.map(|(name, value)| (name, value.is_finite().then_some(value))).collect();
            let resources = Some(Resources::now(self.model.parameters()));
            self.write(hooks, Record::Eval(EvalRecord { step: self.step, values, resources, unix_time: unix_time() }))?;
        }
        self.evaluation_due = false;
        Ok(())
    }

    fn write(&mut self, hooks: &mut Hooks, record: Record) -> Result<()> {
        self.metrics.write(&record)?;
        (hooks.on_record)(&record);
        Ok(())
    }

    /// Saves, and says so as the error that a stop is; or says why it could not.
    fn interrupted(&mut self) -> Error {
        let steps = self.recipe.train.schedule.steps;
        match self.save() {
            Ok(path) => {
                Error::Interrupted(format!("step {} of {steps} is saved in {}\n  hint: --resume goes on", self.step, path.display()))
            }
            Err(error) => error,
        }
    }

    /// Writes a checkpoint of this step, unless there is one.
    fn save(&mut self) -> Result<PathBuf> {
        if let Some((step, path)) = &self.saved
            && *step == self.step
        {
            return Ok(path.clone());
        }
        let train = &self.recipe.train;
        let state = State {
            format_version: format_version(&self.standing.rings),
            step: self.step,
            tokens: self.tokens,
            wall_seconds: self.wall_seconds,
            evaluation_due: self.evaluation_due,
            learning_rate_factor: train.schedule.factor(self.step.saturating_sub(1)),
            spikes: train.skip_spikes.map(|_| self.spikes.clone()),
            stream: self.stream.state(),
            base: self.standing.base.clone(),
            rings: self.standing.rings.clone(),
            tokenizer: self.tokenizer.clone(),
            recipe: self.recipe.fingerprint(),
        };
        // Before the checkpoint: lines up to its step are there when it is.
        self.metrics.sync()?;
        let path = self.folder.save(&state, self.model.parameters(), self.optimizer.moments(), train.keep_checkpoints)?;
        self.saved = Some((self.step, path.clone()));
        Ok(path)
    }

    /// The model as it stands.
    pub fn model(&self) -> &Model {
        &self.model
    }
}
