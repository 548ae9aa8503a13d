//! How much wider a model becomes.

use serde::{Deserialize, Serialize};

use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::grow::placement::{Module, Placement};

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
    /// What is taken where nothing is asked for: about an eighth of the base in every direction; of the feed-forward network a twelfth where low-rank parts of the base's own
    /// weights carry a part of what is learnt: that costs no perplexity and makes a step cheaper than one of full fine-tuning (docs/experiments.md, "A narrower feed-forward ring").
    pub fn suggested(config: &Config, placement: &Placement) -> Self {
        let part = |n: usize, of: usize| {
            let n = (n / of).max(1);
            // Multiples of a kernel's panel waste nothing; a model too small for one takes what it has.
            if n >= 32 { n / 32 * 32 } else { n }
        };
        let num_key_value_heads = (config.num_key_value_heads / 8).max(1);
        Self {
            hidden_size: part(config.hidden_size, 8),
            num_attention_heads: num_key_value_heads * group(config),
            num_key_value_heads,
            intermediate_size: part(config.intermediate_size, if placement.r > 0 { 12 } else { 8 }),
        }
    }

    /// These sizes, but for the ones that are given; of the two head counts the one that is given decides the other.
    /// They are not checked.
    pub(super) fn complete(self, config: &Config, given: &Given) -> Self {
        let (num_attention_heads, num_key_value_heads) = match (given.num_attention_heads, given.num_key_value_heads) {
            (Some(query), Some(key_value)) => (query, key_value),
            (Some(query), None) => (query, query / group(config)),
            (None, Some(key_value)) => (key_value.saturating_mul(group(config)), key_value),
            (None, None) => (self.num_attention_heads, self.num_key_value_heads),
        };
        Self {
            hidden_size: given.hidden_size.unwrap_or(self.hidden_size),
            num_attention_heads,
            num_key_value_heads,
            intermediate_size: given.intermediate_size.unwrap_or(self.intermediate_size),
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

/// What of a growth a recipe or a command line gives; what it does not, defaults and the base decide.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// Added width of the residual stream.
    pub hidden_size: Option<usize>,
    /// Added query heads.
    pub num_attention_heads: Option<usize>,
    /// Added key/value heads.
    pub num_key_value_heads: Option<usize>,
    /// Added width of the feed-forward network.
    pub intermediate_size: Option<usize>,
    /// [`Placement::preserved_layers`].
    pub preserved_layers: Option<usize>,
    /// [`Placement::modules`].
    pub modules: Option<Vec<Module>>,
    /// [`Placement::r`].
    pub r: Option<usize>,
    /// [`Placement::sink_layers`].
    pub sink_layers: Option<usize>,
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
    /// What is given, completed: with the placement `default`, and with sizes that suit what comes of the two.
    ///
    /// # Errors
    /// As [`Growth::validate`].
    pub fn complete(config: &Config, default: Placement, given: &Given) -> Result<Self> {
        let placement = default.complete(config, given);
        let sizes = Sizes::suggested(config, &placement).complete(config, given);
        let growth = Self { sizes, placement };
        growth.validate(config)?;
        Ok(growth)
    }

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
pub(super) mod tests {
    use super::*;

    /// SmolLM2-135M: 9 query heads on 3 key/value heads.
    pub(crate) fn smol() -> Config {
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
            for placement in [Placement::preserve(&config), Placement::route()] {
                Sizes::suggested(&config, &placement).validate(&config).unwrap();
            }
        }
    }

    #[test]
    fn beside_low_rank_parts_a_narrower_feed_forward_network_is_suggested() {
        let suggested = |placement: &Placement| Sizes::suggested(&smol(), placement);
        assert_eq!(suggested(&Placement::preserve(&smol())), sizes(64, 3, 1, 192));
        assert_eq!(suggested(&Placement { r: 0, ..Placement::route() }), sizes(64, 3, 1, 192));
        assert_eq!(suggested(&Placement::route()), sizes(64, 3, 1, 128));
    }

    #[test]
    fn one_head_count_decides_the_other() {
        let suggested = Sizes::suggested(&smol(), &Placement::preserve(&smol()));
        let heads = |query, key_value| {
            let given = Given { num_attention_heads: query, num_key_value_heads: key_value, ..Given::default() };
            let sizes = suggested.complete(&smol(), &given);
            (sizes.validate(&smol()).is_ok(), sizes.num_attention_heads, sizes.num_key_value_heads)
        };
        assert_eq!(heads(Some(6), None), (true, 6, 2));
        assert_eq!(heads(None, Some(3)), (true, 9, 3));
        assert_eq!(heads(Some(4), Some(2)), (false, 4, 2));
        assert_eq!(suggested.complete(&smol(), &Given::default()), suggested);
        assert!(!heads(Some(4), None).0 && !heads(None, Some(usize::MAX)).0);
    }
}
