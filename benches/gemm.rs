//! GFLOP/s of the matrix products by shape, beside the roof: `cargo bench --bench gemm -- [--threads N]`.
//! The shapes are SmolLM2-135M's over 1,024 tokens; frozen weights are packed before, gradients pack on the way.

mod support;

use support::{best_seconds, roof};
use treering::model::Precision;
use treering::ops::gemm::{Left, Right, View, gemm};
use treering::ops::packed::Packed;

const TOKENS: usize = 1024;

fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919) % 2003) as f32 / 1001.5 - 1.0).collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    if let Some(name) = arguments.next() {
        let count = arguments.next().filter(|_| name == "--threads").ok_or("usage: cargo bench --bench gemm -- [--threads N]")?;
        rayon::ThreadPoolBuilder::new().num_threads(count.parse()?).build_global()?;
    }
    for precision in [Precision::F32, Precision::Bf16] {
        let roof = roof(precision);
        println!("{precision:?} on {} threads, roof {roof:.0} GFLOP/s", rayon::current_num_threads());
        let report = |name: &str, m: usize, n: usize, k: usize, seconds: f64| {
            let rate = 2.0 * (m * n * k) as f64 / seconds / 1e9;
            println!("  {name:<40} {m:>5} x {n:>5} x {k:>5} {rate:>8.1} GFLOP/s {:>5.0} %", 100.0 * rate / roof);
        };
        let layers = [("q_proj", 576, 576), ("k_proj", 192, 576), ("gate_proj", 1536, 576), ("down_proj", 576, 1536)];
        let added = [
            ("W21 of gate_proj", 256, 576),
            ("W21 of down_proj", 64, 1536),
            ("W12 of o_proj", 576, 192),
            ("W22 of k_proj", 64, 64),
            ("W21 of down_proj, 32 wide", 32, 1536),
            ("lora_A of q_proj, r = 16", 16, 576),
        ];
        for (name, out, inputs) in layers.into_iter().chain(added).chain([("lm_head", 8192, 576)]) {
            let (weight, x) = (values(out * inputs), values(TOKENS * inputs));
            let packed = Packed::from_weight(&weight, out, inputs, precision);
            let mut y = vec![0.0; TOKENS * out];
            let left = Left::F32(View::rows(&x, inputs));
            let seconds = best_seconds(|| gemm(TOKENS, out, inputs, left, Right::Packed(&packed), &mut y, out, false));
            report(name, TOKENS, out, inputs, seconds);
        }
        for (name, out, inputs) in
            layers.into_iter().chain([("W12 of gate_proj, 32 wide", 1536, 32), ("lora_B of gate_proj, r = 16", 1536, 16)])
        {
            let (dy, x) = (values(TOKENS * out), values(TOKENS * inputs));
            let mut dw = vec![0.0; out * inputs];
            let (left, right) = (Left::F32(View::rows(&dy, out).t()), Right::F32(View::rows(&x, inputs), precision));
            let seconds = best_seconds(|| gemm(out, inputs, TOKENS, left, right, &mut dw, inputs, false));
            report(&format!("gradient of {name}"), out, inputs, TOKENS, seconds);
        }
    }
    Ok(())
}
