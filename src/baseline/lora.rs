//! LoRA: a frozen matrix plus a trained product of two thin ones.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::Part;
use crate::checkpoint::Config;
use crate::checkpoint::names::{self, Projection};
use crate::error::{Error, Result};
use crate::grow::layout::Expected;
use crate::model::build::projection_shape;
use crate::model::{Block, Parameter, Precision};
use crate::ops::gemm::{Left, Right, View, gemm};

/// The largest rank: more than any matrix has, small enough that sizes fit.
pub const MAX_RANK: usize = 1 << 16;

/// Adapters: `y = W x + scaling · B A dropout(x)`, with `A [r, in]` and `B [out, r]`. Fields are named as in `peft`.
///
/// # Paper
/// Hu et al., ICLR 2022: A starts random and B at zero, so that nothing changes before the first step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lora {
    /// The rank.
    pub r: usize,
    /// What `scaling` is made from.
    pub lora_alpha: f64,
    /// The share of an adapter's inputs that is set to zero in training, anew for every token and module.
    pub lora_dropout: f64,
    /// The projections that have an adapter, in every layer.
    #[serde(serialize_with = "as_names")]
    pub target_modules: Vec<Projection>,
    /// Whether `scaling` is `lora_alpha / √r` rather than `lora_alpha / r`.
    pub use_rslora: bool,
    /// The modules that are trained whole beside the adapters, and kept with them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub modules_to_save: Vec<Whole>,
    /// Seed of A's first values and of the dropout.
    #[serde(skip)]
    pub seed: u64,
}

/// A module outside the layers that can be trained whole beside adapters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Whole {
    /// The input embedding, and the output projection too where the two are tied.
    EmbedTokens,
    /// An output projection of its own.
    LmHead,
}

impl Whole {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::EmbedTokens, Self::LmHead];

    /// The name in the base's files and in `modules_to_save`.
    pub fn name(self) -> &'static str {
        match self {
            Self::EmbedTokens => "embed_tokens",
            Self::LmHead => "lm_head",
        }
    }
}

fn as_names<S: Serializer>(modules: &[Projection], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_seq(modules.iter().map(|projection| projection.name()))
}

/// `W + scaling · B A` in f32.
///
/// # Shapes
/// `weight [out, width]`, `a [r, width]`, `b [out, r]`.
pub(crate) fn merge(weight: &mut [f32], scaling: f32, a: &[f32], b: &[f32], width: usize) {
    let r = a.len() / width;
    let scaled: Vec<f32> = b.iter().map(|v| v * scaling).collect();
    let (left, right) = (Left::F32(View::rows(&scaled, r)), Right::F32(View::rows(a, width), Precision::F32));
    gemm(weight.len() / width, width, r, left, right, weight, width, true);
}

impl Lora {
    /// Rank 16, `lora_alpha` 32, no dropout, all seven projections of a layer (`"all-linear"` in `peft`).
    pub fn new(seed: u64) -> Self {
        Self {
            r: 16,
            lora_alpha: 32.0,
            lora_dropout: 0.0,
            target_modules: Projection::ALL.to_vec(),
            use_rslora: false,
            modules_to_save: Vec::new(),
            seed,
        }
    }

    /// The factor on `B A x`.
    pub fn scaling(&self) -> f64 {
        self.lora_alpha / if self.use_rslora { (self.r as f64).sqrt() } else { self.r as f64 }
    }

    /// Whether a part of the base is trained whole beside the adapters.
    pub(super) fn trains(&self, part: Part) -> bool {
        let whole = match part {
            Part::Embedding => Whole::EmbedTokens,
            Part::Head => Whole::LmHead,
            Part::Layer(_) | Part::Norm => return false,
        };
        self.modules_to_save.contains(&whole)
    }

    pub(super) fn validate(&self, config: &Config) -> Result<()> {
        if self.r == 0 || self.r > MAX_RANK {
            return Err(Error::usage(format!("r: {} is out of range; allowed are 1 to {MAX_RANK}", self.r)));
        }
        if !(self.lora_alpha.is_finite() && self.lora_alpha > 0.0) {
            return Err(Error::usage(format!("lora_alpha: {} is not a number above 0", self.lora_alpha)));
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            return Err(Error::usage(format!("lora_dropout: {} is not at least 0 and below 1", self.lora_dropout)));
        }
        if self.target_modules.is_empty() {
            return Err(Error::usage("target_modules: no module is named, so nothing would be trained"));
        }
        if config.tie_word_embeddings && self.trains(Part::Head) && !self.trains(Part::Embedding) {
            return Err(Error::usage(
                "modules_to_save: the base's `lm_head` is its `embed_tokens` (tie_word_embeddings), and one cannot be trained without the other\n  hint: name \"embed_tokens\", which trains both",
            ));
        }
        Ok(())
    }

    /// A and B of every adapted projection of a layer.
    pub(super) fn pairs(&self, config: &Config, layer: usize) -> impl Iterator<Item = Expected> {
        let adapted = Projection::ALL.into_iter().filter(|p| self.target_modules.contains(p));
        adapted.flat_map(move |projection| self.pair(config, layer, projection))
    }

    /// A and B of one projection.
    pub(crate) fn pair(&self, config: &Config, layer: usize, projection: Projection) -> [Expected; 2] {
        let ([out, input], module) = (projection_shape(config, projection), names::projection(layer, projection));
        let expected = |block, shape: [usize; 2]| Expected { name: names::block_weight(&module, block), block, shape: shape.to_vec() };
        [expected(Block::LoraA, [self.r, input]), expected(Block::LoraB, [out, self.r])]
    }

    /// The first values of an A or a B: uniform within `1 / √in` as in `peft`, and zero. They depend on the seed and the name only.
    pub(crate) fn initial(&self, expected: Expected) -> Parameter {
        let Expected { name, block, shape } = expected;
        let count = shape.iter().product();
        let value = if block == Block::LoraA {
            let bound = 1.0 / (shape[1] as f64).sqrt();
            let key = Sha256::new().chain_update(b"treering lora 1\0").chain_update(self.seed.to_le_bytes()).chain_update(&name).finalize();
            let mut random = ChaCha8Rng::from_seed(key.into());
            // 53 bits are a uniform number below 1.
            let uniform = |bits: u64| (bits >> 11) as f64 / (1u64 << 53) as f64;
            (0..count).map(|_| ((2.0 * uniform(random.next_u64()) - 1.0) * bound) as f32).collect()
        } else {
            vec![0.0; count]
        };
        Parameter { name, block, shape, value }
    }
}
