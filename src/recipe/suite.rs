//! The keys of `[eval]` about multiple-choice tasks.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::SuiteConfig;
use super::read::absolute;
use super::section::Section;
use super::write::put;
use crate::error::{Error, Result};
use crate::eval::suite::Bos;

const BOS: [(&str, Bos); 2] = [("tokenizer", Bos::Tokenizer), ("none", Bos::None)];
/// What has no meaning without `suites`.
const DEPENDENT: [&str; 4] = ["suite_data", "suite_limit", "few_shot", "bos"];

pub(super) fn read(section: &mut Section, folder: &Path) -> Result<Option<SuiteConfig>> {
    let suites = entries(section, "suites", "tasks such as [\"arc_easy\", \"kobest\"]")?;
    let few_shot = entries(section, "few_shot", "a number, \"leaderboard\", or entries such as [\"arc_challenge:25\"]")?;
    if suites.is_empty() {
        let lonely = DEPENDENT.iter().find(|key| section.has(key)).or((!few_shot.is_empty()).then_some(&"few_shot"));
        return match lonely {
            Some(key) => Err(section.error(key, "has a meaning only together with `suites`, the tasks")),
            None => {
                // Known keys, for what is said of unknown ones.
                DEPENDENT.iter().for_each(|key| drop(section.take(key)));
                Ok(None)
            }
        };
    }
    let data = section.string("suite_data")?;
    let data = data.ok_or_else(|| section.error("suite_data", "is missing: the folder of the tasks' data (docs/evaluation.md#data)"))?;
    let config = SuiteConfig {
        suites,
        data: PathBuf::from(absolute(folder, &data)),
        limit: section.count("suite_limit", 1..=1 << 31)?,
        few_shot,
        bos: section.choice("bos", &BOS)?.unwrap_or_default(),
    };
    config.selection().map_err(|error| match error {
        Error::Usage(message) => section.error("suites", message),
        other => other,
    })?;
    Ok(Some(config))
}

/// A text, a number, or a list of them.
fn entries(section: &mut Section, key: &'static str, expected: &str) -> Result<Vec<String>> {
    let items = match section.take(key) {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(one) => vec![one],
    };
    let entry = |item: Value| match item {
        Value::String(text) => Ok(text.split(',').map(|part| part.trim().to_owned()).collect::<Vec<_>>()),
        Value::Integer(number) if key == "few_shot" => Ok(vec![number.to_string()]),
        other => Err(section.error(key, format!("expected {expected}, found {other}"))),
    };
    Ok(items.into_iter().map(entry).collect::<Result<Vec<_>>>()?.concat())
}

pub(super) fn write(suite: Option<&SuiteConfig>, table: &mut Table) {
    let Some(suite) = suite else { return };
    put(table, "suites", &suite.suites);
    put(table, "suite_data", suite.data.to_string_lossy());
    if let Some(limit) = suite.limit {
        put(table, "suite_limit", limit);
    }
    put(table, "few_shot", &suite.few_shot);
    put(table, "bos", BOS.iter().find(|(_, bos)| *bos == suite.bos).map_or("tokenizer", |(name, _)| name));
}
