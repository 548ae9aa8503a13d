//! The rows of JSONL, CSV, TSV and Parquet files as named values, each knowing where it stands.

use std::path::{Path, PathBuf};

use parquet::record::{Field, Row};
use serde_json::{Map, Number, Value};

use super::library::Entry;
use crate::data::parquet::rows;
use crate::error::{Error, Result};

/// The most rows of a file; the largest of the sets has a tenth of them.
const MAX_ROWS: usize = 1 << 20;

/// One row.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its values by name.
    pub values: Map<String, Value>,
    file: PathBuf,
    /// `line 12`, `row 3`.
    place: String,
}

impl PartialEq for Record {
    /// Whether they hold the same, wherever they stand.
    fn eq(&self, other: &Self) -> bool {
        self.values == other.values
    }
}

impl Record {
    /// A row at a place of a file.
    pub fn new(values: Map<String, Value>, file: &Path, place: String) -> Self {
        Self { values, file: file.to_path_buf(), place }
    }

    /// An error about it.
    pub fn fault(&self, message: impl std::fmt::Display) -> Error {
        Error::file(&self.file, format!("{}: {message}", self.place))
    }

    /// Where it stands in its file.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Whether it has a value of this name.
    pub fn has(&self, name: &str) -> bool {
        self.values.get(name).is_some_and(|value| !value.is_null())
    }

    fn get(&self, names: &[&str]) -> Result<&Value> {
        names.iter().find_map(|name| self.values.get(*name).filter(|value| !value.is_null())).ok_or_else(|| {
            let found: Vec<&str> = self.values.keys().take(12).map(String::as_str).collect();
            self.fault(format!("has no `{}`, only {}", names.join("` or `"), found.join(", ")))
        })
    }

    /// A text, under the first of these names that there is.
    pub fn text(&self, names: &[&str]) -> Result<&str> {
        let value = self.get(names)?;
        value.as_str().ok_or_else(|| self.fault(format!("`{}` should be a text, found {}", names[0], describe(value))))
    }

    /// A list of texts.
    pub fn texts(&self, names: &[&str]) -> Result<Vec<String>> {
        let value = self.get(names)?;
        self.as_texts(names[0], value)
    }

    fn as_texts(&self, name: &str, value: &Value) -> Result<Vec<String>> {
        let wrong = || self.fault(format!("`{name}` should be a list of texts, found {}", describe(value)));
        value.as_array().ok_or_else(wrong)?.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
    }

    /// A list of texts in an object, `choices.text`.
    pub fn inner_texts(&self, name: &str, inner: &str) -> Result<Vec<String>> {
        let value = self.get(&[name])?;
        match value.get(inner) {
            Some(texts) => self.as_texts(&format!("{name}.{inner}"), texts),
            None => Err(self.fault(format!("`{name}` has no `{inner}`"))),
        }
    }

    /// A whole number from 0, written as a number or in digits, and below `limit`.
    pub fn index(&self, names: &[&str], limit: usize) -> Result<usize> {
        let value = self.get(names)?;
        let number = match value {
            Value::String(digits) => digits.trim().parse().ok(),
            Value::Bool(truth) => Some(u64::from(*truth)),
            other => other.as_u64(),
        };
        number
            .and_then(|n| usize::try_from(n).ok())
            .filter(|&n| n < limit)
            .ok_or_else(|| self.fault(format!("`{}` should be a whole number below {limit}, found {}", names[0], describe(value))))
    }
}

fn describe(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 60 { text.chars().take(60).collect::<String>() + "…" } else { text }
}

/// Every row of a file, at most `limit`. CSV files have a header unless `columns` names what they hold.
///
/// # Errors
/// [`Error::File`] naming the line or row that is malformed.
pub fn read(entry: &Entry, columns: Option<&[&str]>, limit: usize) -> Result<Vec<Record>> {
    let (path, bytes) = (&entry.path, entry.read()?);
    // One more than there may be, so that it shows where there are more.
    let most = limit.min(MAX_ROWS + 1);
    let records = match entry.format() {
        "jsonl" | "ndjson" => jsonl(path, &bytes, most),
        "csv" => separated(path, &bytes, b',', columns, most),
        "tsv" => separated(path, &bytes, b'\t', columns, most),
        "parquet" => parquet(path, bytes, most),
        other => Err(Error::file(path, format!("`.{other}` is no format of evaluation sets; JSONL, CSV, TSV and Parquet are read"))),
    }?;
    if records.len() > MAX_ROWS {
        return Err(Error::file(path, format!("has more than {MAX_ROWS} rows; is this an evaluation set?")));
    }
    Ok(records)
}

