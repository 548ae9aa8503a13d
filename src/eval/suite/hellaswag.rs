//! HellaSwag: how a description of something done goes on.

use super::item::Item;
use super::python::{capitalize, strip, without_brackets};
use super::record::Record;
use crate::error::Result;

pub(super) fn item(record: Record) -> Result<Item> {
    // Copies that were rebuilt from text have the context as a whole.
    let context = if record.has("ctx_a") || !record.has("ctx") {
        let second = if record.has("ctx_b") { record.text(&["ctx_b"])? } else { "" };
        format!("{} {}", record.text(&["ctx_a"])?, capitalize(second))
    } else {
        format!("{} ", record.text(&["ctx"])?)
    };
    let context = clean(&format!("{}: {context}", record.text(&["activity_label"])?));
    let endings: Vec<String> = record.texts(&["endings"])?.iter().map(|ending| clean(ending)).collect();
    let gold = record.index(&["label"], endings.len())?;
    Ok(Item::choice(record, context, endings, gold))
}

/// Takes out what the source, WikiHow, left in the text.
fn clean(text: &str) -> String {
    without_brackets(&strip(text).replace(" [title]", ". ")).replace("  ", " ")
}
