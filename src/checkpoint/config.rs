//! The shape of a Llama-family model, under the names of Hugging Face's `config.json`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::rope::RopeScaling;
use crate::error::{Error, IoContext, Result};

/// A `config.json` larger than this is something else.
const MAX_CONFIG_BYTES: u64 = 16 << 20;
/// No size in a configuration may exceed this: whatever is computed from two of them fits 64 bits.
const MAX_SIZE: u64 = 1 << 31;
/// What `transformers` takes where a configuration does not say.
const DEFAULT_MAX_POSITION_EMBEDDINGS: usize = 2048;
const DEFAULT_RMS_NORM_EPS: f64 = 1e-6;
pub(super) const DEFAULT_ROPE_THETA: f64 = 10_000.0;
const DEFAULT_BOS: u32 = 1;
const DEFAULT_EOS: u32 = 2;

/// Everything about a Llama-family model but its weights.
///
/// Read and written as a `config.json`; [`Config::validate`] holds for every configuration that was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct Config {
    /// Number of tokens.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward network.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of a head, even.
    pub head_dim: usize,
    /// The longest sequence the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How the rotary frequencies are stretched.
    pub rope_scaling: RopeScaling,
    /// Whether the output projection is the input embedding.
    pub tie_word_embeddings: bool,
    /// Whether q, k, v and o have biases.
    pub attention_bias: bool,
    /// Whether gate, up and down have biases.
    pub mlp_bias: bool,
    /// The token a sequence begins with.
    pub bos_token_id: Option<u32>,
    /// The tokens that end a sequence; may be empty.
    pub eos_token_id: Vec<u32>,
    /// The token that fills batches up.
    pub pad_token_id: Option<u32>,
}

impl Config {
    /// A model of the given sizes with one key/value head a query head, `head_dim = hidden_size / num_attention_heads`, and for the rest what
    /// `transformers` takes where nothing is said; change the fields and call [`Config::validate`].
    pub fn new(
        vocab_size: usize,
        hidden_size: usize,
        intermediate_size: usize,
        num_hidden_layers: usize,
        num_attention_heads: usize,
    ) -> Self {
        Self {
            vocab_size,
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads: num_attention_heads,
            head_dim: hidden_size / num_attention_heads.max(1),
            max_position_embeddings: DEFAULT_MAX_POSITION_EMBEDDINGS,
            rms_norm_eps: DEFAULT_RMS_NORM_EPS,
            rope_theta: DEFAULT_ROPE_THETA,
            rope_scaling: RopeScaling::Default,
            tie_word_embeddings: false,
            attention_bias: false,
            mlp_bias: false,
            bos_token_id: None,
            eos_token_id: Vec::new(),
            pad_token_id: None,
        }
    }

    /// Reads a `config.json`.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::File`] with the key, what was expected and what was found.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mut text = Vec::new();
        File::open(path).at(path)?.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut text).at(path)?;
        if text.len() as u64 > MAX_CONFIG_BYTES {
            return Err(Error::file(path, format_args!("is larger than {MAX_CONFIG_BYTES} bytes, which no config.json is")));
        }
        let value: Value = serde_json::from_slice(&text).map_err(|e| Error::file(path, format_args!("is not JSON: {e}")))?;
        Self::try_from(value).map_err(|message| Error::file(path, message))
    }

    /// The configuration as the text of a `config.json` that `transformers` reads too.
    pub fn to_json(&self) -> String {
        // `{:#}` of a `Value` cannot fail, unlike `to_string_pretty`.
        format!("{:#}\n", Value::from(self.clone()))
    }

    /// Width of all query heads together.
    pub fn query_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key heads (or value heads) together.
    pub fn key_value_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Checks that the sizes fit each other and that nothing computed from them overflows.
    ///
    /// # Errors
    /// [`Error::Usage`] with the key, what was expected and what was found.
    pub fn validate(&self) -> Result<()> {
        self.check().map_err(Error::Usage)
    }

    /// Number of base parameters, biases included and a tied embedding counted once.
    pub fn parameter_count(&self) -> u64 {
        let [d, q, kv, m] = [self.hidden_size, self.query_size(), self.key_value_size(), self.intermediate_size].map(|n| n as u64);
        let attention = 2 * d * q + 2 * d * kv + if self.attention_bias { q + 2 * kv + d } else { 0 };
        let ffn = 3 * d * m + if self.mlp_bias { 2 * m + d } else { 0 };
        let embeddings = self.vocab_size as u64 * d * if self.tie_word_embeddings { 1 } else { 2 };
        self.num_hidden_layers as u64 * (attention + ffn + 2 * d) + embeddings + d
    }

    fn check(&self) -> std::result::Result<(), String> {
        for (key, size) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_position_embeddings),
        ] {
            if size == 0 || size as u64 > MAX_SIZE {
                return Err(format!("`{key}` is {size}; it must be between 1 and {MAX_SIZE}"));
            }
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!("`head_dim` is {}; rotary embeddings need an even one", self.head_dim));
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return Err(format!(
                "`num_key_value_heads` is {}, which does not divide `num_attention_heads` ({})",
                self.num_key_value_heads, self.num_attention_heads
            ));
        }
        if !(self.rms_norm_eps.is_finite() && self.rms_norm_eps > 0.0) {
            return Err(format!("`rms_norm_eps` is {}; it must be a positive number", self.rms_norm_eps));
        }
        if !(self.rope_theta.is_finite() && self.rope_theta > 0.0) {
            return Err(format!("`rope_theta` is {}; it must be a positive number", self.rope_theta));
        }
        self.rope_scaling.check(self.rope_theta, self.head_dim)?;
        // Sizes are at most 2³¹, so products of two fit u64; the whole model in f32 must fit the address space.
        let heads = self.num_attention_heads as u64 * self.head_dim as u64;
        let widest = heads.max(self.intermediate_size as u64).max(self.vocab_size as u64);
        let bytes = widest
            .checked_mul(self.hidden_size as u64)
            .and_then(|n| n.checked_mul(8 * 4))
            .and_then(|n| n.checked_mul(self.num_hidden_layers as u64 + 2));
        match bytes {
            Some(bytes) if bytes <= isize::MAX as u64 => Ok(()),
            _ => Err(format!(
                "the sizes are too large: `vocab_size` {}, `hidden_size` {}, `intermediate_size` {}, `num_hidden_layers` {}, heads × `head_dim` {heads}",
                self.vocab_size, self.hidden_size, self.intermediate_size, self.num_hidden_layers
            )),
        }
    }
}

