//! What rows of tokens see of one another, and rows that stand twice.

use super::attention::Segment;
use super::tape::{Tape, Var};
use super::tensor::Tensor;
use std::ops::Range;

/// The part of an input that attention and positions see: shared by all layers of a pass.
#[derive(Debug, Clone)]
pub struct Sequence {
    /// Number of windows.
    pub batch: usize,
    /// Tokens a window.
    pub length: usize,
    /// Position of each token in its document, `[batch * length]`.
    pub positions: Vec<u32>,
    /// First visible key of each query within its window, `[batch * length]`; `None` when all earlier tokens are visible.
    pub starts: Option<Vec<u32>>,
    /// How rows go on from one another where they are no windows but a forest, which has no backward pass; `batch` is then 1.
    pub forest: Option<Vec<Segment>>,
}

impl Sequence {
    /// The same once more behind it: what rows see where a copy of them stands before them.
    pub fn twice(&self) -> Self {
        let twice = |values: &[u32]| [values, values].concat();
        let behind = |range: &Range<usize>| range.start + self.length..range.end + self.length;
        let forest = self.forest.as_ref().map(|segments| {
            let copy = segments.iter().map(|of| Segment { past: of.past.iter().map(behind).collect(), rows: behind(&of.rows) });
            segments.iter().cloned().chain(copy).collect()
        });
        Self {
            // A forest is one window, of all its rows.
            batch: if forest.is_some() { 1 } else { 2 * self.batch },
            length: if forest.is_some() { 2 * self.length } else { self.length },
            positions: twice(&self.positions),
            starts: self.starts.as_deref().map(twice),
            forest,
        }
    }
}

/// Query heads, key/value heads and their size, of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub query: usize,
    /// Key/value heads.
    pub key_value: usize,
    /// Values a head.
    pub dim: usize,
    /// Keys that a query looks back over, its own included; all before it where there is none.
    pub window: Option<usize>,
}

/// The rows, of so many of which the last are those of `sequence`, that stand at the first position of their documents.
fn first_positions(rows: usize, sequence: &Sequence) -> Vec<usize> {
    let before = rows - sequence.positions.len();
    sequence.positions.iter().enumerate().filter(|(_, position)| **position == 0).map(|(row, _)| before + row).collect()
}

impl Tape<'_> {
    /// The rows of `x` that stand at the first position of their documents, in their order; `None` where there are none. No gradient goes through them.
    ///
    /// # Shapes
    /// `x`: `[rows, n]`, of which the last are those of the sequence; the result `[documents, n]`.
    pub fn first_rows(&self, x: &Var, sequence: &Sequence) -> Option<Var> {
        let cols = x.value.cols();
        let first = first_positions(x.value.rows(), sequence);
        let mut out = Tensor::scratch(first.len(), cols);
        for (out, &row) in out.data_mut().chunks_exact_mut(cols).zip(&first) {
            out.copy_from_slice(&x.value.data()[row * cols..][..cols]);
        }
        (!first.is_empty()).then(|| self.constant(out))
    }

    /// `x` with other rows where a document's first position stands: the `given` ones, in their order, or zeros.
    ///
    /// # Shapes
    /// `x` and the result `[rows, n]`, of which the last are those of the sequence; `given` as [`Tape::first_rows`] has them.
    pub fn with_first_rows(&mut self, x: Var, sequence: &Sequence, given: Option<&[f32]>) -> Var {
        let cols = x.value.cols();
        let first = first_positions(x.value.rows(), sequence);
        if first.is_empty() {
            return x;
        }
        let input = x.node.filter(|_| self.needs([true]));
        let mut out = x.into_tensor();
        for (index, &row) in first.iter().enumerate() {
            let to = &mut out.data_mut()[row * cols..][..cols];
            match given {
                Some(rows) => to.copy_from_slice(&rows[index * cols..][..cols]),
                None => to.fill(0.0),
            }
        }
        let Some(input) = input else { return self.constant(out) };
        self.push(out, |node| {
            Box::new(move |sink| {
                let Some(mut dx) = sink.take(node) else { return };
                first.iter().for_each(|row| dx.data_mut()[row * cols..][..cols].fill(0.0));
                sink.add(input, dx);
            })
        })
    }

    /// The rows of `x` and behind them those of `y`, as many, where nothing is recorded.
    pub fn one_after_another(&self, x: &Var, y: &Var) -> Var {
        assert!(!self.needs([true]), "copies are not trained on");
        let (rows, cols) = (x.value.rows(), x.value.cols());
        let mut out = Tensor::scratch(2 * rows, cols);
        let halves = out.data_mut().chunks_exact_mut(rows * cols);
        halves.zip([x, y]).for_each(|(half, rows)| half.copy_from_slice(rows.value.data()));
        self.constant(out)
    }

    /// The upper and the lower half of the rows of `x`, where nothing is recorded.
    pub fn halves(&self, x: &Var) -> [Var; 2] {
        assert!(!self.needs([true]), "copies are not trained on");
        let (rows, cols) = (x.value.rows() / 2, x.value.cols());
        [0, rows].map(|first| {
            let mut half = Tensor::scratch(rows, cols);
            half.data_mut().copy_from_slice(&x.value.data()[first * cols..][..rows * cols]);
            self.constant(half)
        })
    }
}
