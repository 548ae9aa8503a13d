//! The base model: a Hugging Face directory, a GGUF file, or weights made in memory.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::config::Config;
use super::gguf::Gguf;
use super::weights::Weights;
use super::{atomic, gguf_model, huggingface};
use crate::error::{Error, IoContext, Result};
use crate::files::hex;
use crate::hub;
use crate::tokenizer::Tokenizer;

/// A tensor of a checkpoint, without its values.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TensorInfo {
    /// Its Hugging Face name.
    pub name: String,
    /// How its values are stored, for example `BF16` or `Q4_K`.
    pub dtype: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// Bytes it takes in the file.
    pub bytes: u64,
}

/// How weights are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit floats.
    F32,
    /// bfloat16, rounded to nearest even.
    Bf16,
}

/// What [`BaseCheckpoint::save_folder`] writes.
pub(crate) struct Folder<'a> {
    /// The text of `config.json`.
    pub config: String,
    /// How weights are written.
    pub dtype: Dtype,
    /// Bytes of weights beyond which another file is begun.
    pub max_shard_bytes: u64,
    /// Every tensor's name and shape.
    pub tensors: &'a [(String, Vec<usize>)],
    /// Further files: name and text.
    pub files: Vec<(&'static str, String)>,
}

/// The files of a Hugging Face folder that make up its tokenizer.
const TOKENIZER_FILES: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
];

/// A Llama-family model to grow from: its configuration, and its weights as f32 under their Hugging Face names.
pub struct BaseCheckpoint {
    path: PathBuf,
    /// Where it is on this machine: `path`, or for an `hf://` name its place in the cache.
    local: PathBuf,
    config: Config,
    source: Source,
    sha256: OnceLock<String>,
}

enum Source {
    Directory(Weights),
    Gguf(Box<Gguf>, Weights),
    Memory(BTreeMap<String, (Vec<usize>, Vec<f32>)>, Option<Box<Tokenizer>>),
}

