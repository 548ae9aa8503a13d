//! Text to tokens and back.

use crate::error::Result;
use std::path::Path;

/// A tokenizer.
#[derive(Clone)]
pub struct Tokenizer;
impl Tokenizer {
    /// Reads a `tokenizer.json`.
    pub fn from_file(_path: impl AsRef<Path>) -> Result<Self> {
        todo!()
    }
    /// Tokens of a text, with no special tokens added.
    pub fn encode(&self, _text: &str) -> Result<Vec<u32>> {
        todo!()
    }
    /// Tokens of a text, with the special tokens its model expects (such as a first BOS).
    pub fn encode_with_special(&self, _text: &str) -> Result<Vec<u32>> {
        todo!()
    }
    /// Text of tokens; special tokens are left out.
    pub fn decode(&self, _tokens: &[u32]) -> Result<String> {
        todo!()
    }
    /// A decoder that gives text token by token.
    pub fn stream(&self) -> StreamDecoder<'_> {
        todo!()
    }
    /// The largest token number plus one.
    pub fn vocab_size(&self) -> usize {
        todo!()
    }
    /// The number of a token.
    pub fn token_to_id(&self, _token: &str) -> Option<u32> {
        todo!()
    }
    /// The token that begins a sequence.
    pub fn bos_token_id(&self) -> Option<u32> {
        todo!()
    }
    /// The token that ends a sequence.
    pub fn eos_token_id(&self) -> Option<u32> {
        todo!()
    }
    /// The text of a `tokenizer.json`.
    pub fn to_json(&self) -> Result<String> {
        todo!()
    }
    /// Hash of that text.
    pub fn sha256(&self) -> Result<String> {
        todo!()
    }
}
/// Incremental decoding.
pub struct StreamDecoder<'a>(&'a Tokenizer);
impl StreamDecoder<'_> {
    /// Takes one token and returns the text that is now certain (often empty inside a multi-byte character).
    pub fn push(&mut self, _token: u32) -> Result<String> {
        todo!()
    }
    /// What is left at the end.
    pub fn finish(self) -> Result<String> {
        todo!()
    }
}
