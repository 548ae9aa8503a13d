//! Representation forgetting: how far the base stream's hidden state has moved from the base model's.

use super::result::Representation;
use crate::data::batch::{Batch, IGNORE};
use crate::error::{Error, Result};
use crate::model::{Model, Scores};

/// What the hidden state behind the last head is compared with.
#[derive(Clone, Copy, Default)]
pub enum Reference<'a> {
    /// Nothing: the representation is not measured.
    #[default]
    None,
    /// The model's own preservation head, whose base stream is the base model's bit for bit.
    Preservation,
    /// Another model of the same width: the base that a fully fine-tuned model came from.
    Model(&'a Model),
}

impl Reference<'_> {
    /// Checks that `model` can be compared with this.
    ///
    /// # Errors
    /// A plain model compared with its own preservation head, or two models of different width.
    pub(super) fn check(&self, model: &Model) -> Result<()> {
        match self {
            Self::None => Ok(()),
            Self::Preservation if model.heads().len() < 2 => {
                Err(Error::usage("a plain model has no preservation head to compare its representation with; name its base with --base"))
            }
            Self::Preservation => Ok(()),
            Self::Model(base) => {
                let (ours, theirs) = (model.config().hidden_size, base.config().hidden_size);
                if ours == theirs && base.heads().len() == 1 {
                    return Ok(());
                }
                Err(Error::usage(format!(
                    "the representation can only be compared with a plain base of the same width: hidden_size {ours} here, {theirs} there"
                )))
            }
        }
    }

    pub(super) fn is_some(&self) -> bool {
        !matches!(self, Self::None)
    }
}

/// Sums of cosines, in the order of the windows.
#[derive(Debug, Clone, Copy)]
pub(super) struct CosineSum {
    sum: f64,
    smallest: f64,
    positions: u64,
}

impl CosineSum {
    pub(super) fn new() -> Self {
        Self { sum: 0.0, smallest: f64::INFINITY, positions: 0 }
    }

    /// Adds the scored positions of `batch`.
    ///
    /// # Shapes
    /// `hidden` and `reference` are `[batch, seq, hidden_size]`.
    pub(super) fn add(&mut self, batch: &Batch, hidden: &[f32], reference: &[f32]) {
        let positions = batch.targets.len();
        if positions == 0 {
            return;
        }
        let width = hidden.len() / positions;
        for (position, _) in batch.targets.iter().enumerate().filter(|&(_, &target)| target != IGNORE) {
            let row = position * width..(position + 1) * width;
            let cosine = cosine(&hidden[row.clone()], &reference[row]);
            self.sum += cosine;
            self.smallest = self.smallest.min(cosine);
            self.positions += 1;
        }
    }

    pub(super) fn finish(&self) -> Representation {
        Representation { cosine: self.sum / self.positions as f64, smallest_cosine: self.smallest, positions: self.positions }
    }
}

/// The hidden state behind the last head and the one it is compared with.
pub(super) fn pair(scores: &mut Scores, batch: &Batch, reference: &Reference<'_>) -> Result<Option<(Vec<f32>, Vec<f32>)>> {
    let pair = match reference {
        Reference::None => return Ok(None),
        Reference::Preservation => (scores.hidden.pop(), scores.hidden.drain(..).next()),
        Reference::Model(base) => (scores.hidden.pop(), base.score(batch, true)?.hidden.pop()),
    };
    match pair {
        (Some(hidden), Some(reference)) if hidden.len() == reference.len() => Ok(Some((hidden, reference))),
        _ => Err(Error::usage("the hidden states of the two models do not fit together")),
    }
}

/// The cosine of the angle between two vectors in f64; exactly 1 for vectors that are equal bit for bit, zeros included.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    if a == b {
        return 1.0;
    }
    let (mut ab, mut aa, mut bb) = (0.0f64, 0.0f64, 0.0f64);
    for (&a, &b) in a.iter().zip(b) {
        let (a, b) = (f64::from(a), f64::from(b));
        ab += a * b;
        aa += a * a;
        bb += b * b;
    }
    if aa == 0.0 || bb == 0.0 { 0.0 } else { ab / (aa.sqrt() * bb.sqrt()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_vectors_have_cosine_one_exactly() {
        let v = [0.1f32, -0.7, 3.3, 1e-20];
        assert_eq!(cosine(&v, &v), 1.0);
        assert_eq!(cosine(&[0.0; 3], &[0.0; 3]), 1.0);
    }

    #[test]
    fn known_angles() {
        assert!((cosine(&[1.0, 0.0], &[1.0, 1.0]) - 0.5f64.sqrt()).abs() < 1e-12);
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 2.0]), 0.0);
        assert!((cosine(&[1.0, 2.0], &[-2.0, -4.0]) + 1.0).abs() < 1e-12);
        assert_eq!(cosine(&[1.0], &[0.0]), 0.0);
    }

    #[test]
    fn only_scored_positions_count() {
        let batch = Batch { batch_size: 1, sequence_length: 3, tokens: vec![1, 2, 3], targets: vec![IGNORE, 3, 4], document_starts: None };
        let mut sum = CosineSum::new();
        sum.add(&batch, &[1.0, 0.0, 1.0, 0.0, 1.0, 0.0], &[-1.0, 0.0, 1.0, 0.0, 0.0, 1.0]);
        assert_eq!(sum.finish(), Representation { cosine: 0.5, smallest_cosine: 0.0, positions: 2 });
    }
}
