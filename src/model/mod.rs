//! The decoder: a frozen or trained base, and the rings around it.

pub mod build;
mod cache;
mod forest;
#[cfg(test)]
mod forest_tests;
mod head;
mod layer;
mod one_head;
mod pair;
pub mod parameter;
mod precision;
#[cfg(test)]
mod ring_tests;
mod sink;
mod steps;
#[cfg(test)]
pub(crate) mod tests;

use crate::checkpoint::Config;
use crate::data::batch::{Batch, IGNORE};
use crate::error::{Error, Result};
use crate::grow::sizes::Growth;
use crate::ops::contrast::Contrast;
use crate::ops::head::{self as logits, Compare, Compared, HeadScores, Part};
use crate::ops::lora::Dropout;
use crate::ops::on_workers;
use crate::ops::rope::RopeTable;
use crate::ops::sequence::Sequence;
use crate::ops::tape::{Tape, Var, Vector, Weight};
use crate::route::{Aids, Gate, Recall};
pub use cache::Cache;
pub use forest::Forest;
pub use head::Head;
use layer::{Layer, RingLayer, StreamSequences, Streams};
use pair::Beside;
pub use parameter::{Block, Gradients, Parameter};
pub use precision::Precision;
use std::sync::Arc;

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
    /// How the last head but one and the last differ, `[batch, seq]`, the default where the target is ignored; empty unless asked for.
    pub contrast: Vec<Contrast>,
    /// Hidden state of the base stream behind each head, before the final norm, `[batch, seq, hidden_size]`; empty unless asked for.
    pub hidden: Vec<Vec<f32>>,
}

/// What a forward pass is to return beside what the heads say of the targets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extras {
    /// The hidden states behind the heads.
    pub hidden: bool,
    /// The cosine of the first and the last head's logits.
    pub cosine: bool,
    /// The contrast of the last head but one and the last.
    pub contrast: bool,
}

impl Extras {
    fn compare(self) -> Compare {
        Compare { cosine: self.cosine, contrast: self.contrast }
    }
}

impl Scores {
    fn new((heads, compared): (Vec<HeadScores>, Compared)) -> Self {
        let mut out = Self { cosine: compared.cosine, contrast: compared.contrast, ..Self::default() };
        for scores in heads {
            out.log_probs.push(scores.nll.iter().map(|v| -v).collect());
            out.correct.push(scores.correct);
            out.largest.push(scores.largest);
        }
        out
    }
}

/// The weights of one expansion stream.
#[derive(Debug)]
struct Ring {
    growth: Growth,
    embed_tokens: Weight,
    layers: Vec<RingLayer>,
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

/// A decoder of one of the [families](crate::checkpoint::Family), its base frozen or trained, widened or not: what `train`, `eval` and `generate` see.
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
    /// From the innermost out; all but the last are frozen.
    rings: Vec<Ring>,
    heads: Vec<Head>,
    adapters: Adapters,
    /// A base that speaks beside this model as its preservation head, see [`Model::beside`].
    beside: Option<Beside>,
    /// What was made for routers between its heads.
    aids: Aids,
}

impl Model {
    /// The base's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What was trained to choose between its heads, where something was.
    pub fn gate(&self) -> Option<&Arc<Gate>> {
        self.aids.gate.as_ref()
    }

    /// Gives it a gate, for routers that ask one.
    pub fn set_gate(&mut self, gate: Gate) {
        self.aids.gate = Some(Arc::new(gate));
    }

    /// What was made for routers between its heads.
    pub fn aids(&self) -> &Aids {
        &self.aids
    }

    /// Gives it, for the router `recall`, what its learnt head `index` was taught, counted from the innermost ring's, 0.
    pub fn set_recall(&mut self, index: usize, recall: Option<Recall>) {
        self.aids.set_recall(index, recall);
    }

    /// The arithmetic of the products.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// What was added, ring after ring; empty where the model has not been widened.
    pub fn growths(&self) -> impl Iterator<Item = &Growth> {
        self.rings.iter().map(|ring| &ring.growth)
    }

