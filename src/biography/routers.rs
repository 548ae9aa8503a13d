//! The routers `gate` and `recall` in the benchmark: what they ask is made once a stage is finished, and then they are asked like any other.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::ask::{Asked, speaker};
use crate::checkpoint::atomic;
use crate::error::{Error, IoContext, Result};
use crate::route::lesson::{Lesson, OnPhase, teach};
use crate::route::recall::RecallSettings;
use crate::route::{Gate, Recall, Router};
use crate::train::RunFolder;
use crate::train::build;
use crate::train::foundation::Moved;
use crate::train::session::token_cache;

/// What they answered, beside the run's metrics.
pub const FILE: &str = "router-answers.json";

/// As `treering gate` has it, but of a handful of people no more than once, and no more of what the model says than of them.
fn lesson(asked: &[Asked]) -> Lesson {
    let most = Lesson::default();
    let new_tokens = asked.last().map_or(most.new_tokens, Asked::tokens).clamp(1, most.new_tokens);
    Lesson { new_tokens, samples: (new_tokens / most.sample_tokens).clamp(Lesson::FEWEST_SAMPLES, most.samples), ..most }
}

/// What the two answered at the end of a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouterAnswers {
    /// Updates of the checkpoint that it belongs to.
    pub step: u64,
    /// Numbers by name, as [`Asked::ask`] gives them.
    pub values: BTreeMap<String, Option<f64>>,
}

impl RouterAnswers {
    /// Those kept in the folder of a run, where they are of its newest checkpoint and that still has what the routers ask.
    ///
    /// # Errors
    /// [`Error::File`] for a file that holds something else, and whatever reading returns.
    pub fn read(run: &Path) -> Result<Option<Self>> {
        let path = run.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).at(&path)?;
        let found: Self = serde_json::from_str(&text)
            .map_err(|error| Error::file(&path, format!("no answers of routers: {error}\n  hint: without the file they are asked anew")))?;
        let newest = RunFolder::checkpoints(run)?.pop();
        let fits = match newest {
            Some((step, checkpoint)) => step == found.step && Gate::is_in(&checkpoint) && Recall::is_in(&checkpoint),
            None => false,
        };
        Ok(fits.then_some(found))
    }

    /// Makes a gate and a recall for the newest checkpoint of the run where they are not there yet, puts them there, and asks the routers the questions of `asked`.
    ///
    /// # Errors
    /// Whatever opening the run, making the two or asking returns; what `progress` does. Nothing is left half written.
    pub fn make(run: &Path, asked: &[Asked], progress: OnPhase<'_>) -> Result<()> {
        let opened = build::open_checkpoint(run, None, Moved { base: None, rings: &[] })?;
        let mut model = build::restore(&opened.recipe, &opened.foundation, &opened.path)?;
        model.freeze();
        opened.foundation.load_recalls(&mut model)?;
        let tokenizer = opened.foundation.base.tokenizer()?;
        let (stream, cache) = (&opened.recipe.data.stream, token_cache(run));
        // What lies there already was made, or replaced, by someone who wants it asked.
        let recall = match Recall::load(&opened.path)? {
            Some(recall) => recall,
            None => {
                let recall = Recall::of_text(tokenizer.clone(), stream, &cache, RecallSettings::default(), progress)?;
                recall.save(&opened.path)?;
                recall
            }
        };
        model.set_recall(opened.foundation.rings.len(), Some(recall));
        let gate = match Gate::load(&opened.path)? {
            Some(gate) => gate,
            None => {
                let gate = teach(&model, tokenizer, stream, &cache, &lesson(asked), progress)?.gate;
                gate.save(&opened.path)?;
                gate
            }
        };
        model.set_gate(gate);
        let routers = [Router::gate(), Router::recall()];
        let mut values = BTreeMap::new();
        let tasks = asked.len() as u64;
        let progress = RefCell::new(progress);
        for (done, asked) in (0..).zip(asked) {
            let asking = || (progress.borrow_mut())("asking the routers", done, tasks, "");
            let numbers = asked.ask(&model, u64::MAX, &routers, &asking)?;
            // The heads' own answers are in the metrics already.
            let of_routers = numbers.into_iter().filter(|(name, _)| routers.iter().any(|router| speaker(name) == Some(router.name())));
            values.extend(of_routers.map(|(name, value)| (name, value.is_finite().then_some(value))));
        }
        let path = run.join(FILE);
        let text = serde_json::to_string_pretty(&Self { step: opened.step, values }).map_err(|error| Error::file(&path, error))? + "\n";
        atomic::write_file(&path, |file| file.write_all(text.as_bytes()).at(&path))
    }
}
