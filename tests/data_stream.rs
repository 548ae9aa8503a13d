//! The training stream: packing, mixing, shuffling, resuming.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use treering::Result;
use treering::data::{Batch, Encode, IGNORE, StreamConfig, StreamState, TrainSource, TrainStream};

const END: u32 = 1_000_000;

/// Words that are numbers become those numbers.
struct Numbers {
    ends: bool,
}

impl Encode for Numbers {
    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(text.split(' ').filter_map(|word| word.parse().ok()).collect())
    }
    fn end_of_text(&self) -> Option<u32> {
        self.ends.then_some(END)
    }
    fn fingerprint(&self) -> String {
        "numbers".into()
    }
}

/// Writes documents of these lengths; their tokens count up from `first`.
fn corpus(folder: &Path, name: &str, first: u32, lengths: &[usize]) -> PathBuf {
    let mut next = first;
    let mut text = String::new();
    for &length in lengths {
        let words: Vec<String> = (0..length as u32).map(|i| (next + i).to_string()).collect();
        next += length as u32;
        text += &format!("{{\"text\": \"{}\"}}\n", words.join(" "));
    }
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn source(path: &Path, weight: f64) -> TrainSource {
    TrainSource { weight, ..TrainSource::new(path.to_str().unwrap()) }
}

fn open(folder: &Path, config: &StreamConfig, ends: bool, seed: u64) -> TrainStream {
    TrainStream::new(config, Path::new(""), &folder.join("cache"), &Numbers { ends }, seed, &mut |_| Ok(())).unwrap()
}

/// The documents as the stream should hold them, by their first token.
fn documents(first: u32, lengths: &[usize], ends: bool) -> BTreeMap<u32, Vec<u32>> {
    let mut next = first;
    let cut = |&length: &usize| {
        let mut tokens: Vec<u32> = (next..next + length as u32).collect();
        next += length as u32;
        tokens.extend(ends.then_some(END));
        (tokens[0], tokens)
    };
    lengths.iter().map(cut).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_epoch_holds_every_document_once_and_whole(
        lengths in prop::collection::vec(1usize..30, 1..20), length in 1usize..16, ends: bool, seed: u64,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let file = corpus(folder.path(), "a.jsonl", 0, &lengths);
        let config = StreamConfig { open_documents: 1, ..StreamConfig::new(vec![source(&file, 1.0)], length) };
        let mut stream = open(folder.path(), &config, ends, seed);
        let whole = documents(0, &lengths, ends);
        let total: usize = whole.values().map(Vec::len).sum();
        let (mut tokens, mut targets) = (Vec::new(), Vec::new());
        while tokens.len() < 3 * total {
            let batch = stream.next_batch(2).unwrap();
            tokens.extend(batch.tokens);
            targets.extend(batch.targets);
        }
        prop_assert_eq!(&targets[..targets.len() - 1], &tokens[1..]);
        for epoch in tokens.chunks_exact(total) {
            let mut seen = BTreeMap::new();
            let mut rest = epoch;
            while let Some(first) = rest.first() {
                let document = &whole[first];
                prop_assert!(rest.starts_with(document));
                seen.insert(*first, document.clone());
                rest = &rest[document.len()..];
            }
            prop_assert_eq!(&seen, &whole);
        }
    }

    #[test]
    fn resumed_equals_uninterrupted_bit_for_bit(
        a in prop::collection::vec(1usize..40, 1..20), b in prop::collection::vec(1usize..40, 1..20),
        length in 1usize..16, before in 0usize..20, weight in 0.1f64..5.0, mask: bool, ends: bool, open_documents in 1usize..5,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let files = [corpus(folder.path(), "a.jsonl", 0, &a), corpus(folder.path(), "b.jsonl", 10_000, &b)];
        let sources = vec![source(&files[0], 1.0), source(&files[1], weight)];
        let config = StreamConfig { document_mask: mask, open_documents, ..StreamConfig::new(sources, length) };
        let mut stream = open(folder.path(), &config, ends, 5);
        for _ in 0..before {
            stream.next_batch(3).unwrap();
        }
        let saved = serde_json::to_string(&stream.state()).unwrap();
        let expected: Vec<Batch> = (0..10).map(|_| stream.next_batch(3).unwrap()).collect();
        let mut resumed = open(folder.path(), &config, ends, 5);
        resumed.restore(&serde_json::from_str::<StreamState>(&saved).unwrap()).unwrap();
        let found: Vec<Batch> = (0..10).map(|_| resumed.next_batch(3).unwrap()).collect();
        prop_assert_eq!(found, expected);
        prop_assert_eq!(resumed.state(), stream.state());
    }

    #[test]
    fn document_masks_follow_the_borders(lengths in prop::collection::vec(1usize..12, 2..12), length in 1usize..20, ends: bool, lanes in 1usize..4) {
        let folder = tempfile::tempdir().unwrap();
        let file = corpus(folder.path(), "a.jsonl", 0, &lengths);
        let masked = StreamConfig { document_mask: true, open_documents: lanes, ..StreamConfig::new(vec![source(&file, 1.0)], length) };
        let plain = StreamConfig { document_mask: false, ..masked.clone() };
        let (mut masked, mut plain) = (open(folder.path(), &masked, ends, 1), open(folder.path(), &plain, ends, 1));
        let begins = documents(0, &lengths, ends);
        for _ in 0..10 {
            let (batch, bare) = (masked.next_batch(2).unwrap(), plain.next_batch(2).unwrap());
            prop_assert_eq!(&batch.tokens, &bare.tokens);
            prop_assert!(bare.document_starts.is_none() && bare.target_count() == bare.targets.len());
            let starts = batch.document_starts.unwrap();
            for (at, &start) in starts.iter().enumerate() {
                let column = at % length;
                let expected = (0..=column).rev().find(|&c| begins.contains_key(&batch.tokens[at - column + c])).unwrap_or(0);
                prop_assert_eq!(start as usize, expected);
                let crosses = begins.contains_key(&bare.targets[at]);
                prop_assert_eq!(batch.targets[at], if crosses { IGNORE } else { bare.targets[at] });
            }
        }
    }

    #[test]
    fn sources_are_mixed_by_tokens_within_one_window_of_their_weights(weights in prop::collection::vec(0.05f64..10.0, 1..5), length in 1usize..9) {
        let folder = tempfile::tempdir().unwrap();
        let sources = weights.iter().enumerate().map(|(i, &weight)| {
            source(&corpus(folder.path(), &format!("{i}.jsonl"), 1000 * i as u32, &[5 + i, 3]), weight)
        });
        let config = StreamConfig::new(sources.collect(), length);
        let mut stream = open(folder.path(), &config, true, 1);
        let total: f64 = weights.iter().sum();
        for step in 1..=60u64 {
            stream.next_batch(1).unwrap();
            for (taken, weight) in stream.tokens_by_source().iter().zip(&weights) {
                let share = weight / total * (step * length as u64) as f64;
                prop_assert!((*taken as f64 - share).abs() < (weights.len().max(2) - 1) as f64 * length as f64 + 1e-6);
            }
        }
    }
}

#[test]
fn a_long_document_shares_its_batches_with_others() {
    let folder = tempfile::tempdir().unwrap();
    let file = corpus(folder.path(), "a.jsonl", 0, &[5000, 5000, 5000, 5000]);
    let config = StreamConfig { open_documents: 4, ..StreamConfig::new(vec![source(&file, 1.0)], 10) };
    let batch = open(folder.path(), &config, true, 1).next_batch(4).unwrap();
    let mut origins: Vec<u32> = batch.tokens.chunks(10).map(|row| row[0] / 5000).collect();
    origins.sort_unstable();
    assert_eq!(origins, [0, 1, 2, 3]);
}

#[test]
fn the_order_depends_on_the_seed_and_changes_by_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let file = corpus(folder.path(), "a.jsonl", 0, &[1; 50]);
    let config = StreamConfig { open_documents: 1, ..StreamConfig::new(vec![source(&file, 1.0)], 50) };
    let epochs = |seed| {
        let mut stream = open(folder.path(), &config, false, seed);
        [stream.next_batch(1).unwrap().tokens, stream.next_batch(1).unwrap().tokens]
    };
    let [first, second] = epochs(1);
    assert_ne!(first, second);
    assert_ne!(first, epochs(2)[0]);
    assert_eq!(first, epochs(1)[0]);
    assert_ne!(first, (0..50).collect::<Vec<_>>());
}

