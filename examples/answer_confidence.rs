//! How sure every head is of the first token of its answer, and whether it is right: `cargo run --release --example answer_confidence -- RUN QUESTIONS.jsonl …`
//! writes a line a question, `{"file": 0, "largest": [nats …], "correct": [true …]}`, a head each from the base's out. `scripts/many-rings.py calibrate`
//! reads them (docs/experiments.md, routers for many rings). Questions are those of `treering biography`, a run one of its `scale-` stages.

use std::path::PathBuf;

use treering::biography::stage::RESPONSE_TEMPLATE;
use treering::data::batch::{Batch, IGNORE};
use treering::train::build;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [run, files @ ..] = arguments.as_slice() else { return Err("usage: answer_confidence RUN QUESTIONS.jsonl …".into()) };
    let opened = build::open_run(run, None, None)?;
    let (mut model, tokenizer) = (opened.model, opened.base.tokenizer()?);
    model.freeze();
    for (number, file) in files.iter().enumerate() {
        for line in std::fs::read_to_string(file)?.lines() {
            let line: serde_json::Value = serde_json::from_str(line)?;
            let text = line["text"].as_str().ok_or("a line without a text")?;
            let end = text.find(RESPONSE_TEMPLATE).ok_or("a text without an answer")? + RESPONSE_TEMPLATE.len();
            let (asked, tokens) = (tokenizer.encode(&text[..end])?.len(), tokenizer.encode(text)?);
            let length = tokens.len() - 1;
            let mut targets = vec![IGNORE; length];
            targets[asked - 1] = tokens[asked];
            let batch = Batch { batch_size: 1, sequence_length: length, tokens: tokens[..length].to_vec(), targets, document_starts: None };
            let scores = model.score(&batch, false)?;
            let largest: Vec<f32> = scores.largest.iter().map(|head| head[asked - 1]).collect();
            let correct: Vec<bool> = scores.correct.iter().map(|head| head[asked - 1]).collect();
            println!("{}", serde_json::json!({ "file": number, "largest": largest, "correct": correct }));
        }
    }
    Ok(())
}
