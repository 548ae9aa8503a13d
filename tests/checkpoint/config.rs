use serde_json::{Value, json};
use treering::checkpoint::Config;
use treering::checkpoint::rope::{RopeScaling, inverse_frequencies};

use crate::{assert_error, fixture, fixture_json};

fn parse(value: Value) -> Result<Config, String> {
    Config::try_from(value)
}

fn small() -> Value {
    json!({"model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4})
}

fn with(changes: Value) -> Value {
    let mut value = small();
    for (key, change) in changes.as_object().unwrap() {
        value[key] = change.clone();
    }
    value
}

#[test]
fn inverse_frequencies_are_those_of_transformers() {
    let cases = fixture_json("rope.json");
    for case in cases.as_array().unwrap() {
        let config = parse(case["config"].clone()).unwrap();
        let (found, factor) = inverse_frequencies(&config);
        let expected: Vec<f32> = case["inv_freq"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
        assert_eq!(found.len(), expected.len());
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            // A few units in the last place: the two libraries' powers differ in their last bit.
            assert!((found - expected).abs() <= 1e-6 * expected.abs(), "{}: frequency {i} is {found}, not {expected}", case["config"]);
        }
        let expected = case["attention_factor"].as_f64().unwrap() as f32;
        assert!((factor - expected).abs() <= 1e-6, "{}: factor {factor}, not {expected}", case["config"]);
    }
    assert!(cases.as_array().unwrap().len() >= 15);
}

#[test]
fn what_is_written_reads_back_the_same() {
    for case in fixture_json("rope.json").as_array().unwrap() {
        let config = parse(case["config"].clone()).unwrap();
        let again: Config = serde_json::from_str(&config.to_json()).unwrap();
        assert_eq!(config, again);
    }
    let mut config = Config::new(64, 32, 48, 2, 4);
    config.num_key_value_heads = 2;
    config.head_dim = 12;
    config.tie_word_embeddings = true;
    (config.attention_bias, config.mlp_bias) = (true, true);
    (config.bos_token_id, config.eos_token_id, config.pad_token_id) = (Some(1), vec![2, 5], Some(0));
    config.validate().unwrap();
    assert_eq!(serde_json::from_str::<Config>(&config.to_json()).unwrap(), config);
    assert_eq!((config.query_size(), config.key_value_size()), (48, 24));
}

#[test]
fn absent_keys_mean_what_transformers_takes() {
    let config = parse(small()).unwrap();
    assert_eq!((config.num_key_value_heads, config.head_dim, config.max_position_embeddings), (4, 4, 2048));
    assert_eq!((config.rms_norm_eps, config.rope_theta), (1e-6, 10000.0));
    assert_eq!(config.rope_scaling, RopeScaling::Default);
    assert_eq!((config.bos_token_id, config.eos_token_id, config.pad_token_id), (Some(1), vec![2], None));
    assert!(!config.tie_word_embeddings && !config.attention_bias && !config.mlp_bias);
    let config = parse(with(json!({"bos_token_id": null, "eos_token_id": [7, 8], "pad_token_id": -1, "head_dim": null}))).unwrap();
    assert_eq!((config.bos_token_id, config.eos_token_id, config.pad_token_id), (None, vec![7, 8], None));
}

#[test]
fn what_is_not_a_plain_llama_is_refused_by_name() {
    for (change, name) in [
        (json!({"model_type": "mistral"}), "\"mistral\""),
        (json!({"model_type": null}), "`model_type`"),
        (json!({"model_type": null, "architectures": ["GPT2LMHeadModel"]}), "GPT2LMHeadModel"),
        (json!({"hidden_act": "gelu"}), "\"gelu\""),
        (json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}), "\"dynamic\""),
        (json!({"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}}), "\"longrope\""),
        (json!({"rope_scaling": {"type": "linear"}}), "`factor`"),
        (json!({"rope_scaling": {"type": "llama3", "factor": 8.0}}), "`low_freq_factor`"),
        (json!({"rope_scaling": {"type": "linear", "factor": -1.0}}), "`factor`"),
        (json!({"rope_scaling": 4}), "`rope_scaling`"),
        (json!({"partial_rotary_factor": 0.5}), "`partial_rotary_factor`"),
        (json!({"quantization_config": {"quant_method": "gptq"}}), "`quantization_config`"),
    ] {
        let error = parse(with(change.clone())).unwrap_err();
        assert!(error.contains(name), "{change}: {error}");
    }
}

#[test]
fn sizes_that_do_not_fit_each_other_are_refused_by_name() {
    for (change, name) in [
        (json!({"num_attention_heads": 3}), "`num_attention_heads` (3)"),
        (json!({"num_key_value_heads": 3}), "`num_key_value_heads` is 3"),
        (json!({"num_attention_heads": 0}), "`num_attention_heads`"),
        (json!({"num_hidden_layers": 0}), "`num_hidden_layers` is 0"),
        (json!({"vocab_size": null}), "no `vocab_size`"),
        (json!({"vocab_size": "many"}), "`vocab_size` is \"many\""),
        (json!({"hidden_size": -16}), "`hidden_size` is -16"),
        (json!({"hidden_size": 1.5}), "`hidden_size` is 1.5"),
        (json!({"hidden_size": u64::MAX}), "`hidden_size`"),
        (json!({"head_dim": 3}), "`head_dim` is 3"),
        (
            json!({"hidden_size": 1u64 << 31, "head_dim": 1u64 << 31, "num_attention_heads": 1u64 << 31, "num_key_value_heads": 1}),
            "too large",
        ),
        (json!({"rms_norm_eps": 0.0}), "`rms_norm_eps`"),
        (json!({"rope_theta": -1.0}), "`rope_theta`"),
        (json!({"tie_word_embeddings": 1}), "`tie_word_embeddings` is 1"),
        (json!({"eos_token_id": "x"}), "`eos_token_id`"),
    ] {
        let error = parse(with(change.clone())).unwrap_err();
        assert!(error.contains(name), "{change}: {error}");
    }
}

#[test]
fn the_number_of_parameters_is_that_of_the_files() {
    for name in ["mha-untied", "gqa-tied", "head-dim", "bias", "sharded"] {
        let base = treering::checkpoint::BaseCheckpoint::open(fixture(&format!("llama-{name}"))).unwrap();
        let found: usize = base.tensor_infos().iter().map(|info| info.shape.iter().product::<usize>()).sum();
        assert_eq!(base.config().parameter_count(), found as u64, "{name}");
    }
}

#[test]
fn errors_name_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    assert!(matches!(Config::from_file(&path), Err(treering::Error::Io { .. })));
    std::fs::write(&path, "{").unwrap();
    assert_error(&Config::from_file(&path).unwrap_err(), &["config.json", "not JSON"]);
    std::fs::write(&path, "[]").unwrap();
    assert_error(&Config::from_file(&path).unwrap_err(), &["config.json", "object"]);
}
