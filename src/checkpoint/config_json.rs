//! Configurations as the JSON of Hugging Face: read, with everything refused by name that would make another model, and written.

use serde_json::{Map, Value, json};

use super::config::{Config, MAX_SIZE};
use super::family::Family;
use super::rope::RopeScaling;

/// What `transformers` takes where a configuration does not say in which layers the window begins.
const DEFAULT_MAX_WINDOW_LAYERS: usize = 28;
/// More layers than any model has.
const MAX_LAYERS: u64 = 1 << 16;
/// Keys by which mixtures of experts, capped logits and clipped projections are told.
const OTHER_ARCHITECTURES: [&str; 6] =
    ["num_experts", "num_local_experts", "n_routed_experts", "attn_logit_softcapping", "final_logit_softcapping", "clip_qkv"];
/// The names of the two kinds of attention in `layer_types`.
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

impl TryFrom<Value> for Config {
    type Error = String;

    fn try_from(value: Value) -> std::result::Result<Self, String> {
        let Value::Object(map) = value else {
            return Err("a JSON object was expected".into());
        };
        let keys = Keys(&map);
        let family = family_of(&keys)?;
        refuse_other_models(&keys, family)?;
        let defaults = family.defaults();
        let num_attention_heads = keys.required("num_attention_heads")?;
        let hidden_size = keys.required("hidden_size")?;
        let head_dim = match keys.size_or("head_dim", defaults.head_dim)? {
            Some(head_dim) => head_dim,
            None if num_attention_heads > 0 && hidden_size % num_attention_heads == 0 => hidden_size / num_attention_heads,
            None => {
                return Err(format!(
                    "`num_attention_heads` ({num_attention_heads}) does not divide `hidden_size` ({hidden_size}), and there is no `head_dim`"
                ));
            }
        };
        let max_position_embeddings = keys.size("max_position_embeddings")?.unwrap_or(defaults.max_position_embeddings);
        let (rope_theta, rope_scaling) = super::rope::from_config(&keys, max_position_embeddings)?;
        let num_hidden_layers = keys.required("num_hidden_layers")?;
        let (sliding_window, full_attention_layers) = windows(&keys, family, num_hidden_layers)?;
        let vocab_size = keys.required("vocab_size")?;
        // A default of the family's own vocabulary is no token of a smaller one.
        let default = |token: Option<u32>| token.filter(|&id| (id as usize) < vocab_size || family == Family::Llama);
        let tokens = |key: &str, token| keys.tokens(key, default(token).as_slice());
        let config = Self {
            family,
            vocab_size,
            hidden_size,
            intermediate_size: keys.required("intermediate_size")?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads: keys.size_or("num_key_value_heads", defaults.num_key_value_heads)?.unwrap_or(num_attention_heads),
            head_dim,
            max_position_embeddings,
            rms_norm_eps: keys.number("rms_norm_eps")?.unwrap_or(defaults.rms_norm_eps),
            rope_theta,
            rope_scaling,
            tie_word_embeddings: keys.flag("tie_word_embeddings")?,
            attention_bias: keys.flag("attention_bias")?,
            mlp_bias: keys.flag("mlp_bias")?,
            sliding_window,
            full_attention_layers,
            bos_token_id: tokens("bos_token_id", defaults.bos_token_id)?.first().copied(),
            eos_token_id: tokens("eos_token_id", defaults.eos_token_id)?,
            pad_token_id: tokens("pad_token_id", defaults.pad_token_id)?.first().copied(),
        };
        config.check()?;
        Ok(config)
    }
}

impl Config {
    /// The kind of attention of each layer, as `layer_types` lists them.
    fn layer_types(&self) -> Vec<&'static str> {
        (0..self.num_hidden_layers).map(|layer| if self.window(layer).is_some() { SLIDING } else { FULL }).collect()
    }
}

