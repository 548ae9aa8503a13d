//! A model's tokenizer, as the data modules use it.

use super::Encode;
use crate::error::Result;
use crate::tokenizer::Tokenizer;

/// Names under which tokenizers have a token that ends a document. An instruction-tuned model's end-of-sequence token ends a turn instead,
/// so these come first.
const END_OF_TEXT: [&str; 3] = ["<|endoftext|>", "<|end_of_text|>", "</s>"];

/// A tokenizer with its hash, taken once.
pub struct Encoder {
    tokenizer: Tokenizer,
    fingerprint: String,
}

impl Encoder {
    /// Hashes the tokenizer.
    ///
    /// # Errors
    /// As [`Tokenizer::sha256`].
    pub fn new(tokenizer: Tokenizer) -> Result<Self> {
        let fingerprint = tokenizer.sha256()?;
        Ok(Self { tokenizer, fingerprint })
    }
}

impl Encode for Encoder {
    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer.encode(text)
    }

    fn end_of_text(&self) -> Option<u32> {
        END_OF_TEXT.iter().find_map(|name| self.tokenizer.token_to_id(name)).or_else(|| self.tokenizer.eos_token_id())
    }

    fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }
}
