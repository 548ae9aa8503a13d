//! Models in GGUF files: their configuration, and Hugging Face names for their tensors.

use std::collections::BTreeMap;

use super::config::{Config, DEFAULT_ROPE_THETA, MAX_SIZE};
use super::family::Family;
use super::gguf::Gguf;
use super::names::{self, Norm, Projection};
use super::rope::{RopeScaling, Yarn, llama3_factor};
use super::weights::{Entry, Weights};
use crate::error::{Error, Result};

/// The lengths that Llama 3 models were first trained on, and the rest of their scaling.
const LLAMA3_ORIGINAL: usize = 8192;
const LLAMA3_LOW: f64 = 1.0;
const LLAMA3_HIGH: f64 = 4.0;
/// Relative difference up to which frequency factors are those of a scaling.
const SAME_FACTOR: f32 = 1e-4;

/// The configuration, and the tensors under their Hugging Face names.
pub(super) fn load(gguf: &Gguf, weights: Weights) -> Result<(Config, Weights)> {
    let family = match gguf.text("general.architecture")? {
        Some(name) => FAMILIES.into_iter().find(|family| family.model_type() == name).ok_or_else(|| {
            let known: Vec<&str> = FAMILIES.iter().map(|family| family.model_type()).collect();
            let known = known.join(", ");
            Error::file(&gguf.path, format_args!("the model is of type \"{name}\"; what can be read from a GGUF file is {known}"))
        })?,
        None => return Err(Error::file(&gguf.path, "has no metadata `general.architecture`")),
    };
    let (entries, frequency_factors) = rename(gguf, family, weights.entries)?;
    let mut weights = Weights { files: weights.files, entries };
    let mut config = config(gguf, family, &weights)?;
    if let Some(entry) = frequency_factors {
        let factors = weights.read("rope_freqs.weight", &entry)?;
        if config.rope_scaling != RopeScaling::Default {
            let key = format!("{}.rope.scaling.type", family.model_type());
            return Err(Error::file(&gguf.path, format_args!("has both a `rope_freqs.weight` tensor and a `{key}`")));
        }
        config.rope_scaling = RopeScaling::FrequencyFactors(factors);
        config.validate().map_err(|e| Error::file(&gguf.path, e))?;
        if let Some(scaling) = as_llama3(&config) {
            config.rope_scaling = scaling;
        }
    }
    config.validate().map_err(|e| Error::file(&gguf.path, e))?;
    if config.num_hidden_layers > weights.entries.len() {
        let (layers, tensors) = (config.num_hidden_layers, weights.entries.len());
        return Err(Error::file(
            &gguf.path,
            format_args!("metadata `{}.block_count` is {layers}, and there are {tensors} tensors in all", family.model_type()),
        ));
    }
    // Converters put the two halves of each head's rotary pairs side by side in Llama's architecture, and leave the others as they are.
    let interleaved = if family == Family::Llama { config.num_hidden_layers } else { 0 };
    for layer in 0..interleaved {
        for (projection, heads) in [(Projection::Q, config.num_attention_heads), (Projection::K, config.num_key_value_heads)] {
            let module = names::projection(layer, projection);
            for name in [names::weight(&module), names::bias(&module)] {
                if let Some(entry) = weights.entries.get_mut(&name) {
                    entry.interleaved_heads = Some(heads);
                }
            }
        }
    }
    Ok((config, weights))
}

/// The architectures whose metadata and tensors are known. A Mistral is stored as a Llama: its files say nothing of a window.
const FAMILIES: [Family; 4] = [Family::Llama, Family::Qwen2, Family::Qwen3, Family::Olmo2];

