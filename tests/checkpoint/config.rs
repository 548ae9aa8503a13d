use serde_json::{Value, json};
use treering::checkpoint::names::{Norm, Projection};
use treering::checkpoint::rope::{RopeScaling, inverse_frequencies};
use treering::checkpoint::{Config, Family, QueryKeyNorm};

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
fn every_familys_configuration_is_read_with_its_own_defaults_and_written_back() {
    let read = |changes: Value| {
        let config = parse(with(changes)).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&config.to_json()).unwrap(), config);
        config
    };
    let windows = |config: &Config| (0..config.num_hidden_layers).map(|layer| config.window(layer)).collect::<Vec<_>>();
    let mistral = read(json!({"model_type": "mistral", "num_attention_heads": 8}));
    assert_eq!((mistral.family, mistral.num_key_value_heads, mistral.max_position_embeddings), (Family::Mistral, 8, 131_072));
    assert_eq!(windows(&mistral), [Some(4096); 2]);
    assert_eq!(windows(&read(json!({"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": null}))), [None; 2]);
    let kept = json!({"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": 9, "layer_types": ["sliding_attention", "sliding_attention"]});
    assert_eq!(windows(&read(kept)), [Some(9); 2]);

    let qwen = |changes: Value| {
        let mut all = json!({"model_type": "qwen2", "num_key_value_heads": 2, "num_hidden_layers": 3});
        changes.as_object().unwrap().iter().for_each(|(key, value)| all[key] = value.clone());
        read(all)
    };
    let qwen2 = qwen(json!({"sliding_window": 64}));
    assert_eq!((qwen2.family, windows(&qwen2), qwen2.bos_token_id, qwen2.eos_token_id.len()), (Family::Qwen2, vec![None; 3], None, 0));
    assert!([Projection::Q, Projection::K, Projection::V].into_iter().all(|p| qwen2.has_bias(p)));
    assert!([Projection::O, Projection::Gate, Projection::Down].into_iter().all(|p| !qwen2.has_bias(p)));
    let upper = qwen(json!({"use_sliding_window": true, "sliding_window": 64, "max_window_layers": 2}));
    assert_eq!(windows(&upper), [None, None, Some(64)]);
    let value: Value = serde_json::from_str(&upper.to_json()).unwrap();
    assert_eq!((&value["max_window_layers"], &value["use_sliding_window"]), (&json!(2), &json!(true)));
    // The list is what counts where there is one, and no layer of three is beyond the default of 28.
    let types = json!({"use_sliding_window": true, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]});
    assert_eq!(windows(&qwen(types)), [Some(4096), None, Some(4096)]);
    assert_eq!(windows(&qwen(json!({"use_sliding_window": true}))), [None; 3]);
    assert_eq!(windows(&qwen(json!({"use_sliding_window": true, "sliding_window": null, "max_window_layers": 0}))), [None; 3]);

    let qwen3 = read(json!({"model_type": "qwen3", "num_key_value_heads": 4}));
    assert_eq!((qwen3.head_dim, qwen3.family.query_key_norm(), qwen3.norm_size(Norm::Query)), (128, QueryKeyNorm::Head, 128));
    let olmo2 = read(json!({"model_type": null, "architectures": ["Olmo2ForCausalLM"], "num_key_value_heads": 2, "vocab_size": 100_000}));
    assert_eq!((olmo2.family, olmo2.rms_norm_eps, olmo2.norm_size(Norm::Query), olmo2.norm_size(Norm::Key)), (Family::Olmo2, 1e-5, 16, 8));
    assert_eq!((olmo2.bos_token_id, olmo2.eos_token_id.as_slice(), olmo2.pad_token_id), (None, &[50_279][..], Some(1)));
    assert_eq!(parse(with(json!({"model_type": "olmo2"}))).unwrap().eos_token_id, [] as [u32; 0], "no token of a vocabulary of 32");
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
fn what_is_no_known_family_is_refused_by_name() {
    for (change, name) in [
        (json!({"model_type": "mixtral"}), "\"mixtral\"; what can be read is llama, mistral, qwen2, qwen3, olmo2"),
        (json!({"model_type": "qwen3_moe"}), "\"qwen3_moe\""),
        (json!({"model_type": "mistral", "attention_bias": true}), "`attention_bias` is true, and Mistral has no such biases"),
        (json!({"model_type": "qwen2", "mlp_bias": true}), "`mlp_bias` is true, and Qwen2"),
        (json!({"num_local_experts": 8}), "`num_local_experts` is 8"),
        (json!({"final_logit_softcapping": 30.0}), "`final_logit_softcapping` is 30.0"),
        (json!({"model_type": "olmo2", "clip_qkv": 8.0}), "`clip_qkv`"),
        (json!({"model_type": "mistral", "num_key_value_heads": 4, "sliding_window": 0}), "`sliding_window` is 0"),
        (
            json!({"model_type": "mistral", "num_key_value_heads": 4, "layer_types": ["full_attention", "sliding_attention"]}),
            "`layer_types` mixes",
        ),
        (json!({"layer_types": ["sliding_attention", "sliding_attention"]}), "there is no `sliding_window`"),
        (json!({"model_type": "qwen3", "layer_types": ["full_attention", "sliding_attention"]}), "`use_sliding_window` is false"),
        (
            json!({"model_type": "qwen3", "use_sliding_window": true, "layer_types": ["full_attention"]}),
            "1 entries for `num_hidden_layers` 2",
        ),
        (json!({"model_type": "qwen2", "layer_types": ["chunked_attention", "full_attention"]}), "\"chunked_attention\""),
        (json!({"model_type": "qwen2", "use_sliding_window": "yes"}), "`use_sliding_window` is \"yes\""),
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
    let families = ["family-mistral", "family-qwen2", "family-qwen3", "family-qwen3-window", "family-olmo2", "family-olmo2-bias"];
    for name in ["llama-mha-untied", "llama-gqa-tied", "llama-head-dim", "llama-bias", "llama-sharded"].into_iter().chain(families) {
        let base = treering::checkpoint::BaseCheckpoint::open(fixture(name)).unwrap();
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
