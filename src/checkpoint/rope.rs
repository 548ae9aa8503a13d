//! Rotary frequencies, plain and stretched, as `transformers` computes them.

use std::f64::consts::PI;

use serde_json::{Value, json};

use super::config::{Config, DEFAULT_ROPE_THETA, MAX_SIZE};
use super::config_json::Keys;

type Checked<T> = std::result::Result<T, String>;

/// How the rotary frequencies are stretched beyond the length a model was first trained on.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// Every frequency divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Low frequencies divided by `factor`, high ones kept, those between interpolated (Llama 3.1).
    Llama3 {
        /// The divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are high frequencies.
        high_freq_factor: f64,
        /// Length of the first training, in tokens.
        original_max_position_embeddings: usize,
    },
    /// YaRN: interpolated by dimension, with cosines and sines scaled.
    Yarn(Yarn),
    /// Each frequency divided by its own factor, as a GGUF's `rope_freqs` tensor says; written as `longrope` with equal short and long factors.
    FrequencyFactors(Vec<f32>),
}

/// The parameters of YaRN.
///
/// # Paper
/// *YaRN: Efficient Context Window Extension of Large Language Models* (arXiv 2309.00071).
#[derive(Debug, Clone, PartialEq)]
pub struct Yarn {
    /// The divisor of the interpolated frequencies.
    pub factor: f64,
    /// Length of the first training, in tokens.
    pub original_max_position_embeddings: usize,
    /// Rotations over that length above which a frequency is kept.
    pub beta_fast: f64,
    /// Rotations over that length below which a frequency is divided.
    pub beta_slow: f64,
    /// What cosines and sines are multiplied by; computed from the others where absent.
    pub attention_factor: Option<f64>,
    /// Scale of the logarithm in the numerator of the attention factor; counts only with `mscale_all_dim`.
    pub mscale: Option<f64>,
    /// Scale of the logarithm in its denominator.
    pub mscale_all_dim: Option<f64>,
    /// Whether the interpolated range is widened to whole dimensions.
    pub truncate: bool,
}

/// The rotary frequency of each pair of dimensions, and the factor that cosines and sines are multiplied by.
///
/// # Shapes
/// `[head_dim / 2]`.
pub fn inverse_frequencies(config: &Config) -> (Vec<f32>, f32) {
    let dim = config.head_dim;
    // `transformers` raises the base to f32 exponents and rounds to f32; so do we, by way of f64.
    let base = |i: usize| ((config.rope_theta as f32) as f64).powf(((2 * i) as f32 / dim as f32) as f64) as f32;
    let plain = (0..dim / 2).map(|i| 1.0 / base(i));
    match &config.rope_scaling {
        RopeScaling::Default => (plain.collect(), 1.0),
        RopeScaling::Linear { factor } => (plain.map(|f| f / *factor as f32).collect(), 1.0),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            let original = *original_max_position_embeddings as f64;
            let (long, short) = ((original / low_freq_factor) as f32, (original / high_freq_factor) as f32);
            let stretch = |f: f32| {
                let wavelength = (2.0 * PI) as f32 / f;
                if wavelength > long {
                    f / *factor as f32
                } else if wavelength < short {
                    f
                } else {
                    let smooth = (original as f32 / wavelength - *low_freq_factor as f32) / (high_freq_factor - low_freq_factor) as f32;
                    (1.0 - smooth) * f / *factor as f32 + smooth * f
                }
            };
            (plain.map(stretch).collect(), 1.0)
        }
        RopeScaling::Yarn(yarn) => {
            let (low, high) = yarn.range(dim, config.rope_theta);
            let stretched = (0..dim / 2).map(|i| {
                let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                let kept = 1.0 - ramp;
                let base = base(i);
                1.0 / (yarn.factor as f32 * base) * (1.0 - kept) + 1.0 / base * kept
            });
            (stretched.collect(), yarn.attention_factor() as f32)
        }
        RopeScaling::FrequencyFactors(factors) => ((0..dim / 2).zip(factors).map(|(i, factor)| 1.0 / (factor * base(i))).collect(), 1.0),
    }
}

/// What Llama 3's scaling divides frequency `i` by, as converters to GGUF write it.
pub(super) fn llama3_factor(config: &Config, i: usize, factor: f64, low: f64, high: f64, original: usize) -> f64 {
    let wavelength = 2.0 * PI * config.rope_theta.powf((2 * i) as f64 / config.head_dim as f64);
    let rotations = original as f64 / wavelength;
    let smooth = ((rotations - low) / (high - low)).clamp(0.0, 1.0);
    1.0 / ((1.0 - smooth) / factor + smooth)
}

