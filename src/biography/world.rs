//! People, texts, tokenizer and the untrained model, in a folder.

use std::collections::HashMap;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, Normal};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::protocol::{Protocol, Setup};
use crate::checkpoint::{BaseCheckpoint, Config, Dtype, atomic};
use crate::data::Encoder;
use crate::data::biography::{END_OF_TEXT, People, QuestionSet, check_tokenizer, train_tokenizer};
use crate::error::{Error, IoContext, Result};
use crate::grow::layout::base_parameters;
use crate::tokenizer::Tokenizer;

/// What a user chose, in the folder of a benchmark.
pub const SETUP_FILE: &str = "biography.json";
/// People whose texts the tokenizer is trained on, at most: it has seen every syllable and every value long before.
const TOKENIZER_PEOPLE: u64 = 5_000;
/// People tokenised at a time, to find the longest question.
const BLOCK: u64 = 4_096;

/// What is found out once, and kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Found {
    setup: Setup,
    /// For each task the tokens of its longest question with answer and end: a task's own, so that more tasks change no earlier recipe.
    question_lengths: Vec<usize>,
}

/// Everything that exists before anything is learnt.
pub struct World {
    /// The folder.
    pub out: PathBuf,
    /// All people.
    pub people: People,
    /// The model's tokenizer.
    pub encoder: Encoder,
    /// Tokens that a window of questions needs, by task.
    pub question_lengths: Vec<usize>,
}

impl World {
    /// Makes what is not there yet: people's texts, the tokenizer, the untrained model.
    ///
    /// # Errors
    /// [`Error::Usage`] where the folder holds another benchmark or the tokenizer cannot write the names; whatever writing returns; and what `check_stop` does.
    pub fn open(out: &Path, setup: &Setup, protocol: &Protocol, tasks: u64, check_stop: &(dyn Fn() -> Result<()> + Sync)) -> Result<Self> {
        let path = out.join(SETUP_FILE);
        let found: Option<Found> = match std::fs::read_to_string(&path) {
            Ok(text) => Some(serde_json::from_str(&text).map_err(|e| Error::file(&path, format!("describes no benchmark: {e}")))?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::io(&path, error)),
        };
        match &found {
            Some(found) => refuse_another(&path, &found.setup, setup)?,
            None if std::fs::read_dir(out).is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(|e| !is_ours(&e.file_name())))) => {
                return Err(Error::usage(format!(
                    "{}: something is here already that is no benchmark\n  hint: choose another folder with --out",
                    out.display()
                )));
            }
            None => {
                // A tokenizer that does not do is refused before the folder belongs to it.
                given_tokenizer(setup)?;
            }
        }
        let mut found = found.unwrap_or_else(|| Found { setup: setup.clone(), question_lengths: Vec::new() });
        let save = |found: &Found| {
            let json = serde_json::to_string_pretty(found).map_err(|e| Error::file(&path, e))? + "\n";
            atomic::write_file(&path, |file| file.write_all(json.as_bytes()).at(&path))
        };
        // First of all: whatever else is in the folder was made for this.
        save(&found)?;
        let [corpora, models] = ["corpora", "models"].map(|name| out.join(name));
        for folder in [&corpora, &models] {
            atomic::create_folders(folder)?;
            atomic::remove_leftovers(folder)?;
        }
        let people = People::generate(protocol.asked(tasks).end.max(protocol.pretrained), setup.seed)?;
        let text = corpora.join("pretrain.biographies.jsonl");
        if !text.exists() {
            people.write_corpus(&text, 0..protocol.pretrained, protocol.copies, setup.seed)?;
        }
        let trained = |task: u64| if task == 0 { 0..protocol.task_zero } else { protocol.asked(task) };
        for task in 0..=tasks {
            check_stop()?;
            let questions = corpora.join(format!("task-{task}.questions.jsonl"));
            if !questions.exists() {
                people.write_questions(&questions, trained(task), &setup.attributes)?;
            }
        }
        let untrained = models.join("untrained");
        if !untrained.exists() {
            let tokenizer = tokenizer(setup, protocol, &people)?;
            check_stop()?;
            let config = config(protocol, &tokenizer)?;
            BaseCheckpoint::from_memory(config.clone(), untrained_weights(&config, setup.seed)?, Some(tokenizer))?
                .save_hf(&untrained, Dtype::F32)?;
        }
        let encoder = Encoder::new(BaseCheckpoint::open(&untrained)?.tokenizer()?)?;
        for task in found.question_lengths.len() as u64..=tasks {
            found.question_lengths.push(longest_question(&people, trained(task), &encoder, check_stop)?);
        }
        save(&found)?;
        Ok(Self { out: out.to_path_buf(), people, encoder, question_lengths: found.question_lengths })
    }
}

