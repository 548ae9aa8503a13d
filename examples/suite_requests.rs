//! The requests of multiple-choice tasks, tokens alone, for `scripts/lm-eval-parity.py --requests`: no model is run, so every item of every task can
//! be compared in minutes.
//!
//! `cargo run --release --example suite_requests -- MODEL DATA LIMIT TASK:SHOTS …` prints one JSON object an item: `task`, `index` and `requests`, each
//! the number of its tokens, how many of the last are scored, and the SHA-256 of the tokens as little-endian 32-bit words. A LIMIT of 0 is all.

use std::io::Write;
use std::path::Path;

use serde_json::json;
use sha2::{Digest, Sha256};
use treering::checkpoint::BaseCheckpoint;
use treering::eval::suite::{Bos, Prompter, Selection, Suite};
use treering::{Error, Result};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, data, limit, settings @ ..] = arguments.as_slice() else {
        return Err(Error::usage("usage: suite_requests MODEL DATA LIMIT TASK:SHOTS…"));
    };
    let limit: usize = limit.parse().map_err(|_| Error::usage(format!("LIMIT: {limit} is no number")))?;
    let base = BaseCheckpoint::open(model)?;
    let tokenizer = base.tokenizer()?;
    let prompter = Prompter::new(&tokenizer, Bos::Tokenizer, base.config().max_position_embeddings);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for setting in settings {
        let name = setting.split(':').next().unwrap_or_default();
        let suite = Suite::open(Path::new(data), Selection::new([name], [setting.as_str()])?, (limit > 0).then_some(limit))?;
        for task in suite.tasks() {
            for index in 0..task.items.len() {
                let of = |request: &treering::eval::suite::Request| {
                    let bytes: Vec<u8> = request.tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
                    let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
                    json!([request.tokens.len(), request.scored, hash])
                };
                let requests: Vec<serde_json::Value> = prompter.requests(task, index)?.iter().map(of).collect();
                let line = json!({ "task": task.task.name, "index": index, "requests": requests });
                writeln!(out, "{line}").map_err(|error| Error::io("<stdout>", error))?;
            }
        }
    }
    out.flush().map_err(|error| Error::io("<stdout>", error))
}
