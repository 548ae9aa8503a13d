//! One recipe, trained as `treering train` trains it, with questions asked along the way.

use std::cell::RefCell;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use treering::data::biography::QuestionSet;
use treering::data::{Encode, Encoder, Progress, TrainStream};
use treering::eval::{Question, QuestionResult, leading_token, questions};
use treering::model::{Model, Parameter};
use treering::recipe::Recipe;
use treering::route::Router;
use treering::train::measure::Suite;
use treering::train::metrics::Record;
use treering::train::{Foundation, Hooks, Outcome, RunFolder, Trainer, build, trainer};
use treering::{Error, Result};

use super::world::{SEQUENCE_LENGTH, World};
use crate::cli::progress::Display;

/// Rows of a batch of questions.
const ROWS: usize = 32;

/// A lesson, given or not yet.
pub struct Lesson<'a> {
    /// Name of its recipe.
    pub name: &'static str,
    /// Answers about the old and the new people after so many steps.
    pub answers: Vec<Answers>,
    /// What training came to.
    pub outcome: Option<Outcome>,
    world: &'a World,
    trainer: Option<Trainer>,
}

/// Answers at one time.
pub struct Answers {
    /// Steps taken.
    pub step: u64,
    /// About the people whom the base knew, one entry a head, and one for the default router between two.
    pub old: Vec<QuestionResult>,
    /// About the people who were taught.
    pub new: Vec<QuestionResult>,
}

impl<'a> Lesson<'a> {
    /// The lesson of the recipe `name`.
    pub fn new(name: &'static str, world: &'a World) -> Self {
        Self { name, answers: Vec::new(), outcome: None, world, trainer: None }
    }

    /// The trained values, of a lesson that was given.
    pub fn parameters(&self) -> &[Parameter] {
        self.trainer.as_ref().map_or(&[], |trainer| trainer.model().parameters())
    }

    /// Trains to the end.
    pub fn give(mut self, display: &RefCell<Display>, stop: &AtomicBool) -> Result<Self> {
        let check_stop = || {
            if stop.load(Ordering::Relaxed) {
                Err(Error::Interrupted("the quickstart; remove its folder to start again".into()))
            } else {
                Ok(())
            }
        };
        let recipe = Recipe::load(self.world.recipe(self.name), &[])?;
        let foundation = Foundation::open(&recipe.model.path)?;
        let base = &foundation.base;
        let recipe = recipe.resolve(base.config())?;
        let tokenizer = base.tokenizer()?;
        let leading = leading_token(&tokenizer)?;
        let encoder = Encoder::new(tokenizer)?;
        let mut on_tokens = |_: &Progress| check_stop();
        let cache = self.world.out.join("runs").join("token-cache");
        let stream = TrainStream::new(&recipe.data.stream, Path::new(""), &cache, &encoder, recipe.train.seed, &mut on_tokens)?;
        let suite = Suite::open(&recipe, base, &encoder, leading, &cache, &mut on_tokens)?;
        let asked = [self.world.old.clone(), self.world.new.clone()].map(|range| -> Result<Vec<Question>> {
            let set = QuestionSet::new(&self.world.people, range, &encoder, SEQUENCE_LENGTH)?;
            let split = |q: &treering::data::biography::Question| {
                let (prompt, answer) = q.tokens.split_at(q.answer_start);
                Question { prompt: prompt.to_vec(), answer: answer.to_vec() }
            };
            Ok(set.questions().iter().map(split).collect())
        });
        let [old, new] = asked;
        let (old, new) = (old?, new?);

        let out = self.world.out.join("runs").join(self.name);
        let folder = RunFolder::open(&out)?;
        let model = build::start(&recipe, &foundation, &|_, _| Ok(()))?;
        let steps = recipe.train.schedule.steps;
        let standing = foundation.standing()?;
        let mut trainer = Trainer::new(recipe, model, stream, folder, standing, encoder.fingerprint(), None)?;
        display.borrow_mut().training_at(0, steps);
        let answers = &mut self.answers;
        let evaluate = |model: &Model, step: u64| {
            let total = suite.tokens();
            let results = suite.evaluate(model, &mut |tokens| {
                display.borrow_mut().phase("asking", tokens, total, "");
                check_stop()
            })?;
            let routers = if model.heads().len() > 1 { &[Router::default()][..] } else { &[] };
            let ask = |asked: &[Question]| questions(model, asked, SEQUENCE_LENGTH, ROWS, routers);
            let found = Answers { step, old: ask(&old)?, new: ask(&new)? };
            let mut metrics: Vec<(String, f64)> = results.iter().flat_map(|(group, result)| result.metrics(group)).collect();
            metrics.extend(found.metrics());
            answers.push(found);
            display.borrow_mut().training_at(step, steps);
            Ok(metrics)
        };
        let evaluate: trainer::Evaluate<'_> = Box::new(evaluate);
        let on_record = Box::new(|record: &Record| {
            if let Record::Train(record) = record {
                display.borrow_mut().step(record);
            }
        });
        self.outcome = Some(trainer.run(&mut Hooks { stop, evaluate: Some(evaluate), on_record })?);
        self.trainer = Some(trainer);
        Ok(self)
    }
}

impl Answers {
    /// The answers as named numbers for the run's metrics.
    fn metrics(&self) -> Vec<(String, f64)> {
        let named = |people: &str, results: &[QuestionResult]| -> Vec<(String, f64)> {
            let path = |r: &QuestionResult| format!("questions/{people}/{}", r.head);
            let values = |r: &QuestionResult| {
                [
                    (format!("{}/first_token_accuracy", path(r)), r.first_token_accuracy),
                    (format!("{}/first_token_probability", path(r)), r.first_token_probability),
                    (format!("{}/exact_match", path(r)), r.exact_match),
                ]
            };
            results.iter().flat_map(values).collect()
        };
        [named("old_people", &self.old), named("new_people", &self.new)].concat()
    }
}