fn config(gguf: &Gguf, family: Family, weights: &Weights) -> Result<Config> {
    let key = |name: &str| format!("{}.{name}", family.model_type());
    let missing = |key: &str| Error::file(&gguf.path, format_args!("has no metadata `{key}`"));
    let size = |key: &str| -> Result<Option<usize>> {
        match gguf.u64_of_all_layers(key)? {
            None => Ok(None),
            Some(value) if value <= MAX_SIZE => Ok(Some(value as usize)),
            Some(value) => Err(Error::file(&gguf.path, format_args!("metadata `{key}` is {value}, which is too large"))),
        }
    };
    let required = |key: &str| size(key)?.ok_or_else(|| missing(key));
    let token =
        |key: &str| -> Result<Option<u32>> { Ok(gguf.u64(key)?.and_then(|id| u32::try_from(id).ok()).filter(|&id| id != u32::MAX)) };
    let embedding = weights.entries.get(&names::weight(names::EMBED_TOKENS));
    let embedding = embedding.ok_or_else(|| Error::file(&gguf.path, "has no tensor `token_embd.weight`"))?;

    let mut config = Config::new(
        embedding.shape[0],
        required(&key("embedding_length"))?,
        required(&key("feed_forward_length"))?,
        required(&key("block_count"))?,
        required(&key("attention.head_count"))?,
    );
    config.family = family;
    if let Some(other) = size(&key("vocab_size"))?.filter(|&other| other != config.vocab_size) {
        let rows = config.vocab_size;
        return Err(Error::file(
            &gguf.path,
            format_args!("metadata `{}` is {other}, and `token_embd.weight` has {rows} rows", key("vocab_size")),
        ));
    }
    config.num_key_value_heads = size(&key("attention.head_count_kv"))?.unwrap_or(config.num_attention_heads);
    if let Some(head_dim) = size(&key("attention.key_length"))? {
        config.head_dim = head_dim;
    } else if !config.hidden_size.is_multiple_of(config.num_attention_heads.max(1)) {
        return Err(missing(&key("attention.key_length")));
    }
    for key in [key("attention.value_length"), key("rope.dimension_count")] {
        if let Some(other) = size(&key)?.filter(|&other| other != config.head_dim) {
            return Err(Error::file(
                &gguf.path,
                format_args!("metadata `{key}` is {other}; only the width of a head ({}) is supported", config.head_dim),
            ));
        }
    }
    if let Some(experts) = size(&key("expert_count"))?.filter(|&experts| experts > 0) {
        return Err(Error::file(&gguf.path, format_args!("is a mixture of {experts} experts; only dense models can be read")));
    }
    if let Some(window) = size(&key("attention.sliding_window"))?.filter(|&window| window > 0) {
        let name = key("attention.sliding_window");
        return Err(Error::file(
            &gguf.path,
            format_args!(
                "metadata `{name}` is {window}: in which layers is not known for this format; use the model's Hugging Face folder"
            ),
        ));
    }
    let epsilon = key("attention.layer_norm_rms_epsilon");
    // Stored in f32: the shortest decimal of it is the number that was meant.
    config.rms_norm_eps = shortest(gguf.f64(&epsilon)?.ok_or_else(|| missing(&epsilon))?);
    config.max_position_embeddings = required(&key("context_length"))?;
    config.rope_theta = gguf.f64(&key("rope.freq_base"))?.map_or(DEFAULT_ROPE_THETA, shortest);
    config.rope_scaling = rope_scaling(gguf, family, config.max_position_embeddings)?;
    config.tie_word_embeddings = !weights.entries.contains_key(&names::weight(names::LM_HEAD));
    let biased = |projection| weights.entries.contains_key(&names::bias(&names::projection(0, projection)));
    // Where q always has one, it says nothing of the others.
    config.attention_bias = !family.always_biased(Projection::Q) && biased(Projection::Q);
    config.mlp_bias = biased(Projection::Gate);
    config.bos_token_id = token("tokenizer.ggml.bos_token_id")?;
    config.eos_token_id = token("tokenizer.ggml.eos_token_id")?.into_iter().collect();
    config.pad_token_id = token("tokenizer.ggml.padding_token_id")?;
    config.validate().map_err(|e| Error::file(&gguf.path, e))?;
    Ok(config)
}

