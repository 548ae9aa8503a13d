//! KoBEST: five tasks in Korean, in the original tables and as on the Hugging Face hub.

use super::item::{Gold, Item};
use super::python::strip;
use super::record::Record;
use crate::error::Result;

/// `False` and `True`, however they are written, or a label.
fn truth(record: &Record, name: &str) -> Result<usize> {
    match record.values.get(name).and_then(serde_json::Value::as_str).map(|text| text.trim().to_lowercase()).as_deref() {
        Some("true") => Ok(1),
        Some("false") => Ok(0),
        Some(_) => record.index(&[name], 2),
        None => record.index(&["label", name], 2),
    }
}

fn no_or_yes() -> Vec<String> {
    vec!["아니오".into(), "예".into()]
}

pub(super) fn boolq(record: Record) -> Result<Item> {
    let context = format!("{} 질문: {} 답변: ", record.text(&["paragraph", "Text"])?, record.text(&["question", "Question"])?);
    let gold = truth(&record, "Answer")?;
    Ok(Item::choice(record, context, no_or_yes(), gold))
}

pub(super) fn copa(record: Record) -> Result<Item> {
    let question = strip(record.text(&["question"])?);
    let connector = match question {
        "원인" => " 왜냐하면",
        "결과" => " 그래서",
        other => return Err(record.fault(format!("`question` is {other:?}; 원인 (cause) or 결과 (effect) was expected"))),
    };
    let context = format!("{} {connector}", record.text(&["premise", "sentence"])?);
    let choices = vec![record.text(&["alternative_1", "1"])?.to_owned(), record.text(&["alternative_2", "2"])?.to_owned()];
    let gold = if record.has("label") {
        record.index(&["label"], 2)?
    } else {
        // Counted from 1 in the tables.
        let answer = record.index(&["Answer"], 3)?;
        answer.checked_sub(1).ok_or_else(|| record.fault("`Answer` is 0; 1 or 2 was expected"))?
    };
    let mut item = Item::choice(record, context, choices, gold);
    // The right answer is given as its text, of which the first counts.
    if let Some(first) = item.continuations.iter().position(|choice| *choice == item.continuations[gold]) {
        item.gold = Gold::Index(first);
    }
    Ok(item)
}

pub(super) fn hellaswag(record: Record) -> Result<Item> {
    let context = format!("문장: {}", record.text(&["context"])?);
    let choices: Vec<String> = (1..=4)
        .map(|n| record.text(&[format!("ending_{n}").as_str(), format!("choice{n}").as_str()]).map(str::to_owned))
        .collect::<Result<_>>()?;
    let gold = record.index(&["label"], 4)?;
    Ok(Item::choice(record, context, choices, gold))
}

pub(super) fn sentineg(record: Record) -> Result<Item> {
    let context = format!("문장: {} 긍부정:", record.text(&["sentence", "Text"])?);
    let gold = record.index(&["label", "Label"], 2)?;
    Ok(Item::choice(record, context, vec!["부정".into(), "긍정".into()], gold))
}

pub(super) fn wic(record: Record) -> Result<Item> {
    let context = format!(
        "문장1: {} 문장2: {} 두 문장에서 {}가 같은 뜻으로 쓰였나?",
        record.text(&["context_1", "SENTENCE1"])?,
        record.text(&["context_2", "SENTENCE2"])?,
        record.text(&["word", "Target"])?
    );
    let gold = truth(&record, "ANSWER")?;
    Ok(Item::choice(record, context, no_or_yes(), gold))
}
