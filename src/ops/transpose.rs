//! Transposing matrices of 32-bit words, in squares that stay in registers.

use super::isa::Isa;

/// `out[columns, rows]` from `x [rows, columns]`, with their strides.
pub(super) fn transpose(x: &[f32], stride: usize, rows: usize, columns: usize, out: &mut [f32], out_stride: usize) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(columns <= stride && (rows - 1) * stride + columns <= x.len());
    assert!(rows <= out_stride && (columns - 1) * out_stride + rows <= out.len());
    let (mut whole_rows, mut whole_columns) = (0, 0);
    #[cfg(target_arch = "x86_64")]
    if Isa::current() >= Isa::Avx2 {
        (whole_rows, whole_columns) = (rows / 8 * 8, columns / 8 * 8);
        // SAFETY: the squares lie within both matrices, as asserted; the processor has AVX2.
        unsafe { transpose_squares(x.as_ptr(), stride, whole_rows, whole_columns, out.as_mut_ptr(), out_stride) };
    }
    let mut rest = |rows: std::ops::Range<usize>, columns: std::ops::Range<usize>| {
        for r in rows {
            for c in columns.clone() {
                out[c * out_stride + r] = x[r * stride + c];
            }
        }
    };
    rest(0..whole_rows, whole_columns..columns);
    rest(whole_rows..rows, 0..columns);
}

/// Transposes squares of eight.
///
/// # Safety
/// `x` and `out` cover `rows` and `columns`, both multiples of eight, with their strides.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn transpose_squares(x: *const f32, stride: usize, rows: usize, columns: usize, out: *mut f32, out_stride: usize) {
    use std::arch::x86_64::*;
    for r in (0..rows).step_by(8) {
        for c in (0..columns).step_by(8) {
            // SAFETY: the caller's.
            unsafe {
                let from = x.add(r * stride + c);
                // Lanes 0-3 of rows i and i + 4 side by side, then the same for lanes 4-7: what is left stays within halves.
                let half = |i: usize, at: usize| {
                    let low = _mm256_castps128_ps256(_mm_loadu_ps(from.add(i * stride + at)));
                    _mm256_insertf128_ps::<1>(low, _mm_loadu_ps(from.add((i + 4) * stride + at)))
                };
                for at in [0, 4] {
                    let [a, b, c4, d] = [half(0, at), half(1, at), half(2, at), half(3, at)];
                    let (ab_low, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
                    let (cd_low, cd_high) = (_mm256_unpacklo_ps(c4, d), _mm256_unpackhi_ps(c4, d));
                    let to = out.add((c + at) * out_stride + r);
                    _mm256_storeu_ps(to, _mm256_shuffle_ps::<0x44>(ab_low, cd_low));
                    _mm256_storeu_ps(to.add(out_stride), _mm256_shuffle_ps::<0xee>(ab_low, cd_low));
                    _mm256_storeu_ps(to.add(2 * out_stride), _mm256_shuffle_ps::<0x44>(ab_high, cd_high));
                    _mm256_storeu_ps(to.add(3 * out_stride), _mm256_shuffle_ps::<0xee>(ab_high, cd_high));
                }
            }
        }
    }
}

/// [`transpose`] of words that are not numbers (pairs of bf16, bits): nothing is computed, so no pattern is lost.
pub(super) fn transpose_words(x: &[u32], stride: usize, rows: usize, columns: usize, out: &mut [u32], out_stride: usize) {
    // SAFETY: same size and alignment; moves through vector registers keep every bit pattern.
    let (x, out) = unsafe {
        (std::slice::from_raw_parts(x.as_ptr().cast(), x.len()), std::slice::from_raw_parts_mut(out.as_mut_ptr().cast(), out.len()))
    };
    transpose(x, stride, rows, columns, out, out_stride);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::reference::{each_isa, random};

    #[test]
    fn transposing_moves_every_value_to_its_place_and_nothing_beyond() {
        each_isa(|isa| {
            for (rows, columns) in [(1, 1), (7, 9), (8, 8), (16, 24), (37, 19), (64, 129)] {
                let (stride, out_stride) = (columns + 3, rows + 5);
                let x = random(1, rows * stride);
                let mut out = vec![f32::INFINITY; columns * out_stride];
                transpose(&x, stride, rows, columns, &mut out, out_stride);
                for c in 0..columns {
                    for r in 0..out_stride {
                        let want = if r < rows { x[r * stride + c] } else { f32::INFINITY };
                        assert_eq!(out[c * out_stride + r], want, "{isa:?}: [{rows}, {columns}] at {r}, {c}");
                    }
                }
            }
        });
    }
}
