//! Writes the logits of a run's newest checkpoint, for scripts/baselines-vs-peft.py to compare with those of other libraries.
//!
//! `cargo run --release --example logits -- RUN TOKENS.json OUT.safetensors`: TOKENS.json is a list of windows, each a list of token numbers;
//! OUT has one tensor a head, `base` or `preservation` and `adaptation`, of `[windows, tokens, vocabulary]` in f32.

use std::path::PathBuf;

use treering::grow::file::save_parameters;
use treering::model::{Block, Head, Parameter};
use treering::train::build::open_run;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [run, tokens, out] = arguments.as_slice() else { return Err("usage: logits RUN TOKENS.json OUT.safetensors".into()) };
    let windows: Vec<Vec<u32>> = serde_json::from_slice(&std::fs::read(tokens)?)?;
    let length = windows.first().map_or(0, Vec::len);
    if windows.iter().any(|window| window.len() != length) {
        return Err("all windows must have the same number of tokens".into());
    }
    let model = open_run(run, None, None)?.model;
    let mut heads = vec![Vec::new(); model.heads().len()];
    for window in &windows {
        let mut cache = model.new_cache(length);
        for &token in window {
            for (head, logits) in heads.iter_mut().zip(model.step(&mut cache, &[token])?) {
                head.extend(logits);
            }
        }
    }
    let shape = vec![windows.len(), length, model.config().vocab_size];
    let name = |head: &Head| format!("{head:?}").to_lowercase();
    let tensors: Vec<Parameter> = model
        .heads()
        .iter()
        .zip(heads)
        .map(|(head, value)| Parameter { name: name(head), block: Block::Base, shape: shape.clone(), value })
        .collect();
    save_parameters(out, &tensors, &Default::default())?;
    Ok(())
}
