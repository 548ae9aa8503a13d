//! How much wider a model becomes, and which expansion-to-base blocks are trained.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::checkpoint::Config;
use crate::error::{Error, Result};

/// Added sizes. `num_attention_heads / num_key_value_heads` must equal the base's ratio; `head_dim` stays the base's.
///
/// # Paper
/// Section 3.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// Added width of the residual stream, `e`.
    pub hidden_size: usize,
    /// Added query heads, `He`.
    pub num_attention_heads: usize,
    /// Added key/value heads, `Ke`.
    pub num_key_value_heads: usize,
    /// Added width of the feed-forward network, `em`.
    pub intermediate_size: usize,
}

impl Sizes {
    /// About an eighth of the base in every direction: what `grow` and `plan` take where nothing is asked for.
    pub fn suggested(config: &Config) -> Self {
        let eighth = |n: usize| {
            let n = (n / 8).max(1);
            // Multiples of a kernel's panel waste nothing; a model too small for one takes what it has.
            if n >= 32 { n / 32 * 32 } else { n }
        };
        let num_key_value_heads = (config.num_key_value_heads / 8).max(1);
        Self {
            hidden_size: eighth(config.hidden_size),
            num_attention_heads: num_key_value_heads * group(config),
            num_key_value_heads,
            intermediate_size: eighth(config.intermediate_size),
        }
    }

    /// Checks the sizes against a base.
    ///
    /// Each is at least 1 and at most the base's own: `E_up` takes its columns from the base's main directions, of which there are `hidden_size`,
    /// and a model that has to more than double is better grown in rings.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the size, the base's, and the nearest sizes that would do.
    pub fn validate(&self, config: &Config) -> Result<()> {
        let group = group(config);
        let heads = |pairs: &[usize]| {
            let pairs: Vec<String> = pairs.iter().map(|k| format!("{} and {k}", k * group)).collect();
            pairs.join(", or ")
        };
        for (key, size, base) in
            [("hidden_size", self.hidden_size, config.hidden_size), ("intermediate_size", self.intermediate_size, config.intermediate_size)]
        {
            if size == 0 || size > base {
                return Err(Error::usage(format!(
                    "{key} = {size} cannot be added to a base of {base}: any size from 1 to {base} would do; the nearest is {}",
                    size.clamp(1, base)
                )));
            }
        }
        let (query, key_value) = (self.num_attention_heads, self.num_key_value_heads);
        let most = config.num_key_value_heads;
        // Both neighbours of what the query heads ask for, and what the key/value heads ask for.
        let mut nearest = vec![(query / group).clamp(1, most), query.div_ceil(group).clamp(1, most), key_value.clamp(1, most)];
        nearest.sort_unstable();
        nearest.dedup();
        if query == 0 || key_value == 0 || query > config.num_attention_heads || key_value > most {
            return Err(Error::usage(format!(
                "num_attention_heads = {query} and num_key_value_heads = {key_value} cannot be added to a base of {} and {most}: \
                 between 1 and {most} key/value heads, with {group} query heads each, would do; the nearest are {}",
                config.num_attention_heads,
                heads(&nearest)
            )));
        }
        if key_value.checked_mul(group) != Some(query) {
            return Err(Error::usage(format!(
                "num_attention_heads = {query} and num_key_value_heads = {key_value} break the base's group ratio: \
                 it has {} and {most}, so {group} query heads for each key/value head; the nearest that keep it are {}",
                config.num_attention_heads,
                heads(&nearest)
            )));
        }
        Ok(())
    }
}

/// Query heads for each key/value head of the base.
fn group(config: &Config) -> usize {
    (config.num_attention_heads / config.num_key_value_heads.max(1)).max(1)
}

/// Which modules of a layer train their expansion-to-base block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Module {
    /// `q_proj`, `k_proj`, `v_proj`, `o_proj`.
    Attention,
    /// `gate_proj`, `up_proj`, `down_proj`.
    Ffn,
}

