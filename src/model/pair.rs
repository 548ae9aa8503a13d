//! A fine-tuned model and the base it was made from, side by side: two heads without any widening.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Head, Model};
use crate::baseline::Baseline;
use crate::checkpoint::names::{self, Projection};
use crate::checkpoint::{BaseCheckpoint, Config};
use crate::error::{Error, Result};
use crate::ops::packed::Packed;
use crate::ops::tape::Weight;

/// Frozen matrices that two models have in common, by the name of the base's module.
pub(super) type Shared = HashMap<String, Arc<Packed>>;

/// The base of a pair.
#[derive(Debug)]
pub(super) struct Beside {
    /// The base.
    pub(super) base: Box<Model>,
    /// Whether its layers are this model's without their adapters, so that both can go through them together.
    pub(super) joined: bool,
}

impl Model {
    /// The pair of this model, a fine-tuned copy of `base`, and `base` itself: both are computed for every token, the base is the preservation
    /// head and this model the adaptation head. It is asked and measured like a widened model; where this model is trained, training never sees the base.
    ///
    /// # Errors
    /// [`Error::Usage`] where this model has two heads already, the base has, or their vocabularies, contexts or arithmetic differ.
    pub fn beside(self, base: Self) -> Result<Self> {
        self.pair_with(base, false)
    }

    fn pair_with(mut self, base: Self, joined: bool) -> Result<Self> {
        if self.heads().len() > 1 || base.heads().len() > 1 || !base.parameters.is_empty() {
            return Err(Error::usage("a pair is made of two plain models, the first fine-tuned from the second, which is frozen"));
        }
        let ours = [self.config.vocab_size, self.rope.positions()];
        let theirs = [base.config.vocab_size, base.rope.positions()];
        for ((what, ours), theirs) in ["vocab_size", "context (max_position_embeddings)"].into_iter().zip(ours).zip(theirs) {
            if ours != theirs {
                return Err(Error::usage(format!("a pair needs models of one {what}: {ours} here, {theirs} in the base")));
            }
        }
        if self.precision != base.precision {
            return Err(Error::usage("a pair needs models of one arithmetic (dtype)"));
        }
        self.heads = Head::of_rings(1);
        self.beside = Some(Beside { base: Box::new(base), joined });
        Ok(self)
    }

    /// [`Model::beside`] of this model, made from `checkpoint` by `baseline`, and that base. Matrices that `baseline` leaves as they are stand in memory
    /// once: all of them under adapters, which then are read once for both, the lowest layers' where those are frozen.
    ///
    /// # Errors
    /// As [`Model::beside`], and whatever reading the base returns.
    pub fn beside_its_base(self, checkpoint: &BaseCheckpoint, baseline: &Baseline) -> Result<Self> {
        let shared = self.shared(checkpoint.config(), baseline);
        let base = Self::build(checkpoint, self.precision, None, shared)?;
        self.pair_with(base, matches!(baseline, Baseline::Lora(_)))
    }

    fn shared(&self, config: &Config, baseline: &Baseline) -> Shared {
        let frozen = |weight: &Weight| match weight {
            Weight::Frozen(packed) => Some(Arc::clone(packed)),
            Weight::Table { .. } | Weight::Trained(_) => None,
        };
        let tables = [(names::EMBED_TOKENS, Some(&self.embed_tokens)), (names::LM_HEAD, self.lm_head.as_ref())];
        let tables = tables.into_iter().filter_map(|(name, weight)| Some((name.to_owned(), frozen(weight?)?)));
        let layers = self.layers.iter().enumerate().map(|(index, layer)| (baseline.source(config, index), layer));
        let matrices = layers.filter(|(source, _)| !source.copy).flat_map(|(source, layer)| {
            let named = Projection::ALL.into_iter().zip(&layer.linear);
            named.filter_map(move |(projection, linear)| Some((names::projection(source.layer, projection), frozen(&linear.weight)?)))
        });
        tables.chain(matrices).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baseline::{Freeze, LlamaPro, Lora};
    use crate::model::Precision;
    use crate::model::tests::{base, config};

    #[test]
    fn matrices_that_are_left_as_they_are_stand_in_memory_once() {
        let checkpoint = base(&config(true, false));
        let pairs = [
            (Baseline::Full, 0),
            (Baseline::Freeze(Freeze { frozen_layers: 1, frozen_embedding: true }), 8),
            (Baseline::Lora(Lora::new(0)), 22),
            // Of three layers one is followed by its copy; the originals are all there.
            (Baseline::LlamaPro(LlamaPro { groups: 1 }), 22),
        ];
        for (baseline, expected) in pairs {
            let tuned = Model::from_baseline(&checkpoint, Precision::Bf16, &baseline).unwrap();
            let before = tuned.shared(checkpoint.config(), &baseline);
            let pair = tuned.beside_its_base(&checkpoint, &baseline).unwrap();
            let of_base = pair.beside.as_ref().unwrap().base.shared(checkpoint.config(), &Baseline::Full);
            let once = before.iter().filter(|(name, packed)| of_base.get(*name).is_some_and(|other| Arc::ptr_eq(packed, other)));
            assert_eq!((once.count(), before.len(), of_base.len()), (expected, expected, 22), "{baseline:?}");
        }
    }
}
