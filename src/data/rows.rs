//! Windows that are one document each: questions with their answers, of which the answers alone may count.

use super::Encode;
use super::batch::{Batch, IGNORE};
use super::cache::TokenCache;
use super::stream::StreamConfig;
use crate::error::{Error, Result};

/// How a document becomes a window.
pub(super) struct Rows {
    length: usize,
    end_of_text: Option<u32>,
    /// The tokens after which targets begin to count.
    template: Option<(String, Vec<u32>)>,
}

impl Rows {
    /// What `config` says, in the tokens of `encoder`.
    pub fn new(config: &StreamConfig, encoder: &dyn Encode) -> Result<Self> {
        let template = match &config.response_template {
            None => None,
            Some(text) => match encoder.encode(text)? {
                tokens if tokens.is_empty() => return Err(Error::usage("data.response_template: is no token, so nothing could follow it")),
                tokens => Some((text.clone(), tokens)),
            },
        };
        Ok(Self { length: config.sequence_length, end_of_text: encoder.end_of_text(), template })
    }

    /// Checks that every document of the corpus at `path` fits into a window and has something that counts.
    pub fn check(&self, cache: &TokenCache, path: &str) -> Result<()> {
        let mut tokens = Vec::new();
        for document in 0..cache.documents() {
            self.read(cache, document, &mut tokens)?;
            let needed = tokens.len().saturating_sub(1);
            if needed > self.length {
                return Err(Error::usage(format!(
                    "data.packing: document {} of {path} needs {needed} tokens, and windows have {}\n  hint: sequence_length = {needed} or more",
                    document + 1,
                    self.length
                )));
            }
            if self.first_target(&tokens).is_none_or(|first| first >= tokens.len()) {
                let (what, hint) = match &self.template {
                    Some((text, _)) => (
                        format!("has no tokens of {text:?} with something after them"),
                        "a tokenizer may write the text otherwise within a document; a part of it, between spaces, is safest",
                    ),
                    None => ("has fewer than two tokens".to_owned(), "there is nothing to predict in it: leave it out"),
                };
                return Err(Error::usage(format!("data.response_template: document {} of {path} {what}\n  hint: {hint}", document + 1)));
            }
        }
        Ok(())
    }

    /// Appends a document as a window.
    pub fn append(&self, cache: &TokenCache, document: u64, batch: &mut Batch) -> Result<()> {
        let mut tokens = Vec::with_capacity(self.length + 1);
        self.read(cache, document, &mut tokens)?;
        let first = self.first_target(&tokens).unwrap_or(1);
        let inputs = tokens.len().saturating_sub(1);
        let end = batch.tokens.len() + self.length;
        batch.tokens.extend_from_slice(&tokens[..inputs]);
        batch.targets.extend((1..=inputs).map(|at| if at < first { IGNORE } else { tokens[at] }));
        // What fills up follows the document, so nothing that counts attends to it.
        batch.tokens.resize(end, 0);
        batch.targets.resize(end, IGNORE);
        Ok(())
    }

    /// The document with the token that ends it.
    fn read(&self, cache: &TokenCache, document: u64, tokens: &mut Vec<u32>) -> Result<()> {
        tokens.clear();
        let (range, _) = cache.document(document)?;
        cache.read(range, tokens)?;
        tokens.extend(self.end_of_text);
        Ok(())
    }

    /// The index of the first token that counts as a target; `None` without the template.
    fn first_target(&self, tokens: &[u32]) -> Option<usize> {
        match &self.template {
            None => Some(1),
            Some((_, template)) => tokens.windows(template.len()).rposition(|found| found == template).map(|at| at + template.len()),
        }
    }
}