impl From<Config> for Value {
    fn from(config: Config) -> Self {
        let mut rope = config.rope_scaling.to_json(config.max_position_embeddings);
        let scaling = if config.rope_scaling == RopeScaling::Default { Value::Null } else { rope.clone() };
        rope["rope_theta"] = json!(config.rope_theta);
        let eos = match config.eos_token_id.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            several => json!(several),
        };
        let mut value = json!({
            "architectures": [config.family.architecture()],
            "model_type": config.family.model_type(),
            "hidden_act": "silu",
            "vocab_size": config.vocab_size,
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_hidden_layers": config.num_hidden_layers,
            "num_attention_heads": config.num_attention_heads,
            "num_key_value_heads": config.num_key_value_heads,
            "head_dim": config.head_dim,
            "max_position_embeddings": config.max_position_embeddings,
            "rms_norm_eps": config.rms_norm_eps,
            // Older readers look for the first two, newer ones for the third.
            "rope_theta": config.rope_theta,
            "rope_scaling": scaling,
            "rope_parameters": rope,
            "tie_word_embeddings": config.tie_word_embeddings,
            "bos_token_id": config.bos_token_id,
            "eos_token_id": eos,
            "pad_token_id": config.pad_token_id,
        });
        for (key, flag) in [("attention_bias", config.attention_bias), ("mlp_bias", config.mlp_bias)] {
            if config.family.has_key(key) {
                value[key] = json!(flag);
            }
        }
        if config.family.can_slide() {
            value["sliding_window"] = json!(config.sliding_window);
        }
        if config.family.chooses_windows() {
            let types = config.layer_types();
            value["use_sliding_window"] = json!(config.sliding_window.is_some());
            // What readers from before there were `layer_types` go by.
            value["max_window_layers"] = json!(types.iter().position(|&kind| kind == SLIDING).unwrap_or(types.len()));
            value["layer_types"] = json!(types);
        }
        value
    }
}

/// The family that a configuration names.
fn family_of(keys: &Keys) -> std::result::Result<Family, String> {
    let architecture = keys.get("architectures").and_then(|v| v.get(0)).and_then(Value::as_str);
    let Some(name) = keys.text("model_type")?.or(architecture) else {
        return Err(format!("has no `model_type`; what can be read is {}", Family::known()));
    };
    if name == super::names::WIDENED {
        return Err(
            "is a widened model that `treering export` wrote for transformers, and not read as it is\n  hint: `treering import FOLDER --out RINGS` \
             takes its rings back; they can be measured, asked, grown and exported"
                .into(),
        );
    }
    Family::find(name).ok_or_else(|| format!("the model is of type \"{name}\"; what can be read is {}", Family::known()))
}

/// The sliding window, and the layers without it.
fn windows(keys: &Keys, family: Family, layers: usize) -> std::result::Result<(Option<usize>, Vec<usize>), String> {
    // Memory for a name a layer is taken below; no model is that deep.
    if layers as u64 > MAX_LAYERS {
        return Err(format!("`num_hidden_layers` is {layers}; at most {MAX_LAYERS} can be read"));
    }
    let window = if family.can_slide() { keys.size_or("sliding_window", family.defaults().sliding_window)? } else { None };
    let used = !family.chooses_windows() || keys.flag("use_sliding_window")?;
    let window = window.filter(|_| used);
    let first = if family.chooses_windows() { keys.size("max_window_layers")?.unwrap_or(DEFAULT_MAX_WINDOW_LAYERS) } else { 0 };
    let mut slides: Vec<bool> = (0..layers).map(|layer| window.is_some() && layer >= first).collect();
    if let Some(types) = keys.get("layer_types") {
        let kind = |value: &Value| match value.as_str() {
            Some(FULL) => Ok(false),
            Some(SLIDING) => Ok(true),
            _ => Err(format!("`layer_types` has {}; \"{FULL}\" and \"{SLIDING}\" are supported", brief(value))),
        };
        let types = types.as_array().ok_or_else(|| format!("`layer_types` is {}; a list was expected", brief(types)))?;
        let types = types.iter().map(kind).collect::<std::result::Result<Vec<bool>, _>>()?;
        if types.len() != layers {
            return Err(format!("`layer_types` has {} entries for `num_hidden_layers` {layers}", types.len()));
        }
        if types.contains(&true) && window.is_none() {
            let why = if family.chooses_windows() && !used { "`use_sliding_window` is false" } else { "there is no `sliding_window`" };
            return Err(format!("`layer_types` has \"{SLIDING}\", and {why}"));
        }
        if !family.chooses_windows() && types != slides {
            return Err(format!("`layer_types` mixes kinds of attention, which {} does not", family.name()));
        }
        slides = types;
    }
    if !slides.contains(&true) {
        return Ok((None, Vec::new()));
    }
    Ok((window, (0..layers).filter(|&layer| !slides[layer]).collect()))
}

