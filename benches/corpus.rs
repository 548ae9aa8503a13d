//! Tokens a second that a cached corpus gives, apart from tokenising: `cargo bench --bench corpus [-- DOCUMENTS]`, 200,000 where none is named.
//! A model learns from some thousand a second and core, so what this says should be out of all proportion to that.

use std::fmt::Write;
use std::path::Path;
use std::time::Instant;

use treering::Result;
use treering::data::{Encode, HeldOut, HeldOutConfig, StreamConfig, TrainSource, TrainStream};

/// One token a byte: nothing of a tokenizer is measured.
struct Bytes;

impl Encode for Bytes {
    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn end_of_text(&self) -> Option<u32> {
        Some(0)
    }

    fn fingerprint(&self) -> String {
        "bytes".into()
    }
}

/// Median seconds of five rounds.
fn median_seconds(mut round: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut seconds = [0.0; 5];
    for second in &mut seconds {
        let start = Instant::now();
        round()?;
        *second = start.elapsed().as_secs_f64();
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[2])
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let asked = std::env::args().skip(1).find(|argument| argument != "--bench");
    let documents: usize = asked.map_or(Ok(200_000), |text| text.parse())?;
    let folder = tempfile::tempdir()?;
    let (file, cache) = (folder.path().join("corpus.jsonl"), folder.path().join("cache"));
    let mut lines = String::new();
    for index in 0..documents {
        // From 100 to some 1,100 bytes, about 350 in the mean: a few sentences.
        let length = 1000 * (index * 7919 % 1009) / 1009 * (index * 104_729 % 997) / 997 + 100;
        writeln!(lines, "{{\"text\": \"{}\"}}", "a ring of ".repeat(length / 10))?;
    }
    std::fs::write(&file, lines)?;
    let path = file.to_string_lossy().into_owned();
    let held_out = HeldOutConfig::new("corpus", path.clone());
    let open = || HeldOut::open(&held_out, Path::new(""), &cache, &Bytes, &mut |_| Ok(()));
    let corpus = open()?;
    let report =
        |what: &str, count: u64, unit: &str, seconds: f64| println!("{what:<40} {:>10.2} million {unit}/s", count as f64 / seconds / 1e6);
    let seconds = median_seconds(|| open().map(drop))?;
    report("opened, and the lengths of all added up", documents as u64, "documents", seconds);
    let seconds = median_seconds(|| (0..corpus.len()).try_for_each(|index| corpus.document(index).map(drop)))?;
    report("each document in turn", corpus.tokens(), "tokens", seconds);
    let mut config = StreamConfig::new(vec![TrainSource::new(path)], 512);
    config.open_documents = 8;
    let mut stream = TrainStream::new(&config, Path::new(""), &cache, &Bytes, 7, &mut |_| Ok(()))?;
    let batches = (corpus.tokens() / (16 * 512)).max(1);
    let seconds = median_seconds(|| (0..batches).try_for_each(|_| stream.next_batch(16).map(drop)))?;
    report("windows of 512 tokens, shuffled, 16 a batch", batches * 16 * 512, "tokens", seconds);
    Ok(())
}
