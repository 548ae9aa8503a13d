//! Models as they lie on the disk: configurations, safetensors, GGUF, and files written whole or not at all.

pub mod atomic;
mod base;
mod config;
pub mod names;
pub mod rope;

pub use base::{BaseCheckpoint, Dtype, TensorInfo};
pub use config::Config;
