//! The cosine of the angle between rows of logits.

use super::math::sum2;
use crate::data::batch::IGNORE;
use crate::simd_fn;
use rayon::prelude::*;

/// Products that are summed in f32 before they join a row's f64 total.
const BLOCK: usize = 4096;

/// The cosine of each pair of rows: exactly 1 for rows that are equal, 0 where the target is [`IGNORE`] or a row is nothing but zeros.
///
/// # Shapes
/// `a`, `b` `[rows, vocab]`, `targets`, `out` `[rows]`.
pub fn rows(a: &[f32], b: &[f32], vocab: usize, targets: &[u32], out: &mut [f32]) {
    assert!(vocab > 0 && a.len() == b.len() && a.len() == targets.len() * vocab && out.len() == targets.len());
    let pairs = (a.par_chunks_exact(vocab), b.par_chunks_exact(vocab), targets, out).into_par_iter();
    pairs.for_each(|(a, b, &target, out)| *out = if target == IGNORE { 0.0 } else { one(a, b) });
}

/// The cosine of two vectors of one length, as [`rows`] has it.
pub fn one(a: &[f32], b: &[f32]) -> f32 {
    if a == b {
        return if a.iter().any(|&v| v != 0.0) { 1.0 } else { 0.0 };
    }
    let sum = |a: &[f32], b: &[f32]| a.chunks(BLOCK).zip(b.chunks(BLOCK)).map(|(a, b)| f64::from(dot(a, b))).sum::<f64>();
    let norms = (sum(a, a) * sum(b, b)).sqrt();
    if norms == 0.0 { 0.0 } else { (sum(a, b) / norms).clamp(-1.0, 1.0) as f32 }
}

simd_fn! {
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        sum2(a, b, |a, b| a * b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::reference::{assert_close, random};

    #[test]
    fn cosines_agree_with_f64_at_odd_sizes() {
        for vocab in [2, 33, 4097, 49_152] {
            let (a, b) = (random(1, 3 * vocab), random(2, 3 * vocab));
            let mut out = [9.0; 3];
            rows(&a, &b, vocab, &[0, IGNORE, 1], &mut out);
            let exact = |row: usize| {
                let range = row * vocab..(row + 1) * vocab;
                let sum = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
                let (a, b) = (&a[range.clone()], &b[range]);
                sum(a, b) / (sum(a, a) * sum(b, b)).sqrt()
            };
            assert_close("cosine", &out, &[exact(0), 0.0, exact(2)], 1e-5);
        }
    }

    #[test]
    fn known_angles_and_what_has_none() {
        let cosine = |a: [f32; 2], b: [f32; 2]| one(&a, &b);
        assert_eq!(cosine([0.3, 0.1], [0.3, 0.1]), 1.0);
        assert_eq!(cosine([1.0, 0.0], [0.0, 2.0]), 0.0);
        assert_eq!(cosine([1.0, 0.0], [-3.0, 0.0]), -1.0);
        assert_eq!(cosine([0.0, 0.0], [0.0, 0.0]), 0.0);
        assert_eq!(cosine([0.0, 0.0], [1.0, 0.0]), 0.0);
        assert!(cosine([f32::NAN, 0.0], [1.0, 0.0]).is_nan());
    }
}
