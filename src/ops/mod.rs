//! The compute core: fused operations, each with its forward and its backward, on the CPU.

pub mod activation;
pub mod adamw;
pub mod attention;
pub mod embedding;
pub mod gemm;
pub mod isa;
mod kernel;
pub mod loss;
pub mod norm;
pub mod packed;
pub mod rope;