/// Folders that a stop before the first file was finished leaves.
fn is_ours(name: &std::ffi::OsStr) -> bool {
    ["corpora", "models"].iter().any(|ours| name == *ours) || atomic::is_temporary(&name.to_string_lossy())
}

/// Refuses to go on with another benchmark, naming what differs.
fn refuse_another(path: &Path, ours: &Setup, asked: &Setup) -> Result<()> {
    let (Ok(serde_json::Value::Object(ours)), Ok(serde_json::Value::Object(asked))) =
        (serde_json::to_value(ours), serde_json::to_value(asked))
    else {
        return Ok(());
    };
    match ours.iter().find(|(key, value)| asked.get(*key) != Some(value)) {
        None => Ok(()),
        Some((key, value)) => Err(Error::usage(format!(
            "{}: a benchmark is here already, with {key} {value}, and {} is asked for\n  hint: choose another folder with --out",
            path.display(),
            asked.get(key).unwrap_or(&serde_json::Value::Null)
        ))),
    }
}

/// The one that was given, checked.
fn given_tokenizer(setup: &Setup) -> Result<Option<Tokenizer>> {
    let Some(path) = &setup.tokenizer else { return Ok(None) };
    let tokenizer = Tokenizer::from_file(path)?;
    check_tokenizer(&tokenizer).map_err(|error| match error {
        Error::Usage(message) => Error::file(path, message),
        error => error,
    })?;
    Ok(Some(tokenizer))
}

/// The one that was given, or one that is trained on texts about the people of the base: it has never seen the new ones.
fn tokenizer(setup: &Setup, protocol: &Protocol, people: &People) -> Result<Tokenizer> {
    Ok(match given_tokenizer(setup)? {
        Some(tokenizer) => tokenizer,
        None => {
            let known = 0..protocol.pretrained.min(TOKENIZER_PEOPLE);
            let asked = people.question_texts(known.clone(), &crate::data::biography::Attribute::ALL)?;
            let texts: Vec<String> = people.texts(known, 1, setup.seed)?.chain(asked).collect();
            let tokenizer = Tokenizer::new(train_tokenizer(texts.into_iter(), protocol.config.vocab_size)?)?;
            let end = tokenizer.token_to_id(END_OF_TEXT);
            tokenizer.with_defaults(None, end)
        }
    })
}

/// The model's shape with the tokenizer's vocabulary.
fn config(protocol: &Protocol, tokenizer: &Tokenizer) -> Result<Config> {
    let mut config = protocol.config.clone();
    config.vocab_size = tokenizer.vocab_size();
    config.bos_token_id = tokenizer.bos_token_id();
    config.eos_token_id = tokenizer.eos_token_id().into_iter().collect();
    config.validate()?;
    Ok(config)
}

/// Tokens of the longest question about someone in `range`, with its end.
fn longest_question(people: &People, range: Range<u64>, encoder: &Encoder, check_stop: &(dyn Fn() -> Result<()> + Sync)) -> Result<usize> {
    let blocks: Vec<u64> = range.clone().step_by(BLOCK as usize).collect();
    let longest = |&first: &u64| {
        check_stop()?;
        // Whatever fits: the length is what is asked for here.
        let set = QuestionSet::new(people, first..range.end.min(first + BLOCK), encoder, usize::MAX)?;
        Ok(set.questions().iter().map(|question| question.tokens.len()).max().unwrap_or(0))
    };
    let lengths: Vec<usize> = blocks.par_iter().map(longest).collect::<Result<_>>()?;
    Ok(lengths.into_iter().max().unwrap_or(0))
}

/// Shape and values of tensors by name.
type Tensors = HashMap<String, (Vec<usize>, Vec<f32>)>;

/// Small random weights: normal with deviation 0.02, less for what is added to the residual stream, and norms of one.
///
/// # Errors
/// Never with finite deviations, which these are.
pub fn untrained_weights(config: &Config, seed: u64) -> Result<Tensors> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let depth = (2.0 * config.num_hidden_layers as f32).sqrt();
    let mut tensors = HashMap::new();
    for expected in base_parameters(config) {
        let count: usize = expected.shape.iter().product();
        let deviation = if expected.name.contains("o_proj") || expected.name.contains("down_proj") { 0.02 / depth } else { 0.02 };
        let value = if expected.shape.len() == 1 {
            vec![1.0; count]
        } else {
            let normal = Normal::new(0.0f32, deviation).map_err(|error| Error::Numeric(format!("deviation {deviation}: {error}")))?;
            normal.sample_iter(&mut rng).take(count).collect()
        };
        tensors.insert(expected.name, (expected.shape, value));
    }
    Ok(tensors)
}
