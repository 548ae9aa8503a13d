//! Tokens a second on this machine, from one short measurement of its matrix products.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::Plan;
use crate::model::Precision;
use crate::ops::gemm::{Left, Right, View, gemm};
use crate::ops::isa::Isa;
use crate::ops::packed::Packed;

/// The share of the speed of matrix products that a whole training step reaches where vectors compute both:
/// the rest goes into norms, activations, attention, narrow products and the optimizer.
pub const EFFICIENCY: f64 = 0.7;

/// Rows, and values a row, of the measured product: large enough to be typical, small enough that many fit into the time.
const SIDE: usize = 512;

/// Operands and results that are used in turn: as in a step, none is still in a cache when it is needed.
const SETS: usize = 16;

/// How long is measured.
const LIMIT: Duration = Duration::from_millis(200);

/// How fast a machine multiplies matrices, and what a training step makes of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Products {
    /// Speed of matrix products, in 10⁹ operations a second.
    pub gflops: f64,
    /// The share of it that a training step is assumed to reach.
    pub efficiency: f64,
}

impl Products {
    /// A machine whose products run at `gflops`, in vectors like everything else.
    pub fn in_vectors(gflops: f64) -> Self {
        Self { gflops, efficiency: EFFICIENCY }
    }

    /// Products in a unit of their own at `gflops`, where vectors would reach `vectors`: the rest of a step takes the time that it takes in vectors.
    pub fn in_tiles(gflops: f64, vectors: f64) -> Self {
        let rest = (1.0 / EFFICIENCY - 1.0) * (gflops / vectors).max(1.0);
        Self { gflops, efficiency: 1.0 / (1.0 + rest) }
    }

    /// Operations a second that a training step is assumed to reach.
    pub fn in_training(self) -> f64 {
        self.gflops * 1e9 * self.efficiency
    }

    /// Measures this machine in 0.2 s, and as long again where it has a tile unit.
    pub fn measure(precision: Precision) -> Self {
        let gflops = measure_gflops(precision);
        if precision == Precision::Bf16 && Isa::current() == Isa::Amx {
            Self::in_tiles(gflops, measure_gflops(Precision::F32))
        } else {
            Self::in_vectors(gflops)
        }
    }
}

/// An estimate of the speed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Speed {
    /// Measured speed of matrix products, in 10⁹ operations a second.
    pub gflops: f64,
    /// The share of it that a training step is assumed to reach.
    pub efficiency: f64,
    /// Trained tokens a second.
    pub tokens_per_second: f64,
}

impl Speed {
    /// The speed of a plan on a machine.
    pub fn estimate(plan: &Plan, products: Products) -> Self {
        let tokens_per_second = products.in_training() / plan.flops_per_token.total.max(1) as f64;
        Self { gflops: products.gflops, efficiency: products.efficiency, tokens_per_second }
    }
}

/// The matrix products of this machine, in 10⁹ operations a second.
fn measure_gflops(precision: Precision) -> f64 {
    let values: Vec<f32> = (0..SETS * SIDE * SIDE).map(|i| (i % 251) as f32 * 0.01 - 1.0).collect();
    let weights: Vec<Packed> = values.chunks(SIDE * SIDE).map(|values| Packed::from_weight(values, SIDE, SIDE, precision)).collect();
    let mut out = vec![0.0; SETS * SIDE * SIDE];
    let mut best = f64::INFINITY;
    let start = Instant::now();
    // The first pass warms up; the fastest of the rest is what an undisturbed machine does.
    let mut passes = 0;
    while passes < 3 || start.elapsed() < LIMIT {
        let part = passes % SETS * SIDE * SIDE;
        let (left, weight) = (Left::F32(View::rows(&values[part..], SIDE)), Right::Packed(&weights[passes % SETS]));
        let pass = Instant::now();
        gemm(SIDE, SIDE, SIDE, left, weight, &mut out[part..], SIDE, false);
        if passes > 0 {
            best = best.min(pass.elapsed().as_secs_f64());
        }
        passes += 1;
    }
    2.0 * (SIDE * SIDE * SIDE) as f64 / best / 1e9
}
