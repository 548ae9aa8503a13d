//! The base model: a Hugging Face directory, a GGUF file, or weights made in memory.

use std::collections::HashMap;
use std::path::Path;

use super::config::Config;
use crate::error::Result;
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

/// A Llama-family model to grow from.
pub struct BaseCheckpoint;

impl BaseCheckpoint {
    /// Opens a Hugging Face directory or a `.gguf` file.
    pub fn open(_path: impl AsRef<Path>) -> Result<Self> {
        todo!()
    }
    /// A base whose weights are in memory.
    pub fn from_memory(_config: Config, _tensors: HashMap<String, (Vec<usize>, Vec<f32>)>, _tokenizer: Option<Tokenizer>) -> Result<Self> {
        todo!()
    }
    /// Where it was opened; empty for one in memory.
    pub fn path(&self) -> &Path {
        todo!()
    }
    /// Its configuration.
    pub fn config(&self) -> &Config {
        todo!()
    }
    /// A tensor's values.
    pub fn tensor(&self, _name: &str, _expected_shape: &[usize]) -> Result<Vec<f32>> {
        todo!()
    }
    /// Whether it has a tensor of this name.
    pub fn has_tensor(&self, _name: &str) -> bool {
        todo!()
    }
    /// All tensors, by name.
    pub fn tensor_infos(&self) -> Vec<TensorInfo> {
        todo!()
    }
    /// Hash of the configuration and of every tensor.
    pub fn sha256(&self) -> Result<String> {
        todo!()
    }
    /// Its tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        todo!()
    }
    /// Writes it as a Hugging Face directory.
    pub fn save_hf(&self, _dir: &Path, _dtype: Dtype) -> Result<()> {
        todo!()
    }
}
