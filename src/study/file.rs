//! A study's file: named overrides of one recipe, what the paper measured for each, and what the paper says of them.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::claims::Claim;
use super::{Variant, budget, builtin, placeholders, variants};
use crate::checkpoint::{BaseCheckpoint, Config};
use crate::error::{Error, Result};
use crate::hub;
use crate::recipe::Recipe;

/// The largest file that is read: studies are written by hand.
const MAX_BYTES: u64 = 1 << 20;

/// A number of a run, as studies name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Perplexity on what is not to be forgotten.
    #[default]
    Forgetting,
    /// Perplexity on what is to be learnt.
    Learning,
    /// Mean Frobenius norm of the trained W12.
    Norm,
    /// Cosine between the base stream's last hidden state and the base's.
    Cosine,
    /// Number of trained values.
    Trained,
}

impl Metric {
    /// What it is, in words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Forgetting => "forgetting: perplexity on the old corpora",
            Self::Learning => "learning: perplexity on the new corpora",
            Self::Norm => "mean norm of W12",
            Self::Cosine => "cosine with the base's hidden state",
            Self::Trained => "trained parameters",
        }
    }
}

/// Numbers that the paper has for a variant or for its base.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paper {
    /// Perplexity on what is not to be forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgetting: Option<f64>,
    /// Perplexity on what is to be learnt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning: Option<f64>,
    /// Cosine with the base's hidden state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cosine: Option<f64>,
}

impl Paper {
    /// The number of this kind.
    pub fn get(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::Forgetting => self.forgetting,
            Metric::Learning => self.learning,
            Metric::Cosine => self.cosine,
            Metric::Norm | Metric::Trained => None,
        }
    }
}

/// One variant of a study.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Name of its run folder.
    pub name: String,
    /// What tables and pictures call it; the name where nothing is said.
    #[serde(default)]
    pub label: String,
    /// Variants of one group have one colour, and may be joined by a line.
    #[serde(default)]
    pub group: Option<String>,
    /// What it changes in the recipe, as `--set` has it; sizes of the base may stand in braces ([`placeholders::fill`]).
    #[serde(default)]
    pub set: Vec<String>,
    /// The paper's numbers.
    #[serde(default)]
    pub paper: Paper,
}

/// The picture of a study.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plot {
    /// What stands on the horizontal axis.
    pub x: Metric,
    /// What stands on the vertical axis.
    pub y: Metric,
    /// Whether a straight line is fitted through all points.
    #[serde(default)]
    pub fit: bool,
    /// Whether the points of a group are joined, in their order.
    #[serde(default)]
    pub joined: bool,
}

/// A study, as its file has it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Study {
    /// Its name: that of its file.
    #[serde(skip)]
    pub name: String,
    /// What it asks.
    pub title: String,
    /// Where the paper's numbers are from.
    pub source: String,
    /// The recipe that is varied; a relative path starts at the study's folder.
    pub recipe: String,
    /// Changes to the recipe for all variants.
    #[serde(default)]
    pub set: Vec<String>,
    /// The paper's numbers for its base.
    #[serde(default)]
    pub base: Paper,
    /// The picture.
    pub plot: Plot,
    /// What is trained.
    #[serde(rename = "variant")]
    pub variants: Vec<Entry>,
    /// What the paper says of it.
    #[serde(default, rename = "claim")]
    pub claims: Vec<Claim>,
    /// The folder of its file; none for a study that comes with the program.
    #[serde(skip)]
    folder: Option<PathBuf>,
}

/// Overrides, each with the variant that it is for.
type Scoped<'a> = Vec<(&'a str, String)>;

/// How a study is run here.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Another recipe than the study's.
    pub recipe: Option<PathBuf>,
    /// Another base than the recipe's.
    pub model: Option<PathBuf>,
    /// Changes for all variants, `KEY=VALUE`, or for one, `VARIANT:KEY=VALUE`.
    pub set: Vec<String>,
    /// Steps of every run; the recipe's where nothing is said.
    pub steps: Option<u64>,
}

