//! Time of each operation at the sizes of SmolLM2-135M: `cargo bench --bench ops [NAME…]`.
//! Prints the best of several runs, with GFLOP/s for the attention and GB/s of memory touched for the rest.

use std::hint::black_box;
use std::time::Instant;
use treering::ops::attention::{self, Saved, Sequences, Shape};
use treering::ops::{activation, adamw, elementwise, embedding, loss, norm, rope};

fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919) % 2003) as f32 / 1001.5 - 1.0).collect()
}

/// Best seconds of enough runs to fill a fifth of a second.
fn best(mut work: impl FnMut()) -> f64 {
    let (mut best, start) = (f64::INFINITY, Instant::now());
    while start.elapsed().as_secs_f64() < 0.2 {
        let run = Instant::now();
        work();
        best = best.min(run.elapsed().as_secs_f64());
    }
    best
}

fn main() {
    let only: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wanted = |name: &str| only.is_empty() || only.iter().any(|o| name.contains(o.as_str()));
    let report = |name: &str, unit: &str, amount: f64, work: &mut dyn FnMut()| {
        if wanted(name) {
            let seconds = best(work);
            println!("{name:<32} {:>9.3} ms {:>8.1} {unit}", seconds * 1e3, amount / seconds / 1e9);
        }
    };

    for (batch, tokens) in [(8, 128), (4, 256), (1, 1024), (1, 2048)] {
        let shape = Shape { batch, query_len: tokens, past: 0, heads: 9, kv_heads: 3, head_dim: 64 };
        let (n, kv) = (batch * tokens * 9 * 64, batch * tokens * 3 * 64);
        let (q, k, v, dout) = (values(n), values(kv), values(kv), values(n));
        let (k, v) = (Sequences::packed(&k, tokens, 192), Sequences::packed(&v, tokens, 192));
        let (mut out, mut lse) = (vec![0.0; n], vec![0.0; n / 64]);
        let flops = 4.0 * (batch * 9 * 64) as f64 * (tokens * (tokens + 1) / 2) as f64;
        report(&format!("attention {batch}x{tokens}"), "GFLOP/s", flops, &mut || {
            attention::forward(&shape, &q, k, v, None, &mut out, Some(&mut lse));
        });
        let (mut dq, mut dk, mut dv) = (vec![0.0; n], vec![0.0; kv], vec![0.0; kv]);
        report(&format!("attention_backward {batch}x{tokens}"), "GFLOP/s", 2.5 * flops, &mut || {
            let saved = Saved { q: &q, k, v, starts: None, out: &out, lse: &lse };
            attention::backward(&shape, saved, &dout, &mut dq, &mut dk, &mut dv, false);
        });
    }
    let past = 1023;
    let shape = Shape { batch: 1, query_len: 1, past, heads: 9, kv_heads: 3, head_dim: 64 };
    let (q, k, v) = (values(576), values((past + 1) * 192), values((past + 1) * 192));
    let (k, v) = (Sequences::packed(&k, past + 1, 192), Sequences::packed(&v, past + 1, 192));
    let mut out = vec![0.0; 576];
    report("attention one_token_of_1024", "GB/s", 8.0 * 1024.0 * 192.0, &mut || {
        attention::forward(&shape, &q, k, v, None, &mut out, None);
    });

    let (rows, cols, inner, vocab) = (1024, 576, 1536, 49_152);
    let bytes = |arrays: usize, cols: usize| (4 * arrays * rows * cols) as f64;
    let (x, weight, dout) = (values(rows * cols), values(cols), values(rows * cols));
    let (mut y, mut inv_rms, mut dweight) = (vec![0.0; rows * cols], vec![0.0; rows], vec![0.0; cols]);
    report("rms_norm", "GB/s", bytes(2, cols), &mut || norm::rms_norm(&x, &weight, 1e-5, cols, &mut y, &mut inv_rms));
    let mut dx = vec![0.0; rows * cols];
    report("rms_norm_backward", "GB/s", bytes(4, cols), &mut || {
        norm::rms_norm_backward(&x, &weight, &inv_rms, &dout, cols, &mut dx, None);
    });
    report("rms_norm_backward weight", "GB/s", bytes(4, cols), &mut || {
        norm::rms_norm_backward(&x, &weight, &inv_rms, &dout, cols, &mut dx, Some(&mut dweight));
    });
    let table = rope::RopeTable::new(&values(32), 1.0, 1024);
    let positions: Vec<u32> = (0..rows as u32).collect();
    report("rope", "GB/s", bytes(2, cols), &mut || table.apply(&mut y, &positions));
    report("add_assign", "GB/s", bytes(3, cols), &mut || elementwise::add_assign(&mut y, &x));
    report("bias_gradient", "GB/s", bytes(1, cols), &mut || elementwise::bias_gradient(&x, &mut dweight));

    let (gate, up) = (values(rows * inner), values(rows * inner));
    let mut act = vec![0.0; rows * inner];
    report("swiglu", "GB/s", bytes(3, inner), &mut || activation::swiglu(&gate, &up, &mut act));
    let (mut dgate, mut dup) = (gate.clone(), up.clone());
    report("swiglu_backward", "GB/s", bytes(5, inner), &mut || activation::swiglu_backward(&gate, &up, &act, &mut dgate, &mut dup));

    let tokens: Vec<u32> = (0..rows).map(|i| ((i * 48_271) % vocab) as u32).collect();
    let mut embeddings = values(vocab * cols);
    report("embedding gather", "GB/s", bytes(2, cols), &mut || embedding::gather(&embeddings, &tokens, cols, &mut y));
    report("embedding scatter_add", "GB/s", bytes(3, cols), &mut || embedding::scatter_add(&x, &tokens, cols, &mut embeddings));

    let chunk = 128;
    let mut logits = values(chunk * vocab);
    let (mut nll, mut correct, mut largest) = (vec![0.0; chunk], vec![false; chunk], vec![0.0; chunk]);
    let targets = &tokens[..chunk];
    report("cross_entropy", "GB/s", (4 * chunk * vocab) as f64, &mut || {
        loss::cross_entropy(&logits, vocab, targets, &mut nll, &mut correct, &mut largest);
    });
    report("cross_entropy_gradient", "GB/s", (8 * chunk * vocab) as f64, &mut || {
        loss::cross_entropy_gradient(&mut logits, vocab, targets, 1.0, &mut nll, &mut correct);
    });

    let n = 8 << 20;
    let (mut p, g, mut m, mut v) = (values(n), values(n), vec![0.0; n], vec![0.0; n]);
    let step = adamw::AdamW { learning_rate: 1e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step: 5, gradient_scale: 1.0 };
    report("adamw", "GB/s", (28 * n) as f64, &mut || {
        step.update(&mut p, &g, &mut m, &mut v);
    });
    report("sum_of_squares", "GB/s", (4 * n) as f64, &mut || {
        black_box(adamw::sum_of_squares(&g));
    });
}