fn jsonl(path: &Path, bytes: &[u8], limit: usize) -> Result<Vec<Record>> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let mut records = Vec::new();
    for (index, line) in bytes.split(|&b| b == b'\n').enumerate() {
        if records.len() == limit {
            break;
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let place = format!("line {}", index + 1);
        let values = serde_json::from_slice(line).map_err(|error| {
            let full = error.to_string();
            let what = full.rsplit_once(" at line ").map_or(full.as_str(), |(what, _)| what);
            Error::file(path, format!("{place}: is not a JSON object: {what} (column {})", error.column()))
        })?;
        records.push(Record::new(values, path, place));
    }
    Ok(records)
}

/// Rows as Python's `csv` and `pandas` read them: quotes around a cell, doubled within it.
fn separated(path: &Path, bytes: &[u8], delimiter: u8, columns: Option<&[&str]>, limit: usize) -> Result<Vec<Record>> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).has_headers(columns.is_none()).flexible(true).from_reader(bytes);
    let damaged = |error: csv::Error| {
        let line = error.position().map_or(0, csv::Position::line);
        let text = match error.kind() {
            csv::ErrorKind::Utf8 { .. } => "is not UTF-8".to_owned(),
            _ => error.to_string(),
        };
        Error::file(path, format!("line {line}: {text}"))
    };
    let names: Vec<String> = match columns {
        Some(columns) => columns.iter().map(ToString::to_string).collect(),
        None => reader.headers().map_err(damaged)?.iter().map(|name| name.trim().to_owned()).collect(),
    };
    let mut records = Vec::new();
    for row in reader.records() {
        if records.len() == limit {
            break;
        }
        let row = row.map_err(damaged)?;
        let place = format!("line {}", row.position().map_or(0, csv::Position::line));
        if row.len() != names.len() {
            let message = format!("{place}: has {} cells, {} were expected: {}", row.len(), names.len(), names.join(", "));
            return Err(Error::file(path, message));
        }
        let values = names.iter().cloned().zip(row.iter().map(|cell| Value::String(cell.to_owned()))).collect();
        records.push(Record::new(values, path, place));
    }
    Ok(records)
}

fn parquet(path: &Path, bytes: Vec<u8>, limit: usize) -> Result<Vec<Record>> {
    let damaged = |error| Error::file(path, format!("cannot be read as Parquet, the file is truncated or damaged: {error}"));
    let rows = rows(bytes, limit, MAX_ROWS).map_err(damaged)?;
    Ok(rows.iter().enumerate().map(|(index, row)| Record::new(object(row), path, format!("row {}", index + 1))).collect())
}

fn object(row: &Row) -> Map<String, Value> {
    row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect()
}

fn value(field: &Field) -> Value {
    match field {
        Field::Bool(truth) => Value::Bool(*truth),
        Field::Byte(n) => Value::from(*n),
        Field::Short(n) => Value::from(*n),
        Field::Int(n) => Value::from(*n),
        Field::Long(n) => Value::from(*n),
        Field::UByte(n) => Value::from(*n),
        Field::UShort(n) => Value::from(*n),
        Field::UInt(n) => Value::from(*n),
        Field::ULong(n) => Value::from(*n),
        Field::Float(x) => Number::from_f64(f64::from(*x)).map_or(Value::Null, Value::Number),
        Field::Double(x) => Number::from_f64(*x).map_or(Value::Null, Value::Number),
        Field::Str(text) => Value::String(text.clone()),
        Field::Group(row) => Value::Object(object(row)),
        Field::ListInternal(list) => Value::Array(list.elements().iter().map(value).collect()),
        // Columns of other kinds belong to no task here.
        _ => Value::Null,
    }
}
