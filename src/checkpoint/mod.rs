//! Models as they lie on the disk: configurations, safetensors, GGUF, and files written whole or not at all.

pub mod atomic;
mod base;
mod config;
mod encoding;
pub(crate) mod gguf;
mod gguf_llama;
mod huggingface;
pub mod names;
pub mod rope;
mod weights;

pub(crate) use base::Folder;
pub use base::{BaseCheckpoint, Dtype, TensorInfo};
pub use config::Config;
pub(crate) use huggingface::{MAX_SHARD_BYTES, TensorFile};
