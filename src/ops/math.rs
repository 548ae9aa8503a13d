//! Building blocks of the row kernels: an exponential the compiler can vectorise, and sums over fixed lanes.
//!
//! Everything here is `#[inline(always)]`, so that inside [`simd_fn!`](crate::simd_fn) it is compiled for each instruction set.
//! Nothing contracts `a * b + c`, so every instruction set gives the same bits.

/// Partial sums a reduction keeps: element `i` of a row always goes to lane `i % LANES`, whatever the register width.
pub const LANES: usize = 32;

/// Elements one parallel task handles at least; also the size of the fixed chunks of whole-buffer operations.
pub const TASK_ELEMENTS: usize = 16 * 1024;

/// Rows of `cols` values that make up one task.
#[inline]
pub fn rows_per_task(cols: usize) -> usize {
    (TASK_ELEMENTS / cols.max(1)).max(1)
}

/// Adding this to a small f32 rounds it to an integer, which then sits in the low mantissa bits.
const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23
/// ln 2 in two parts; the first has 16 significant bits, so its product with an exponent is exact.
const LN_2_HIGH: f32 = 0.693_145_75;
const LN_2_LOW: f32 = 1.428_606_8e-6;
/// Below this the result would be subnormal; it becomes exactly 0.
const LOWEST: f32 = -87.0;
/// Above this the power of two no longer fits; the result becomes infinite (true overflow begins at 88.72).
const HIGHEST: f32 = 88.0;

/// `e^x` within 2 units in the last place: exactly 1 at 0, exactly 0 below -87 (so at -∞), ∞ above 88, NaN for NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Written as selects that keep NaN, which `f32::clamp` and `max` would not all vectorise to.
    let bounded = if x < LOWEST { LOWEST } else { x };
    let bounded = if bounded > HIGHEST { HIGHEST } else { bounded };
    let shifted = bounded * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (bounded - n * LN_2_HIGH) - n * LN_2_LOW;
    // (e^r - 1 - r) / r² on |r| <= ln 2 / 2, interpolated at Chebyshev nodes.
    let q = ((0.001_392_621_3 * r + 0.008_363_203) * r + 0.041_666_554) * r + 0.166_665_77;
    let e = 1.0 + (r + r * r * (q * r + 0.5));
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    let y = e * scale;
    let y = if x < LOWEST { 0.0 } else { y };
    if x > HIGHEST { f32::INFINITY } else { y }
}

/// `2^x` for `x` up to 120, within 3 units in the last place: exactly 1 at 0, exactly 0 below -126 (so at -∞), NaN for NaN.
/// A third cheaper than [`exp`]: for the softmax inside attention, whose scores are rounded more coarsely anyway.
#[inline(always)]
pub fn exp2(x: f32) -> f32 {
    const LOWEST: f32 = -126.0;
    let bounded = if x < LOWEST { LOWEST } else { x };
    let shifted = bounded + ROUND;
    let r = bounded - (shifted - ROUND);
    // (2^r - 1) / r on |r| <= 1/2, interpolated at 0 and four nodes that spread the relative error of 2^r evenly.
    let q = (((0.001_338_481_4 * r + 0.009_669_918) * r + 0.055_503_74) * r + 0.240_222_78) * r + std::f32::consts::LN_2;
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    let y = (1.0 + q * r) * scale;
    if x < LOWEST { 0.0 } else { y }
}

/// The logistic function `1 / (1 + e^-x)`, without overflow at either end.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    let e = exp(-x.abs());
    let numerator = if x < 0.0 { e } else { 1.0 };
    numerator / (1.0 + e)
}

/// Adds up lanes pairwise, always in the same order.
#[inline(always)]
pub fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// The greatest lane.
#[inline(always)]
pub fn max_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = if lanes[i + half] > lanes[i] { lanes[i + half] } else { lanes[i] };
        }
        half /= 2;
    }
    lanes[0]
}

/// `Σ term(a[i], b[i])` over fixed lanes; `a` and `b` have the same length.
#[inline(always)]
pub fn sum2(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (x, y) in a_blocks.iter().zip(b_blocks) {
        for i in 0..LANES {
            lanes[i] += term(x[i], y[i]);
        }
    }
    for (lane, (&x, &y)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *lane += term(x, y);
    }
    sum_lanes(lanes)
}

