//! The output head fused with the cross-entropy: logits exist only for a few rows at a time.

use super::contrast::{self, Contrast};
use super::gemm::{Left, Right, Shared, Term, View, gemm, gemm_sum};
use super::packed::Packed;
use super::tape::{Tape, Var, Weight, left, rows_from};
use super::tensor::Tensor;
use super::{cosine, loss};
use crate::model::Gradients;
use std::borrow::Cow;
use std::cell::LazyCell;

/// Rows of logits that exist at once of `rows` in all: at least as many as one block of a product takes, so that the head's weight is decoded once for
/// them, and in chunks of one size. Where the head is trained, each chunk also reads and writes its whole gradient of `trained` columns, so wide ones get
/// longer chunks.
pub fn chunk_rows(rows: usize, trained: usize) -> usize {
    let most = trained.clamp(if trained > 0 { 256 } else { 192 }, 512);
    rows.div_ceil(rows.div_ceil(most).max(1)).max(1)
}

/// A head's logits: `Σ hiddenᵢ · weightᵢᵀ`.
pub struct Head<'a, 'm> {
    /// Hidden states `[tokens, inᵢ]` and weights `[vocab, inᵢ]`.
    pub products: &'a [(&'a Var, &'m Weight)],
}

/// One of several heads over the same vocabulary.
pub struct Part<'a, 'm> {
    /// What is computed for it.
    pub head: Head<'a, 'm>,
    /// Whether that is added to the logits of the head before it, rather than being all there is.
    pub continues: bool,
}

/// Which comparisons of heads are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compare {
    /// The cosine of the first and the last head's logits.
    pub cosine: bool,
    /// The contrast of the last head but one and the last.
    pub contrast: bool,
}

/// Comparisons of heads, one a target; empty where they are not wanted or there is only one head.
#[derive(Debug, Clone, Default)]
pub struct Compared {
    /// Cosines, 0 where ignored.
    pub cosine: Vec<f32>,
    /// Contrasts, the default where ignored.
    pub contrast: Vec<Contrast>,
}

/// What a head made of a batch.
#[derive(Debug, Clone, Default)]
pub struct HeadScores {
    /// Negative log-likelihood of each target in nats, 0 where ignored.
    pub nll: Vec<f32>,
    /// Whether the target was the most probable token.
    pub correct: Vec<bool>,
    /// Log-probability of the most probable token in nats, 0 where ignored.
    pub largest: Vec<f32>,
}

impl HeadScores {
    fn new(targets: usize) -> Self {
        Self { nll: vec![0.0; targets], correct: vec![false; targets], largest: vec![0.0; targets] }
    }
}

impl<'m> Tape<'m> {
    /// Loss and gradient in one go: returns the summed loss (nats) and the seeds of the backward pass, and adds the head's own
    /// gradients, all times `scale`.
    pub fn head_loss(
        &self,
        head: &Head<'_, 'm>,
        targets: &[u32],
        scale: f32,
        gradients: &mut Gradients,
    ) -> (HeadScores, Vec<(usize, Tensor)>) {
        let (vocab, _) = head.products[0].1.shape(self.parameters);
        let weights: Vec<Cow<'m, Packed>> = head.products.iter().map(|(_, w)| self.packed(w)).collect();
        let transposed: Vec<Option<Packed>> = head
            .products
            .iter()
            .zip(&weights)
            .map(|((x, w), packed)| {
                x.needs_gradient().then(|| match w {
                    Weight::Frozen(_) | Weight::Table { .. } => packed.transposed(),
                    Weight::Trained(index) => {
                        let p = &self.parameters[*index];
                        Packed::pack(View::rows(&p.value, p.shape[1]), p.shape[0], p.shape[1], self.precision)
                    }
                })
            })
            .collect();
        let mut seeds: Vec<Option<Tensor>> =
            head.products.iter().map(|(x, _)| x.needs_gradient().then(|| Tensor::scratch(x.value.rows(), x.value.cols()))).collect();
        let mut scores = HeadScores::new(targets.len());
        let trained = head.products.iter().filter(|(_, w)| matches!(w, Weight::Trained(_))).map(|(x, _)| x.value.cols()).sum();
        let chunk = chunk_rows(targets.len(), trained);
        for first in (0..targets.len()).step_by(chunk) {
            let rows = chunk.min(targets.len() - first);
            let range = first..first + rows;
            let mut logits = Tensor::scratch(rows, vocab);
            self.logits(head, &weights, first, &mut logits, false);
            let (nll, correct) = (&mut scores.nll[range.clone()], &mut scores.correct[range.clone()]);
            loss::cross_entropy_gradient(logits.data_mut(), vocab, &targets[range], scale, nll, correct);
            // Not a bf16 copy as for other inputs: of logits it would be large, and often it is read once.
            let gradient = LazyCell::new(|| Shared::new(logits.view(), rows, vocab, self.precision));
            let turned = LazyCell::new(|| Shared::new(logits.view().t(), vocab, rows, self.precision));
            for (((x, w), seed), back) in head.products.iter().zip(&mut seeds).zip(&transposed) {
                let width = x.value.cols();
                if let (Some(seed), Some(back)) = (seed, back) {
                    let dx = &mut seed.data_mut()[first * width..][..rows * width];
                    gemm(rows, width, vocab, gradient.left(), Right::Packed(back), dx, width, false);
                }
                if let Weight::Trained(index) = w {
                    let hidden = match rows_from(&x.value, first, self.precision) {
                        Left::F32(view) => Right::F32(view, self.precision),
                        Left::Bf16 { data, stride } => Right::Bf16 { data, stride },
                    };
                    gemm(vocab, width, rows, turned.left(), hidden, &mut gradients.values[*index], width, true);
                }
            }
        }
        let seeds = head.products.iter().zip(seeds).filter_map(|((x, _), seed)| Some((x.node?, seed?))).collect();
        (scores, seeds)
    }

