//! `treering eval --suite`: multiple-choice tasks, with the numbers of lm-evaluation-harness.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use treering::eval::suite::{BATCH_TOKENS, Bos, Progress, Samples, Selection, Settings, Suite, SuiteResult};
use treering::model::Model;
use treering::recipe::Recipe;
use treering::route::Router;
use treering::tokenizer::Tokenizer;
use treering::{Error, Result};

use super::progress::Display;
use super::train::stop_on_signals;

/// Which tasks, and how they are asked.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Multiple-choice tasks")]
pub struct SuiteArgs {
    /// Tasks or groups, for example arc_easy,hellaswag,mmlu,kobest; or paper, the eight of the paper (docs/evaluation.md)
    #[arg(long = "suite", value_name = "TASK[,TASK]")]
    suites: Vec<String>,
    /// The folder of the tasks' data, in their original formats or as Parquet [default: the run's own]
    #[arg(long, value_name = "DIR", requires = "suites")]
    suite_data: Option<PathBuf>,
    /// Examples before each question: a number, TASK:NUMBER, or leaderboard for those of the Open LLM leaderboard [default: 0]
    #[arg(long, value_name = "N|TASK:N|leaderboard", requires = "suites")]
    few_shot: Vec<String>,
    /// The first so many items of each task alone
    #[arg(long, value_name = "ITEMS", requires = "suites")]
    limit: Option<usize>,
    /// Write what every item came to, one JSON object a line
    #[arg(long, value_name = "FILE", requires = "suites")]
    samples: Option<PathBuf>,
    /// Go on with what stands in the samples file
    #[arg(long, requires = "samples")]
    resume: bool,
    /// Whether a token begins every prompt
    #[arg(long, value_enum, default_value_t = BosArg::Tokenizer, requires = "suites")]
    bos: BosArg,
    /// Tokens in one forward pass of the tasks, at least
    #[arg(long, value_name = "TOKENS", default_value_t = BATCH_TOKENS, requires = "suites")]
    batch_tokens: usize,
}

/// [`Bos`] on the command line.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum BosArg {
    /// The one that the tokenizer itself puts there, as lm-evaluation-harness has it from 0.4.9.2
    Tokenizer,
    /// None, as it had it before for Llama
    None,
}

impl SuiteArgs {
    /// Whether tasks were named.
    pub fn is_asked(&self) -> bool {
        !self.suites.is_empty()
    }

    /// The tasks, checked before anything is opened; `None` where none was named.
    pub fn selection(&self) -> Result<Option<Selection>> {
        if !self.is_asked() {
            return Ok(None);
        }
        if self.limit == Some(0) {
            return Err(Error::usage("--limit 0 leaves no item to measure"));
        }
        let parts =
            |list: &[String]| list.iter().flat_map(|text| text.split(',').map(str::to_owned).collect::<Vec<_>>()).collect::<Vec<_>>();
        let (suites, shots) = (parts(&self.suites), parts(&self.few_shot));
        Selection::new(suites.iter().map(String::as_str), shots.iter().map(String::as_str)).map(Some)
    }

    /// Asks the tasks.
    pub fn run(
        &self,
        selection: Selection,
        model: &Model,
        tokenizer: &Tokenizer,
        routers: &[Router],
        (description, recipe): (&str, Option<&Recipe>),
        display: &mut Display,
    ) -> Result<SuiteResult> {
        let of_run = recipe.and_then(|recipe| recipe.eval.suite.as_ref()).map(|suite| &suite.data);
        let folder = self.suite_data.as_ref().or(of_run).ok_or_else(|| {
            Error::usage("no data for the tasks\n  hint: --suite-data DIR names the folder of their files (docs/evaluation.md#data)")
        })?;
        let stop = stop_on_signals()?;
        let bos = match self.bos {
            BosArg::Tokenizer => Bos::Tokenizer,
            BosArg::None => Bos::None,
        };
        let suite = Suite::open(folder, selection, self.limit)?;
        for data in suite.tasks() {
            if data.few_shot > 0 && data.pool_split.is_some_and(|split| split != data.usual_pool()) {
                let used = data.pool_split.map_or("", |split| split.as_str());
                display.note(&format!(
                    "{}: there is no {} split, so examples come from the {used} split",
                    data.task,
                    data.usual_pool().as_str()
                ));
            }
        }
        let settings = Settings { routers, bos, batch_tokens: self.batch_tokens.max(1) };
        let mut samples = match &self.samples {
            Some(path) => {
                let header = suite.header(model, settings, description)?;
                Some(if self.resume { Samples::resume(path, &header)? } else { Samples::create(path, &header)? })
            }
            None => None,
        };
        suite.evaluate(model, tokenizer, settings, samples.as_mut(), &mut |Progress { task, done, total }| {
            display.phase("asking", done as u64, total as u64, task.name);
            if stop.load(Ordering::Relaxed) && done < total {
                return Err(Error::Interrupted(match &self.samples {
                    Some(path) => format!("{done} of {total} items are in {}\n  hint: --resume goes on", path.display()),
                    None => {
                        format!("after {done} of {total} items\n  hint: with --samples FILE what is done is kept, and --resume goes on")
                    }
                }));
            }
            Ok(())
        })
    }
}

/// The results for a person.
pub fn text(suite: &SuiteResult) -> String {
    let truncated: usize = suite.tasks.iter().map(|task| task.truncated_items).sum();
    let note = match truncated {
        0 => String::new(),
        n => format!("\nnote: {n} prompts were longer than the model's context and lost their beginning"),
    };
    let (measured, seconds) = suite.tasks.iter().fold((0, 0.0), |(n, s), task| (n + task.measured_items, s + task.seconds));
    let speed = if measured > 0 { format!("{measured} items in {seconds:.0} s") } else { "nothing was left to measure".into() };
    format!("{speed}\n\n{}{note}", suite.table().to_text().trim_end())
}
