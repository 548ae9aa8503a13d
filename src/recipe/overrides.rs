//! `--set a.b=c`: changes to a recipe from the command line, made before it is validated.

use toml::{Table, Value};

use crate::error::{Error, Result};

/// Sets the dotted key of `assignment` (`train.steps=100`) in `table`. The value is read as TOML (`0.1`, `true`, `["a", "b"]`,
/// `{ path = "x" }`), and as a plain string where it is none.
///
/// # Errors
/// [`Error::Usage`] without a `=`, with an empty part of the key, or where the key goes through something that is no table.
pub(super) fn apply(table: &mut Table, assignment: &str) -> Result<()> {
    let refuse = |message: String| Error::usage(format!("--set {assignment}: {message}"));
    let (key, text) = assignment.split_once('=').ok_or_else(|| refuse("expected key=value, for example train.steps=100".into()))?;
    let parts: Vec<&str> = key.split('.').map(str::trim).collect();
    let Some((last, sections)) = parts.split_last() else {
        return Err(refuse("the key is empty".into()));
    };
    if parts.iter().any(|part| part.is_empty()) {
        return Err(refuse(format!("`{key}` is not a dotted key such as train.steps")));
    }
    let mut table = table;
    for part in sections {
        let entry = table.entry(part.to_string()).or_insert_with(|| Value::Table(Table::new()));
        table = entry.as_table_mut().ok_or_else(|| refuse(format!("`{part}` is not a table in the recipe")))?;
    }
    table.insert(last.to_string(), value(text.trim()));
    Ok(())
}

/// What stands behind the `=` of an override: a value as TOML has it, or else a text.
pub(crate) fn value(text: &str) -> Value {
    // A line end would let a value smuggle in further keys.
    let parsed = (!text.contains(['\n', '\r'])).then(|| format!("value = {text}").parse::<Table>().ok()).flatten();
    parsed.and_then(|mut table| table.remove("value")).unwrap_or_else(|| Value::String(text.to_string()))
}