impl Study {
    /// The study of this name, or the one in this file.
    ///
    /// # Errors
    /// [`Error::Usage`] for a name that is unknown, with those that are known, or a file that is no study; [`Error::Io`].
    pub fn load(name: &str) -> Result<Self> {
        if let Some(text) = builtin::study(name) {
            return Self::parse(text, name, None);
        }
        let path = Path::new(name);
        if !path.exists() {
            let known = builtin::STUDIES.map(|(name, _)| name).join(", ");
            return Err(Error::usage(format!(
                "{name}: no study has this name, and no file is here; studies that come with the program: {known}"
            )));
        }
        let size = std::fs::metadata(path).map_err(|error| Error::io(path, error))?.len();
        if size > MAX_BYTES {
            return Err(Error::usage(format!("{name}: {size} bytes is no study; the largest that is read has {MAX_BYTES}")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
        let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
        let stem = path.file_stem().map_or_else(|| name.to_owned(), |stem| stem.to_string_lossy().into_owned());
        Self::parse(&text, &stem, Some(folder))
    }

    /// Reads a study from text.
    ///
    /// # Errors
    /// [`Error::Usage`] naming what is wrong.
    pub fn parse(text: &str, name: &str, folder: Option<PathBuf>) -> Result<Self> {
        let wrong = |message: String| Error::usage(format!("study {name}: {message}"));
        let mut study: Self = toml::from_str(text).map_err(|error| wrong(error.to_string().trim().to_owned()))?;
        (study.name, study.folder) = (name.to_owned(), folder);
        if study.variants.is_empty() {
            return Err(wrong("has no [[variant]]".into()));
        }
        for index in 0..study.variants.len() {
            let entry = &study.variants[index];
            let plain = !entry.name.is_empty() && entry.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
            if !plain || entry.name == "base" {
                return Err(wrong(format!("variant `{}`: a name has letters, digits, `-` and `_`, and is not `base`", entry.name)));
            }
            if study.variants[..index].iter().any(|other| other.name == entry.name) {
                return Err(wrong(format!("two variants are named `{}`", entry.name)));
            }
            if entry.label.is_empty() {
                study.variants[index].label = entry.name.clone();
            }
        }
        let names: Vec<&str> = study.variants.iter().map(|entry| entry.name.as_str()).collect();
        study.claims.iter().try_for_each(|claim| claim.check(&names).map_err(wrong))?;
        Ok(study)
    }

    /// The variants as recipes, in their order. Only the first is measured before its first step, since all begin as the base.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the variant and the key that is wrong, and whatever opening the base returns.
    pub fn recipes(&self, options: &Options) -> Result<Vec<Variant>> {
        let (general, scoped) = self.sort_overrides(&options.set)?;
        let mut model: Vec<String> = general.iter().filter(|set| set.starts_with("model.")).cloned().collect();
        if let Some(path) = &options.model {
            let path = hub::absolute(path).map_err(|error| Error::io(path, error))?;
            model.push(format!("model.path={}", path.display()));
        }
        let config = self.config(options, &model)?;
        let fill = |set: &[String]| set.iter().map(|text| placeholders::fill(text, &config)).collect::<Result<Vec<_>>>();
        let mut found = Vec::new();
        for (index, entry) in self.variants.iter().enumerate() {
            let own = scoped.iter().filter(|(name, _)| *name == entry.name).map(|(_, set)| set.clone());
            let mut overrides = [fill(&self.set)?, fill(&entry.set)?, model.clone(), general.clone()].concat();
            overrides.extend(own);
            let named = |error| match error {
                Error::Usage(message) => Error::Usage(format!("variant {}: {message}", entry.name)),
                other => other,
            };
            let mut recipe = variants::with_router(self.read(options, &overrides).map_err(named)?);
            let steps = options.steps.unwrap_or(recipe.train.schedule.steps);
            budget::scale(&mut recipe, steps)?;
            if !options.set.iter().any(|set| set.contains("eval.at_start")) {
                recipe.eval.at_start = index == 0;
            }
            found.push(Variant { name: entry.name.clone(), recipe });
        }
        Ok(found)
    }

    /// Overrides for all variants, and those for one with its name.
    fn sort_overrides<'a>(&self, set: &'a [String]) -> Result<(Vec<String>, Scoped<'a>)> {
        let (mut general, mut scoped) = (Vec::new(), Vec::new());
        for assignment in set {
            let key = assignment.split('=').next().unwrap_or_default();
            let Some((name, _)) = key.split_once(':') else {
                general.push(assignment.clone());
                continue;
            };
            if !self.variants.iter().any(|entry| entry.name == name) {
                let names: Vec<&str> = self.variants.iter().map(|entry| entry.name.as_str()).collect();
                return Err(Error::usage(format!(
                    "--set {assignment}: `{name}` is no variant of {}; there are {}",
                    self.name,
                    names.join(", ")
                )));
            }
            scoped.push((name, assignment[name.len() + 1..].to_owned()));
        }
        Ok((general, scoped))
    }

    fn config(&self, options: &Options, model: &[String]) -> Result<Config> {
        let path = self.read(options, model)?.model.path;
        Ok(BaseCheckpoint::open(&path)?.config().clone())
    }

    fn read(&self, options: &Options, overrides: &[String]) -> Result<Recipe> {
        match (&options.recipe, &self.folder) {
            (Some(path), _) => Recipe::load(path, overrides),
            (None, Some(folder)) => Recipe::load(folder.join(&self.recipe), overrides),
            (None, None) => {
                let folder = std::path::absolute(".").map_err(|error| Error::io(".", error))?;
                Recipe::parse(&builtin::recipe(&self.recipe)?, &folder, overrides)
            }
        }
    }
}
