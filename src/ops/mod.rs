//! The compute core: fused operations, each with its forward and its backward, on the CPU.

pub mod activation;
pub mod adamw;
pub mod attention;
pub mod elementwise;
pub mod embedding;
pub mod gemm;
pub mod head;
pub mod isa;
mod kernel;
pub mod lora;
pub mod loss;
pub mod math;
pub mod norm;
pub mod packed;
pub mod recorded;
#[cfg(test)]
pub(crate) mod reference;
pub mod rope;
pub mod tape;
pub mod tensor;
