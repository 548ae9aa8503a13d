//! Routers as text: `cosine`, `bayes:share=0.01,prior=0.5`.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::Router;
use crate::error::{Error, Result};
use crate::recipe::suggestion;

impl Router {
    /// The settings: name, value and default.
    fn settings(self) -> Vec<(&'static str, f64, f64)> {
        match self {
            Self::Preserve | Self::Adapt | Self::Confidence => Vec::new(),
            Self::Cosine { threshold } => vec![("threshold", threshold, Self::THRESHOLD)],
            Self::Bayes { share, prior } => vec![("share", share, Self::SHARE), ("prior", prior, Self::PRIOR)],
            Self::BayesConfidence { share, prior, margin, trust } => vec![
                ("share", share, Self::SHARE),
                ("prior", prior, Self::PRIOR),
                ("margin", margin, Self::MARGIN),
                ("trust", trust, Self::TRUST),
            ],
            Self::Gate { share, prior } => vec![("share", share, Self::SHARE), ("prior", prior, Self::GATE_PRIOR)],
            Self::Recall { threshold } => vec![("threshold", threshold, Self::RECALL_THRESHOLD)],
        }
    }

    /// The name alone.
    pub fn name(self) -> &'static str {
        match self {
            Self::Preserve => "preserve",
            Self::Adapt => "adapt",
            Self::Cosine { .. } => "cosine",
            Self::Confidence => "confidence",
            Self::Bayes { .. } => "bayes",
            Self::BayesConfidence { .. } => "bayes-confidence",
            Self::Gate { .. } => "gate",
            Self::Recall { .. } => "recall",
        }
    }

    /// The router of this name with its defaults.
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "preserve" => Self::Preserve,
            "adapt" => Self::Adapt,
            "cosine" => Self::Cosine { threshold: Self::THRESHOLD },
            "confidence" => Self::Confidence,
            "bayes" => Self::Bayes { share: Self::SHARE, prior: Self::PRIOR },
            "bayes-confidence" => {
                Self::BayesConfidence { share: Self::SHARE, prior: Self::PRIOR, margin: Self::MARGIN, trust: Self::TRUST }
            }
            "gate" => Self::gate(),
            "recall" => Self::recall(),
            _ => return None,
        })
    }

    /// Changes a setting; `None` where it has none of this name.
    fn setting_mut(&mut self, key: &str) -> Option<&mut f64> {
        match (self, key) {
            (Self::Cosine { threshold } | Self::Recall { threshold }, "threshold") => Some(threshold),
            (Self::Bayes { share, .. } | Self::BayesConfidence { share, .. } | Self::Gate { share, .. }, "share") => Some(share),
            (Self::Bayes { prior, .. } | Self::BayesConfidence { prior, .. } | Self::Gate { prior, .. }, "prior") => Some(prior),
            (Self::BayesConfidence { margin, .. }, "margin") => Some(margin),
            (Self::BayesConfidence { trust, .. }, "trust") => Some(trust),
            _ => None,
        }
    }
}

/// Checks a setting's value.
fn check(router: &str, key: &str, value: f64) -> Result<()> {
    let (holds, rule) = match key {
        "threshold" if router == "recall" => ((0.0..1.0).contains(&value), "at least 0 and below 1"),
        "threshold" => ((-1.0..=1.0).contains(&value), "a cosine, from -1 to 1"),
        "share" => ((0.0..1.0).contains(&value), "at least 0 and below 1"),
        "margin" => (value >= 0.0 && value.is_finite(), "0 or more"),
        // At 0 or 1 no text could ever change the router's mind.
        _ => (value > 0.0 && value < 1.0, "above 0 and below 1"),
    };
    if holds { Ok(()) } else { Err(Error::usage(format!("router `{router}`: {key} must be {rule}, not {value}"))) }
}

/// The name, and the settings that are not the defaults.
impl Display for Router {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        let changed = self.settings().into_iter().filter(|(_, value, default)| value != default);
        for (index, (key, value, _)) in changed.enumerate() {
            write!(f, "{}{key}={value}", if index == 0 { ':' } else { ',' })?;
        }
        Ok(())
    }
}

impl Serialize for Router {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Router {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, settings) = match text.split_once(':') {
            Some((name, settings)) => (name.trim(), Some(settings)),
            None => (text.trim(), None),
        };
        let mut router = Self::named(name).ok_or_else(|| {
            let hint = suggestion(name, Self::NAMES.into_iter());
            Error::usage(format!("router `{name}` is not one of {}{hint}", Self::NAMES.join(", ")))
        })?;
        let keys: Vec<&str> = router.settings().iter().map(|s| s.0).collect();
        let example = router.settings().first().map_or(String::new(), |(key, _, default)| format!(", for example {name}:{key}={default}"));
        let mut given: Vec<&str> = Vec::new();
        for setting in settings.iter().flat_map(|settings| settings.split(',')) {
            let Some((key, value)) = setting.split_once('=').map(|(key, value)| (key.trim(), value.trim())) else {
                return Err(Error::usage(format!("router `{name}`: expected KEY=VALUE, found `{setting}`{example}")));
            };
            let Some(slot) = router.setting_mut(key) else {
                let known = if keys.is_empty() { "it has none".into() } else { format!("known are {}", keys.join(", ")) };
                let hint = suggestion(key, keys.iter().copied());
                return Err(Error::usage(format!("router `{name}` has no setting `{key}`; {known}{hint}")));
            };
            let number =
                value.parse::<f64>().map_err(|_| Error::usage(format!("router `{name}`: {key} must be a number, not `{value}`")))?;
            check(name, key, number)?;
            *slot = number;
            if given.contains(&key) {
                return Err(Error::usage(format!("router `{name}`: {key} is given twice")));
            }
            given.push(key);
        }
        Ok(router)
    }
}

/// Several routers separated by commas: what is `KEY=VALUE` and not a router's beginning belongs to the router before it.
///
/// # Errors
/// A router that is not known or named twice, or one of its settings.
pub fn parse_list(text: &str) -> Result<Vec<Router>> {
    let mut texts: Vec<String> = Vec::new();
    for piece in text.split(',') {
        match texts.last_mut() {
            Some(last) if last.contains(':') && piece.contains('=') && !piece.contains(':') => *last = format!("{last},{piece}"),
            _ => texts.push(piece.to_owned()),
        }
    }
    let mut routers: Vec<Router> = Vec::new();
    for text in &texts {
        let router = text.parse()?;
        if routers.contains(&router) {
            return Err(Error::usage(format!("router `{router}` is named twice")));
        }
        routers.push(router);
    }
    Ok(routers)
}
