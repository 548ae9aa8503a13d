//! The shape of a model, under the names of Hugging Face's `config.json`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::family::{Family, QueryKeyNorm};
use super::names::{Norm, Projection};
use super::rope::RopeScaling;
use crate::error::{Error, Result};
use crate::files::read_limited;
use crate::grow::Module;

/// A `config.json` larger than this is something else.
const MAX_CONFIG_BYTES: u64 = 16 << 20;
/// No size in a configuration may exceed this: whatever is computed from two of them fits 64 bits.
pub(super) const MAX_SIZE: u64 = 1 << 31;
/// The most layers: every layer's parameters are listed before a tensor is read. The deepest models known have some hundred.
const MAX_LAYERS: u64 = 1 << 16;
/// What `transformers` takes where a configuration does not say; what depends on the family is in [`Family::defaults`].
pub(super) const DEFAULT_ROPE_THETA: f64 = 10_000.0;

/// Everything about a model but its weights.
///
/// Read and written as a `config.json`; [`Config::validate`] holds for every configuration that was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct Config {
    /// Which decoder it is.
    pub family: Family,
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
    /// Whether q, k, v and o have biases; [`Config::has_bias`] knows those that a family always has.
    pub attention_bias: bool,
    /// Whether gate, up and down have biases.
    pub mlp_bias: bool,
    /// How many tokens a query looks back over, itself included; all of them where there is none.
    pub sliding_window: Option<usize>,
    /// The layers, in ascending order, that look back over everything in spite of the window.
    pub full_attention_layers: Vec<usize>,
    /// The token a sequence begins with.
    pub bos_token_id: Option<u32>,
    /// The tokens that end a sequence; may be empty.
    pub eos_token_id: Vec<u32>,
    /// The token that fills batches up.
    pub pad_token_id: Option<u32>,
}

impl Config {
    /// A Llama of the given sizes with one key/value head a query head, `head_dim = hidden_size / num_attention_heads`, and for the rest what
    /// `transformers` takes where nothing is said; change the fields and call [`Config::validate`].
    pub fn new(
        vocab_size: usize,
        hidden_size: usize,
        intermediate_size: usize,
        num_hidden_layers: usize,
        num_attention_heads: usize,
    ) -> Self {
        let defaults = Family::Llama.defaults();
        Self {
            family: Family::Llama,
            vocab_size,
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads: num_attention_heads,
            head_dim: hidden_size / num_attention_heads.max(1),
            max_position_embeddings: defaults.max_position_embeddings,
            rms_norm_eps: defaults.rms_norm_eps,
            rope_theta: DEFAULT_ROPE_THETA,
            rope_scaling: RopeScaling::Default,
            tie_word_embeddings: false,
            attention_bias: false,
            mlp_bias: false,
            sliding_window: None,
            full_attention_layers: Vec::new(),
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
        let text = read_limited(path, MAX_CONFIG_BYTES, "config.json")?;
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

    /// Whether a projection has a bias.
    pub fn has_bias(&self, projection: Projection) -> bool {
        self.family.always_biased(projection)
            || match projection.module() {
                Module::Attention => self.attention_bias,
                Module::Ffn => self.mlp_bias,
            }
    }

    /// How many tokens the queries of a layer look back over, themselves included; all of them where there is none.
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.sliding_window.filter(|_| self.full_attention_layers.binary_search(&layer).is_err())
    }

    /// Values of the weight of a layer's norm.
    pub fn norm_size(&self, norm: Norm) -> usize {
        let own = match norm {
            Norm::Input | Norm::PostAttention | Norm::PostFeedforward => return self.hidden_size,
            Norm::Query => self.query_size(),
            Norm::Key => self.key_value_size(),
        };
        if self.family.query_key_norm() == QueryKeyNorm::Projection { own } else { self.head_dim }
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
        let [d, m] = [self.hidden_size, self.intermediate_size].map(|n| n as u64);
        let [q, kv] = [self.query_size(), self.key_value_size()].map(|n| n as u64);
        let matrices = 2 * d * q + 2 * d * kv + 3 * d * m;
        let biases = Projection::ALL.into_iter().filter(|&p| self.has_bias(p)).map(|projection| match projection {
            Projection::Q => q,
            Projection::K | Projection::V => kv,
            Projection::Gate | Projection::Up => m,
            Projection::O | Projection::Down => d,
        });
        let norms = self.family.layer_norms().into_iter().map(|norm| self.norm_size(norm) as u64);
        let layer = matrices + biases.sum::<u64>() + norms.sum::<u64>();
        let embeddings = self.vocab_size as u64 * d * if self.tie_word_embeddings { 1 } else { 2 };
        self.num_hidden_layers as u64 * layer + embeddings + d
    }

    pub(super) fn check(&self) -> std::result::Result<(), String> {
        for (key, size, most) in [
            ("vocab_size", self.vocab_size, MAX_SIZE),
            ("hidden_size", self.hidden_size, MAX_SIZE),
            ("intermediate_size", self.intermediate_size, MAX_SIZE),
            ("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS),
            ("num_attention_heads", self.num_attention_heads, MAX_SIZE),
            ("num_key_value_heads", self.num_key_value_heads, MAX_SIZE),
            ("head_dim", self.head_dim, MAX_SIZE),
            ("max_position_embeddings", self.max_position_embeddings, MAX_SIZE),
        ] {
            if size == 0 || size as u64 > most {
                return Err(format!("`{key}` is {size}; it must be between 1 and {most}"));
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
        self.check_windows()?;
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

    fn check_windows(&self) -> std::result::Result<(), String> {
        match self.sliding_window {
            None if self.full_attention_layers.is_empty() => Ok(()),
            None => Err("`full_attention_layers` names layers, and there is no `sliding_window`".into()),
            Some(_) if !self.family.can_slide() => Err(format!("{} has no `sliding_window`", self.family.name())),
            Some(window) if window == 0 || window as u64 > MAX_SIZE => {
                Err(format!("`sliding_window` is {window}; it must be between 1 and {MAX_SIZE}"))
            }
            Some(_) if !self.full_attention_layers.is_empty() && !self.family.chooses_windows() => {
                Err(format!("{} has the `sliding_window` in every layer", self.family.name()))
            }
            Some(_) if !self.full_attention_layers.is_sorted_by(|a, b| a < b) => Err("`full_attention_layers` is not in order".into()),
            Some(_) => match self.full_attention_layers.last() {
                Some(&last) if last >= self.num_hidden_layers => {
                    Err(format!("layer {last} is said to look back over everything, and there are {} layers", self.num_hidden_layers))
                }
                _ => Ok(()),
            },
        }
    }
}