/// Where W12 is trained: in the chosen modules of every layer from `preserved_layers` up.
/// Preserve is `preserved_layers = num_hidden_layers`.
///
/// # Paper
/// Section 3.3 (`L_fp`) and Figures 6 and 7.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The lowest layers whose W12 stays zero.
    pub preserved_layers: usize,
    /// The modules whose W12 is trained above them.
    pub modules: Vec<Module>,
}

impl Module {
    /// Both, in the order of the layer.
    pub const ALL: [Self; 2] = [Self::Attention, Self::Ffn];

    /// The name used in recipes, on the command line and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::Ffn => "ffn",
        }
    }
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Module {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|module| module.as_str() == text.trim())
            .ok_or_else(|| Error::usage(format!("modules: `{text}` is neither `attention` nor `ffn`")))
    }
}

impl Placement {
    /// No W12 anywhere: the base stream never changes.
    ///
    /// # Paper
    /// SCALE-Preserve.
    pub fn preserve(config: &Config) -> Self {
        Self { preserved_layers: config.num_hidden_layers, modules: Vec::new() }
    }

    /// W12 in the attention of the upper half of the layers, the default of SCALE-Adapt.
    pub fn adapt(config: &Config) -> Self {
        Self { preserved_layers: config.num_hidden_layers / 2, modules: vec![Module::Attention] }
    }

    /// Whether any W12 is trained.
    pub fn is_preserve(&self, config: &Config) -> bool {
        self.fork_layer(config.num_hidden_layers) == config.num_hidden_layers
    }

    /// Checks the placement against a base.
    ///
    /// # Errors
    /// [`Error::Usage`] where there are fewer layers than `preserved_layers`, or layers that train W12 but in no module, or a module named twice.
    pub fn validate(&self, config: &Config) -> Result<()> {
        let layers = config.num_hidden_layers;
        if self.preserved_layers > layers {
            return Err(Error::usage(format!(
                "preserved_layers = {} but the base has {layers} layers: 0 to {} train expansion_to_base above them, {layers} trains it nowhere",
                self.preserved_layers,
                layers.saturating_sub(1),
            )));
        }
        if self.modules.is_empty() && self.preserved_layers < layers {
            return Err(Error::usage(format!(
                "preserved_layers = {} leaves {} layers to train expansion_to_base in, but modules is empty: \
                 name \"attention\", \"ffn\" or both, or preserve all {layers} layers",
                self.preserved_layers,
                layers - self.preserved_layers,
            )));
        }
        if let Some(module) = Module::ALL.into_iter().find(|m| self.modules.iter().filter(|n| *n == m).count() > 1) {
            return Err(Error::usage(format!("modules names \"{module}\" twice")));
        }
        Ok(())
    }

    /// Whether `module` of `layer` trains its expansion-to-base block.
    pub fn trains(&self, layer: usize, module: Module) -> bool {
        layer >= self.preserved_layers && self.modules.contains(&module)
    }

    /// The first layer in which the base stream forks into a preserved and an adapted copy; `num_hidden_layers` when none does.
    pub fn fork_layer(&self, num_hidden_layers: usize) -> usize {
        if self.modules.is_empty() { num_hidden_layers } else { self.preserved_layers.min(num_hidden_layers) }
    }
}

/// Everything that defines the shape of a widened model beside its base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Growth {
    /// Added sizes.
    pub sizes: Sizes,
    /// Where W12 is trained.
    pub placement: Placement,
}

impl Growth {
    /// Checks sizes and placement against a base, and that what they add up to can be counted.
    ///
    /// # Errors
    /// [`Error::Usage`] naming what does not fit and the nearest that would.
    pub fn validate(&self, config: &Config) -> Result<()> {
        self.sizes.validate(config)?;
        self.placement.validate(config)?;
        super::layout::parameter_count(config, self).map(drop)
    }
}
