//! Models: checkpoints and what lies beside them, and what was grown around one.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use treering::baseline;
use treering::checkpoint::{BaseCheckpoint, Config};
use treering::export::widened::Widened;
use treering::grow::{file as expansion_file, layout};
use treering::recipe::Recipe;
use treering::tokenizer::Tokenizer;

use super::{RECIPE, folder, folder_of, two_of, write};

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

/// Everything that can be done with a base before it is computed with.
fn use_base(path: &Path) {
    let Ok(base) = BaseCheckpoint::open(path) else { return };
    let _ = base.sha256();
    for info in base.tensor_infos() {
        let _ = base.tensor(&info.name, &info.shape);
    }
    let _ = treering::checkpoint::rope::inverse_frequencies(base.config());
    let _ = base.config().parameter_count();
    if let Ok(tokenizer) = base.tokenizer() {
        use_tokenizer(&tokenizer);
    }
}

fn use_tokenizer(tokenizer: &Tokenizer) {
    let tokens = tokenizer.encode("Rings 나이테\n <|im_end|>\0 4,844").unwrap_or_default();
    let _ = tokenizer.decode(&tokens);
    let _ = tokenizer.to_json();
}

/// `model.safetensors` of a Hugging Face folder, and the same bytes as a file of trained blocks.
pub fn safetensors(data: &[u8]) {
    write("config.json", CONFIG.as_bytes());
    let path = write("model.safetensors", data);
    use_base(folder());
    let _ = expansion_file::load_parameters(&path, None);
    let _ = expansion_file::list_parameters(&path);
}

/// A `.gguf` file, its tokenizer included.
pub fn gguf(data: &[u8]) {
    use_base(&write("model.gguf", data));
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
        let _ = recipe.resolve(&config);
    }
}

/// `model.safetensors.index.json` beside a shard.
pub fn index(data: &[u8]) {
    let header = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}  "#;
    let mut shard = (header.len() as u64).to_le_bytes().to_vec();
    shard.extend_from_slice(header);
    shard.extend_from_slice(&1.0f32.to_le_bytes());
    let files = [("config.json", CONFIG.as_bytes()), ("a.safetensors", &shard), ("model.safetensors.index.json", data)];
    use_base(&folder_of("sharded", &files));
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

/// An expansion: a manifest, a zero byte, and the tensors.
pub fn expansion(data: &[u8]) {
    let (manifest, tensors) = two_of(data);
    let inner = folder_of("expansion", &[(expansion_file::MANIFEST_FILE, manifest), (expansion_file::EXPANSION_FILE, tensors)]);
    let Ok(manifest) = expansion_file::load_manifest(&inner) else { return };
    let config = config_of_sixteen();
    if manifest.growth.validate(&config).is_ok() {
        let _ = layout::expansion_parameters(&config, &manifest.growth);
    }
    let _ = expansion_file::load(&inner, &config, &manifest.base.sha256);
}

/// A PEFT adapter: `adapter_config.json`, a zero byte, and the tensors.
pub fn adapter(data: &[u8]) {
    static BASE: OnceLock<BaseCheckpoint> = OnceLock::new();
    let base = BASE.get_or_init(|| BaseCheckpoint::from_memory(config_of_sixteen(), HashMap::new(), None).expect("a base of ours"));
    let (config, tensors) = two_of(data);
    let inner = folder_of("adapter", &[("adapter_config.json", config), ("adapter_model.safetensors", tensors)]);
    let _ = baseline::peft::load(&inner, base);
}

/// A widened model as `transformers` keeps it: `config.json`, a zero byte, and the tensors.
pub fn widened(data: &[u8]) {
    let (config, tensors) = two_of(data);
    let inner = folder_of("widened", &[("config.json", config), ("model.safetensors", tensors)]);
    if let Ok(Some(found)) = Widened::open(&inner) {
        let _ = found.model();
    }
}
