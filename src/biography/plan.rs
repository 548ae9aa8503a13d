//! What a benchmark will take, from sizes alone: nothing is made, read or allocated but a tokenizer that was given.

use std::path::Path;

use serde::Serialize;

use super::protocol::Setup;
use super::run::changes;
use super::stage::Stage;
use crate::checkpoint::Config;
use crate::error::Result;
use crate::grow::Growth;
use crate::grow::plan::{Plan, Products};
use crate::recipe::{MethodKind, Recipe};
use crate::tokenizer::Tokenizer;
use crate::train::foundation::Foundation;

/// What one stage takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StagePlan {
    /// Its name.
    pub stage: String,
    /// The method's name in recipes.
    pub method: &'static str,
    /// Updates.
    pub steps: u64,
    /// Tokens read in all of them.
    pub tokens: u64,
    /// Values that never change.
    pub frozen_parameters: u64,
    /// Values that are trained.
    pub trained_parameters: u64,
    /// The most memory, estimated.
    pub peak_memory_bytes: u64,
    /// Floating-point operations of training.
    pub training_flops: f64,
    /// Those of asking questions, along the way and at the end.
    pub asking_flops: f64,
    /// Seconds of both at the measured speed; absent where none was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

/// Plans every stage of `methods` and `tasks` tasks. `products` is what matrix products reach on the machine.
///
/// # Errors
/// [`crate::Error::Usage`] where there are too few people, a change names a wrong key, or sizes do not fit.
pub fn plan(setup: &Setup, methods: &[MethodKind], tasks: u64, set: &[String], products: Option<Products>) -> Result<Vec<StagePlan>> {
    let protocol = setup.protocol(tasks)?;
    let mut config = protocol.config.clone();
    if let Some(path) = &setup.tokenizer {
        config.vocab_size = Tokenizer::from_file(path)?.vocab_size();
    }
    let mut stages = Vec::new();
    // What a method made of the base so far: a longer base, or rings around it.
    let (mut bases, mut rings): (Vec<Config>, Vec<Vec<Growth>>) = (vec![config.clone(); methods.len()], vec![Vec::new(); methods.len()]);
    for stage in Stage::all(methods, tasks) {
        let text = stage.recipe(setup, &protocol, 0);
        let recipe = Recipe::parse(&text, Path::new("/"), &changes(set, stage))?;
        let at = match stage {
            Stage::Task(kind, _) => methods.iter().position(|&method| method == kind),
            _ => None,
        };
        let (base, inner) = at.map_or((&config, &[][..]), |index| (&bases[index], &rings[index][..]));
        let method = recipe.method(base)?;
        Foundation::check_method(base, inner.len(), &method)?;
        let length = recipe.data.stream.sequence_length;
        let batch_size = recipe.train.batch_size;
        let plan = Plan::new(&recipe.request(base, inner, &method))?;
        let steps = recipe.train.schedule.steps;
        let tokens = steps.saturating_mul((batch_size * length * recipe.train.gradient_accumulation) as u64);
        let times = steps.checked_div(recipe.eval.every_steps).unwrap_or(0) + u64::from(recipe.eval.at_start);
        let people = |most: u64| (0..=stage.task()).map(|task| protocol.asked(task)).map(|r| (r.end - r.start).min(most)).sum::<u64>();
        let question = protocol.task_lesson.sequence_length as u64 * setup.attributes.len() as u64;
        let asked = question * (times.saturating_sub(1) * people(protocol.asked_along) + people(protocol.asked_at_end));
        let flops = plan.flops_per_token;
        let training_flops = tokens as f64 * flops.total as f64;
        let asking_flops = asked as f64 * flops.forward.total() as f64;
        stages.push(StagePlan {
            stage: stage.name(),
            method: recipe.method.kind.as_str(),
            steps,
            tokens,
            frozen_parameters: plan.frozen_parameters,
            trained_parameters: plan.trained_parameters,
            peak_memory_bytes: plan.memory_bytes.peak,
            training_flops,
            asking_flops,
            seconds: products.map(|products| (training_flops + asking_flops) / products.in_training()),
        });
        if let Some(index) = at {
            match (method.growth(), method.baseline()) {
                (Some(growth), _) => rings[index].push(growth.clone()),
                (None, Some(baseline)) => bases[index] = baseline.model_config(&bases[index]),
                (None, None) => {}
            }
        }
    }
    Ok(stages)
}
