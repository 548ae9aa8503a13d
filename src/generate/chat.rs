//! A user's message as instruction-tuned models expect it, recognised by the tokens a model has for it.

use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// A conversation up to where the assistant speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The tokens to continue.
    pub tokens: Vec<u32>,
    /// The token that ends the assistant's message.
    pub end: u32,
}

/// `message` in the model's own format: ChatML (`<|im_start|>`) or Llama 3's (`<|start_header_id|>`).
///
/// # Errors
/// A model that has the tokens of neither, or a message that holds control tokens of the format.
pub fn user_turn(tokenizer: &Tokenizer, system: Option<&str>, message: &str) -> Result<Turn> {
    let id = |token: &str| tokenizer.token_to_id(token);
    let messages = system.map(|text| ("system", text)).into_iter().chain([("user", message)]);
    if let (Some(start), Some(end)) = (id("<|im_start|>"), id("<|im_end|>")) {
        let mut tokens = Vec::new();
        for (role, text) in messages {
            tokens.push(start);
            tokens.extend(words(tokenizer, &format!("{role}\n{text}"), &[start, end])?);
            tokens.push(end);
            tokens.extend(tokenizer.encode("\n")?);
        }
        tokens.push(start);
        tokens.extend(tokenizer.encode("assistant\n")?);
        return Ok(Turn { tokens, end });
    }
    if let (Some(open), Some(close), Some(end)) = (id("<|start_header_id|>"), id("<|end_header_id|>"), id("<|eot_id|>")) {
        let mut tokens: Vec<u32> = tokenizer.bos_token_id().into_iter().collect();
        let header = |tokens: &mut Vec<u32>, role: &str| -> Result<()> {
            tokens.push(open);
            tokens.extend(tokenizer.encode(role)?);
            tokens.push(close);
            Ok(())
        };
        for (role, text) in messages {
            header(&mut tokens, role)?;
            tokens.extend(words(tokenizer, &format!("\n\n{}", text.trim()), &[open, close, end])?);
            tokens.push(end);
        }
        header(&mut tokens, "assistant")?;
        tokens.extend(tokenizer.encode("\n\n")?);
        return Ok(Turn { tokens, end });
    }
    Err(Error::usage(
        "this model has no tokens for a conversation (neither <|im_start|> nor <|start_header_id|>): it was not made for chat; leave --chat out",
    ))
}

/// The tokens of `text`, which must not hold the control tokens `forbidden`: a message could otherwise end itself and speak as somebody else.
fn words(tokenizer: &Tokenizer, text: &str, forbidden: &[u32]) -> Result<Vec<u32>> {
    let tokens = tokenizer.encode(text)?;
    if tokens.iter().any(|token| forbidden.contains(token)) {
        return Err(Error::usage(
            "the message holds a control token of the chat format, such as <|im_end|>; leave it out, or write the whole prompt without --chat",
        ));
    }
    Ok(tokens)
}
