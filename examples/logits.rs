//! Writes the logits of a run's newest checkpoint, for scripts/baselines-vs-peft.py and scripts/hub-parity.py to compare with those of other libraries.
//!
//! `cargo run --release --example logits -- RUN TOKENS.json OUT.safetensors`: RUN may also be an expansion's folder or a plain model; TOKENS.json is a
//! list of windows, each a list of token numbers; OUT has one tensor a head, `base` or `preservation`, `ring-1` … and `adaptation`, of
//! `[windows, tokens, vocabulary]` in f32.

use std::path::{Path, PathBuf};

use treering::grow::file::save_parameters;
use treering::model::{Block, Model, Parameter, Precision};
use treering::train::build::open_run;
use treering::train::foundation::{Foundation, Moved};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [run, tokens, out] = arguments.as_slice() else { return Err("usage: logits RUN TOKENS.json OUT.safetensors".into()) };
    let windows: Vec<Vec<u32>> = serde_json::from_slice(&std::fs::read(tokens)?)?;
    let length = windows.first().map_or(0, Vec::len);
    if windows.iter().any(|window| window.len() != length) {
        return Err("all windows must have the same number of tokens".into());
    }
    let model = open(run)?;
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
    let tensors: Vec<Parameter> = model
        .heads()
        .iter()
        .zip(heads)
        .map(|(head, value)| Parameter { name: head.to_string(), block: Block::Base, shape: shape.clone(), value })
        .collect();
    save_parameters(out, &tensors, &Default::default())?;
    Ok(())
}

/// A widened or plain model in f32, or a baseline's run in its own arithmetic.
fn open(path: &Path) -> treering::Result<Model> {
    match Foundation::open_at(path, None, Moved::default()) {
        Ok(foundation) => foundation.model(Precision::F32),
        Err(_) => Ok(open_run(path, None, None)?.model),
    }
}
