//! Rotary position embedding, in the halves convention: value `i` of a head turns together with value `i + head_dim / 2`.

use super::math::rows_per_task;
use crate::simd_fn;
use rayon::prelude::*;

/// Cosines and sines of every position's angles.
///
/// # Paper
/// RoFormer, <https://arxiv.org/abs/2104.09864>.
#[derive(Debug, Clone)]
pub struct RopeTable {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    /// Angles `position * inv_freq` for positions `0..positions`, rounded to f32 as `transformers` does;
    /// cosines and sines are multiplied by `attention_factor`.
    ///
    /// # Shapes
    /// `inv_freq [head_dim / 2]`.
    pub fn new(inv_freq: &[f32], attention_factor: f32, positions: usize) -> Self {
        let angles = (0..positions).flat_map(|p| inv_freq.iter().map(move |f| f64::from(p as f32 * f)));
        let (sin, cos) = angles.map(|a| a.sin_cos()).map(|(s, c)| (s as f32 * attention_factor, c as f32 * attention_factor)).unzip();
        Self { half: inv_freq.len(), cos, sin }
    }

    /// Number of positions the table covers.
    pub fn positions(&self) -> usize {
        self.cos.len().checked_div(self.half).unwrap_or(0)
    }

    /// Turns every head of every token by its position's angles, in place.
    ///
    /// # Shapes
    /// `x [tokens, heads * head_dim]`, `positions [tokens]`, each below [`RopeTable::positions`].
    pub fn apply(&self, x: &mut [f32], positions: &[u32]) {
        self.turn(x, positions, 1.0);
    }

    /// The backward of [`RopeTable::apply`], in place: turns gradients the other way.
    ///
    /// # Shapes
    /// `dx [tokens, heads * head_dim]`, `positions [tokens]`.
    pub fn apply_backward(&self, dx: &mut [f32], positions: &[u32]) {
        self.turn(dx, positions, -1.0);
    }

    fn turn(&self, x: &mut [f32], positions: &[u32], direction: f32) {
        if positions.is_empty() {
            return assert!(x.is_empty());
        }
        let cols = x.len() / positions.len();
        assert!(self.half > 0 && cols.is_multiple_of(2 * self.half) && x.len() == cols * positions.len());
        let tokens = rows_per_task(cols);
        if positions.len() <= tokens {
            return turn_rows(x, positions, &self.cos, &self.sin, self.half, direction);
        }
        x.par_chunks_mut(tokens * cols)
            .zip(positions.par_chunks(tokens))
            .for_each(|(x, positions)| turn_rows(x, positions, &self.cos, &self.sin, self.half, direction));
    }
}

simd_fn! {
    fn turn_rows(x: &mut [f32], positions: &[u32], cos: &[f32], sin: &[f32], half: usize, direction: f32) {
        let cols = x.len() / positions.len();
        for (row, &position) in x.chunks_exact_mut(cols).zip(positions) {
            let at = position as usize * half;
            let (cos, sin) = (&cos[at..at + half], &sin[at..at + half]);
            for head in row.chunks_exact_mut(2 * half) {
                let (first, second) = head.split_at_mut(half);
                for ((a, b), (&c, &s)) in first.iter_mut().zip(second).zip(cos.iter().zip(sin)) {
                    let s = s * direction;
                    let (x, y) = (*a, *b);
                    *a = x * c - y * s;
                    *b = y * c + x * s;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::reference::{self, assert_close, assert_same_on_any_thread_count, bits, dot, finite_differences, random, wide};

    fn inv_freq(half: usize) -> Vec<f32> {
        (0..half).map(|i| 10_000f32.powf(-(i as f32) / half as f32)).collect()
    }

    #[test]
    fn forward_and_backward_agree_with_f64_at_odd_sizes() {
        for (tokens, heads, half) in [(1, 1, 1), (3, 2, 3), (5, 3, 32), (7, 1, 33)] {
            let inv_freq = inv_freq(half);
            let table = RopeTable::new(&inv_freq, 1.25, 64);
            let positions: Vec<u32> = (0..tokens as u32).map(|t| (t * 19) % 64).collect();
            let x = random(1, tokens * heads * 2 * half);
            let forward = |x: &[f64]| -> Vec<f64> {
                let heads_of = |(i, head)| {
                    let position: u32 = positions[i / heads];
                    reference::rope(head, f64::from(position), &wide(&inv_freq), 1.25)
                };
                x.chunks(2 * half).enumerate().flat_map(heads_of).collect()
            };
            let mut got = x.clone();
            table.apply(&mut got, &positions);
            assert_close("rope", &got, &forward(&wide(&x)), 4e-6);

            let dout = random(2, x.len());
            let mut dx = dout.clone();
            table.apply_backward(&mut dx, &positions);
            let want = finite_differences(&wide(&x), |x| dot(&forward(x), &wide(&dout)));
            assert_close("drope", &dx, &want, 4e-6);
        }
    }

    #[test]
    fn position_zero_changes_nothing() {
        let table = RopeTable::new(&inv_freq(8), 1.0, 2);
        let x = random(1, 32);
        let mut got = x.clone();
        table.apply(&mut got, &[0, 0]);
        assert_eq!(bits(&got), bits(&x));
    }

    #[test]
    fn bits_do_not_depend_on_the_thread_count_or_on_other_tokens() {
        let (tokens, cols) = (500, 192);
        let table = RopeTable::new(&inv_freq(32), 1.0, tokens);
        let positions: Vec<u32> = (0..tokens as u32).collect();
        let x = random(1, tokens * cols);
        let all = || {
            let mut x = x.clone();
            table.apply(&mut x, &positions);
            x
        };
        assert_same_on_any_thread_count(all);
        let mut alone = x[77 * cols..78 * cols].to_vec();
        table.apply(&mut alone, &[77]);
        assert_eq!(bits(&alone), bits(&all()[77 * cols..78 * cols]));
    }
}
