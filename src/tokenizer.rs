//! Text to tokens and back: a `tokenizer.json`, or the tokenizer inside a GGUF file.

mod gguf;

use std::fmt;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::checkpoint::atomic;
use crate::error::{Error, IoContext, Result};
use crate::files::{hex, read_limited_text};
use crate::guard::guarded;

/// So many tokens without a whole character are given out as they are; a character takes four at most.
const MAX_PENDING: usize = 16;

/// Larger than any `tokenizer.json`: the largest known have some 30 MB.
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;
/// Larger than any `tokenizer_config.json`.
const MAX_CONFIG_BYTES: u64 = 64 << 20;
/// Tokens have numbers below it: writing a tokenizer takes memory for every number up to the largest, whether it is a token's or not.
/// The largest vocabularies known have some 260,000.
const MOST_TOKENS: u32 = 1 << 24;

/// A tokenizer, with the tokens that begin and end a sequence.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    vocab_size: usize,
    bos_token_id: Option<u32>,
    eos_token_id: Option<u32>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`, and the names of the first and last token from a `tokenizer_config.json` beside it.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::File`] where one of them cannot be understood.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = read_limited_text(path, MAX_TOKENIZER_BYTES, "tokenizer")?;
        let mut tokenizer = Self::from_json(&text).map_err(|error| Error::file(path, error))?;
        let config = path.with_file_name("tokenizer_config.json");
        if config.exists() {
            let text = read_limited_text(&config, MAX_CONFIG_BYTES, "description of a tokenizer")?;
            let value: Value = serde_json::from_str(&text).map_err(|e| Error::file(&config, format_args!("is not JSON: {e}")))?;
            let token = |key: &str| -> Result<Option<u32>> {
                let token = match value.get(key) {
                    Some(Value::String(token)) => token,
                    Some(Value::Object(map)) => match map.get("content") {
                        Some(Value::String(token)) => token,
                        _ => return Err(Error::file(&config, format_args!("`{key}` has no `content`"))),
                    },
                    None | Some(Value::Null) => return Ok(None),
                    Some(_) => return Err(Error::file(&config, format_args!("`{key}` is neither a text nor an object"))),
                };
                match tokenizer.token_to_id(token) {
                    Some(id) => Ok(Some(id)),
                    None => Err(Error::file(&config, format_args!("`{key}` is {token:?}, which {} has not", path.display()))),
                }
            };
            (tokenizer.bos_token_id, tokenizer.eos_token_id) = (token("bos_token")?, token("eos_token")?);
        }
        Ok(tokenizer)
    }

    /// Reads the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Usage`] where it is none.
    pub fn from_json(text: &str) -> Result<Self> {
        // Checked before: the crate panics on text that is no JSON in some places.
        serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|e| Error::usage(format_args!("is not JSON: {e}")))?;
        let inner =
            sound(|| tokenizers::Tokenizer::from_bytes(text))?.map_err(|e| Error::usage(format_args!("is not a tokenizer: {e}")))?;
        Self::new(inner)
    }

    /// Takes a tokenizer as the crate `tokenizers` makes it. Truncation and padding are switched off: they would change texts silently.
    ///
    /// # Errors
    /// [`Error::Usage`] where it has no tokens, or one whose number is out of all proportion.
    pub fn new(mut inner: tokenizers::Tokenizer) -> Result<Self> {
        inner.with_truncation(None).map_err(|e| Error::usage(format_args!("is not a tokenizer: {e}")))?;
        inner.with_padding(None);
        let Some(largest) = inner.get_vocab(true).into_values().max() else {
            return Err(Error::usage("the tokenizer has no tokens"));
        };
        if largest >= MOST_TOKENS {
            return Err(Error::usage(format_args!("a token has the number {largest}; numbers are below {MOST_TOKENS}")));
        }
        Ok(Self { inner, vocab_size: largest as usize + 1, bos_token_id: None, eos_token_id: None })
    }

    /// The same tokenizer with the tokens that begin and end a sequence, where it does not name them itself.
    pub fn with_defaults(mut self, bos_token_id: Option<u32>, eos_token_id: Option<u32>) -> Self {
        self.bos_token_id = self.bos_token_id.or(bos_token_id);
        self.eos_token_id = self.eos_token_id.or(eos_token_id);
        self
    }

    /// Checks that every token is one of a model's.
    ///
    /// # Errors
    /// [`Error::File`] about `path` where the largest token is not.
    pub fn check_fits(&self, path: impl AsRef<Path>, vocab_size: usize) -> Result<()> {
        if self.vocab_size <= vocab_size {
            return Ok(());
        }
        let largest = self.vocab_size - 1;
        let name = self.inner.id_to_token(largest as u32).unwrap_or_default();
        Err(Error::file(
            path,
            format_args!("the tokenizer does not fit the model: its token {name:?} is number {largest}, and `vocab_size` is {vocab_size}"),
        ))
    }

    /// Tokens of a text, with no special tokens added.
    ///
    /// # Errors
    /// [`Error::Usage`] where the tokenizer cannot express the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_as(text, false)
    }

    /// Tokens of a text, with the special tokens that its model expects around it (such as a first BOS).
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_with_special(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_as(text, true)
    }

    fn encode_as(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let encoding = sound(|| self.inner.encode_fast(text, special))?
            .map_err(|e| Error::usage(format_args!("the text cannot be tokenized: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of tokens; special tokens are left out, and bytes that are no character become U+FFFD.
    ///
    /// # Errors
    /// [`Error::Usage`] where the tokenizer's decoder fails.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        sound(|| self.inner.decode(tokens, true))?.map_err(|e| Error::usage(format_args!("the tokens cannot be decoded: {e}")))
    }

    /// A decoder that gives text token by token, never half a character.
    pub fn stream(&self) -> StreamDecoder<'_> {
        StreamDecoder { tokenizer: self, tokens: Vec::new(), shown: 0 }
    }

    /// The largest token number plus one.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The number of a token.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The text of a token, as the vocabulary has it.
    pub fn id_to_token(&self, token: u32) -> Option<String> {
        self.inner.id_to_token(token)
    }

    /// The token that begins a sequence.
    pub fn bos_token_id(&self) -> Option<u32> {
        self.bos_token_id
    }

    /// The token that ends a sequence.
    pub fn eos_token_id(&self) -> Option<u32> {
        self.eos_token_id
    }

    /// The text of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Usage`] where the crate `tokenizers` cannot write what it read.
    pub fn to_json(&self) -> Result<String> {
        self.inner.to_string(false).map_err(|e| Error::usage(format_args!("the tokenizer cannot be written: {e}")))
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json` into a folder.
    ///
    /// # Errors
    /// [`Error::Io`], and as [`Tokenizer::to_json`].
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        let name = |id: Option<u32>| id.and_then(|id| self.inner.id_to_token(id));
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": false,
            "bos_token": name(self.bos_token_id),
            "eos_token": name(self.eos_token_id),
        });
        for (file, text) in [("tokenizer.json", self.to_json()?), ("tokenizer_config.json", format!("{config:#}\n"))] {
            let path = dir.as_ref().join(file);
            atomic::write_file(&path, |writer| writer.write_all(text.as_bytes()).at(&path))?;
        }
        Ok(())
    }

    /// Hash, in hexadecimal, of [`Tokenizer::to_json`].
    ///
    /// # Errors
    /// As [`Tokenizer::to_json`].
    pub fn sha256(&self) -> Result<String> {
        Ok(hex(Sha256::digest(self.to_json()?.as_bytes())))
    }
}

/// What the crate `tokenizers` returns, or an error where it panics: it does on some contradictions in a `tokenizer.json`.
fn sound<T>(call: impl FnOnce() -> T) -> Result<T> {
    guarded(call).ok_or_else(|| Error::usage("the tokenizer contradicts itself; its file is damaged, or of a kind that cannot be read"))
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size)
            .field("bos_token_id", &self.bos_token_id)
            .field("eos_token_id", &self.eos_token_id)
            .finish_non_exhaustive()
    }
}

/// See [`Tokenizer::stream`]: its pieces together are [`Tokenizer::decode`] of all tokens.
#[derive(Debug)]
pub struct StreamDecoder<'a> {
    tokenizer: &'a Tokenizer,
    /// What was shown last, for context (a first space depends on what is before it), and what is pending after it.
    tokens: Vec<u32>,
    /// How many of `tokens` were shown.
    shown: usize,
}

impl StreamDecoder<'_> {
    /// Takes one token and returns the text that is now certain; empty inside a character of several tokens.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, token: u32) -> Result<String> {
        self.tokens.push(token);
        let text = self.pending()?;
        if text.is_empty() || text.ends_with(char::REPLACEMENT_CHARACTER) && self.tokens.len() - self.shown < MAX_PENDING {
            return Ok(String::new());
        }
        self.tokens.drain(..self.shown);
        self.shown = self.tokens.len();
        Ok(text)
    }

    /// What is left at the end: a character that never became whole, as U+FFFD.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(self) -> Result<String> {
        self.pending()
    }

    fn pending(&self) -> Result<String> {
        let before = self.tokenizer.decode(&self.tokens[..self.shown])?;
        let all = self.tokenizer.decode(&self.tokens)?;
        // `before` may end in a character that was given up and is now whole: what both begin with counts as shown.
        let same: usize = before.chars().zip(all.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
        Ok(all[same..].to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_whose_number_is_out_of_all_proportion_is_refused() {
        let json = |number: u64| {
            format!(
                r#"{{"version": "1.0", "added_tokens": [], "model": {{"type": "BPE", "vocab": {{"a": 0, "b": {number}}}, "merges": []}}}}"#
            )
        };
        let tokenizer = Tokenizer::from_json(&json(9)).unwrap();
        assert_eq!((tokenizer.vocab_size(), tokenizer.encode("ab").unwrap()), (10, vec![0, 9]));
        // Found by fuzzing: writing such a tokenizer took memory for each number below.
        for number in [1 << 24, 2_666_666_666] {
            let error = Tokenizer::from_json(&json(number)).unwrap_err().to_string();
            assert!(error.contains(&format!("the number {number}; numbers are below 16777216")), "{error}");
        }
    }
}
