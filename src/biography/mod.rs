//! The biography benchmark: a model that knows some people is taught others, and is asked about both all along.
//!
//! 1. [`protocol`]: what a user may choose, and what a size says of each stage; `sizes` has the numbers.
//! 2. [`world`]: people, texts, tokenizer and the untrained model, in a folder.
//! 3. [`stage`]: pre-training, Task 0, and Task 1 … k of every method, each a recipe and a run folder like any other.
//! 4. [`ask`]: the questions, and how they are answered by every head and router.
//! 5. [`routers`]: what the routers `gate` and `recall` ask, made after a stage, and their answers.
//! 6. [`run`]: stage after stage, each once, stopped and resumed at any moment.
//! 7. [`result`]: accuracy by method, router and task; forgetting and backward transfer.
//! 8. [`figure`]: the page with the paper's figure.
//! 9. [`plan`]: what it will take, from sizes alone.
//!
//! # Paper
//! Section 4.1 of SCALE (arXiv 2511.03270), after Zheng et al., *Spurious Forgetting in Continual Learning of Language Models* (ICLR 2025).

pub mod ask;
pub mod figure;
pub mod plan;
pub mod protocol;
pub mod result;
pub mod routers;
pub mod run;
mod sizes;
pub mod stage;
pub mod world;

pub use protocol::{Loss, Protocol, Setup, Size};
pub use result::Results;
pub use run::Benchmark;
pub use stage::Stage;