    /// The heads this model has: `[Base]`, or `[Preservation, Adaptation]` once widened or put [beside](Model::beside) its base, with a head
    /// between the two for every ring but the last.
    pub fn heads(&self) -> &[Head] {
        &self.heads
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
        // Only the first ring can: what is around it leaves every stream as it was.
        let layers = self.rings.first().map_or(&[][..], |ring| &ring.layers);
        layers.iter().position(RingLayer::adapts).unwrap_or(self.layers.len())
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
        let sequences = StreamSequences::same(&self.sequence(batch)?);
        let mut tape = Tape::new(&self.parameters, self.precision);
        let mut streams = self.embed(&mut tape, &batch.tokens);
        for index in 0..self.layers.len() {
            streams = if recompute {
                let shared = sequences.clone();
                tape.recompute(streams, move |tape, inputs| self.layer(tape, index, inputs.to_vec(), &shared, None))
            } else {
                self.layer(&mut tape, index, streams, &sequences, None)
            };
        }
        let normed = self.final_norms(&mut tape, &streams);
        drop(streams);
        let products = self.head_products(&normed);
        let (scores, seeds) = tape.head_loss(&logits::Head { products: &products }, &batch.targets, scale, gradients);
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
        self.score_with(batch, Extras { hidden: with_hidden, ..Extras::default() })
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
            // Every other head reads the one base stream that all rings share.
            hidden.resize_with(self.heads.len(), || of(&adapted[0]));
        }
        let scores =
            self.with_heads(&mut tape, preserved, adapted, |tape, heads| tape.head_scores(heads, &batch.targets, extras.compare()));
        Ok(Scores { hidden, ..Scores::new(scores) })
    }

    /// Lets `read` look at every head in the order of [`Model::heads`], each of which goes on from the one before it; only where the preserved
    /// stream is one of its own does the second head begin anew, with the base's part on the adapted stream.
    fn with_heads<'m, T>(
        &'m self,
        tape: &mut Tape<'m>,
        preserved: Option<Var>,
        adapted: Streams,
        read: impl FnOnce(&Tape<'m>, &[Part<'_, 'm>]) -> T,
    ) -> T {
        let base = self.beside.as_ref().map_or(self, |beside| &beside.base);
        let preserved = preserved.map(|x| base.final_norms(tape, &[x]));
        let normed = self.final_norms(tape, &adapted);
        drop(adapted);
        let of_preserved = preserved.as_ref().map(|streams| base.head_products(streams));
        let of_adapted = self.head_products(&normed);
        let part = |products, continues| Part { head: logits::Head { products }, continues };
        let (begun, rest) = of_adapted.split_at(1 + usize::from(of_preserved.is_some() && self.beside.is_none()));
        let mut parts: Vec<Part> = of_preserved.iter().map(|products| part(products, false)).collect();
        parts.push(part(begun, false));
        parts.extend(rest.chunks(1).map(|products| part(products, true)));
        read(tape, &parts)
    }

    /// All layers without recording: the preserved base stream where it differs from the adapted one, and the adapted streams.
    ///
    /// From the fork on the base stream carries its preserved copy before its own rows, so that the base's weights are read once for both: where one token
    /// is generated after another, reading them is what takes the time. Under adapters on a base that stands [beside](Model::beside_its_base) the fork lies
    /// before the first layer; a base of which more was trained than adapters runs by itself.
    fn streams<'m>(
        &'m self,
        tape: &mut Tape<'m>,
        tokens: &[u32],
        sequence: &Arc<Sequence>,
        mut cache: Option<&mut Cache>,
    ) -> (Option<Var>, Streams) {
        let joined = self.beside.as_ref().filter(|beside| beside.joined);
        let (mut streams, fork) = (self.embed(tape, tokens), if joined.is_some() { 0 } else { self.fork_layer() });
        let mut sequences = StreamSequences::same(sequence);
        for index in 0..self.layers.len() {
            if index == fork {
                let preserved = joined.map_or_else(|| streams[0].clone(), |beside| beside.base.embed(tape, tokens).swap_remove(0));
                streams[0] = tape.one_after_another(&preserved, &streams[0]);
                sequences.base = Arc::new(sequence.twice());
            }
            let slots = cache.as_mut().map(|c| c.slots(index, index >= fork));
            streams = self.layer(tape, index, streams, &sequences, slots);
        }
        if let Some(Beside { base, joined: false }) = &self.beside {
            // All of the base is frozen, so it runs on this model's tape; its cache is that of a preserved stream.
            let (mut x, sequences) = (base.embed(tape, tokens), StreamSequences::same(sequence));
            for index in 0..base.layers.len() {
                let slots = cache.as_mut().map(|c| c.preserved(index));
                x = base.layer(tape, index, x, &sequences, slots);
            }
            return (x.pop(), streams);
        }
        if fork == self.layers.len() {
            return (None, streams);
        }
        let [preserved, own] = tape.halves(&streams[0]);
        streams[0] = own;
        (Some(preserved), streams)
    }

    fn embed<'m>(&'m self, tape: &mut Tape<'m>, tokens: &[u32]) -> Streams {
        let tables = std::iter::once(&self.embed_tokens).chain(self.rings.iter().map(|ring| &ring.embed_tokens));
        tables.map(|table| tape.embedding(tokens, table)).collect()
    }

    fn final_norms<'m>(&'m self, tape: &mut Tape<'m>, streams: &[Var]) -> Streams {
        self.norms(tape, streams, std::iter::once(&self.norm).chain(self.rings.iter().map(|ring| &ring.norm)))
    }

    fn head_products<'a, 'm>(&'m self, streams: &'a [Var]) -> Vec<(&'a Var, &'m Weight)> {
        let base = self.lm_head.as_ref().unwrap_or(&self.embed_tokens);
        streams.iter().zip(std::iter::once(base).chain(self.rings.iter().map(|ring| &ring.lm_head))).collect()
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
        Ok(Arc::new(Sequence { batch: windows, length, positions, starts, forest: None }))
    }
}
