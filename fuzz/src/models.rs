//! Models: checkpoints and what lies beside them.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use treering::checkpoint::{BaseCheckpoint, Config, Dtype};
use treering::generate::chat;
use treering::grow::plan::{Plan, Request};
use treering::grow::{file as expansion_file, layout};
use treering::model::Precision;
use treering::recipe::Recipe;
use treering::tokenizer::Tokenizer;

use super::{RECIPE, folder, folder_of, free, two_of, write};

/// A configuration that fits no file by chance, so that tensors of small sizes are found.
const CONFIG: &str = r#"{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 16, "hidden_size": 8, "intermediate_size": 12,
    "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32, "tie_word_embeddings": true}"#;

pub(super) fn config_of_sixteen() -> Config {
    let path = folder().join("sixteen.json");
    if !path.exists() {
        fs::write(&path, CONFIG).expect("room for a configuration");
    }
    Config::from_file(&path).expect("a configuration of ours")
}

/// A base of that configuration on disk, with a tokenizer of sixteen words.
pub(super) fn base_of_sixteen() -> &'static Path {
    static BASE: OnceLock<PathBuf> = OnceLock::new();
    BASE.get_or_init(|| {
        let config = config_of_sixteen();
        let value = |index: usize| ((index * 37 + 11) % 64) as f32 / 64.0 - 0.5;
        let tensors = layout::base_parameters(&config).into_iter().map(|e| {
            let values = (0..e.shape.iter().product()).map(value).collect();
            (e.name, (e.shape, values))
        });
        let words: serde_json::Map<String, serde_json::Value> = (0..16).map(|id| (format!("w{id}"), id.into())).collect();
        let tokenizer = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null, "post_processor": null, "decoder": null,
            "pre_tokenizer": {"type": "Whitespace"}, "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
        });
        let tokenizer = Tokenizer::from_json(&tokenizer.to_string()).expect("a tokenizer of ours");
        let base = BaseCheckpoint::from_memory(config, tensors.collect::<HashMap<_, _>>(), Some(tokenizer)).expect("a base of ours");
        let path = folder().join("base");
        base.save_hf(&path, Dtype::F32).expect("room for a base");
        path
    })
}

/// Everything that can be done with a base before it is computed with.
fn use_base(path: &Path) -> Option<BaseCheckpoint> {
    let base = BaseCheckpoint::open(path).ok()?;
    let _ = base.sha256();
    for info in base.tensor_infos() {
        let _ = base.tensor(&info.name, &info.shape);
    }
    let _ = treering::checkpoint::rope::inverse_frequencies(base.config());
    let _ = base.config().parameter_count();
    if let Ok(tokenizer) = base.tokenizer() {
        use_tokenizer(&tokenizer);
    }
    Some(base)
}

fn use_tokenizer(tokenizer: &Tokenizer) {
    let tokens = tokenizer.encode("Rings 나이테\n <|im_end|>\0 4,844").unwrap_or_default();
    let _ = tokenizer.decode(&tokens);
    let mut stream = tokenizer.stream();
    if tokens.iter().take(64).all(|&token| stream.push(token).is_ok()) {
        let _ = stream.finish();
    }
    if let Ok(turn) = chat::user_turn(tokenizer, Some("Be brief."), "Rings 나이테\n4,844") {
        assert!(tokenizer.id_to_token(turn.end).is_some());
    }
    let _ = (tokenizer.bos_token_id(), tokenizer.eos_token_id(), tokenizer.vocab_size());
    let _ = tokenizer.encode_with_special("Rings");
    let _ = tokenizer.to_json();
}

/// `model.safetensors` of a Hugging Face folder, and the same bytes as a file of trained blocks.
pub fn safetensors(data: &[u8]) {
    write("config.json", CONFIG.as_bytes());
    let path = write("model.safetensors", data);
    let _ = use_base(folder());
    let _ = expansion_file::load_parameters(&path, None);
    let _ = expansion_file::list_parameters(&path);
}

/// A `.gguf` file, its tokenizer included. What has all that a model needs is written as a Hugging Face folder, and read again.
pub fn gguf(data: &[u8]) {
    let Some(base) = use_base(&write("model.gguf", data)) else { return };
    let saved = free("saved");
    if base.save_hf(&saved, Dtype::F32).is_ok() {
        let again = BaseCheckpoint::open(&saved).expect("a folder of ours");
        assert_eq!(again.config(), base.config());
        assert_eq!(again.tensor_infos().len(), base.tensor_infos().len());
    }
}

/// A `config.json`, and what a plan works out from it.
pub fn config(data: &[u8]) {
    let Ok(config) = Config::from_file(write("config.json", data)) else { return };
    let _ = config.parameter_count();
    let _ = treering::checkpoint::rope::inverse_frequencies(&config);
    let text = config.to_json();
    assert_eq!(Config::from_file(write("again.json", text.as_bytes())).ok().as_ref(), Some(&config), "{text}");
    for kind in ["scale-preserve", "scale-adapt", "full", "freeze", "lora", "llama-pro"] {
        let recipe = Recipe::parse(&RECIPE.replace("scale-preserve", kind), folder(), &[]).expect("a recipe of ours");
        let Ok(recipe) = recipe.resolve(&config) else { continue };
        // A plan's time grows with its layers, and there are twelve.
        if config.num_hidden_layers > 2000 {
            continue;
        }
        let method = recipe.method(&config).expect("it was resolved");
        for recompute in [false, true] {
            let request = Request {
                config: &config,
                rings: &[],
                method: &method,
                name: None,
                precision: Precision::F32,
                batch_size: 2,
                sequence_length: 8,
                recompute,
                pair: false,
            };
            if let Ok(plan) = Plan::new(&request) {
                let _ = serde_json::to_string(&plan).expect("a plan can be written");
            }
        }
    }
}

/// `model.safetensors.index.json` beside a shard.
pub fn index(data: &[u8]) {
    let header = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}  "#;
    let mut shard = (header.len() as u64).to_le_bytes().to_vec();
    shard.extend_from_slice(header);
    shard.extend_from_slice(&1.0f32.to_le_bytes());
    let files = [("config.json", CONFIG.as_bytes()), ("a.safetensors", &shard), ("model.safetensors.index.json", data)];
    let _ = use_base(&folder_of("sharded", &files));
}

/// A `tokenizer.json`, a zero byte, and the `tokenizer_config.json` beside it.
pub fn tokenizer(data: &[u8]) {
    let (data, config) = two_of(data);
    let path = folder().join("tokenizer_config.json");
    if config.is_empty() {
        let _ = fs::remove_file(path);
    } else {
        fs::write(path, config).expect("room");
    }
    if let Ok(tokenizer) = Tokenizer::from_file(write("tokenizer.json", data)) {
        use_tokenizer(&tokenizer);
    }
}
