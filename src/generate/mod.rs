//! Continuing a prompt, token by token, with a cache of keys and values.

pub mod chat;
pub mod sampler;
mod voice;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::eval::head_name;
use crate::model::{Head, Model};
use crate::route::Router;
use crate::tokenizer::Tokenizer;
pub use sampler::{Sampler, SamplerConfig};
pub use voice::Spoken;
use voice::Voice;

/// What to generate.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The head that speaks; `None` for the adaptation head of a widened model and the only head of a plain one.
    pub head: Option<Head>,
    /// The router that chooses the head for each token, or mixes them, instead of one head.
    pub router: Option<Router>,
    /// Largest number of new tokens.
    pub max_new_tokens: usize,
    /// Tokens that end the text, see [`end_tokens`].
    pub ends: Vec<u32>,
    /// How each token is chosen.
    pub sampler: SamplerConfig,
}

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// The model ended its text.
    EndOfText,
    /// As many tokens as were asked for.
    MaxNewTokens,
    /// The model's context is full.
    ContextFull,
}

/// A finished text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Generation {
    /// The head that spoke; absent where a router chose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<Head>,
    /// The router that chose; absent where one head spoke.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub router: Option<Router>,
    /// The new text, without the prompt.
    pub text: String,
    /// The new tokens, without the one that ended the text.
    pub tokens: Vec<u32>,
    /// Number of prompt tokens.
    pub prompt_tokens: usize,
    /// Why it ended.
    pub stop: Stop,
    /// Which head spoke for each of `tokens`; absent where one head spoke.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<Vec<Spoken>>,
}

impl Generation {
    /// Share of the new tokens for which the adaptation head spoke; `None` where one head spoke, or there is none.
    pub fn adaptation_share(&self) -> Option<f64> {
        let trace = self.trace.as_ref().filter(|trace| !trace.is_empty())?;
        Some(trace.iter().filter(|spoken| spoken.head == Head::Adaptation).count() as f64 / trace.len() as f64)
    }
}

/// The index of `wanted` among the model's heads; without a wish the one that has learnt most.
///
/// # Errors
/// A head that the model does not have.
pub fn choose_head(model: &Model, wanted: Option<Head>) -> Result<usize> {
    let heads = model.heads();
    let Some(wanted) = wanted else {
        return Ok(heads.len() - 1);
    };
    heads.iter().position(|&h| h == wanted).ok_or_else(|| {
        let names: Vec<String> = heads.iter().map(|&h| head_name(h)).collect();
        Error::usage(format!(
            "this model has no {} head, only {}; a model gets two heads when it is widened, and one more with every ring (train with a scale- method, or `treering grow`)",
            head_name(wanted),
            names.join(" and ")
        ))
    })
}

/// The tokens that end a text: those of the model's configuration and the tokenizer's own.
pub fn end_tokens(model: &Model, tokenizer: &Tokenizer) -> Vec<u32> {
    let mut ends = model.config().eos_token_id.clone();
    ends.extend(tokenizer.eos_token_id().filter(|token| !ends.contains(token)));
    ends
}

/// Continues `prompt`, handing every piece of text to `emit` as soon as it is whole UTF-8, with the head that spoke where a router chose.
///
/// # Errors
/// An empty prompt, one that fills the model's context, a head the model does not have, a router for a model with one head, or what `emit` returns.
pub fn generate(
    model: &Model,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    request: &Request,
    mut emit: impl FnMut(&str, Option<Head>) -> Result<()>,
) -> Result<Generation> {
    let mut voice = Voice::new(model, request)?;
    let context = model.config().max_position_embeddings;
    if prompt.is_empty() {
        return Err(Error::usage("the prompt is empty, and this model has no token to begin a text with; give it at least a word"));
    }
    if prompt.len() >= context {
        return Err(Error::usage(format!(
            "the prompt has {} tokens, the model's context {context}: at least one must be left for an answer; shorten the prompt",
            prompt.len()
        )));
    }
    let room = context - prompt.len();
    let limit = request.max_new_tokens.min(room);
    let mut sampler = Sampler::new(request.sampler.clone())?;
    let mut cache = model.new_cache(prompt.len() + limit);
    let mut decoder = tokenizer.stream();
    let mut seen = prompt.to_vec();
    let mut text = String::new();
    let mut stop = if limit < request.max_new_tokens { Stop::ContextFull } else { Stop::MaxNewTokens };
    let mut say = |piece: String, head: Option<Head>, text: &mut String| -> Result<()> {
        if !piece.is_empty() {
            emit(&piece, head)?;
            text.push_str(&piece);
        }
        Ok(())
    };
    let mut trace: Vec<Spoken> = Vec::new();
    let mut unread = prompt.to_vec();
    for _ in 0..limit {
        let logits = voice.read(model, &mut cache, &unread)?;
        let token = sampler.sample(&logits, &seen)?;
        if request.ends.contains(&token) {
            stop = Stop::EndOfText;
            break;
        }
        let spoken = voice.observe(model, token);
        seen.push(token);
        let piece = decoder.push(token)?;
        if let Some((head, adaptation_weight)) = spoken {
            trace.push(Spoken { token, text: piece.clone(), head, adaptation_weight });
        }
        say(piece, spoken.map(|s| s.0), &mut text)?;
        unread = vec![token];
    }
    let rest = decoder.finish()?;
    let last = trace.last_mut().map(|spoken| {
        spoken.text.push_str(&rest);
        spoken.head
    });
    say(rest, last, &mut text)?;
    let (head, trace) = match voice {
        Voice::Head(index) => (Some(model.heads()[index]), None),
        Voice::Router(_) => (None, Some(trace)),
    };
    let tokens = seen.split_off(prompt.len());
    Ok(Generation { head, router: request.router, text, tokens, prompt_tokens: prompt.len(), stop, trace })
}
