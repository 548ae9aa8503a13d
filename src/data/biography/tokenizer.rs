//! A small tokenizer for the benchmark, trained on its own texts.

use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

use super::lists::LISTS;
use crate::error::{Error, Result};

/// The token that ends a document; it has the number 0.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// Trains a byte-level BPE tokenizer of at most `vocab_size` tokens, which can write every text.
///
/// # Errors
/// When `vocab_size` does not hold the 256 bytes and [`END_OF_TEXT`], or the training fails.
pub fn train_tokenizer(texts: impl Iterator<Item = String> + Send, vocab_size: usize) -> Result<Tokenizer> {
    if vocab_size < 257 {
        return Err(Error::usage(format!("a byte-level tokenizer needs at least 257 tokens, not {vocab_size}")));
    }
    let failed = |e| Error::usage(format!("cannot train the tokenizer: {e}"));
    let trainer = BpeTrainerBuilder::new()
        .vocab_size(vocab_size)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::new(false, true, true)));
    tokenizer.train(&mut TrainerWrapper::from(trainer), texts).map_err(failed)?;
    Ok(tokenizer)
}

/// Checks that a tokenizer keeps every name and every value apart from all others: what it writes comes back as it was.
///
/// # Errors
/// [`Error::Usage`] with the first text that comes back as another.
pub fn check_tokenizer(tokenizer: &crate::tokenizer::Tokenizer) -> Result<()> {
    let lists = &*LISTS;
    let longest = lists.first_names.len().max(lists.middle_names.len()).max(lists.last_names.len());
    let at = |pool: &[String], index: usize| pool[index % pool.len()].clone();
    let names = (0..longest)
        .map(|index| format!("{} {} {}", at(&lists.first_names, index), at(&lists.middle_names, index), at(&lists.last_names, index)));
    let values = lists.cities.iter().chain(&lists.majors).map(|value| (*value).to_owned());
    let values = values.chain(lists.universities.iter().chain(&lists.companies).cloned()).chain(["March 27, 1948".to_owned()]);
    for text in names.chain(values) {
        let found = tokenizer.decode(&tokenizer.encode(&text)?)?;
        // Some tokenizers put a space before every text.
        if found.trim() != text {
            return Err(Error::usage(format!(
                "the tokenizer cannot write {text:?}, which comes back as {found:?}\n  hint: a byte-level tokenizer writes every text; \
                 without --tokenizer one is trained"
            )));
        }
    }
    Ok(())
}