impl Yarn {
    /// What cosines and sines are multiplied by.
    pub fn attention_factor(&self) -> f64 {
        let scale = |mscale: f64| if self.factor <= 1.0 { 1.0 } else { 0.1 * mscale * self.factor.ln() + 1.0 };
        match (self.attention_factor, self.mscale, self.mscale_all_dim) {
            (Some(factor), _, _) => factor,
            // Zero counts as absent, as in Python.
            (None, Some(mscale), Some(all)) if mscale != 0.0 && all != 0.0 => scale(mscale) / scale(all),
            _ => scale(1.0),
        }
    }

    /// The dimensions between which frequencies are interpolated, the second above the first.
    fn range(&self, dim: usize, theta: f64) -> (f64, f64) {
        let dimension = |rotations: f64| {
            (dim as f64 * (self.original_max_position_embeddings as f64 / (rotations * 2.0 * PI)).ln()) / (2.0 * theta.ln())
        };
        let (mut low, mut high) = (dimension(self.beta_fast), dimension(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min((dim - 1) as f64));
        if low == high {
            high += 0.001;
        }
        (low, high)
    }
}

impl RopeScaling {
    pub(super) fn check(&self, theta: f64, head_dim: usize) -> Checked<()> {
        let positive = |key: &str, value: f64| {
            if value.is_finite() && value > 0.0 {
                Ok(())
            } else {
                Err(format!("rope scaling: `{key}` is {value}; it must be a positive number"))
            }
        };
        let length = |value: usize| {
            let found = u64::try_from(value).unwrap_or(u64::MAX);
            if (1..=MAX_SIZE).contains(&found) {
                Ok(())
            } else {
                Err(format!(
                    "rope scaling: `original_max_position_embeddings` is {value}; a whole number from 1 to {MAX_SIZE} was expected"
                ))
            }
        };
        match self {
            Self::Default => Ok(()),
            Self::Linear { factor } => positive("factor", *factor),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                positive("factor", *factor)?;
                positive("low_freq_factor", *low_freq_factor)?;
                positive("high_freq_factor", *high_freq_factor)?;
                length(*original_max_position_embeddings)?;
                if high_freq_factor > low_freq_factor {
                    Ok(())
                } else {
                    Err(format!(
                        "rope scaling: `high_freq_factor` ({high_freq_factor}) must be above `low_freq_factor` ({low_freq_factor})"
                    ))
                }
            }
            Self::Yarn(yarn) => {
                positive("factor", yarn.factor)?;
                positive("beta_fast", yarn.beta_fast)?;
                positive("beta_slow", yarn.beta_slow)?;
                length(yarn.original_max_position_embeddings)?;
                positive("attention_factor", yarn.attention_factor())?;
                if theta <= 1.0 {
                    return Err(format!("rope scaling: yarn needs a `rope_theta` above 1, and it is {theta}"));
                }
                if yarn.beta_fast >= yarn.beta_slow {
                    Ok(())
                } else {
                    Err(format!("rope scaling: `beta_fast` ({}) must not be below `beta_slow` ({})", yarn.beta_fast, yarn.beta_slow))
                }
            }
            Self::FrequencyFactors(factors) => {
                if factors.len() != head_dim / 2 {
                    return Err(format!(
                        "rope scaling: {} frequency factors where `head_dim` {head_dim} needs {}",
                        factors.len(),
                        head_dim / 2
                    ));
                }
                factors.iter().try_for_each(|&factor| positive("frequency factor", f64::from(factor)))
            }
        }
    }

    /// The object that `rope_scaling` and `rope_parameters` hold, without `rope_theta`.
    pub(super) fn to_json(&self, max_position_embeddings: usize) -> Value {
        match self {
            Self::Default => json!({"rope_type": "default"}),
            Self::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_max_position_embeddings,
            }),
            Self::Yarn(yarn) => {
                let mut value = json!({
                    "rope_type": "yarn",
                    "factor": yarn.factor,
                    "original_max_position_embeddings": yarn.original_max_position_embeddings,
                    "beta_fast": yarn.beta_fast,
                    "beta_slow": yarn.beta_slow,
                    "truncate": yarn.truncate,
                });
                for (key, number) in
                    [("attention_factor", yarn.attention_factor), ("mscale", yarn.mscale), ("mscale_all_dim", yarn.mscale_all_dim)]
                {
                    if let Some(number) = number {
                        value[key] = json!(number);
                    }
                }
                value
            }
            Self::FrequencyFactors(factors) => json!({
                "rope_type": "longrope",
                "short_factor": factors,
                "long_factor": factors,
                "factor": 1.0,
                "attention_factor": 1.0,
                "original_max_position_embeddings": max_position_embeddings,
            }),
        }
    }
}