/// The greatest value of a row, ignoring NaN; -∞ for an empty row.
#[inline(always)]
pub fn max(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = row.as_chunks::<LANES>();
    for x in blocks {
        for i in 0..LANES {
            lanes[i] = if x[i] > lanes[i] { x[i] } else { lanes[i] };
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = if x > *lane { x } else { *lane };
    }
    max_lanes(lanes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::isa::Isa;
    use crate::ops::reference::{each_isa, random};
    use crate::simd_fn;

    simd_fn! {
        fn exp_all(x: &[f32], out: &mut [f32]) {
            for (o, &x) in out.iter_mut().zip(x) {
                *o = exp(x);
            }
        }
    }

    #[test]
    fn exp_is_within_two_ulp_of_f64_over_its_whole_range() {
        let xs: Vec<f32> = (0..2_000_000).map(|i| -86.99 + 174.9 * (i as f32 / 2e6)).collect();
        let mut got = vec![0.0; xs.len()];
        exp_all(&xs, &mut got);
        let mut worst = 0.0f64;
        for (&x, &y) in xs.iter().zip(&got) {
            let exact = f64::from(x).exp();
            let nearest = exact as f32;
            let ulp = f64::from(f32::from_bits(nearest.to_bits() + 1)) - f64::from(nearest);
            worst = worst.max((f64::from(y) - exact).abs() / ulp);
        }
        assert!(worst < 2.0, "{worst} ulp");
    }

    #[test]
    fn exp2_is_within_three_ulp_of_f64_over_its_whole_range() {
        let mut worst = 0.0f64;
        for i in 0..1_000_000 {
            let x = -125.99 + 245.9 * (i as f32 / 1e6);
            let exact = f64::from(x).exp2();
            let nearest = exact as f32;
            let ulp = f64::from(f32::from_bits(nearest.to_bits() + 1)) - f64::from(nearest);
            worst = worst.max((f64::from(exp2(x)) - exact).abs() / ulp);
        }
        assert!(worst < 3.0, "{worst} ulp");
        assert_eq!(exp2(0.0), 1.0);
        assert_eq!(exp2(f32::NEG_INFINITY).to_bits(), 0);
        assert_eq!(exp2(-1e30).to_bits(), 0);
        assert!(exp2(f32::NAN).is_nan());
    }

    #[test]
    fn exp_is_exact_at_zero_and_at_the_ends() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY).to_bits(), 0);
        assert_eq!(exp(-1e30).to_bits(), 0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(1e30), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::from_bits(0x7fc0_0001)).is_nan());
    }

    #[test]
    fn exp_and_sums_have_the_same_bits_in_every_instruction_set() {
        let x: Vec<f32> = random(1, 10_007).iter().map(|v| v * 40.0).collect();
        simd_fn! {
            fn sum(x: &[f32]) -> f32 {
                sum2(x, x, |a, b| a * b) + max(x)
            }
        }
        let mut results = Vec::new();
        each_isa(|isa| {
            assert_eq!(Isa::current(), isa);
            let mut y = vec![0.0; x.len()];
            exp_all(&x, &mut y);
            y.push(sum(&x));
            results.push((isa, y.iter().map(|v| v.to_bits()).collect::<Vec<_>>()));
        });
        assert_eq!(results[0].0, Isa::Portable);
        for (isa, bits) in &results {
            assert!(*bits == results[0].1, "{isa:?} differs from portable");
        }
    }

    #[test]
    fn sigmoid_does_not_overflow_and_agrees_with_f64() {
        for x in [-200.0f32, -90.0, -20.0, -1.5, -0.0, 0.0, 0.3, 5.0, 30.0, 200.0] {
            let exact = 1.0 / (1.0 + (-f64::from(x)).exp());
            let got = f64::from(sigmoid(x));
            assert!((got - exact).abs() <= 3e-7 * exact + 1e-37, "{x}: {got} {exact}");
        }
        assert!(sigmoid(f32::NAN).is_nan());
    }
}