    /// Scores of several heads, and what is wanted of comparisons between them. Nothing is kept.
    pub fn head_scores(&self, parts: &[Part<'_, 'm>], targets: &[u32], compare: Compare) -> (Vec<HeadScores>, Compared) {
        let several = parts.len() > 1;
        let room = |wanted: bool| if wanted && several { targets.len() } else { 0 };
        let vocab = self.vocabulary(parts);
        let weights: Vec<Vec<Cow<'m, Packed>>> = parts.iter().map(|part| self.packed_head(&part.head)).collect();
        let mut all = vec![HeadScores::new(targets.len()); parts.len()];
        let mut compared =
            Compared { cosine: vec![0.0; room(compare.cosine)], contrast: vec![Contrast::default(); room(compare.contrast)] };
        let chunk = chunk_rows(targets.len(), 0);
        for first in (0..targets.len()).step_by(chunk) {
            let rows = chunk.min(targets.len() - first);
            let range = first..first + rows;
            let mut logits = Tensor::scratch(rows, vocab);
            let (mut of_first, mut before_last) = (None, None);
            for (index, ((scores, part), weights)) in all.iter_mut().zip(parts).zip(&weights).enumerate() {
                self.logits(&part.head, weights, first, &mut logits, part.continues);
                let HeadScores { nll, correct, largest } = scores;
                let (nll, correct, largest) = (&mut nll[range.clone()], &mut correct[range.clone()], &mut largest[range.clone()]);
                loss::cross_entropy(logits.data(), vocab, &targets[range.clone()], nll, correct, largest);
                if index == 0 && several && compare.cosine {
                    of_first = Some(Tensor::copy_of(&logits));
                }
                if index + 2 == parts.len() && compare.contrast {
                    before_last = Some(Tensor::copy_of(&logits));
                }
            }
            let targets = &targets[range.clone()];
            if let Some(of_first) = of_first {
                cosine::rows(of_first.data(), logits.data(), vocab, targets, &mut compared.cosine[range.clone()]);
            }
            if let Some(before_last) = before_last {
                contrast::rows(before_last.data(), logits.data(), vocab, targets, &mut compared.contrast[range]);
            }
        }
        (all, compared)
    }

    /// Logits of one row for each of several heads. Heads that begin with one weight are one product there, which reads the weight once.
    pub fn head_logits(&self, parts: &[Part<'_, 'm>], row: usize) -> Vec<Vec<f32>> {
        let vocab = self.vocabulary(parts);
        let begun: Vec<_> = parts.iter().filter(|part| !part.continues).map(|part| part.head.products[0]).collect();
        let mut beginnings = begun.chunk_by(|a, b| std::ptr::eq(a.1, b.1)).flat_map(|alike| self.one_row_of_each(alike, row, vocab));
        let mut logits = Tensor::scratch(1, vocab);
        let of_part = |part: &Part<'_, 'm>| {
            let products = part.head.products;
            let rest = &products[usize::from(!part.continues)..];
            if let Some(beginning) = (!part.continues).then(|| beginnings.next()).flatten() {
                logits.data_mut().copy_from_slice(&beginning);
            }
            if !rest.is_empty() {
                let rest = Head { products: rest };
                self.logits(&rest, &self.packed_head(&rest), row, &mut logits, true);
            }
            logits.data().to_vec()
        };
        parts.iter().map(of_part).collect()
    }

    /// The product of row `row` of each of several inputs, and the one weight that is beside them all.
    fn one_row_of_each(&self, products: &[(&Var, &'m Weight)], row: usize, vocab: usize) -> Vec<Vec<f32>> {
        let cols = products[0].0.value.cols();
        let mut rows = Tensor::scratch(products.len(), cols);
        for (to, (x, _)) in rows.data_mut().chunks_exact_mut(cols).zip(products) {
            to.copy_from_slice(&x.value.data()[row * cols..][..cols]);
        }
        let mut logits = Tensor::scratch(products.len(), vocab);
        let right = Right::Packed(&self.packed(products[0].1));
        gemm(products.len(), vocab, cols, left(&rows, self.precision), right, logits.data_mut(), vocab, false);
        logits.data().chunks_exact(vocab).map(<[f32]>::to_vec).collect()
    }

    fn vocabulary(&self, parts: &[Part<'_, 'm>]) -> usize {
        parts.first().map_or(0, |part| part.head.products[0].1.shape(self.parameters).0)
    }

    fn packed_head(&self, head: &Head<'_, 'm>) -> Vec<Cow<'m, Packed>> {
        head.products.iter().map(|(_, w)| self.packed(w)).collect()
    }

    fn logits(&self, head: &Head<'_, 'm>, weights: &[Cow<'m, Packed>], first: usize, logits: &mut Tensor, accumulate: bool) {
        let (rows, vocab) = (logits.rows(), logits.cols());
        let terms: Vec<Term<'_>> = head
            .products
            .iter()
            .zip(weights)
            .map(|((x, _), w)| Term { k: x.value.cols(), left: rows_from(&x.value, first, self.precision), right: Right::Packed(w) })
            .collect();
        gemm_sum(rows, vocab, &terms, logits.data_mut(), vocab, accumulate);
    }
}
