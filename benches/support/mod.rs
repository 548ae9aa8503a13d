//! What the benches share: the roof of this processor, and a best-of timer.

use std::hint::black_box;
use std::time::Instant;

use treering::memory::HugePages;
use treering::model::Precision;
use treering::ops::isa::Isa;

/// As in the program.
#[global_allocator]
static ALLOCATOR: HugePages = HugePages;

/// Best seconds of enough runs to fill a fifth of a second, at least two.
pub fn best_seconds(mut work: impl FnMut()) -> f64 {
    let (mut best, mut runs, start) = (f64::INFINITY, 0, Instant::now());
    while runs < 2 || start.elapsed().as_secs_f64() < 0.2 {
        let run = Instant::now();
        work();
        best = best.min(run.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}

/// GFLOP/s that all threads of the pool reach together when they do nothing but multiply and add in registers:
/// with bf16 dot products where the processor has them and `precision` asks for it, else with the widest f32 FMA in use.
pub fn roof(precision: Precision) -> f64 {
    const ROUNDS: usize = 2_000_000;
    let threads = rayon::current_num_threads();
    let mut flops = 0.0;
    let seconds = best_seconds(|| flops = rayon::broadcast(|_| one_thread(precision, ROUNDS)).iter().sum());
    assert!(threads > 0 && flops > 0.0);
    flops / seconds / 1e9
}

/// Runs `rounds` rounds on this thread; returns the number of floating-point operations done.
fn one_thread(precision: Precision, rounds: usize) -> f64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: `Isa::current` names only what this processor has.
        match (Isa::current(), precision) {
            (Isa::Amx, Precision::Bf16) => return unsafe { x86::tiles_bf16(rounds) },
            (Isa::Avx512Bf16, Precision::Bf16) => return unsafe { x86::dot_bf16(rounds) },
            (Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx, _) => return unsafe { x86::fma_512(rounds) },
            (Isa::Avx2, _) => return unsafe { x86::fma_256(rounds) },
            (Isa::Portable, _) => {}
        }
    }
    let _ = precision;
    let (mut sums, factor) = (black_box([1.0f32; 32]), black_box(0.999f32));
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = *sum * factor + factor;
        }
    }
    black_box(sums);
    (rounds * 32 * 2) as f64
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// Independent chains: enough to hide the latency of the multiplier, few enough to stay in registers.
    const CHAINS: usize = 12;

    #[target_feature(enable = "avx2,fma")]
    pub fn fma_256(rounds: usize) -> f64 {
        let factor = _mm256_set1_ps(black_box(0.999));
        let mut sums = [_mm256_set1_ps(1.0); CHAINS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, factor, factor);
            }
        }
        black_box(sums);
        (rounds * CHAINS * 8 * 2) as f64
    }

    #[target_feature(enable = "avx512f")]
    pub fn fma_512(rounds: usize) -> f64 {
        let factor = _mm512_set1_ps(black_box(0.999));
        let mut sums = [_mm512_set1_ps(1.0); CHAINS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, factor, factor);
            }
        }
        black_box(sums);
        (rounds * CHAINS * 16 * 2) as f64
    }

    /// Four chains of tiles, sixteen by sixteen by thirty-two; the processor must have the unit.
    pub unsafe fn tiles_bf16(rounds: usize) -> f64 {
        let mut shapes = [0u8; 64];
        shapes[0] = 1;
        for tile in 0..8 {
            shapes[16 + 2 * tile] = 64;
            shapes[48 + tile] = 16;
        }
        let mut left = rounds / 8;
        // SAFETY: a valid configuration; nothing else is read or written, and the compiler keeps nothing in tiles.
        unsafe {
            std::arch::asm!(
                "ldtilecfg [{shapes}]",
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {left}",
                "jnz 2b",
                "tilerelease",
                shapes = in(reg) shapes.as_ptr(),
                left = inout(reg) left,
                options(nostack, readonly)
            );
        }
        black_box(left);
        (rounds / 8 * 4 * 16 * 16 * 32 * 2) as f64
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub fn dot_bf16(rounds: usize) -> f64 {
        let factor = _mm512_cvtne2ps_pbh(_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(0.25)));
        let mut sums = [_mm512_set1_ps(1.0); CHAINS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, factor, factor);
            }
        }
        black_box(sums);
        (rounds * CHAINS * 32 * 2) as f64
    }
}