#[test]
fn a_position_of_another_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = corpus(folder.path(), "a.jsonl", 0, &[4, 5]);
    let other = corpus(folder.path(), "b.jsonl", 7, &[4, 5]);
    let config = StreamConfig::new(vec![source(&file, 1.0)], 4);
    let good = open(folder.path(), &config, true, 1).state();
    let refuse =
        |config: &StreamConfig, seed, state: &StreamState| open(folder.path(), config, true, seed).restore(state).unwrap_err().to_string();
    assert!(refuse(&config, 2, &good).contains("seed 1, not 2"));
    let both = StreamConfig::new(vec![source(&file, 1.0), source(&other, 1.0)], 4);
    assert!(refuse(&both, 1, &good).contains("has 1 sources"));
    let changed = StreamConfig::new(vec![source(&other, 1.0)], 4);
    assert!(refuse(&changed, 1, &good).contains("the corpus or the tokenizer changed"));
    let mut damaged = good.clone();
    damaged.sources[0].lanes[0].offset = 99;
    assert!(refuse(&config, 1, &damaged).contains("does not fit this corpus"));
    damaged = good.clone();
    damaged.sources[0].next_lane = 99;
    assert!(refuse(&config, 1, &damaged).contains("does not fit this corpus"));
    // What is counted on from there would not fit its number.
    for (opened, tokens) in [(u64::MAX, 0), (0, u64::MAX)] {
        damaged = good.clone();
        (damaged.sources[0].opened, damaged.sources[0].tokens) = (opened, tokens);
        assert!(refuse(&config, 1, &damaged).contains("does not fit this corpus"));
    }
}

#[test]
fn impossible_configurations_are_refused() {
    let refuse = |config: StreamConfig| config.validate().unwrap_err().to_string();
    assert!(refuse(StreamConfig::new(vec![], 8)).contains("names no corpus"));
    assert!(refuse(StreamConfig::new(vec![TrainSource::new("a")], 0)).contains("sequence_length must be 1"));
    for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let source = TrainSource { weight, ..TrainSource::new("a") };
        assert!(refuse(StreamConfig::new(vec![source], 8)).contains("the weight of \"a\" must be positive"));
    }
    let unknown = toml::from_str::<StreamConfig>("sequence_length = 8\ntrain = [{ path = \"a\", wieght = 2.0 }]").unwrap_err();
    assert!(unknown.to_string().contains("unknown field `wieght`"));
}