/// Refuses, by name, whatever would make the model compute something other than its family does.
fn refuse_other_models(keys: &Keys, family: Family) -> std::result::Result<(), String> {
    for key in ["attention_bias", "mlp_bias"] {
        if keys.flag(key)? && !family.has_key(key) {
            return Err(format!("`{key}` is true, and {} has no such biases", family.name()));
        }
    }
    // Keys of other architectures, which would otherwise be passed over in silence.
    for key in OTHER_ARCHITECTURES {
        if let Some(value) = keys.get(key).filter(|value| **value != json!(0)) {
            return Err(format!("`{key}` is {}; only dense models with plain attention can be read", brief(value)));
        }
    }
    match keys.text("hidden_act")? {
        None | Some("silu" | "swish") => {}
        Some(other) => return Err(format!("`hidden_act` is \"{other}\"; only \"silu\" is supported")),
    }
    if keys.get("quantization_config").is_some() {
        return Err(
            "has a `quantization_config`: packed weights cannot be read from safetensors; use the unquantised model or a GGUF file".into(),
        );
    }
    match keys.number("partial_rotary_factor")? {
        None => Ok(()),
        Some(1.0) => Ok(()),
        Some(other) => Err(format!("`partial_rotary_factor` is {other}; only 1 is supported")),
    }
}

/// The keys of a JSON object, with errors that name them; `null` counts as absent.
pub(super) struct Keys<'a>(pub &'a Map<String, Value>);

impl<'a> Keys<'a> {
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    pub fn size(&self, key: &str) -> std::result::Result<Option<usize>, String> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_u64() {
            Some(size) if size <= MAX_SIZE => Ok(Some(size as usize)),
            _ => Err(format!("`{key}` is {}; a whole number between 0 and {MAX_SIZE} was expected", brief(value))),
        }
    }

    /// As [`Keys::size`], but `default` where the key is missing; `null` still counts as none.
    fn size_or(&self, key: &str, default: Option<usize>) -> std::result::Result<Option<usize>, String> {
        if self.0.contains_key(key) { self.size(key) } else { Ok(default) }
    }

    fn required(&self, key: &str) -> std::result::Result<usize, String> {
        self.size(key)?.ok_or_else(|| format!("has no `{key}`"))
    }

    pub fn number(&self, key: &str) -> std::result::Result<Option<f64>, String> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| format!("`{key}` is {}; a number was expected", brief(value)))
    }

    pub fn boolean(&self, key: &str) -> std::result::Result<Option<bool>, String> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| format!("`{key}` is {}; true or false was expected", brief(value)))
    }

    fn flag(&self, key: &str) -> std::result::Result<bool, String> {
        Ok(self.boolean(key)?.unwrap_or(false))
    }

    pub fn text(&self, key: &str) -> std::result::Result<Option<&'a str>, String> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| format!("`{key}` is {}; a string was expected", brief(value)))
    }

    /// A token or a list of tokens; `default` where the key is missing, none where it is `null` or, as in some old files, negative.
    fn tokens(&self, key: &str, default: &[u32]) -> std::result::Result<Vec<u32>, String> {
        let Some(value) = self.0.get(key) else { return Ok(default.to_vec()) };
        let one = |value: &Value| match value.as_i64() {
            Some(id) if id < 0 => Ok(None),
            Some(id) if id < i64::from(u32::MAX) => Ok(Some(id as u32)),
            _ => Err(format!("`{key}` is {}; a token number was expected", brief(value))),
        };
        match value {
            Value::Null => Ok(Vec::new()),
            Value::Array(values) => values.iter().filter_map(|value| one(value).transpose()).collect(),
            value => Ok(one(value)?.into_iter().collect()),
        }
    }
}

/// A value as an error message shows it, cut where it is long.
fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
