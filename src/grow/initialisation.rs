//! What the new blocks start from.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What one block starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Initial {
    /// Zeros.
    Zero,
    /// N(0, 0.02²).
    Random,
    /// The top rows of `S Vᵀ` of the base weight `W = U S Vᵀ`; random where there are more rows or columns than it has.
    Svd,
}

impl Initial {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Zero, Self::Random, Self::Svd];

    /// The name used in recipes, on the command line and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Zero => "zero",
            Self::Random => "random",
            Self::Svd => "svd",
        }
    }
}

/// What the blocks W21 and W22 of every projection start from; written `svd,zero`.
///
/// # Paper
/// Section 3.2 and Figure 5 name `zero,random`, `random,zero`, `zero,svd` and `svd,zero`, the best and the default; any pair is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Initialisation {
    /// W21.
    pub base_to_expansion: Initial,
    /// W22.
    pub expansion_to_expansion: Initial,
}

impl Default for Initialisation {
    fn default() -> Self {
        Self { base_to_expansion: Initial::Svd, expansion_to_expansion: Initial::Zero }
    }
}

impl fmt::Display for Initialisation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.base_to_expansion.as_str(), self.expansion_to_expansion.as_str())
    }
}

impl FromStr for Initialisation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = || {
            Error::usage(format!(
                "init: `{text}` is not a pair such as `svd,zero` (base_to_expansion, expansion_to_expansion; each zero, random or svd)"
            ))
        };
        let kind = |name: &str| Initial::ALL.into_iter().find(|k| k.as_str() == name.trim()).ok_or_else(refuse);
        let (first, second) = text.split_once(',').ok_or_else(refuse)?;
        Ok(Self { base_to_expansion: kind(first)?, expansion_to_expansion: kind(second)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_reads_back_as_it_is_written() {
        for base_to_expansion in Initial::ALL {
            for expansion_to_expansion in Initial::ALL {
                let pair = Initialisation { base_to_expansion, expansion_to_expansion };
                assert_eq!(pair.to_string().parse::<Initialisation>().unwrap(), pair);
            }
        }
        assert_eq!(Initialisation::default().to_string(), "svd,zero");
    }

    #[test]
    fn what_is_no_pair_is_refused_with_an_example() {
        for text in ["", "svd", "svd,", "svd,zero,zero", "SVD,zero", "eye,zero"] {
            let message = text.parse::<Initialisation>().unwrap_err().to_string();
            assert!(message.contains("`svd,zero`") && message.contains(&format!("`{text}`")), "{message}");
        }
    }
}
