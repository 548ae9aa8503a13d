//! Logits against `transformers` on small random models of every family and configuration feature, made by `scripts/make-goldens.py`.

use std::path::Path;
use treering::checkpoint::{BaseCheckpoint, Config};
use treering::data::{Batch, IGNORE};
use treering::model::{Model, Precision};

#[derive(serde::Deserialize)]
struct Expected {
    input_ids: Vec<Vec<u32>>,
    shape: Vec<usize>,
    logits: Vec<f32>,
}

const MODELS: [&str; 16] = [
    "llama-mha-untied",
    "llama-gqa-tied",
    "llama-head-dim",
    "llama-bias",
    "llama-sharded",
    "llama-linear",
    "llama-llama3",
    "llama-yarn",
    "family-mistral",
    "family-mistral-no-window",
    "family-qwen2",
    "family-qwen2-window",
    "family-qwen3",
    "family-qwen3-window",
    "family-olmo2",
    "family-olmo2-bias",
];

#[test]
fn logits_equal_those_of_transformers_for_every_family_and_configuration_feature() {
    for feature in MODELS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(feature);
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

/// A window, a bias or a norm that made no difference would be tested by nothing above.
#[test]
fn what_sets_a_family_apart_changes_the_logits() {
    type Change = fn(&mut Config);
    let changes: [(&str, Change); 3] = [
        ("family-mistral", |c| c.sliding_window = None),
        ("family-qwen2-window", |c| c.full_attention_layers = vec![0, 1]),
        ("family-qwen3-window", |c| c.full_attention_layers.clear()),
    ];
    for (name, change) in changes {
        let base = BaseCheckpoint::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap();
        let tensors = base.tensor_infos().into_iter().map(|info| {
            let values = base.tensor(&info.name, &info.shape).unwrap();
            (info.name, (info.shape, values))
        });
        let mut config = base.config().clone();
        change(&mut config);
        let other = BaseCheckpoint::from_memory(config, tensors.collect(), None).unwrap();
        let logits = |base: &BaseCheckpoint| {
            let model = Model::from_base(base, Precision::F32, false).unwrap();
            let tokens: Vec<u32> = (0..16).collect();
            model.step(&mut model.new_cache(16), &tokens).unwrap().remove(0)
        };
        let largest = logits(&base).iter().zip(logits(&other)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(largest > 1e-2, "{name}: the change moves the logits by {largest}");
    }
}