fn rope_scaling(gguf: &Gguf, family: Family, max_position_embeddings: usize) -> Result<RopeScaling> {
    let key = |name: &str| format!("{}.rope.{name}", family.model_type());
    let number = |name: &str| Ok::<_, Error>(gguf.f64(&key(name))?.map(shortest));
    let factor = match number("scaling.factor")? {
        Some(factor) => Some(factor),
        None => number("scale_linear")?,
    };
    let kind = match gguf.text(&key("scaling.type"))? {
        Some(kind) => kind,
        // Files from before there were types.
        None if factor.is_some_and(|factor| factor != 1.0 && factor != 0.0) => "linear",
        None => "none",
    };
    let needed = || {
        let (kind, factor_key) = (key("scaling.type"), key("scaling.factor"));
        factor.ok_or_else(|| Error::file(&gguf.path, format_args!("has a `{kind}` and no `{factor_key}`")))
    };
    match kind {
        "none" => Ok(RopeScaling::Default),
        "linear" => Ok(RopeScaling::Linear { factor: needed()? }),
        "yarn" => {
            let original = gguf.u64(&key("scaling.original_context_length"))?;
            let mut yarn = Yarn {
                factor: needed()?,
                original_max_position_embeddings: original.map_or(max_position_embeddings, |n| n as usize),
                beta_fast: number("scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: number("scaling.yarn_beta_slow")?.unwrap_or(1.0),
                attention_factor: None,
                mscale: None,
                mscale_all_dim: None,
                truncate: true,
            };
            // Here the key multiplies what is computed, there it replaces it.
            if let Some(scale) = number("scaling.attn_factor")?.filter(|&scale| scale != 1.0) {
                yarn.attention_factor = Some(scale * yarn.attention_factor());
            }
            Ok(RopeScaling::Yarn(yarn))
        }
        other => {
            Err(Error::file(&gguf.path, format_args!("rope scaling \"{other}\" is not supported; \"none\", \"linear\" and \"yarn\" are")))
        }
    }
}

/// The scaling of Llama 3 where the frequency factors are its own, so that the configuration can be written as such.
fn as_llama3(config: &Config) -> Option<RopeScaling> {
    let RopeScaling::FrequencyFactors(factors) = &config.rope_scaling else { return None };
    let factor = f64::from(factors.iter().copied().fold(1.0, f32::max));
    let expected = |i: usize| llama3_factor(config, i, factor, LLAMA3_LOW, LLAMA3_HIGH, LLAMA3_ORIGINAL) as f32;
    let same = factors.iter().enumerate().all(|(i, &found)| (found - expected(i)).abs() <= SAME_FACTOR * found);
    (same && factor > 1.0).then_some(RopeScaling::Llama3 {
        factor,
        low_freq_factor: LLAMA3_LOW,
        high_freq_factor: LLAMA3_HIGH,
        original_max_position_embeddings: LLAMA3_ORIGINAL,
    })
}

/// Tensors by their Hugging Face names, and the one of frequency factors apart.
fn rename(gguf: &Gguf, family: Family, entries: BTreeMap<String, Entry>) -> Result<(BTreeMap<String, Entry>, Option<Entry>)> {
    let mut renamed = BTreeMap::new();
    let mut frequency_factors = None;
    for (name, entry) in entries {
        if name == "rope_freqs.weight" {
            frequency_factors = Some(entry);
        } else if let Some(new) = huggingface_name(family, &name) {
            renamed.insert(new, entry);
        } else {
            return Err(Error::file(&gguf.path, format_args!("has a tensor `{name}`, which no plain {} model has", family.name())));
        }
    }
    Ok((renamed, frequency_factors))
}

fn huggingface_name(family: Family, name: &str) -> Option<String> {
    let (module, kind) = name.rsplit_once('.')?;
    let module = match module {
        "token_embd" => names::EMBED_TOKENS.into(),
        "output_norm" => names::NORM.into(),
        "output" => names::LM_HEAD.into(),
        _ => {
            let (number, module) = module.strip_prefix("blk.")?.split_once('.')?;
            let layer: usize = number.parse().ok()?;
            // Only the plain spelling, so that no two names become one.
            if layer.to_string() != number {
                return None;
            }
            let norm = match module {
                "attn_norm" => Some(Norm::Input),
                // Before the feed-forward network, and behind attention: one name in Hugging Face's files, never in one family.
                "ffn_norm" if !family.has_post_norms() => Some(Norm::PostAttention),
                "post_attention_norm" if family.has_post_norms() => Some(Norm::PostAttention),
                "post_ffw_norm" => Some(Norm::PostFeedforward),
                "attn_q_norm" => Some(Norm::Query),
                "attn_k_norm" => Some(Norm::Key),
                _ => None,
            };
            match norm {
                Some(norm) if family.layer_norms().contains(&norm) => names::norm(layer, norm),
                Some(_) => return None,
                None => names::projection(
                    layer,
                    match module {
                        "attn_q" => Projection::Q,
                        "attn_k" => Projection::K,
                        "attn_v" => Projection::V,
                        "attn_output" => Projection::O,
                        "ffn_gate" => Projection::Gate,
                        "ffn_up" => Projection::Up,
                        "ffn_down" => Projection::Down,
                        _ => return None,
                    },
                ),
            }
        }
    };
    match kind {
        "weight" => Some(names::weight(&module)),
        "bias" => Some(names::bias(&module)),
        _ => None,
    }
}

/// The shortest decimal that rounds to the same f32.
fn shortest(value: f64) -> f64 {
    let single = value as f32;
    if f64::from(single) == value { format!("{single}").parse().unwrap_or(value) } else { value }
}
