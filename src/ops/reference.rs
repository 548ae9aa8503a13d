//! A readable f64 form of every operation, and what the tests share: the kernels are checked against it,
//! and their backwards against its central finite differences.

use crate::ops::isa::{Isa, THREAD_CHOICE};

/// `n` reproducible values, roughly normal around 0 with variance 1 (a sum of uniforms).
pub fn random(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xd1b5_4a32_d192_ed03;
    let mut uniform = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..n).map(|_| (uniform() + uniform() + uniform() - 1.5) * 2.0).collect()
}

/// The same values in f64.
pub fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

/// Fails where `got` is further from `want` than `tolerance` of the largest expected value (of a half, where that is smaller:
/// inputs are around 1, and what cancels among them keeps their rounding).
#[track_caller]
pub fn assert_close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let size = want.iter().fold(0.5f64, |m, v| m.max(v.abs()));
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(g) - w).abs();
        assert!(error <= tolerance * size, "{what}[{i}]: got {g}, expected {w} (error {error:e}, scale {size:e})");
    }
}

/// The gradient of `f` at `x` by central differences.
pub fn finite_differences(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut x = x.to_vec();
    (0..x.len())
        .map(|i| {
            let (old, step) = (x[i], 1e-5);
            x[i] = old + step;
            let above = f(&x);
            x[i] = old - step;
            let below = f(&x);
            x[i] = old;
            (above - below) / (2.0 * step)
        })
        .collect()
}

/// `Σ a·b`: turns an operation's output into a scalar, given the gradient of its output.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// Bits, for comparisons that must be exact.
pub fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

/// Runs `work` once for every instruction set of this processor, poorest first, on a pool of its own that uses it.
pub fn each_isa(mut work: impl FnMut(Isa) + Send) {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).start_handler(move |_| THREAD_CHOICE.set(Some(isa)));
        pool.build().expect("a thread pool").install(|| work(isa));
    }
}

/// Fails unless `work` gives the same bits on 1, 2 and 4 threads.
#[track_caller]
pub fn assert_same_on_any_thread_count(work: impl Fn() -> Vec<f32> + Sync) {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
        bits(&pool.install(&work))
    };
    let one = run(1);
    assert!(!one.is_empty());
    for threads in [2, 4] {
        assert!(run(threads) == one, "{threads} threads give other bits than one");
    }
}

/// RMSNorm of each row.
pub fn rms_norm(x: &[f64], weight: &[f64], eps: f64) -> Vec<f64> {
    x.chunks(weight.len())
        .flat_map(|row| {
            let inv_rms = 1.0 / (dot(row, row) / row.len() as f64 + eps).sqrt();
            row.iter().zip(weight).map(move |(x, w)| x * inv_rms * w).collect::<Vec<_>>()
        })
        .collect()
}

/// Rotary embedding of one head vector at `position`.
pub fn rope(x: &[f64], position: f64, inv_freq: &[f64], attention_factor: f64) -> Vec<f64> {
    let half = inv_freq.len();
    let mut out = vec![0.0; 2 * half];
    for i in 0..half {
        let (sin, cos) = (position * inv_freq[i]).sin_cos();
        out[i] = (x[i] * cos - x[i + half] * sin) * attention_factor;
        out[i + half] = (x[i + half] * cos + x[i] * sin) * attention_factor;
    }
    out
}

/// SwiGLU: `silu(gate) * up`.
pub fn swiglu(gate: &[f64], up: &[f64]) -> Vec<f64> {
    gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect()
}

/// Negative log-likelihood of `target` under the softmax of one row.
pub fn nll(logits: &[f64], target: usize) -> f64 {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + logits.iter().map(|x| (x - max).exp()).sum::<f64>().ln() - logits[target]
}

/// Sizes of an attention, as in [`crate::ops::attention::Shape`], with packed keys and values.
pub struct Attention {
    pub batch: usize,
    pub query_len: usize,
    pub past: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl Attention {
    /// Causal grouped-query attention with its whole matrix.
    pub fn forward(&self, q: &[f64], k: &[f64], v: &[f64], starts: Option<&[u32]>) -> Vec<f64> {
        let (d, key_len) = (self.head_dim, self.past + self.query_len);
        let mut out = vec![0.0; q.len()];
        for b in 0..self.batch {
            for i in 0..self.query_len {
                let row = b * self.query_len + i;
                let first = starts.map_or(0, |s| s[row] as usize);
                for h in 0..self.heads {
                    let at = (row * self.heads + h) * d;
                    let group = h / (self.heads / self.kv_heads);
                    let key = |j: usize| ((b * key_len + j) * self.kv_heads + group) * d;
                    let scores: Vec<f64> =
                        (first..=self.past + i).map(|j| dot(&q[at..at + d], &k[key(j)..key(j) + d]) / (d as f64).sqrt()).collect();
                    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                    for (j, s) in (first..).zip(&scores) {
                        let p = (s - max).exp() / total;
                        for c in 0..d {
                            out[at + c] += p * v[key(j) + c];
                        }
                    }
                }
            }
        }
        out
    }
}
