//! A small base, its tokenizer, corpora and recipes on disk, for the tests of training.

// Each test binary uses its part.
#![allow(dead_code)]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use treering::Result;
use treering::checkpoint::{BaseCheckpoint, Config, Dtype, names};
use treering::data::order::Random;
use treering::grow::layout::base_parameters;
use treering::recipe::Recipe;
use treering::tokenizer::Tokenizer;
use treering::train::metrics::{self, METRICS_FILE, Record};
use treering::train::session::{self, Event, Start};
use treering::train::{Foundation, Outcome, RunFolder};

const WORDS: usize = 48;

pub struct World {
    folder: TempDir,
}

impl World {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// The same around a base of another configuration.
    pub fn with(change: fn(&mut Config)) -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap() };
        changed_base(1, 1.0, change).save_hf(&world.path("base"), Dtype::F32).unwrap();
        // A language in which each word is followed by one of two others, and one with another rule.
        for (name, step, documents) in [("new", 5, 60), ("new-held-out", 5, 4), ("old-held-out", 7, 4)] {
            let mut random = Random::new(documents, step);
            let mut lines = String::new();
            for document in 0..documents {
                let (mut word, mut words) = (document % WORDS as u64, Vec::new());
                for _ in 0..20 + random.below(30) {
                    words.push(format!("w{word}"));
                    word = (word * step + 1 + random.below(2)) % WORDS as u64;
                }
                lines += &format!("{{\"text\": \"{}\"}}\n", words.join(" "));
            }
            fs::write(world.path(&format!("{name}.jsonl")), lines).unwrap();
        }
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a recipe of 12 steps with measurements and checkpoints in between; `extra` holds more lines of `[train]`.
    pub fn recipe(&self, kind: &str, extra: &str) -> PathBuf {
        let method = match kind {
            "full" => String::new(),
            "lora" => "r = 4\nlora_alpha = 16\nlora_dropout = 0.1\ntarget_modules = \"all-linear\"\n".into(),
            "freeze" => "frozen_layers = 1\nfrozen_embedding = false\n".into(),
            "llama-pro" => "groups = 2\n".into(),
            "scale-preserve" => SIZES.to_string(),
            _ => format!("{SIZES}preserved_layers = 1\nmodules = [\"attention\", \"ffn\"]\n"),
        };
        let text = format!(
            "[model]\npath = \"base\"\ndtype = \"f32\"\n[method]\nkind = \"{kind}\"\n{method}\
             [data]\ntrain = \"new.jsonl\"\nlearn = \"new-held-out.jsonl\"\nforget = \"old-held-out.jsonl\"\nsequence_length = 16\n\
             [train]\nsteps = 12\nbatch_size = 2\ngradient_accumulation = 2\nlearning_rate = 3e-3\nschedule = \"cosine\"\nwarmup_steps = 2\n\
             checkpoint_every_steps = 3\n{extra}\n[eval]\nevery_steps = 4\nrepresentation = true\n"
        );
        let path = self.path(&format!("{kind}.toml"));
        fs::write(&path, text).unwrap();
        path
    }

    /// Runs the command here and waits.
    pub fn treering(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that succeeds, and reads the JSON that it prints.
    pub fn json(&self, arguments: &[&str]) -> Value {
        json(&self.treering(arguments))
    }

    /// Runs a command again and again, each time killed at some moment, until it comes to its end; returns how often it was killed.
    #[cfg(unix)]
    pub fn kill_until_finished(&self, arguments: &[&str]) -> usize {
        let (mut random, mut kills) = (Random::new(std::process::id().into(), 0), 0);
        for attempt in 0.. {
            let mut child = self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            // Longer with every attempt, so that the end is reached.
            std::thread::sleep(Duration::from_millis(random.below(60 + attempt * 30)));
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "after {kills} kills");
                break;
            }
            child.kill().unwrap();
            kills += usize::from(!child.wait().unwrap().success());
        }
        kills
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        // Another one where it is named: the crash harness runs for long, and the build may go on meanwhile.
        let program = std::env::var_os("TREERING_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_treering").into());
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.folder.path());
        command
    }

    /// Trains with a recipe of [`World::recipe`] into `out` and returns what was printed.
    pub fn train(&self, kind: &str, out: &str, more: &[&str]) -> Output {
        let recipe = format!("{kind}.toml");
        self.treering(&[&["train", recipe.as_str(), "--out", out], more].concat())
    }

    /// Trains in this process, and stops where `stop_at` says so of an event.
    pub fn train_here(
        &self,
        kind: &str,
        out: &str,
        set: &[&str],
        start: Start,
        stop_at: &mut dyn FnMut(&Event) -> bool,
    ) -> Result<Outcome> {
        let set: Vec<String> = set.iter().map(ToString::to_string).collect();
        let recipe = Recipe::load(self.path(&format!("{kind}.toml")), &set).unwrap();
        let foundation = Foundation::open(&recipe.model.path).unwrap();
        let stop = AtomicBool::new(false);
        session::train(recipe, foundation, &self.path(out), start, &stop, &mut |event| {
            if stop_at(&event) {
                stop.store(true, Ordering::Relaxed);
            }
        })
    }

    /// Rewrites the base with other weights.
    pub fn change_base(&self) {
        fs::remove_dir_all(self.path("base")).unwrap();
        base(2, 1.0).save_hf(&self.path("base"), Dtype::F32).unwrap();
    }

    /// Rewrites the base with an output projection that overflows.
    pub fn break_base(&self) {
        fs::remove_dir_all(self.path("base")).unwrap();
        self.broken_base("base");
    }

    /// Writes a base whose output projection overflows.
    pub fn broken_base(&self, name: &str) {
        base(1, 1e38).save_hf(&self.path(name), Dtype::F32).unwrap();
    }

    /// Names and numbers of a run's last measurement.
    pub fn last_evaluation(&self, run: &str) -> BTreeMap<String, f64> {
        let records = metrics::read(self.path(run).join(METRICS_FILE)).unwrap();
        let last = records.into_iter().rev().find_map(|record| match record {
            Record::Eval(record) => Some(record.values),
            Record::Train(_) => None,
        });
        last.unwrap().into_iter().map(|(name, value)| (name, value.unwrap())).collect()
    }
}