/// Reads `rope_theta` and the scaling from wherever a version of `transformers` writes them: beside each other (`rope_theta`, `rope_scaling`),
/// or together in `rope_parameters`; the type under `rope_type` or `type`.
pub(super) fn from_config(keys: &Keys, max_position_embeddings: usize) -> Checked<(f64, RopeScaling)> {
    let empty = serde_json::Map::new();
    let object = |key: &str| match keys.get(key) {
        None => Ok(None),
        // An empty object says nothing, as in Python.
        Some(Value::Object(map)) if map.is_empty() => Ok(None),
        Some(Value::Object(map)) => Ok(Some(map)),
        Some(_) => Err(format!("`{key}` is not an object")),
    };
    let parameters = match object("rope_scaling")? {
        Some(map) => map,
        None => object("rope_parameters")?.unwrap_or(&empty),
    };
    let scaling = Keys(parameters);
    let theta = match (scaling.number("rope_theta")?, keys.number("rope_theta")?) {
        (Some(theta), _) | (None, Some(theta)) => theta,
        // A reader that writes both forms may leave the base in the one that was not chosen above.
        (None, None) => match object("rope_parameters")? {
            Some(map) => Keys(map).number("rope_theta")?.unwrap_or(DEFAULT_ROPE_THETA),
            None => DEFAULT_ROPE_THETA,
        },
    };
    if let Some(partial) = scaling.number("partial_rotary_factor")?.filter(|&p| p != 1.0) {
        return Err(format!("`partial_rotary_factor` is {partial}; only 1 is supported"));
    }
    let kind = match scaling.text("rope_type")? {
        Some(kind) => kind,
        None => scaling.text("type")?.unwrap_or("default"),
    };
    let number = |key: &str| scaling.number(key)?.ok_or_else(|| format!("rope scaling \"{kind}\" has no `{key}`"));
    let original = || -> Checked<usize> {
        Ok(match keys.size("original_max_position_embeddings")? {
            Some(length) => length,
            None => scaling.size("original_max_position_embeddings")?.unwrap_or(max_position_embeddings),
        })
    };
    let scaling = match kind {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear { factor: number("factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: number("factor")?,
            low_freq_factor: number("low_freq_factor")?,
            high_freq_factor: number("high_freq_factor")?,
            original_max_position_embeddings: original()?,
        },
        "yarn" => {
            let original_max_position_embeddings = original()?;
            RopeScaling::Yarn(Yarn {
                factor: match scaling.number("factor")? {
                    Some(factor) => factor,
                    None => max_position_embeddings as f64 / original_max_position_embeddings.max(1) as f64,
                },
                original_max_position_embeddings,
                beta_fast: scaling.number("beta_fast")?.filter(|&beta| beta != 0.0).unwrap_or(32.0),
                beta_slow: scaling.number("beta_slow")?.filter(|&beta| beta != 0.0).unwrap_or(1.0),
                attention_factor: scaling.number("attention_factor")?,
                mscale: scaling.number("mscale")?,
                mscale_all_dim: scaling.number("mscale_all_dim")?,
                truncate: scaling.boolean("truncate")?.unwrap_or(true),
            })
        }
        "longrope" if scaling.get("short_factor").is_some() && scaling.get("short_factor") == scaling.get("long_factor") => {
            if number("attention_factor")? != 1.0 {
                return Err("rope scaling \"longrope\" is supported with `attention_factor` 1 only".into());
            }
            let factors = scaling.get("short_factor").and_then(Value::as_array).map(|list| list.iter().map(Value::as_f64).collect());
            match factors {
                Some(Some(factors)) => RopeScaling::FrequencyFactors(Vec::into_iter(factors).map(|f: f64| f as f32).collect()),
                _ => return Err("rope scaling \"longrope\": `short_factor` is not a list of numbers".into()),
            }
        }
        other => return Err(format!("rope scaling \"{other}\" is not supported; \"default\", \"linear\", \"llama3\" and \"yarn\" are")),
    };
    Ok((theta, scaling))
}
