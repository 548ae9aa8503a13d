//! From an item's texts to the tokens that are scored.

use serde::{Deserialize, Serialize};

use super::data::TaskData;
use super::item::Contexts;
use super::python::rstrip;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// Whether a token begins every prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bos {
    /// The one that the tokenizer itself puts there, if it does: lm-evaluation-harness from 0.4.9.2.
    #[default]
    Tokenizer,
    /// None: lm-evaluation-harness up to 0.4.9.1 for Llama.
    None,
}

/// A choice of an item in its prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The prompt and the choice, as much from the end as the model takes.
    pub tokens: Vec<u32>,
    /// How many of the last are the choice's.
    pub scored: usize,
    /// Whether tokens were left out at the beginning.
    pub truncated: bool,
}

/// What makes requests of texts.
pub struct Prompter<'a> {
    tokenizer: &'a Tokenizer,
    bos: Bos,
    /// Tokens that the model takes as input.
    context: usize,
    /// The token before an empty context, and its text.
    prefix: Option<(u32, String)>,
}

impl<'a> Prompter<'a> {
    /// A prompter for a model of `context` positions.
    pub fn new(tokenizer: &'a Tokenizer, bos: Bos, context: usize) -> Self {
        let token = tokenizer.bos_token_id().or(tokenizer.eos_token_id());
        let prefix = token.and_then(|token| Some((token, tokenizer.id_to_token(token)?)));
        Self { tokenizer, bos, context, prefix }
    }

    /// The requests of an item, one a choice.
    ///
    /// # Errors
    /// A choice without tokens or longer than the model's context, or texts that the tokenizer refuses.
    pub fn requests(&self, data: &TaskData, index: usize) -> Result<Vec<Request>> {
        let (item, prefix) = (&data.items[index], data.prefix(index));
        let mut shared: Option<(String, Vec<u32>)> = None;
        let mut requests = Vec::with_capacity(item.continuations.len());
        for (choice, continuation) in item.continuations.iter().enumerate() {
            let own = match &item.contexts {
                Contexts::Shared(context) => context,
                Contexts::Each(contexts) => &contexts[choice],
            };
            let context = format!("{prefix}{own}");
            let known = shared.take().filter(|(text, _)| *text == context).map(|(_, tokens)| tokens);
            let (tokens, of_context) = self.encode(&context, &format!(" {continuation}"), known)?;
            requests.push(
                self.request(&tokens, of_context.len())
                    .map_err(|message| item.record.fault(format!("{}, choice {}: {message}", data.task, choice + 1)))?,
            );
            shared = Some((context, of_context));
        }
        Ok(requests)
    }

    /// The tokens of both texts together, and of the context alone: these are as many of the first.
    fn encode(&self, context: &str, continuation: &str, known: Option<Vec<u32>>) -> Result<(Vec<u32>, Vec<u32>)> {
        let trimmed = rstrip(context);
        if trimmed.is_empty() {
            let continuation = self.tokenizer.encode(&format!("{context}{continuation}"))?;
            let Some((prefix, _)) = &self.prefix else {
                return Err(Error::usage("a prompt is empty, and the tokenizer has no token to begin one with"));
            };
            // A text that begins with that very token needs no other.
            let whole = if continuation.first() == Some(prefix) { continuation } else { [&[*prefix], &continuation[..]].concat() };
            return Ok((whole, vec![*prefix]));
        }
        let whole = self.tokens(&format!("{context}{continuation}"))?;
        let of_context = match known {
            Some(tokens) => tokens,
            None => self.tokens(trimmed)?,
        };
        Ok((whole, of_context))
    }

    fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        let begun = self.prefix.as_ref().is_some_and(|(_, prefix)| text.starts_with(prefix.as_str()));
        match self.bos {
            Bos::Tokenizer if !begun => self.tokenizer.encode_with_special(text),
            _ => self.tokenizer.encode(text),
        }
    }

    /// Cut to the model's context from the left: inputs are all tokens but the last.
    fn request(&self, tokens: &[u32], of_context: usize) -> std::result::Result<Request, String> {
        let scored = tokens.len().saturating_sub(of_context);
        if scored == 0 {
            return Err("has no token of its own in this tokenizer".into());
        }
        if scored > self.context {
            return Err(format!("has {scored} tokens, more than the model's context of {} (max_position_embeddings)", self.context));
        }
        let kept = tokens.len().min(self.context + 1);
        let truncated = kept < tokens.len();
        let tokens = tokens[tokens.len() - kept..].to_vec();
        if tokens.len() == scored {
            return Err("has no token before it".into());
        }
        Ok(Request { tokens, scored, truncated })
    }
}
