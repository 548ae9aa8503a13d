//! Models as they lie on the disk: configurations, safetensors, GGUF, and files written whole or not at all.

pub mod atomic;
mod base;
mod config;
mod config_json;
mod encoding;
mod family;
pub(crate) mod gguf;
mod gguf_model;
pub(crate) mod huggingface;
pub mod names;
pub mod rope;
mod weights;

pub(crate) use base::Folder;
pub use base::{BaseCheckpoint, Dtype, TensorInfo};
pub use config::Config;
pub use family::{Family, QueryKeyNorm};
pub(crate) use huggingface::{MAX_SHARD_BYTES, TensorFile};
