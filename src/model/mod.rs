//! The decoder: a frozen or trained Llama-family base, and the expansion beside it.

pub mod build;
mod cache;
mod layer;
pub mod parameter;
mod precision;
#[cfg(test)]
pub(crate) mod tests;

use crate::checkpoint::Config;
use crate::data::batch::{Batch, IGNORE};
use crate::error::{Error, Result};
use crate::grow::sizes::Growth;
use crate::ops::head::{self, HeadScores, Part};
use crate::ops::lora::Dropout;
use crate::ops::on_workers;
use crate::ops::recorded::Sequence;
use crate::ops::rope::RopeTable;
use crate::ops::tape::{Tape, Var, Vector, Weight};
pub use cache::Cache;
use layer::{ExpansionLayer, Layer, Streams};
pub use parameter::{Block, Gradients, Parameter};
pub use precision::Precision;
use std::sync::Arc;

/// One way of turning hidden states into a next-token distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Head {
    /// A plain model's only head.
    Base,
    /// The base's logits, kept bit for bit.
    Preservation,
    /// The base's logits plus the expansion's.
    Adaptation,
}

/// Summed loss of a batch.
#[derive(Debug, Clone, Copy, Default)]
pub struct BatchLoss {
    /// Negative log-likelihood summed over the counted targets, in nats.
    pub nll: f64,
    /// Number of counted targets.
    pub targets: usize,
}

/// Per-token results of a forward pass, one entry a head in the order of [`Model::heads`].
#[derive(Debug, Clone, Default)]
pub struct Scores {
    /// Log-probability (nats) of each target, `[batch, seq]`; 0 where the target is ignored.
    pub log_probs: Vec<Vec<f32>>,
    /// Whether the target was the head's most probable token, `[batch, seq]`.
    pub correct: Vec<Vec<bool>>,
    /// Log-probability (nats) of the head's most probable token, `[batch, seq]`; 0 where the target is ignored.
    pub largest: Vec<Vec<f32>>,
    /// Cosine of the first and the last head's logits, `[batch, seq]`, 0 where the target is ignored; empty unless asked for.
    pub cosine: Vec<f32>,
    /// Hidden state of the base stream behind each head, before the final norm, `[batch, seq, hidden_size]`; empty unless asked for.
    pub hidden: Vec<Vec<f32>>,
}

/// What a forward pass is to return beside what the heads say of the targets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extras {
    /// The hidden states behind the heads.
    pub hidden: bool,
    /// The cosine of the two heads' logits.
    pub cosine: bool,
}

impl Scores {
    fn new((heads, cosine): (Vec<HeadScores>, Vec<f32>)) -> Self {
        let mut out = Self { cosine, ..Self::default() };
        for scores in heads {
            out.log_probs.push(scores.nll.iter().map(|v| -v).collect());
            out.correct.push(scores.correct);
            out.largest.push(scores.largest);
        }
        out
    }
}

/// The expansion stream's weights.
#[derive(Debug)]
struct Expansion {
    growth: Growth,
    embed_tokens: Weight,
    layers: Vec<ExpansionLayer>,
    norm: Vector,
    lm_head: Weight,
}

/// What all adapters of a model have in common.
#[derive(Debug, Clone, Copy)]
struct Adapters {
    /// The factor on what they add.
    scaling: f32,
    /// Of their inputs in training.
    dropout: Option<Dropout>,
}

/// A Llama-family decoder, its base frozen or trained, widened or not: what `train`, `eval` and `generate` see.
#[derive(Debug)]
pub struct Model {
    config: Config,
    precision: Precision,
    embed_tokens: Weight,
    layers: Vec<Layer>,
    norm: Vector,
    /// Absent where the embedding is the output projection too.
    lm_head: Option<Weight>,
    rope: RopeTable,
    parameters: Vec<Parameter>,
    expansion: Option<Expansion>,
    adapters: Adapters,
    /// A base that speaks beside this model as its preservation head, see [`Model::beside`].
    beside: Option<Box<Model>>,
}

impl Model {
    /// The base's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The arithmetic of the products.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The growth, where the model has been widened.
    pub fn growth(&self) -> Option<&Growth> {
        self.expansion.as_ref().map(|e| &e.growth)
    }

