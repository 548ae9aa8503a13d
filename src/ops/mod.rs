//! The compute core: fused operations, each with its forward and its backward, on the CPU.

pub mod activation;
pub mod adamw;
pub mod attention;
pub mod bf16;
mod block;
pub mod contrast;
pub mod cosine;
pub mod count;
pub mod elementwise;
pub mod embedding;
pub mod gemm;
pub mod head;
pub mod isa;
mod kernel;
pub mod lora;
pub mod loss;
pub mod math;
pub mod mixture;
pub mod norm;
mod operands;
pub mod packed;
pub mod pool;
pub mod recorded;
#[cfg(test)]
pub(crate) mod reference;
pub mod rope;
pub mod sequence;
pub mod tape;
pub mod tensor;
mod tiles;
mod transpose;

/// Runs `work` on a thread of the pool rather than beside it: then each of its operations shares its tasks out from where it stands,
/// instead of waking a thread of the pool and sleeping until that one is done.
pub fn on_workers<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    if rayon::current_thread_index().is_some() { work() } else { rayon::scope(|_| work()) }
}
