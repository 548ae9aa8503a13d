//! ARC: questions of school examinations, in the original JSONL and as on the Hugging Face hub.

use super::item::Item;
use super::record::Record;
use crate::error::Result;

/// `question` is the text, or an object that holds it with the choices.
pub(super) fn item(record: Record) -> Result<Item> {
    let (question, texts, labels) = if record.values.get("question").is_some_and(serde_json::Value::is_object) {
        original(&record)?
    } else {
        (record.text(&["question"])?.to_owned(), record.inner_texts("choices", "text")?, record.inner_texts("choices", "label")?)
    };
    let answer = record.text(&["answerKey"])?;
    let gold = labels.iter().position(|label| label == answer).filter(|&gold| gold < texts.len());
    let gold = gold.ok_or_else(|| record.fault(format!("`answerKey` is {answer:?}, the labels are {}", labels.join(", "))))?;
    let context = format!("Question: {question}\nAnswer:");
    Ok(Item::choice(record, context, texts, gold))
}

/// `{"stem": …, "choices": [{"text": …, "label": …}, …]}`.
fn original(record: &Record) -> Result<(String, Vec<String>, Vec<String>)> {
    let question = &record.values["question"];
    let text = |value: Option<&serde_json::Value>, name: &str| {
        value.and_then(serde_json::Value::as_str).map(str::to_owned).ok_or_else(|| record.fault(format!("`{name}` should be a text")))
    };
    let stem = text(question.get("stem"), "question.stem")?;
    let choices = question.get("choices").and_then(serde_json::Value::as_array);
    let choices = choices.ok_or_else(|| record.fault("`question.choices` should be a list"))?;
    let (mut texts, mut labels) = (Vec::new(), Vec::new());
    for choice in choices {
        texts.push(text(choice.get("text"), "question.choices.text")?);
        labels.push(text(choice.get("label"), "question.choices.label")?);
    }
    Ok((stem, texts, labels))
}
