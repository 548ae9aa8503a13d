//! How much wider a model becomes, and which expansion-to-base blocks are trained.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::baseline::MAX_RANK;
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

    /// The sizes asked for, completed with [`Sizes::suggested`]; of the two head counts the one that is given decides the other.
    /// They are not checked.
    pub fn complete(
        config: &Config,
        hidden_size: Option<usize>,
        num_attention_heads: Option<usize>,
        num_key_value_heads: Option<usize>,
        intermediate_size: Option<usize>,
    ) -> Self {
        let suggested = Self::suggested(config);
        let (num_attention_heads, num_key_value_heads) = match (num_attention_heads, num_key_value_heads) {
            (Some(query), Some(key_value)) => (query, key_value),
            (Some(query), None) => (query, query / group(config)),
            (None, Some(key_value)) => (key_value.saturating_mul(group(config)), key_value),
            (None, None) => (suggested.num_attention_heads, suggested.num_key_value_heads),
        };
        Self {
            hidden_size: hidden_size.unwrap_or(suggested.hidden_size),
            num_attention_heads,
            num_key_value_heads,
            intermediate_size: intermediate_size.unwrap_or(suggested.intermediate_size),
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
/// Preserve is `preserved_layers = num_hidden_layers`. There too, the adapted copy of the base stream may have low-rank parts of its own.
///
/// # Paper
/// Section 3.3 (`L_fp`) and Figures 6 and 7. The low-rank parts are ours (docs/decisions/0009-adapters.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The lowest layers whose W12 stays zero.
    pub preserved_layers: usize,
    /// The modules whose W12 is trained above them.
    pub modules: Vec<Module>,
    /// Rank of what is added to the base's own weight in the adapted copy of its stream, beside every W12: `W + 2 B A`, with `A [r, in]` and `B [out, r]`.
    /// 0: nothing, as in the paper. The preserved copy never sees it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub r: usize,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
fn is_zero(n: &usize) -> bool {
    *n == 0
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
    /// The factor on `B A`: `lora_alpha` of twice the rank, as is usual.
    pub const SCALING: f32 = 2.0;

    /// No W12 anywhere: the base stream never changes.
    ///
    /// # Paper
    /// SCALE-Preserve.
    pub fn preserve(config: &Config) -> Self {
        Self { preserved_layers: config.num_hidden_layers, modules: Vec::new(), r: 0 }
    }

    /// W12 in the attention of the upper half of the layers, the default of SCALE-Adapt.
    pub fn adapt(config: &Config) -> Self {
        Self { preserved_layers: config.num_hidden_layers / 2, modules: vec![Module::Attention], r: 0 }
    }

    /// W12 in every module of every layer, the default of SCALE-Route: what the adaptation head forgets is the router's business there, and with fewer layers
    /// or modules it learns less (docs/experiments.md).
    pub fn route() -> Self {
        Self { preserved_layers: 0, modules: Module::ALL.to_vec(), r: 0 }
    }

    /// Whether any W12 is trained.
    pub fn is_preserve(&self, config: &Config) -> bool {
        self.fork_layer(config.num_hidden_layers) == config.num_hidden_layers
    }

    /// Checks the placement against a base.
    ///
    /// # Errors
    /// [`Error::Usage`] where there are fewer layers than `preserved_layers`, or layers that train W12 but in no module, a module named twice, or a rank
    /// where nothing is adapted or beyond all sense.
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
        if self.r > MAX_RANK {
            return Err(Error::usage(format!("r: {} is out of range; allowed are 0 to {MAX_RANK}", self.r)));
        }
        if self.r > 0 && self.is_preserve(config) {
            return Err(Error::usage(format!(
                "r = {}, but expansion_to_base is trained nowhere: a low-rank part stands beside it, in the copy of the base stream that it makes",
                self.r
            )));
        }
        Ok(())
    }

    /// Checks that an expansion around `inner` rings may be placed so: only the first ring may add to the base stream.
    ///
    /// # Errors
    /// [`Error::Usage`] where W12 is to be trained in a further ring.
    pub fn check_ring(&self, config: &Config, inner: usize) -> Result<()> {
        if inner > 0 && !self.is_preserve(config) {
            return Err(Error::usage(format!(
                "ring {} cannot train expansion_to_base: it would change what the {} within it were taught; \
                 on a widened model only scale-preserve is allowed, and the first ring may be of any kind",
                inner + 1,
                if inner == 1 { "ring".into() } else { format!("{inner} rings") },
            )));
        }
        Ok(())
    }

    /// Whether `module` of `layer` trains its expansion-to-base block.
    pub fn trains(&self, layer: usize, module: Module) -> bool {
        layer >= self.preserved_layers && self.modules.contains(&module)
    }

    /// The rank of what is added to the base's own weight of `module` in `layer`; `None` where nothing is.
    pub fn rank(&self, layer: usize, module: Module) -> Option<usize> {
        Some(self.r).filter(|&r| r > 0 && self.trains(layer, module))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// SmolLM2-135M: 9 query heads on 3 key/value heads.
    fn smol() -> Config {
        let mut config = Config::new(49_152, 576, 1536, 30, 9);
        config.num_key_value_heads = 3;
        config
    }

    fn sizes(hidden_size: usize, num_attention_heads: usize, num_key_value_heads: usize, intermediate_size: usize) -> Sizes {
        Sizes { hidden_size, num_attention_heads, num_key_value_heads, intermediate_size }
    }

    fn refusal(sizes: Sizes) -> String {
        match sizes.validate(&smol()) {
            Err(Error::Usage(message)) => message,
            other => panic!("{sizes:?}: {other:?}"),
        }
    }

    #[test]
    fn sizes_that_keep_the_group_ratio_are_accepted_up_to_the_base() {
        for (query, key_value) in [(3, 1), (6, 2), (9, 3)] {
            sizes(1, query, key_value, 1536).validate(&smol()).unwrap();
            sizes(576, query, key_value, 1).validate(&smol()).unwrap();
        }
    }

    #[test]
    fn a_broken_group_ratio_is_refused_with_the_nearest_pairs_that_keep_it() {
        for (query, key_value) in [(4, 1), (5, 1), (6, 1), (3, 2), (4, 2)] {
            let message = refusal(sizes(64, query, key_value, 256));
            assert!(message.contains("group ratio"), "{message}");
            let suggested: Vec<(usize, usize)> = message
                .rsplit("keep it are ")
                .next()
                .unwrap()
                .split(", or ")
                .map(|pair| pair.split_once(" and ").map(|(q, k)| (q.parse().unwrap(), k.parse().unwrap())).unwrap())
                .collect();
            assert!(!suggested.is_empty());
            for (query, key_value) in suggested {
                sizes(64, query, key_value, 256).validate(&smol()).unwrap();
            }
        }
    }

    #[test]
    fn zero_and_what_exceeds_the_base_are_refused_with_the_nearest_that_would_do() {
        let huge = usize::MAX;
        for (asked, key, nearest) in [
            (sizes(0, 3, 1, 256), "hidden_size = 0", "nearest is 1"),
            (sizes(577, 3, 1, 256), "hidden_size = 577", "nearest is 576"),
            (sizes(huge, 3, 1, 256), "hidden_size", "nearest is 576"),
            (sizes(64, 3, 1, 0), "intermediate_size = 0", "nearest is 1"),
            (sizes(64, 3, 1, 1537), "intermediate_size = 1537", "nearest is 1536"),
            (sizes(64, 0, 0, 256), "num_attention_heads = 0", "nearest are 3 and 1"),
            (sizes(64, 3, 0, 256), "num_key_value_heads = 0", "nearest are 3 and 1"),
            (sizes(64, 12, 4, 256), "num_attention_heads = 12", "nearest are 9 and 3"),
            (sizes(64, huge, huge, 256), "num_attention_heads", "nearest are 9 and 3"),
        ] {
            let message = refusal(asked);
            assert!(message.contains(key) && message.contains(nearest), "{message}");
        }
    }

    #[test]
    fn suggested_sizes_fit_every_base() {
        for (hidden, ffn, query, key_value) in [(576, 1536, 9, 3), (2048, 8192, 32, 8), (64, 172, 8, 4), (8, 4, 1, 1), (2, 1, 1, 1)] {
            let mut config = Config::new(100, hidden, ffn, 2, query);
            config.num_key_value_heads = key_value;
            Sizes::suggested(&config).validate(&config).unwrap();
        }
    }

    #[test]
    fn one_head_count_decides_the_other() {
        let heads = |query, key_value| {
            let sizes = Sizes::complete(&smol(), None, query, key_value, None);
            (sizes.num_attention_heads, sizes.num_key_value_heads)
        };
        assert_eq!(heads(Some(6), None), (6, 2));
        assert_eq!(heads(None, Some(3)), (9, 3));
        assert_eq!(heads(Some(4), Some(2)), (4, 2));
        assert_eq!(Sizes::complete(&smol(), None, None, None, None), Sizes::suggested(&smol()));
        assert!(Sizes::complete(&smol(), None, Some(4), None, None).validate(&smol()).is_err());
        assert!(Sizes::complete(&smol(), None, None, Some(usize::MAX), None).validate(&smol()).is_err());
    }

    #[test]
    fn a_placement_has_layers_and_modules_that_exist() {
        let place = |preserved_layers, modules: &[Module]| Placement { preserved_layers, modules: modules.to_vec(), r: 0 };
        for good in [place(30, &[]), place(30, &[Module::Ffn]), place(0, &Module::ALL), place(29, &[Module::Attention])] {
            good.validate(&smol()).unwrap();
        }
        for (bad, says) in [
            (place(31, &[Module::Ffn]), "the base has 30 layers"),
            (place(usize::MAX, &[]), "the base has 30 layers"),
            (place(29, &[]), "modules is empty"),
            (place(3, &[Module::Ffn, Module::Ffn]), "\"ffn\" twice"),
        ] {
            let message = bad.validate(&smol()).unwrap_err().to_string();
            assert!(message.contains(says), "{message}");
        }
    }

    #[test]
    fn preserve_forks_nowhere_and_adapt_in_the_upper_half() {
        assert!(Placement::preserve(&smol()).is_preserve(&smol()));
        let adapt = Placement::adapt(&smol());
        assert!(!adapt.is_preserve(&smol()));
        assert_eq!((adapt.fork_layer(30), adapt.modules.as_slice()), (15, &[Module::Attention][..]));
    }

    #[test]
    fn modules_read_back_as_they_are_written() {
        for module in Module::ALL {
            assert_eq!(module.to_string().parse::<Module>().unwrap(), module);
        }
        assert!("mlp".parse::<Module>().unwrap_err().to_string().contains("`mlp`"));
    }
}
