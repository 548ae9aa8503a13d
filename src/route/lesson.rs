//! A [`Gate`]'s whole lesson: the new text and what the model says by itself are looked at, most of both is learnt, the rest measured.

use std::path::Path;

use serde::Serialize;

use super::examples::{Speech, Text, of_texts, own_texts};
use super::gate::{Example, Gate};
use crate::data::{Encoder, Progress, StreamConfig, TrainStream};
use crate::error::{Error, Result};
use crate::eval::leading_token;
use crate::generate::end_tokens;
use crate::model::Model;
use crate::tokenizer::Tokenizer;

/// Of so many texts one is kept apart, to measure on.
const HELD_OUT: usize = 5;

/// How much a gate is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lesson {
    /// Tokens of the new text to look at, at least 1.
    pub new_tokens: usize,
    /// Texts that the model before the newest head is to say by itself, at least [`Lesson::FEWEST_SAMPLES`].
    pub samples: usize,
    /// At most so many tokens each.
    pub sample_tokens: usize,
    /// Seed of what is drawn.
    pub seed: u64,
}

impl Lesson {
    /// With fewer samples there would be a single one to measure on, or none.
    pub const FEWEST_SAMPLES: usize = 2 * HELD_OUT;

    /// Refuses a lesson that shows too little.
    ///
    /// # Errors
    /// [`Error::Usage`] saying how much it takes.
    pub fn validate(&self) -> Result<()> {
        if self.samples < Self::FEWEST_SAMPLES || self.new_tokens == 0 {
            let (fewest, samples, tokens) = (Self::FEWEST_SAMPLES, self.samples, self.new_tokens);
            return Err(Error::usage(format!(
                "a gate needs at least {fewest} samples and 1 new token, and is to have {samples} (--samples) and {tokens} (--new-tokens)"
            )));
        }
        Ok(())
    }
}

impl Default for Lesson {
    fn default() -> Self {
        Self { new_tokens: 8192, samples: 96, sample_tokens: 64, seed: 42 }
    }
}

/// A gate, and how it did on the texts kept apart.
#[derive(Debug, Clone)]
pub struct Taught {
    /// The gate.
    pub gate: Gate,
    /// On the new text.
    pub new_text: Losses,
    /// On what the model says by itself.
    pub own_text: Losses,
}

/// Losses on one kind of text.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Losses {
    /// Texts it was trained on.
    pub texts: usize,
    /// Tokens it was trained on.
    pub tokens: usize,
    /// Tokens kept apart.
    pub held_out_tokens: usize,
    /// Nats a token on these of the head before the newest.
    pub before: f64,
    /// The same of the newest head.
    pub newest: f64,
    /// The same of the gate's mixture of the two.
    pub gate: f64,
}

/// Told what is being done, how much of it, of how much, and on what; an error ends the lesson.
pub type OnPhase<'a> = &'a mut dyn FnMut(&'static str, u64, u64, &str) -> Result<()>;

/// Trains a gate for `model` on the documents of `stream`, whose tokens are kept in the folder `cache`. The model is not changed, and nothing is written
/// but that cache.
///
/// # Errors
/// [`Error::Usage`] for a model with one head or too little to look at; whatever reading the texts returns; what `progress` returns.
pub fn teach(
    model: &Model,
    tokenizer: Tokenizer,
    stream: &StreamConfig,
    cache: &Path,
    lesson: &Lesson,
    progress: OnPhase<'_>,
) -> Result<Taught> {
    lesson.validate()?;
    let leading = leading_token(&tokenizer)?;
    let ends = end_tokens(model, &tokenizer);
    let end_of_text = tokenizer.eos_token_id();
    let encoder = Encoder::new(tokenizer)?;
    // Evidence begins anew with each document, as it does whenever a router is asked.
    let stream = StreamConfig { document_mask: true, ..stream.clone() };
    let mut reading = |read: &Progress| progress("reading", read.bytes_done, read.bytes_total, &read.corpus);
    let mut stream = TrainStream::new(&stream, Path::new(""), cache, &encoder, lesson.seed, &mut reading)?;
    let texts = new_texts(&mut stream, lesson.new_tokens)?;
    let texts: Vec<Text> = texts.into_iter().map(|text| leading.map_or(text.clone(), |token| text.after(token))).collect();

    let speech = Speech {
        samples: lesson.samples,
        tokens: lesson.sample_tokens,
        leading: leading.or(end_of_text),
        always_leads: leading.is_some(),
        ends,
        seed: lesson.seed,
    };
    let own = own_texts(model, &texts, &speech, &mut |done, of| progress("listening", done, of, ""))?;
    let (new, new_held_out) = split(texts);
    let (own, own_held_out) = split(own);
    let mut examples = |texts: &[Text]| of_texts(model, texts, &mut |done, of| progress("looking", done, of, ""));
    let [new_examples, own_examples] = [examples(&new)?, examples(&own)?];
    let held_out = [examples(&new_held_out)?, examples(&own_held_out)?];
    let gate = Gate::train(&new_examples, &own_examples, lesson.seed)?;
    progress("looking", 1, 1, "")?;
    let losses = |texts: &[Text], examples: &[Example], held_out: &[Example]| {
        let mean = |head: usize| -held_out.iter().map(|e| e.log_probs[head]).sum::<f64>() / held_out.len().max(1) as f64;
        Losses {
            texts: texts.len(),
            tokens: examples.len(),
            held_out_tokens: held_out.len(),
            before: mean(0),
            newest: mean(1),
            gate: gate.loss(held_out),
        }
    };
    let (new_text, own_text) = (losses(&new, &new_examples, &held_out[0]), losses(&own, &own_examples, &held_out[1]));
    Ok(Taught { gate, new_text, own_text })
}

/// Documents of the training text, as training meets them.
fn new_texts(stream: &mut TrainStream, wanted: usize) -> Result<Vec<Text>> {
    let (mut texts, mut tokens) = (Vec::new(), 0);
    while tokens < wanted {
        let found = Text::of_batch(&stream.next_batch(1)?);
        tokens += found.iter().map(|text| text.tokens.len()).sum::<usize>().max(1);
        texts.extend(found);
    }
    Ok(texts)
}

/// Most of the texts, and those that are kept apart.
fn split(texts: Vec<Text>) -> (Vec<Text>, Vec<Text>) {
    let (apart, rest): (Vec<_>, Vec<_>) = texts.into_iter().enumerate().partition(|(index, _)| index % HELD_OUT == HELD_OUT - 1);
    let texts = |indexed: Vec<(usize, Text)>| indexed.into_iter().map(|(_, text)| text).collect();
    (texts(rest), texts(apart))
}
