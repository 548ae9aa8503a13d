//! The embedding table: one row a token.

use super::math::rows_per_task;
use rayon::prelude::*;

/// Tasks that a scatter is split into, each owning a range of the table's rows.
const SCATTER_TASKS: usize = 64;

/// Copies each token's row of `table` to `out`.
///
/// # Shapes
/// `table [vocab, cols]`, `tokens [n]`, each below `vocab`, `out [n, cols]`.
pub fn gather(table: &[f32], tokens: &[u32], cols: usize, out: &mut [f32]) {
    assert!(cols > 0 && out.len() == tokens.len() * cols);
    let copy = |(out, tokens): (&mut [f32], &[u32])| {
        for (row, &token) in out.chunks_exact_mut(cols).zip(tokens) {
            row.copy_from_slice(&table[token as usize * cols..][..cols]);
        }
    };
    let rows = rows_per_task(cols);
    if tokens.len() <= rows {
        return copy((out, tokens));
    }
    out.par_chunks_mut(rows * cols).zip(tokens.par_chunks(rows)).for_each(copy);
}

/// Adds each row of `dout` to its token's row of `dtable`: the backward of [`gather`].
/// Rows of one token are added in the order of `tokens`.
///
/// # Shapes
/// `dout [n, cols]`, `tokens [n]`, `dtable [vocab, cols]`.
pub fn scatter_add(dout: &[f32], tokens: &[u32], cols: usize, dtable: &mut [f32]) {
    assert!(cols > 0 && dout.len() == tokens.len() * cols && dtable.len().is_multiple_of(cols));
    let vocab = dtable.len() / cols;
    assert!(tokens.iter().all(|&t| (t as usize) < vocab), "a token outside the table of {vocab} rows");
    let owned = vocab.div_ceil(SCATTER_TASKS).max(1);
    dtable.par_chunks_mut(owned * cols).enumerate().for_each(|(i, part)| {
        let first = i * owned;
        for (row, &token) in dout.chunks_exact(cols).zip(tokens) {
            let Some(at) = (token as usize).checked_sub(first).filter(|at| *at < owned) else { continue };
            part[at * cols..][..cols].iter_mut().zip(row).for_each(|(d, &g)| *d += g);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::reference::{assert_close, assert_same_on_any_thread_count, random, wide};

    fn tokens(n: usize, vocab: usize) -> Vec<u32> {
        (0..n).map(|i| ((i * i * 7 + i) % vocab) as u32).collect()
    }

    #[test]
    fn gather_copies_rows_at_odd_sizes() {
        for (n, vocab, cols) in [(0, 3, 2), (1, 1, 1), (5, 3, 7), (300, 130, 97)] {
            let (table, tokens) = (random(1, vocab * cols), tokens(n, vocab));
            let mut out = vec![f32::NAN; n * cols];
            gather(&table, &tokens, cols, &mut out);
            for (row, &token) in out.chunks(cols).zip(&tokens) {
                assert_eq!(row, &table[token as usize * cols..][..cols]);
            }
        }
    }

    #[test]
    fn scatter_adds_repeated_tokens_and_keeps_what_was_there() {
        for (n, vocab, cols) in [(0, 3, 2), (1, 1, 1), (5, 3, 7), (300, 130, 97), (64, 1000, 3)] {
            let (dout, tokens, start) = (random(1, n * cols), tokens(n, vocab), random(2, vocab * cols));
            let mut dtable = start.clone();
            scatter_add(&dout, &tokens, cols, &mut dtable);
            let mut want = wide(&start);
            for (row, &token) in dout.chunks(cols).zip(&tokens) {
                row.iter().enumerate().for_each(|(c, &g)| want[token as usize * cols + c] += f64::from(g));
            }
            assert_close("dtable", &dtable, &want, 1e-6);
        }
    }

    #[test]
    fn scatter_does_not_depend_on_the_thread_count() {
        let (n, vocab, cols) = (2000, 300, 64);
        let (dout, tokens) = (random(1, n * cols), tokens(n, vocab));
        assert_same_on_any_thread_count(|| {
            let mut dtable = vec![0.0; vocab * cols];
            scatter_add(&dout, &tokens, cols, &mut dtable);
            dtable
        });
    }
}
