//! Training: the loop, and everything around it that must survive a power cut.
//!
//! 1. [`config`]: the `[train]` table of a recipe.
//! 2. [`schedule`]: learning rates, a pure function of the step.
//! 3. [`optimizer`]: AdamW's moments, the gradient's norm.
//! 4. [`trainer`]: the loop, on one page; [`spikes`]: which steps it leaves out.
//! 5. [`metrics`], [`observe`], [`tensorboard`], [`environment`]: what a run writes down.
//! 6. [`checkpoint`] and [`run_folder`]: what it needs to go on, and where that is.
//! 7. [`foundation`]: what a ring stands on; [`build`]: from a recipe or a run to a model.
//! 8. [`measure`]: the held-out corpora of a recipe, measured as it says.
//! 9. [`session`]: all of it together, from a recipe to a finished run.

pub mod build;
pub mod checkpoint;
pub mod config;
pub mod environment;
pub mod foundation;
pub mod measure;
pub mod metrics;
pub mod observe;
pub mod optimizer;
pub mod run_folder;
pub mod schedule;
pub mod session;
pub mod spikes;
pub mod tensorboard;
pub mod trainer;

pub use config::TrainConfig;
pub use foundation::Foundation;
pub use run_folder::RunFolder;
pub use trainer::{Hooks, Outcome, Trainer};