impl BaseCheckpoint {
    /// Opens a Hugging Face directory (`config.json`, `model.safetensors` or its shards, `tokenizer.json`) or a `.gguf` file, or what an `hf://` name means.
    /// Headers are read and checked now, weights when they are asked for.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::File`] with the file and the key or tensor that is at fault.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let given = path.as_ref();
        let local = hub::local(given)?;
        let path: &Path = &local;
        let meta = fs::metadata(path).at(path)?;
        let (config, source) = if meta.is_dir() {
            let config = path.join("config.json");
            if !config.exists() {
                return Err(Error::file(path, "has no config.json; a Hugging Face directory or a .gguf file was expected"));
            }
            (Config::from_file(config)?, Source::Directory(huggingface::open(path)?))
        } else if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors")) {
            return Err(Error::file(path, "is a file of weights alone; give the directory that also holds its config.json"));
        } else {
            let (gguf, weights) = Gguf::open(path)?;
            let (config, weights) = gguf_model::load(&gguf, weights)?;
            (config, Source::Gguf(Box::new(gguf), weights))
        };
        // With its commit, so that whoever writes it down means the same later.
        let path = given.to_str().map_or(Ok(given.to_path_buf()), |text| hub::pinned(text).map(PathBuf::from))?;
        Ok(Self { path, local: local.into_owned(), config, source, sha256: OnceLock::new() })
    }

    /// The tensors of a Hugging Face directory whose names `keep` accepts, as a model of `config`, whatever its `config.json` says.
    ///
    /// # Errors
    /// As [`BaseCheckpoint::open`].
    pub(crate) fn open_as(path: &Path, config: Config, keep: impl Fn(&str) -> bool) -> Result<Self> {
        let mut weights = huggingface::open(path)?;
        weights.entries.retain(|name, _| keep(name));
        Ok(Self {
            path: path.to_path_buf(),
            local: path.to_path_buf(),
            config,
            source: Source::Directory(weights),
            sha256: OnceLock::new(),
        })
    }

    /// A base whose weights are in memory: each tensor's shape and values by its Hugging Face name.
    ///
    /// # Errors
    /// [`Error::Usage`] where the configuration does not hold or a tensor is not of its shape.
    pub fn from_memory(config: Config, tensors: HashMap<String, (Vec<usize>, Vec<f32>)>, tokenizer: Option<Tokenizer>) -> Result<Self> {
        config.validate()?;
        for (name, (shape, values)) in &tensors {
            if shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size)) != Some(values.len()) {
                return Err(Error::usage(format_args!("tensor `{name}` of shape {shape:?} was given {} values", values.len())));
            }
        }
        let source = Source::Memory(tensors.into_iter().collect(), tokenizer.map(Box::new));
        Ok(Self { path: PathBuf::new(), local: PathBuf::new(), config, source, sha256: OnceLock::new() })
    }

    /// Where it was opened, as it was named; empty for a base in memory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it is on this machine; empty for a base in memory.
    pub fn local_path(&self) -> &Path {
        &self.local
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The values of a tensor, row-major.
    ///
    /// # Errors
    /// [`Error::File`] where the tensor is missing, is not of `expected_shape`, cannot be decoded or holds a value that is not finite.
    pub fn tensor(&self, name: &str, expected_shape: &[usize]) -> Result<Vec<f32>> {
        let missing = || Error::file(&self.path, format_args!("has no tensor `{name}` (expected, of shape {expected_shape:?})"));
        let fits = |shape: &[usize]| {
            if shape == expected_shape {
                Ok(())
            } else {
                Err(Error::file(&self.path, format_args!("tensor `{name}` is of shape {shape:?}, and {expected_shape:?} was expected")))
            }
        };
        match &self.source {
            Source::Directory(weights) | Source::Gguf(_, weights) => {
                let entry = weights.entries.get(name).ok_or_else(missing)?;
                fits(&entry.shape)?;
                weights.read(name, entry)
            }
            Source::Memory(tensors, _) => {
                let (shape, values) = tensors.get(name).ok_or_else(missing)?;
                fits(shape)?;
                Ok(values.clone())
            }
        }
    }

    /// Whether it has a tensor of this name.
    pub fn has_tensor(&self, name: &str) -> bool {
        match &self.source {
            Source::Directory(weights) | Source::Gguf(_, weights) => weights.entries.contains_key(name),
            Source::Memory(tensors, _) => tensors.contains_key(name),
        }
    }

    /// All tensors, by name.
    pub fn tensor_infos(&self) -> Vec<TensorInfo> {
        match &self.source {
            Source::Directory(weights) | Source::Gguf(_, weights) => weights.infos(),
            Source::Memory(tensors, _) => {
                let info = |(name, (shape, values)): (&String, &(Vec<usize>, Vec<f32>))| TensorInfo {
                    name: name.clone(),
                    dtype: "F32".into(),
                    shape: shape.clone(),
                    bytes: 4 * values.len() as u64,
                };
                tensors.iter().map(info).collect()
            }
        }
    }

    /// What identifies the base: a hash, in hexadecimal, of its configuration and of every tensor's name, kind, shape and stored bytes, in the order of
    /// names. How tensors are spread over files, and headers and comments in them, do not count.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::File`] when a file can no longer be read.
    pub fn sha256(&self) -> Result<String> {
        if let Some(known) = self.sha256.get() {
            return Ok(known.clone());
        }
        let mut hash = Sha256::new();
        hash.update(b"treering base 1\n");
        let mut text = String::new();
        write_canonical(&Value::from(self.config.clone()), &mut text);
        text.push('\n');
        hash.update(text.as_bytes());
        let mut buffer = Vec::new();
        for info in self.tensor_infos() {
            // Names cannot hold what would make two lists of tensors read alike: they are quoted.
            hash.update(format!("{:?} {} {:?}", info.name, info.dtype, info.shape).as_bytes());
            match &self.source {
                Source::Directory(weights) | Source::Gguf(_, weights) => {
                    let entry = &weights.entries[&info.name];
                    let heads = entry.interleaved_heads.map_or(String::new(), |heads| format!(" interleaved {heads}"));
                    hash.update(format!("{heads}\n").as_bytes());
                    weights.hash(entry, &mut hash, &mut buffer)?;
                }
                Source::Memory(tensors, _) => {
                    hash.update(b"\n");
                    for part in tensors[&info.name].1.chunks(1 << 18) {
                        buffer.clear();
                        buffer.extend(part.iter().flat_map(|v| v.to_le_bytes()));
                        hash.update(&buffer);
                    }
                }
            }
        }
        let hex = hex(hash.finalize());
        Ok(self.sha256.get_or_init(|| hex).clone())
    }

    /// Its tokenizer, checked to fit the model.
    ///
    /// # Errors
    /// [`Error::File`] where there is none, it is damaged, or it has tokens that the model has not.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let (path, tokenizer) = match &self.source {
            Source::Directory(_) => {
                let path = self.local.join("tokenizer.json");
                if !path.exists() {
                    return Err(Error::file(
                        &self.path,
                        "has no tokenizer.json; `AutoTokenizer.from_pretrained(…).save_pretrained(…)` of transformers writes one",
                    ));
                }
                let tokenizer = Tokenizer::from_file(&path)?;
                (path, tokenizer)
            }
            Source::Gguf(gguf, _) => (self.path.clone(), Tokenizer::from_gguf(gguf)?),
            Source::Memory(_, tokenizer) => match tokenizer {
                Some(tokenizer) => (self.path.clone(), (**tokenizer).clone()),
                None => return Err(Error::usage("this base was made without a tokenizer")),
            },
        };
        tokenizer.check_fits(&path, self.config.vocab_size)?;
        Ok(tokenizer.with_defaults(self.config.bos_token_id, self.config.eos_token_id.first().copied()))
    }

    /// Writes it as a Hugging Face directory, whole or not at all: `config.json`, `model.safetensors` and, where it has one, its tokenizer.
    ///
    /// # Errors
    /// [`Error::Io`] where `dir` is already there or cannot be written, and whatever reading the weights returns.
    pub fn save_hf(&self, dir: &Path, dtype: Dtype) -> Result<()> {
        let tensors: Vec<_> = self.tensor_infos().into_iter().map(|info| (info.name, info.shape)).collect();
        self.save_as(dir, &self.config, dtype, &tensors, |name, shape| self.tensor(name, shape))
    }

    /// As [`BaseCheckpoint::save_hf`], of another model with this one's tokenizer: `values` is asked for each tensor in turn.
    ///
    /// # Errors
    /// As [`BaseCheckpoint::save_hf`], and whatever `values` returns.
    pub fn save_as(
        &self,
        dir: &Path,
        config: &Config,
        dtype: Dtype,
        tensors: &[(String, Vec<usize>)],
        values: impl FnMut(&str, &[usize]) -> Result<Vec<f32>>,
    ) -> Result<()> {
        let max_shard_bytes = huggingface::MAX_SHARD_BYTES;
        self.save_folder(dir, Folder { config: config.to_json(), dtype, max_shard_bytes, tensors, files: Vec::new() }, values)
    }

    /// Writes a folder that `transformers` reads, whole or not at all: a configuration, weights, further files, and this base's tokenizer.
    ///
    /// # Errors
    /// As [`BaseCheckpoint::save_as`].
    pub(crate) fn save_folder(&self, dir: &Path, folder: Folder<'_>, values: impl FnMut(&str, &[usize]) -> Result<Vec<f32>>) -> Result<()> {
        let tokenizer = match &self.source {
            Source::Memory(_, None) => None,
            Source::Directory(_) if !self.local.join("tokenizer.json").exists() => None,
            _ => Some(self.tokenizer()?),
        };
        atomic::write_dir(dir, |dir| {
            let path = dir.join("config.json");
            fs::write(&path, &folder.config).at(&path)?;
            for (name, text) in &folder.files {
                let path = dir.join(name);
                fs::write(&path, text).at(&path)?;
            }
            if let Some(tokenizer) = tokenizer {
                self.save_tokenizer(dir, &tokenizer)?;
            }
            huggingface::write_model(dir, folder.tensors, folder.dtype == Dtype::Bf16, folder.max_shard_bytes, values)
        })
    }

    /// Writes the tokenizer, which was read and fits, into a folder: a directory's files as they are, since they say more than is read here (such as
    /// how a conversation is written), and a GGUF file's with its chat template.
    fn save_tokenizer(&self, dir: &Path, tokenizer: &Tokenizer) -> Result<()> {
        if let Source::Directory(_) = &self.source {
            for name in TOKENIZER_FILES {
                let (from, to) = (self.local.join(name), dir.join(name));
                if from.exists() {
                    // Not copied: permissions (such as a cache's read-only ones) stay behind.
                    fs::write(&to, fs::read(&from).at(&from)?).at(&to)?;
                }
            }
            return Ok(());
        }
        tokenizer.save(dir)?;
        let Some(template) = self.gguf_text("tokenizer.chat_template")? else { return Ok(()) };
        let path = dir.join("tokenizer_config.json");
        let text = fs::read_to_string(&path).at(&path)?;
        let mut config: Value = serde_json::from_str(&text).map_err(|e| Error::file(&path, format_args!("is not JSON: {e}")))?;
        config["chat_template"] = json!(template);
        fs::write(&path, format!("{config:#}\n")).at(&path)
    }

    /// A text of a GGUF file's metadata; `None` for any other kind of base.
    ///
    /// # Errors
    /// [`Error::File`] where it is no text.
    pub(crate) fn gguf_text(&self, key: &str) -> Result<Option<&str>> {
        match &self.source {
            Source::Gguf(gguf, _) => gguf.text(key),
            _ => Ok(None),
        }
    }
}

impl std::fmt::Debug for BaseCheckpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BaseCheckpoint").field("path", &self.path).field("config", &self.config).finish_non_exhaustive()
    }
}

/// JSON with sorted keys and no spaces: the same text for the same value, however the value was built.
fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<_, _> = map.iter().collect();
            out.push('{');
            for (key, value) in sorted {
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                write_canonical(value, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(values) => {
            out.push('[');
            for value in values {
                write_canonical(value, out);
                out.push(',');
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}
