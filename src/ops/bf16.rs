//! Rounding to bf16, one value at a time or by the slice; with the processor's own conversion where it has one.
//!
//! That conversion takes denormal f32 values for zeros, and so do its products: which of the two rounds makes no difference to a product.

use super::isa::Isa;
use crate::simd_fn;

/// Rounds to the nearest bf16, ties to even; NaN stays NaN.
#[inline(always)]
pub fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    if x.is_nan() { 0x7fc0 } else { rounded }
}

/// The f32 with the bits of a bf16.
#[inline(always)]
pub fn from_bf16(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

/// Rounds a slice to bf16.
pub fn round_to_bf16(x: &[f32], out: &mut [u16]) {
    let len = x.len().min(out.len());
    let (x, out) = (&x[..len], &mut out[..len]);
    #[cfg(target_arch = "x86_64")]
    if Isa::current() >= Isa::Avx512Bf16 {
        // SAFETY: the processor has the instructions, or this set would not be in use.
        return unsafe { native::round(x, out) };
    }
    round_portable(x, out);
}

simd_fn! {
    fn round_portable(x: &[f32], out: &mut [u16]) {
        for (o, &v) in out.iter_mut().zip(x) {
            *o = to_bf16(v);
        }
    }
}

/// Rounds neighbouring values to pairs of bf16, the first in the low half; the last of an odd number goes with a zero.
pub(super) fn round_pairs(x: &[f32], out: &mut [u32]) {
    let whole = x.len() / 2;
    #[cfg(target_endian = "little")]
    {
        // SAFETY: half the size, a coarser alignment, every bit pattern is a value of either; a word's low half comes first.
        let halves = unsafe { std::slice::from_raw_parts_mut(out.as_mut_ptr().cast::<u16>(), 2 * whole.min(out.len())) };
        round_to_bf16(x, halves);
    }
    #[cfg(not(target_endian = "little"))]
    for (o, pair) in out.iter_mut().zip(x.chunks_exact(2)) {
        *o = u32::from(to_bf16(pair[0])) | (u32::from(to_bf16(pair[1])) << 16);
    }
    if x.len() > 2 * whole {
        out[whole] = u32::from(to_bf16(x[2 * whole]));
    }
}

/// Rounds two rows to pairs of bf16: `even[c]` in the low half of word `c`, `odd[c]`, or zero where there is no such row, in the high.
pub(super) fn round_rows_to_pairs(even: &[f32], odd: Option<&[f32]>, out: &mut [u32]) {
    let Some(odd) = odd else { return out.iter_mut().zip(even).for_each(|(o, &even)| *o = u32::from(to_bf16(even))) };
    let len = even.len().min(odd.len()).min(out.len());
    let (even, odd, out) = (&even[..len], &odd[..len], &mut out[..len]);
    #[cfg(target_arch = "x86_64")]
    if Isa::current() >= Isa::Avx512Bf16 {
        // SAFETY: as in `round_to_bf16`.
        return unsafe { native::round_rows(even, odd, out) };
    }
    round_rows_portable(even, odd, out);
}

simd_fn! {
    fn round_rows_portable(even: &[f32], odd: &[f32], out: &mut [u32]) {
        for ((o, &even), &odd) in out.iter_mut().zip(even).zip(odd) {
            *o = u32::from(to_bf16(even)) | (u32::from(to_bf16(odd)) << 16);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod native {
    use super::to_bf16;
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) fn round(x: &[f32], out: &mut [u16]) {
        let (values, rest) = x.as_chunks::<32>();
        let (words, rest_out) = out.as_chunks_mut::<32>();
        for (o, v) in words.iter_mut().zip(values) {
            // SAFETY: 32 values are read and 32 written.
            unsafe {
                let rounded = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(v.as_ptr().add(16)), _mm512_loadu_ps(v.as_ptr()));
                _mm512_storeu_si512(o.as_mut_ptr().cast(), std::mem::transmute::<__m512bh, __m512i>(rounded));
            }
        }
        rest_out.iter_mut().zip(rest).for_each(|(o, &v)| *o = to_bf16(v));
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) fn round_rows(even: &[f32], odd: &[f32], out: &mut [u32]) {
        // Word i of the result: half i of the even row, half i of the odd row, which lie 16 apart.
        let order: [u16; 32] = std::array::from_fn(|i| (i / 2 + i % 2 * 16) as u16);
        let ((evens, even), (odds, odd)) = (even.as_chunks::<16>(), odd.as_chunks::<16>());
        let (words, out) = out.as_chunks_mut::<16>();
        // SAFETY: 32 halves are read.
        let order = unsafe { _mm512_loadu_si512(order.as_ptr().cast()) };
        for ((o, e), d) in words.iter_mut().zip(evens).zip(odds) {
            // SAFETY: 16 values of either row are read and 16 words written.
            unsafe {
                let rounded = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(d.as_ptr()), _mm512_loadu_ps(e.as_ptr()));
                let pairs = _mm512_permutexvar_epi16(order, std::mem::transmute::<__m512bh, __m512i>(rounded));
                _mm512_storeu_si512(o.as_mut_ptr().cast(), pairs);
            }
        }
        for ((o, &e), &d) in out.iter_mut().zip(even).zip(odd) {
            *o = u32::from(to_bf16(e)) | (u32::from(to_bf16(d)) << 16);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::reference::{each_isa, random};

    /// Values of every kind but denormals, which some processors take for zeros.
    fn values(len: usize) -> Vec<f32> {
        let special = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, 1.003_906_3, 1.011_718_8, -1.5e-38];
        random(len as u64, len).iter().enumerate().map(|(i, &v)| if i % 5 == 3 { special[i / 5 % special.len()] } else { v }).collect()
    }

    #[test]
    fn rounding_is_to_the_nearest_even_and_keeps_nan_and_infinity() {
        for x in values(10_000).into_iter().chain([f32::MIN_POSITIVE, 1e-45, -3e-39]).filter(|x| !x.is_nan()) {
            assert_eq!(to_bf16(x), half::bf16::from_f32(x).to_bits(), "{x}");
        }
        assert!(from_bf16(to_bf16(f32::NAN)).is_nan());
    }

    #[test]
    fn slices_pairs_and_rows_round_as_single_values_do() {
        each_isa(|isa| {
            for len in [0, 1, 2, 15, 16, 17, 31, 32, 33, 64, 101] {
                let (x, y) = (values(len), values(len + 7)[7..].to_vec());
                let rounded = |v: &[f32]| -> Vec<u32> { v.iter().map(|&v| u32::from(half::bf16::from_f32(v).to_bits())).collect() };
                // A NaN's payload is the processor's own business.
                let plain = |bits: u32| if from_bf16(bits as u16).is_nan() { 0x7fc0 } else { bits };
                let (want_x, want_y): (Vec<u32>, Vec<u32>) =
                    (rounded(&x).into_iter().map(plain).collect(), rounded(&y).into_iter().map(plain).collect());

                let mut one = vec![0u16; len];
                round_to_bf16(&x, &mut one);
                assert_eq!(one.iter().map(|&v| plain(v.into())).collect::<Vec<_>>(), want_x, "{isa:?}, {len} values");

                let halves = |words: &[u32]| -> Vec<u32> { words.iter().flat_map(|w| [plain(w & 0xffff), plain(w >> 16)]).collect() };
                let mut pairs = vec![u32::MAX; len.div_ceil(2)];
                round_pairs(&x, &mut pairs);
                let mut want = want_x.clone();
                want.resize(2 * pairs.len(), 0);
                assert_eq!(halves(&pairs), want, "{isa:?}, pairs of {len}");

                let mut rows = vec![u32::MAX; len];
                round_rows_to_pairs(&x, Some(&y), &mut rows);
                let want: Vec<u32> = want_x.iter().zip(&want_y).flat_map(|(&x, &y)| [x, y]).collect();
                assert_eq!(halves(&rows), want, "{isa:?}, two rows of {len}");
                round_rows_to_pairs(&x, None, &mut rows);
                assert_eq!(halves(&rows), want_x.iter().flat_map(|&x| [x, 0]).collect::<Vec<_>>(), "{isa:?}, one row of {len}");
            }
        });
    }
}
