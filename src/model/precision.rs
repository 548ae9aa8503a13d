//! The arithmetic of matrix products.

/// Arithmetic of the matrix products; sums are always f32, trained weights are always kept in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Both operands f32.
    F32,
    /// Both operands rounded to bf16, products summed in f32.
    Bf16,
}
