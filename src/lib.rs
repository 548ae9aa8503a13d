//! Treering grows a pre-trained language model in width, ring after ring, around weights that never change.
//!
//! # A tour
//! Data flows one way: [`checkpoint`] → [`model`] → [`grow`] → [`train`] → [`eval`] → [`report`].
//! 1. [`error`]: what can go wrong, and the exit codes; [`guard`]: libraries that panic on damaged files.
//! 2. [`checkpoint`]: configurations, safetensors, GGUF, tokenizers, atomic writes.
//! 3. [`data`]: corpora, packing, mixing, and the generated biographies.
//! 4. [`ops`]: the compute core, every operation with its backward.
//! 5. [`model`]: the decoder with its two streams.
//! 6. [`grow`]: sizes, initialisation, plans; [`baseline`]: what widening is compared with.
//! 7. [`recipe`]: TOML to a validated recipe.
//! 8. [`train`]: the loop, schedules, the optimizer's state, run folders.
//! 9. [`route`]: which head answers, token by token.
//! 10. [`eval`]: perplexity and representation forgetting.
//! 11. [`generate`]: sampling with a cache.
//! 12. [`report`]: tables and plots; [`export`]: folders for transformers and PEFT adapters, and the way back.
//! 13. [`hub`]: models and corpora by `hf://` names.
//! 14. [`study`]: several runs of one recipe: learning-rate sweeps, and the paper's analyses with its numbers beside ours.
//! 15. [`biography`]: the controlled benchmark, from generated people to the paper's figure and several tasks in a row.
//! 16. [`doctor`]: what a machine has, and whether it counts right.

#![deny(missing_docs)]

pub mod baseline;
pub mod biography;
pub mod checkpoint;
pub mod data;
pub mod doctor;
pub mod error;
pub mod eval;
pub mod export;
mod files;
pub mod generate;
pub mod grow;
pub mod guard;
pub mod hub;
pub mod memory;
pub mod model;
pub mod ops;
pub mod recipe;
pub mod report;
pub mod route;
pub mod study;
pub mod tokenizer;
pub mod train;

pub use error::{Error, Result};
