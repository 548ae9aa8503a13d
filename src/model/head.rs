//! The heads of a model and their names.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// One way of turning hidden states into a next-token distribution. Written and read as its name: `base`, `preservation`, `ring-1`, `adaptation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Head {
    /// A plain model's only head.
    Base,
    /// The base's logits, kept bit for bit.
    Preservation,
    /// What a widened model said before it was widened again: the base's logits and those of the rings up to this one, counted from 1.
    Ring(usize),
    /// The base's logits plus those of every ring: what the newest ring has learnt.
    Adaptation,
}

impl Head {
    /// The heads of a model with this many rings, in their order: each but the first goes on from the one before it.
    pub fn of_rings(rings: usize) -> Vec<Self> {
        match rings {
            0 => vec![Self::Base],
            _ => std::iter::once(Self::Preservation).chain((1..rings).map(Self::Ring)).chain([Self::Adaptation]).collect(),
        }
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Base => f.write_str("base"),
            Self::Preservation => f.write_str("preservation"),
            Self::Ring(number) => write!(f, "ring-{number}"),
            Self::Adaptation => f.write_str("adaptation"),
        }
    }
}

impl FromStr for Head {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |digits: &str| digits.parse().ok().filter(|&n: &usize| n > 0 && n.to_string() == digits);
        match text {
            "base" => Ok(Self::Base),
            "preservation" => Ok(Self::Preservation),
            "adaptation" => Ok(Self::Adaptation),
            _ => text
                .strip_prefix("ring-")
                .and_then(number)
                .map(Self::Ring)
                .ok_or_else(|| Error::usage(format!("head `{text}` is not one of base, preservation, ring-1, ring-2 …, adaptation"))),
        }
    }
}

impl Serialize for Head {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Head {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_the_newest_ring_is_always_the_adaptation_head() {
        let names = |rings| Head::of_rings(rings).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(0), ["base"]);
        assert_eq!(names(1), ["preservation", "adaptation"]);
        assert_eq!(names(3), ["preservation", "ring-1", "ring-2", "adaptation"]);
        for head in Head::of_rings(12).into_iter().chain([Head::Base]) {
            assert_eq!(head.to_string().parse::<Head>().unwrap(), head);
            assert_eq!(serde_json::from_str::<Head>(&serde_json::to_string(&head).unwrap()).unwrap(), head);
        }
        for wrong in ["", "ring", "ring-", "ring-0", "ring-01", "ring-x", "Base"] {
            assert!(wrong.parse::<Head>().unwrap_err().to_string().contains(wrong));
        }
    }
}
