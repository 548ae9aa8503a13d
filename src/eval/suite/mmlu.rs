//! MMLU: examination questions with four lettered answers.

use super::item::Item;
use super::python::strip;
use super::record::Record;
use crate::error::Result;

/// What a file without a header holds.
pub(super) const COLUMNS: [&str; 6] = ["question", "A", "B", "C", "D", "answer"];
const LETTERS: [&str; 4] = ["A", "B", "C", "D"];

pub(super) fn item(record: Record) -> Result<Item> {
    let choices = if record.has("choices") {
        record.texts(&["choices"])?
    } else {
        LETTERS.iter().map(|letter| record.text(&[letter]).map(str::to_owned)).collect::<Result<_>>()?
    };
    if choices.len() != LETTERS.len() {
        return Err(record.fault(format!("has {} choices, four were expected", choices.len())));
    }
    let letter = record.values.get("answer").and_then(serde_json::Value::as_str).map(str::trim);
    let gold = match letter.and_then(|answer| LETTERS.iter().position(|letter| *letter == answer)) {
        Some(gold) => gold,
        None => record.index(&["answer"], LETTERS.len())?,
    };
    let mut context = strip(record.text(&["question"])?).to_owned();
    for (letter, choice) in LETTERS.iter().zip(&choices) {
        context += &format!("\n{letter}. {choice}");
    }
    context += "\nAnswer:";
    Ok(Item::choice(record, context, LETTERS.map(str::to_owned).to_vec(), gold))
}

pub(super) fn description(subject: &str) -> String {
    format!("The following are multiple choice questions (with answers) about {}.\n\n", subject.replace('_', " "))
}
