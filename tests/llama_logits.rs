//! Logits against `transformers` on small random models of every configuration feature, made by `scripts/make-goldens.py`.

use std::path::Path;
use treering::checkpoint::BaseCheckpoint;
use treering::data::{Batch, IGNORE};
use treering::model::{Model, Precision};

#[derive(serde::Deserialize)]
struct Expected {
    input_ids: Vec<Vec<u32>>,
    shape: Vec<usize>,
    logits: Vec<f32>,
}

const FEATURES: [&str; 8] = ["mha-untied", "gqa-tied", "head-dim", "bias", "sharded", "linear", "llama3", "yarn"];

#[test]
fn logits_equal_those_of_transformers_for_every_configuration_feature() {
    for feature in FEATURES {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/llama-{feature}"));
        let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
        let expected: Expected = serde_json::from_str(&text).unwrap();
        let model = Model::from_base(&BaseCheckpoint::open(&folder).unwrap(), Precision::F32, false).unwrap();
        let [windows, length, vocab] = expected.shape[..] else { panic!("{feature}: logits are [batch, seq, vocab]") };
        assert_eq!(windows * length * vocab, expected.logits.len());
        let mut largest = 0.0f32;
        for (window, tokens) in expected.input_ids.iter().enumerate() {
            let mut cache = model.new_cache(length);
            for (position, &token) in tokens.iter().enumerate() {
                let logits = model.step(&mut cache, &[token]).unwrap().remove(0);
                let wanted = &expected.logits[(window * length + position) * vocab..][..vocab];
                largest = logits.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(largest, f32::max);
            }
        }
        assert!(largest < 1e-4, "{feature}: logits differ by {largest}");
        assert!(expected.logits.iter().any(|v| v.abs() > 0.1), "{feature}: logits too small to tell anything");

        // The batched forward is the same function: its log-probabilities follow from the same logits.
        let targets: Vec<u32> = expected.input_ids.iter().flat_map(|t| t[1..].iter().copied().chain([IGNORE])).collect();
        let batch = Batch {
            batch_size: windows,
            sequence_length: length,
            tokens: expected.input_ids.concat(),
            targets: targets.clone(),
            document_starts: None,
        };
        let scores = model.score(&batch, false).unwrap();
        for (i, &target) in targets.iter().enumerate().filter(|(_, t)| **t != IGNORE) {
            let row = &expected.logits[i * vocab..][..vocab];
            let sum: f64 = row.iter().map(|&v| f64::from(v).exp()).sum();
            let wanted = f64::from(row[target as usize]) - sum.ln();
            assert!((f64::from(scores.log_probs[0][i]) - wanted).abs() < 1e-4, "{feature}: position {i}");
        }
    }
}