const SIZES: &str = "hidden_size = 8\nnum_attention_heads = 2\nnum_key_value_heads = 1\nintermediate_size = 12\ninit = \"svd,random\"\n";

fn base(seed: u64, head_scale: f32) -> BaseCheckpoint {
    changed_base(seed, head_scale, |_| {})
}

fn changed_base(seed: u64, head_scale: f32, change: fn(&mut Config)) -> BaseCheckpoint {
    let mut config = Config::new(WORDS + 2, 24, 40, 2, 4);
    config.num_key_value_heads = 2;
    config.head_dim = 8;
    config.max_position_embeddings = 64;
    change(&mut config);
    let mut random = Random::new(seed, 0);
    let mut tensors = HashMap::new();
    for parameter in base_parameters(&config) {
        let scale = if parameter.name == names::weight(names::LM_HEAD) { head_scale } else { 1.0 };
        let count: usize = parameter.shape.iter().product();
        let norm = parameter.shape.len() == 1;
        let mut value = || (random.below(2001) as f32 / 1000.0 - 1.0) * 0.2 * scale;
        // With a large projection, a large norm before it takes the logits beyond f32.
        let one = if parameter.name == names::weight(names::NORM) { head_scale.min(1e4) } else { 1.0 };
        let values = (0..count).map(|_| if norm { one } else { value() }).collect();
        tensors.insert(parameter.name, (parameter.shape, values));
    }
    BaseCheckpoint::from_memory(config, tensors, Some(tokenizer())).unwrap()
}

/// One token a word, and one that ends a document.
fn tokenizer() -> Tokenizer {
    let mut vocabulary: Vec<String> = (0..WORDS).map(|i| format!("\"w{i}\": {i}")).collect();
    vocabulary.push(format!("\"<unk>\": {WORDS}, \"<|endoftext|>\": {}", WORDS + 1));
    let json = format!(
        "{{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"added_tokens\": [], \"normalizer\": null, \
         \"pre_tokenizer\": {{\"type\": \"WhitespaceSplit\"}}, \"post_processor\": null, \"decoder\": null, \
         \"model\": {{\"type\": \"WordLevel\", \"vocab\": {{{}}}, \"unk_token\": \"<unk>\"}}}}",
        vocabulary.join(", ")
    );
    Tokenizer::from_json(&json).unwrap()
}

/// Asserts that a command did well.
pub fn succeeded(output: &Output) {
    assert!(output.status.success(), "{:?}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
}

/// The JSON that a command printed, which succeeded.
pub fn json(output: &Output) -> Value {
    succeeded(output);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A number in JSON.
pub fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Asserts a command's exit code and returns what it wrote to stderr.
pub fn failed(output: &Output, code: i32) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(error.starts_with("error: ") && !error.contains("panicked"), "{error}");
    error
}

/// Steps that have a checkpoint.
pub fn steps(run: &Path) -> Vec<u64> {
    RunFolder::checkpoints(run).unwrap().into_iter().map(|(step, _)| step).collect()
}

/// Everything of a run that does not tell the time: its metrics, and the bytes of its newest checkpoint's tensors.
pub fn deterministic(run: &Path) -> (Vec<Record>, Vec<u8>, Vec<u8>) {
    let mut records = metrics::read(run.join(METRICS_FILE)).unwrap();
    for record in &mut records {
        match record {
            Record::Train(record) => (record.tokens_per_second, record.wall_seconds, record.unix_time) = (0.0, 0.0, 0.0),
            Record::Eval(record) => (record.resources, record.unix_time) = (None, 0.0),
        }
    }
    let checkpoint = RunFolder::checkpoint(run, None).unwrap();
    let read = |name: &str| fs::read(checkpoint.join(name)).unwrap();
    (records, read("trained.safetensors"), read("optimizer.safetensors"))
}