impl TryFrom<Value> for Config {
    type Error = String;

    fn try_from(value: Value) -> std::result::Result<Self, String> {
        let Value::Object(map) = value else {
            return Err("a JSON object was expected".into());
        };
        let keys = Keys(&map);
        refuse_other_models(&keys)?;
        let num_attention_heads = keys.required("num_attention_heads")?;
        let hidden_size = keys.required("hidden_size")?;
        let head_dim = match keys.size("head_dim")? {
            Some(head_dim) => head_dim,
            None if num_attention_heads > 0 && hidden_size % num_attention_heads == 0 => hidden_size / num_attention_heads,
            None => {
                return Err(format!(
                    "`num_attention_heads` ({num_attention_heads}) does not divide `hidden_size` ({hidden_size}), and there is no `head_dim`"
                ));
            }
        };
        let max_position_embeddings = keys.size("max_position_embeddings")?.unwrap_or(DEFAULT_MAX_POSITION_EMBEDDINGS);
        let (rope_theta, rope_scaling) = super::rope::from_config(&keys, max_position_embeddings)?;
        let config = Self {
            vocab_size: keys.required("vocab_size")?,
            hidden_size,
            intermediate_size: keys.required("intermediate_size")?,
            num_hidden_layers: keys.required("num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads: keys.size("num_key_value_heads")?.unwrap_or(num_attention_heads),
            head_dim,
            max_position_embeddings,
            rms_norm_eps: keys.number("rms_norm_eps")?.unwrap_or(DEFAULT_RMS_NORM_EPS),
            rope_theta,
            rope_scaling,
            tie_word_embeddings: keys.flag("tie_word_embeddings")?,
            attention_bias: keys.flag("attention_bias")?,
            mlp_bias: keys.flag("mlp_bias")?,
            bos_token_id: keys.tokens("bos_token_id", &[DEFAULT_BOS])?.first().copied(),
            eos_token_id: keys.tokens("eos_token_id", &[DEFAULT_EOS])?,
            pad_token_id: keys.tokens("pad_token_id", &[])?.first().copied(),
        };
        config.check()?;
        Ok(config)
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
        json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
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
            "attention_bias": config.attention_bias,
            "mlp_bias": config.mlp_bias,
            "bos_token_id": config.bos_token_id,
            "eos_token_id": eos,
            "pad_token_id": config.pad_token_id,
        })
    }
}

/// Refuses, by name, whatever would make the model compute something other than a plain Llama.
fn refuse_other_models(keys: &Keys) -> std::result::Result<(), String> {
    let architecture = keys.get("architectures").and_then(|v| v.get(0)).and_then(Value::as_str);
    match (keys.text("model_type")?, architecture) {
        (Some("llama"), _) | (None, Some("LlamaForCausalLM")) => {}
        (Some(super::names::WIDENED), _) => {
            return Err(
                "is a widened model that `treering export` wrote for transformers, and not read as it is\n  hint: `treering import FOLDER --out RINGS` \
                 takes its rings back; they can be measured, asked, grown and exported"
                    .into(),
            );
        }
        (Some(other), _) | (None, Some(other)) => {
            return Err(format!("the model is of type \"{other}\"; only the Llama architecture (\"llama\") can be read"));
        }
        (None, None) => return Err("has no `model_type`; it should be \"llama\"".into()),
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
