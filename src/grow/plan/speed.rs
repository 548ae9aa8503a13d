//! Tokens a second on this machine, from one short measurement of its matrix products.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::Plan;
use crate::model::Precision;
use crate::ops::gemm::{Left, Right, View, gemm};
use crate::ops::packed::Packed;

/// The share of the measured matrix-product speed that a whole training step is assumed to reach:
/// the rest goes into norms, activations, attention, narrow products and the optimizer.
pub const EFFICIENCY: f64 = 0.7;

/// Rows, and values a row, of the measured product: large enough to be typical, small enough that many fit into the time.
const SIDE: usize = 512;

/// How long is measured.
const LIMIT: Duration = Duration::from_millis(200);

/// An estimate of the speed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Speed {
    /// Measured speed of matrix products, in 10⁹ operations a second.
    pub gflops: f64,
    /// The share of it that a training step is assumed to reach, [`EFFICIENCY`].
    pub efficiency: f64,
    /// Trained tokens a second.
    pub tokens_per_second: f64,
}

impl Speed {
    /// The speed of a plan on a machine whose matrix products run at `gflops`.
    pub fn estimate(plan: &Plan, gflops: f64) -> Self {
        let tokens_per_second = gflops * 1e9 * EFFICIENCY / plan.flops_per_token.total.max(1) as f64;
        Self { gflops, efficiency: EFFICIENCY, tokens_per_second }
    }
}

/// Measures the matrix products of this machine in about 0.2 s, in 10⁹ operations a second.
pub fn measure_gflops(precision: Precision) -> f64 {
    let values: Vec<f32> = (0..SIDE * SIDE).map(|i| (i % 251) as f32 * 0.01 - 1.0).collect();
    let weight = Packed::from_weight(&values, SIDE, SIDE, precision);
    let mut out = vec![0.0; SIDE * SIDE];
    let mut best = f64::INFINITY;
    let start = Instant::now();
    // The first pass warms up; the fastest of the rest is what an undisturbed machine does.
    let mut passes = 0;
    while passes < 3 || start.elapsed() < LIMIT {
        let pass = Instant::now();
        gemm(SIDE, SIDE, SIDE, Left::F32(View::rows(&values, SIDE)), Right::Packed(&weight), &mut out, SIDE, false);
        if passes > 0 {
            best = best.min(pass.elapsed().as_secs_f64());
        }
        passes += 1;
    }
    2.0 * (SIDE * SIDE * SIDE) as f64 / best / 1e9
}
