//! The model families that can be read: where they depart from a plain Llama, and what they take where a configuration does not say.

use super::names::{Norm, Projection};

/// A family of decoders with RMSNorm, rotary positions, grouped-query attention and SwiGLU. Each computes what the class of the same
/// architecture in `transformers` computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// Llama 2, 3 and 3.2, SmolLM2, TinyLlama, and whatever else says `llama`.
    Llama,
    /// Mistral: a Llama whose attention looks back over a sliding window.
    Mistral,
    /// Qwen2 and 2.5: q, k and v have biases, and upper layers may have a sliding window.
    Qwen2,
    /// Qwen3: the queries and keys of each head are normalised, and upper layers may have a sliding window.
    Qwen3,
    /// OLMo-2: norms stand behind attention and feed-forward network instead of before them, and queries and keys are normalised over all heads together.
    Olmo2,
}

/// How queries and keys are normalised before they are turned to their positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryKeyNorm {
    /// Not at all.
    None,
    /// Each head by itself, all with one weight of `head_dim`.
    Head,
    /// All heads of a stream together, with a weight of the projection's width.
    Projection,
}

/// What `transformers` takes where a configuration has no such key.
pub(super) struct Defaults {
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    /// As many as query heads where there is none.
    pub num_key_value_heads: Option<usize>,
    /// `hidden_size / num_attention_heads` where there is none.
    pub head_dim: Option<usize>,
    pub sliding_window: Option<usize>,
    pub bos_token_id: Option<u32>,
    pub eos_token_id: Option<u32>,
    pub pad_token_id: Option<u32>,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3, Self::Olmo2];

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "Llama",
            Self::Mistral => "Mistral",
            Self::Qwen2 => "Qwen2",
            Self::Qwen3 => "Qwen3",
            Self::Olmo2 => "OLMo-2",
        }
    }

    /// The `model_type` of its configurations.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Olmo2 => "olmo2",
        }
    }

    /// The class of `transformers` that its configurations name.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Olmo2 => "Olmo2ForCausalLM",
        }
    }

    /// How its queries and keys are normalised.
    pub fn query_key_norm(self) -> QueryKeyNorm {
        match self {
            Self::Llama | Self::Mistral | Self::Qwen2 => QueryKeyNorm::None,
            Self::Qwen3 => QueryKeyNorm::Head,
            Self::Olmo2 => QueryKeyNorm::Projection,
        }
    }

    /// Whether what attention and feed-forward network write is normalised, rather than what they read.
    pub fn has_post_norms(self) -> bool {
        self == Self::Olmo2
    }

    /// The norms of the residual stream in a layer: the attention's and the feed-forward network's.
    pub fn residual_norms(self) -> [Norm; 2] {
        if self.has_post_norms() { [Norm::PostAttention, Norm::PostFeedforward] } else { [Norm::Input, Norm::PostAttention] }
    }

    /// Every norm of a layer: those of the residual stream, then those of queries and keys.
    pub fn layer_norms(self) -> Vec<Norm> {
        let mut norms = self.residual_norms().to_vec();
        if self.query_key_norm() != QueryKeyNorm::None {
            norms.extend([Norm::Query, Norm::Key]);
        }
        norms
    }

    /// Whether its q, k and v always have biases, whatever the configuration says.
    pub(super) fn always_biased(self, projection: Projection) -> bool {
        self == Self::Qwen2 && matches!(projection, Projection::Q | Projection::K | Projection::V)
    }

    /// Whether `attention_bias`, or `mlp_bias`, is a key of its configurations.
    pub(super) fn has_key(self, key: &str) -> bool {
        match key {
            "attention_bias" => matches!(self, Self::Llama | Self::Qwen3 | Self::Olmo2),
            "mlp_bias" => self == Self::Llama,
            _ => false,
        }
    }

    /// Whether its configurations say, by `use_sliding_window` and layer by layer, where the window is.
    pub(super) fn chooses_windows(self) -> bool {
        matches!(self, Self::Qwen2 | Self::Qwen3)
    }

    /// Whether any of its layers can have a sliding window.
    pub(super) fn can_slide(self) -> bool {
        self == Self::Mistral || self.chooses_windows()
    }

    pub(super) fn defaults(self) -> Defaults {
        let llama = Defaults {
            max_position_embeddings: 2048,
            rms_norm_eps: 1e-6,
            num_key_value_heads: None,
            head_dim: None,
            sliding_window: None,
            bos_token_id: Some(1),
            eos_token_id: Some(2),
            pad_token_id: None,
        };
        let qwen = |head_dim| Defaults {
            max_position_embeddings: 32_768,
            num_key_value_heads: Some(32),
            head_dim,
            sliding_window: Some(4096),
            bos_token_id: None,
            eos_token_id: None,
            ..Self::Llama.defaults()
        };
        match self {
            Self::Llama => llama,
            Self::Mistral => {
                Defaults { max_position_embeddings: 4096 * 32, num_key_value_heads: Some(8), sliding_window: Some(4096), ..llama }
            }
            Self::Qwen2 => qwen(None),
            Self::Qwen3 => qwen(Some(128)),
            Self::Olmo2 => Defaults { rms_norm_eps: 1e-5, bos_token_id: None, eos_token_id: Some(50_279), pad_token_id: Some(1), ..llama },
        }
    }

    /// The family of a `model_type`, or of an architecture's class.
    pub(super) fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.model_type() == name || family.architecture() == name)
    }

    /// The types that can be read, as error messages list them.
    pub(super) fn known() -> String {
        let names: Vec<&str> = Self::ALL.iter().map(|family| family.model_type()).collect();
        names.join(", ")
    }
}
