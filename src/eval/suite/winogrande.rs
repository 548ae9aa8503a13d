//! WinoGrande: which of two things a sentence is about. The choices stand before what is scored.

use super::item::{Contexts, Gold, Item};
use super::python::strip;
use super::record::Record;
use crate::error::Result;

pub(super) fn item(record: Record) -> Result<Item> {
    let sentence = record.text(&["sentence"])?;
    let (before, after) =
        sentence.split_once('_').ok_or_else(|| record.fault(format!("`sentence` has no `_` to put an option into: {sentence:?}")))?;
    let contexts = [record.text(&["option1"])?, record.text(&["option2"])?].map(|option| format!("{before}{option}"));
    let rest = strip(after).to_owned();
    let gold = record.index(&["answer"], 3)?;
    let gold = gold.checked_sub(1).ok_or_else(|| record.fault("`answer` is 0; 1 or 2 was expected"))?;
    let example = (contexts[gold].clone(), Some(rest.clone()));
    Ok(Item { contexts: Contexts::Each(contexts.to_vec()), continuations: vec![rest; 2], gold: Gold::Index(gold), example, record })
}