    /// The heads this model has: `[Base]`, or `[Preservation, Adaptation]` once widened or put [beside](Model::beside) its base.
    pub fn heads(&self) -> &'static [Head] {
        if self.expansion.is_some() || self.beside.is_some() { &[Head::Preservation, Head::Adaptation] } else { &[Head::Base] }
    }

    /// The pair of this model, a fine-tuned copy of `base`, and `base` itself: both are computed for every token, the base is the preservation
    /// head and this model the adaptation head. It is asked and measured like a widened model, and not trained.
    ///
    /// # Errors
    /// [`Error::Usage`] where this model has two heads already, the base has, or their vocabularies, contexts or arithmetic differ.
    pub fn beside(mut self, base: Self) -> Result<Self> {
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
        self.beside = Some(Box::new(base));
        Ok(self)
    }

    /// Trained parameters.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Trained parameters, to be updated in place (same lengths).
    pub fn parameters_mut(&mut self) -> &mut [Parameter] {
        &mut self.parameters
    }

    /// The first layer in which the expansion changes the base stream; the number of layers when none does.
    pub fn fork_layer(&self) -> usize {
        let layers = self.expansion.as_ref().map_or(&[][..], |e| &e.layers);
        layers.iter().position(ExpansionLayer::adapts).unwrap_or(self.layers.len())
    }

    /// Says which update the next batch belongs to and how many tokens of it went before: with the seed, all that dropout depends on.
    pub fn place_dropout(&mut self, step: u64, first_token: u64) {
        if let Some(dropout) = &mut self.adapters.dropout {
            (dropout.step, dropout.first_row) = (step, first_token);
        }
    }

    /// Forward and backward of one batch: adds `scale ×` the gradient of the *summed* negative log-likelihood to `gradients`.
    /// With `recompute`, layers keep only their inputs and are run again in the backward pass.
    ///
    /// # Errors
    /// A token outside the vocabulary, or a window longer than the model's positions.
    pub fn loss_and_gradients(&self, batch: &Batch, gradients: &mut Gradients, scale: f32, recompute: bool) -> Result<BatchLoss> {
        on_workers(|| self.pass(batch, gradients, scale, recompute))
    }

    fn pass(&self, batch: &Batch, gradients: &mut Gradients, scale: f32, recompute: bool) -> Result<BatchLoss> {
        let sequence = self.sequence(batch)?;
        let mut tape = Tape::new(&self.parameters, self.precision);
        let (mut x, mut z) = self.embed(&mut tape, &batch.tokens);
        for index in 0..self.layers.len() {
            (x, z) = if recompute {
                let (inputs, shared) = ([Some(x), z].into_iter().flatten().collect(), sequence.clone());
                let mut outputs = tape
                    .recompute(inputs, move |tape, inputs| {
                        let (x, z) = self.layer(tape, index, (inputs[0].clone(), inputs.get(1).cloned()), &shared, None);
                        [Some(x), z].into_iter().flatten().collect()
                    })
                    .into_iter();
                match (outputs.next(), outputs.next()) {
                    (Some(x), z) => (x, z),
                    (None, _) => return Err(Error::Numeric(format!("layer {index} returned nothing"))),
                }
            } else {
                self.layer(&mut tape, index, (x, z), &sequence, None)
            };
        }
        let normed = self.final_norms(&mut tape, (x, z));
        let products = self.head_products(&normed);
        let (scores, seeds) = tape.head_loss(&head::Head { products: &products }, &batch.targets, scale, gradients);
        drop(products);
        drop(normed);
        tape.backward(seeds, gradients);
        Ok(BatchLoss { nll: scores.nll.iter().map(|&v| f64::from(v)).sum(), targets: batch.target_count() })
    }

    /// Forward of one batch through every head, with nothing kept.
    ///
    /// # Errors
    /// A token outside the vocabulary, or a window longer than the model's positions.
    pub fn score(&self, batch: &Batch, with_hidden: bool) -> Result<Scores> {
        self.score_with(batch, Extras { hidden: with_hidden, cosine: false })
    }

    /// [`Model::score`], and what else is wanted.
    ///
    /// # Errors
    /// As [`Model::score`].
    pub fn score_with(&self, batch: &Batch, extras: Extras) -> Result<Scores> {
        on_workers(|| self.score_here(batch, extras))
    }

    fn score_here(&self, batch: &Batch, extras: Extras) -> Result<Scores> {
        let sequence = self.sequence(batch)?;
        let mut tape = Tape::inference(&self.parameters, self.precision);
        let (preserved, adapted) = self.streams(&mut tape, &batch.tokens, &sequence, None);
        let mut hidden = Vec::new();
        if extras.hidden {
            let of = |x: &Var| x.value().data().to_vec();
            hidden.extend(preserved.as_ref().map(of));
            hidden.push(of(&adapted.0));
            if self.heads().len() > 1 && preserved.is_none() {
                hidden.push(of(&adapted.0));
            }
        }
        let scores = self.with_heads(&mut tape, preserved, adapted, |tape, heads| tape.head_scores(heads, &batch.targets, extras.cosine));
        Ok(Scores { hidden, ..Scores::new(scores) })
    }

    /// An empty cache for up to `capacity` tokens of one sequence.
    pub fn new_cache(&self, capacity: usize) -> Cache {
        Cache::new(capacity.min(self.rope.positions()), self.layers.len().max(self.beside.as_ref().map_or(0, |base| base.layers.len())))
    }

    /// Appends `tokens` to the sequence and returns the logits of the last position, `[vocab_size]`, for each head in the order of [`Model::heads`].
    ///
    /// # Errors
    /// A token outside the vocabulary, no token, or a full cache.
    pub fn step(&self, cache: &mut Cache, tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
        self.advance(cache, tokens, |tape, heads| tape.head_logits(heads, tokens.len() - 1))
    }

    /// [`Model::step`], and what each head made of `tokens` themselves: position `i` of the scores is about token `i + 1`, and the last, whose
    /// target is yet to come, is ignored. It is what a router learns from a prompt.
    ///
    /// # Errors
    /// As [`Model::step`].
    pub fn read(&self, cache: &mut Cache, tokens: &[u32], cosine: bool) -> Result<(Vec<Vec<f32>>, Scores)> {
        let targets: Vec<u32> = tokens.iter().skip(1).copied().chain([IGNORE]).collect();
        self.advance(cache, tokens, |tape, heads| {
            let logits = tape.head_logits(heads, tokens.len() - 1);
            (logits, Scores::new(tape.head_scores(heads, &targets, cosine)))
        })
    }

    /// Appends `tokens`, of which there is at least one, to the sequence, and lets `read` look at the heads over them.
    fn advance<'m, T: Send>(
        &'m self,
        cache: &mut Cache,
        tokens: &[u32],
        read: impl FnOnce(&Tape<'m>, &[Part<'_, 'm>]) -> T + Send,
    ) -> Result<T> {
        on_workers(|| self.advance_here(cache, tokens, read))
    }

    fn advance_here<'m, T>(&'m self, cache: &mut Cache, tokens: &[u32], read: impl FnOnce(&Tape<'m>, &[Part<'_, 'm>]) -> T) -> Result<T> {
        self.check_tokens(tokens)?;
        let (past, length) = (cache.length, tokens.len());
        if length == 0 || past + length > cache.capacity {
            return Err(Error::usage(format!("{length} tokens after {past} do not fit a context of {} tokens", cache.capacity)));
        }
        let positions = (past as u32..(past + length) as u32).collect();
        let sequence = Arc::new(Sequence { batch: 1, length, positions, starts: None });
        let mut tape = Tape::inference(&self.parameters, self.precision);
        let (preserved, adapted) = self.streams(&mut tape, tokens, &sequence, Some(cache));
        cache.length += length;
        Ok(self.with_heads(&mut tape, preserved, adapted, read))
    }

    /// Lets `read` look at every head in the order of [`Model::heads`]: the preservation head on the preserved stream where that is one of
    /// its own, and otherwise as the first part of the adaptation head, which goes on from it.
    fn with_heads<'m, T>(
        &'m self,
        tape: &mut Tape<'m>,
        preserved: Option<Var>,
        adapted: Streams,
        read: impl FnOnce(&Tape<'m>, &[Part<'_, 'm>]) -> T,
    ) -> T {
        let base = self.beside.as_deref().unwrap_or(self);
        let preserved = preserved.map(|x| base.final_norms(tape, (x, None)));
        let adapted = self.final_norms(tape, adapted);
        let of_preserved = preserved.as_ref().map(|streams| base.head_products(streams));
        let of_adapted = self.head_products(&adapted);
        let part = |products, continues| Part { head: head::Head { products }, continues };
        let parts: Vec<Part> = match &of_preserved {
            Some(products) => vec![part(products, false), part(&of_adapted, false)],
            None => of_adapted.chunks(1).enumerate().map(|(index, products)| part(products, index > 0)).collect(),
        };
        read(tape, &parts)
    }

    /// All layers without recording: the preserved base stream where it differs from the adapted one, and the adapted streams.
    fn streams<'m>(
        &'m self,
        tape: &mut Tape<'m>,
        tokens: &[u32],
        sequence: &Arc<Sequence>,
        mut cache: Option<&mut Cache>,
    ) -> (Option<Var>, Streams) {
        let (mut adapted, mut preserved, fork) = (self.embed(tape, tokens), None, self.fork_layer());
        for index in 0..self.layers.len() {
            if index == fork {
                preserved = Some(adapted.0.clone());
            }
            if let Some(x) = preserved.take() {
                let slot = cache.as_mut().map(|c| &mut c.preserved[index]);
                preserved = Some(self.layer(tape, index, (x, None), sequence, slot).0);
            }
            let slot = cache.as_mut().map(|c| &mut c.layers[index]);
            adapted = self.layer(tape, index, adapted, sequence, slot);
        }
        if let Some(base) = &self.beside {
            // All of the base is frozen, so it runs on this model's tape; its cache is that of a preserved stream.
            let mut x = (base.embed(tape, tokens).0, None);
            for index in 0..base.layers.len() {
                let slot = cache.as_mut().map(|c| &mut c.preserved[index]);
                x = base.layer(tape, index, x, sequence, slot);
            }
            preserved = Some(x.0);
        }
        (preserved, adapted)
    }

    fn embed<'m>(&'m self, tape: &mut Tape<'m>, tokens: &[u32]) -> Streams {
        (tape.embedding(tokens, &self.embed_tokens), self.expansion.as_ref().map(|e| tape.embedding(tokens, &e.embed_tokens)))
    }

    fn final_norms<'m>(&'m self, tape: &mut Tape<'m>, (x, z): Streams) -> Streams {
        let eps = self.config.rms_norm_eps as f32;
        let expansion = z.zip(self.expansion.as_ref()).map(|(z, e)| tape.rms_norm(&z, &e.norm, eps));
        (tape.rms_norm(&x, &self.norm, eps), expansion)
    }

    fn head_products<'a, 'm>(&'m self, (x, z): &'a Streams) -> Vec<(&'a Var, &'m Weight)> {
        let base = (x, self.lm_head.as_ref().unwrap_or(&self.embed_tokens));
        let expansion = z.as_ref().zip(self.expansion.as_ref()).map(|(z, e)| (z, &e.lm_head));
        std::iter::once(base).chain(expansion).collect()
    }

    fn check_tokens(&self, tokens: &[u32]) -> Result<()> {
        match tokens.iter().find(|&&t| t as usize >= self.config.vocab_size) {
            Some(t) => Err(Error::usage(format!("token {t} is outside the model's vocabulary of {} tokens", self.config.vocab_size))),
            None => Ok(()),
        }
    }

    fn sequence(&self, batch: &Batch) -> Result<Arc<Sequence>> {
        let (windows, length) = (batch.batch_size, batch.sequence_length);
        let expected = windows * length;
        if batch.tokens.len() != expected || batch.targets.len() != expected {
            return Err(Error::usage(format!(
                "a batch of {windows} × {length} has {} tokens and {} targets",
                batch.tokens.len(),
                batch.targets.len()
            )));
        }
        if length > self.rope.positions() {
            return Err(Error::usage(format!("windows of {length} tokens exceed the model's {} positions", self.rope.positions())));
        }
        self.check_tokens(&batch.tokens)?;
        if let Some(t) = batch.targets.iter().find(|&&t| t != IGNORE && t as usize >= self.config.vocab_size) {
            return Err(Error::usage(format!("target {t} is outside the model's vocabulary of {} tokens", self.config.vocab_size)));
        }
        let starts = batch.document_starts.clone();
        if starts.as_ref().is_some_and(|s| s.len() != expected || s.iter().enumerate().any(|(i, &s)| s as usize > i % length)) {
            return Err(Error::usage("document starts lie behind their tokens or are not one a token"));
        }
        let positions = (0..expected).map(|i| (i % length) as u32 - starts.as_ref().map_or(0, |s| s[i])).collect();
        Ok(Arc::new(Sequence { batch: windows, length, positions, starts }))
    }
}
