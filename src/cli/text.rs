//! The text that a model's newest head was trained on, for what is made of it after a run.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use treering::data::{StreamConfig, TrainSource};
use treering::recipe::Recipe;
use treering::train::session::token_cache;
use treering::{Error, Result};

use super::progress::Display;

/// Shows what is being done to a text, and ends it at a signal; `lost` says what there is none of then.
pub(super) fn watch<'a>(
    display: &'a mut Display,
    stop: &'a AtomicBool,
    lost: &'static str,
) -> impl FnMut(&'static str, u64, u64, &str) -> Result<()> + 'a {
    move |phase, done, of, what| {
        display.phase(phase, done, of, what);
        if stop.load(Ordering::Relaxed) { Err(Error::Interrupted(lost.into())) } else { Ok(()) }
    }
}

/// Which text.
#[derive(Debug, clap::Args)]
pub(super) struct TextArgs {
    /// The text that the newest head was trained on: a file, a glob pattern or a folder, as often as wanted [default: the run's own]
    #[arg(long = "train", value_name = "PATH")]
    train: Vec<String>,
    /// The JSON field or Parquet column that holds the text
    #[arg(long, value_name = "FIELD", default_value = "text")]
    text_field: String,
}

impl TextArgs {
    /// Does `work` on the text and the folder for its tokens: that of the run `model`, or one that is gone afterwards. Windows are the run's, and at most
    /// `context` tokens.
    pub fn with<T>(
        &self,
        model: &Path,
        recipe: Option<&Recipe>,
        context: usize,
        work: impl FnOnce(&StreamConfig, &Path) -> Result<T>,
    ) -> Result<T> {
        let stream = match (&self.train[..], recipe) {
            ([], Some(recipe)) => recipe.data.stream.clone(),
            ([], None) => {
                return Err(Error::usage(
                    "no text of what the newest head was trained on\n  hint: --train PATH, for example --train corpora/news.jsonl.zst",
                ));
            }
            (paths, recipe) => {
                let length = recipe.map_or(256, |recipe| recipe.data.stream.sequence_length);
                let source = |path: &String| TrainSource { text_field: self.text_field.clone(), ..TrainSource::new(path) };
                StreamConfig::new(paths.iter().map(source).collect(), length.min(context))
            }
        };
        if recipe.is_some() {
            return work(&stream, &token_cache(model));
        }
        let cache = std::env::temp_dir().join(format!("treering-text-{}", std::process::id()));
        let done = work(&stream, &cache);
        // What cannot be removed is left to the system, which clears its temporary folder.
        let _ = std::fs::remove_dir_all(&cache);
        done
    }
}
