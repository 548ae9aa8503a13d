//! One table of a recipe, read key by key, with every complaint naming the key.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;

use toml::{Table, Value};

use crate::error::{Error, Result};

/// A table being read: keys are taken out, and what is left at the end was never known.
pub(super) struct Section {
    path: String,
    table: Table,
    known: Vec<&'static str>,
}

impl Section {
    /// The table at the dotted `path`, empty for the recipe itself.
    pub fn new(path: impl Into<String>, table: Table) -> Self {
        Self { path: path.into(), table, known: Vec::new() }
    }

    /// The full name of `key`.
    pub fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_string() } else { format!("{}.{key}", self.path) }
    }

    /// An [`Error::Usage`] about `key`.
    pub fn error(&self, key: &str, message: impl Display) -> Error {
        Error::usage(format!("{}: {message}", self.name(key)))
    }

    fn wrong(&self, key: &str, expected: &str, found: &Value) -> Error {
        self.error(key, format!("expected {expected}, found {}", describe(found)))
    }

    /// Takes the value of `key`.
    pub fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.table.remove(key)
    }

    /// Whether `key` is given and not taken yet.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Whether `key` is given as this very string.
    pub fn text_is(&self, key: &str, text: &str) -> bool {
        self.table.get(key).and_then(Value::as_str) == Some(text)
    }

    /// Takes a table, empty where there is none.
    pub fn section(&mut self, key: &'static str) -> Result<Self> {
        match self.take(key) {
            None => Ok(Self::new(self.name(key), Table::new())),
            Some(Value::Table(table)) => Ok(Self::new(self.name(key), table)),
            Some(other) => Err(self.wrong(key, "a table", &other)),
        }
    }

    /// Takes a whole number within `range`.
    pub fn whole(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Result<Option<u64>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let Value::Integer(number) = value else {
            return Err(self.wrong(key, "a whole number", &value));
        };
        match u64::try_from(number) {
            Ok(n) if range.contains(&n) => Ok(Some(n)),
            _ => Err(self.error(key, format!("{number} is out of range; allowed are {} to {}", range.start(), range.end()))),
        }
    }

    /// Takes a whole number that counts things in memory.
    pub fn count(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Result<Option<usize>> {
        let Some(number) = self.whole(key, range)? else { return Ok(None) };
        usize::try_from(number).map(Some).map_err(|_| self.error(key, format!("{number} is too large for this machine")))
    }

    /// Takes a finite number that `allowed` accepts; `rule` says in words which these are.
    pub fn number(&mut self, key: &'static str, allowed: impl Fn(f64) -> bool, rule: &str) -> Result<Option<f64>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        self.check_number(key, &value, allowed, rule).map(Some)
    }

    fn check_number(&self, key: &str, value: &Value, allowed: impl Fn(f64) -> bool, rule: &str) -> Result<f64> {
        let number = match value {
            Value::Float(number) => *number,
            Value::Integer(number) => *number as f64,
            other => return Err(self.wrong(key, "a number", other)),
        };
        if number.is_finite() && allowed(number) { Ok(number) } else { Err(self.error(key, format!("{number} is not {rule}"))) }
    }

    /// Takes two numbers.
    pub fn pair(&mut self, key: &'static str, allowed: impl Fn(f64) -> bool, rule: &str) -> Result<Option<[f64; 2]>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match value.as_array().map(Vec::as_slice) {
            Some([first, second]) => {
                Ok(Some([self.check_number(key, first, &allowed, rule)?, self.check_number(key, second, &allowed, rule)?]))
            }
            _ => Err(self.wrong(key, "a list of two numbers", &value)),
        }
    }

    /// Takes every remaining key as a number: a table whose keys are names.
    pub fn numbers<K: Ord + Copy>(
        mut self,
        names: &[(&'static str, K)],
        allowed: impl Fn(f64) -> bool,
        rule: &str,
    ) -> Result<BTreeMap<K, f64>> {
        let mut numbers = BTreeMap::new();
        for &(name, key) in names {
            if let Some(number) = self.number(name, &allowed, rule)? {
                numbers.insert(key, number);
            }
        }
        self.finish()?;
        Ok(numbers)
    }

    /// Takes `true` or `false`.
    pub fn boolean(&mut self, key: &'static str) -> Result<Option<bool>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Boolean(value)) => Ok(Some(value)),
            Some(other) => Err(self.wrong(key, "true or false", &other)),
        }
    }

    /// Takes a string that is not empty.
    pub fn string(&mut self, key: &'static str) -> Result<Option<String>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Err(self.error(key, "must not be empty")),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, "a string", &other)),
        }
    }

    /// Takes one of a list of names.
    pub fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&'static str, T)]) -> Result<Option<T>> {
        let Some(text) = self.string(key)? else { return Ok(None) };
        self.choose(key, &text, choices).map(Some)
    }

    fn choose<T: Copy>(&self, key: &str, text: &str, choices: &[(&'static str, T)]) -> Result<T> {
        choices.iter().find(|(name, _)| *name == text).map(|&(_, value)| value).ok_or_else(|| {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.error(key, format!("`{text}` is not one of {}{}", names.join(", "), suggestion(text, names.iter().copied())))
        })
    }

    /// Takes a list of names out of `choices`, none of them twice.
    pub fn choice_list<T: Copy + PartialEq>(&mut self, key: &'static str, choices: &[(&'static str, T)]) -> Result<Option<Vec<T>>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let items = match value {
            Value::Array(items) => items,
            one @ Value::String(_) => vec![one],
            other => return Err(self.wrong(key, "a list of strings", &other)),
        };
        let mut chosen = Vec::new();
        for item in items {
            let Value::String(text) = item else {
                return Err(self.wrong(key, "a list of strings", &item));
            };
            let choice = self.choose(key, &text, choices)?;
            if chosen.contains(&choice) {
                return Err(self.error(key, format!("`{text}` is named twice")));
            }
            chosen.push(choice);
        }
        Ok(Some(chosen))
    }

    /// Takes a list (or one item alone) of strings and tables; a string stands for a table with nothing but `path`.
    pub fn tables(&mut self, key: &'static str) -> Result<Vec<Self>> {
        let items = match self.take(key) {
            None => return Ok(Vec::new()),
            Some(Value::Array(items)) => items,
            Some(one) => vec![one],
        };
        let mut tables = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let name = format!("{}[{index}]", self.name(key));
            tables.push(match item {
                path @ Value::String(_) => Self::new(name, Table::from_iter([("path".to_string(), path)])),
                Value::Table(table) => Self::new(name, table),
                other => return Err(self.wrong(key, "paths or tables such as { path = \"corpus.jsonl\" }", &other)),
            });
        }
        Ok(tables)
    }

    /// An error for the first key that nobody asked for, with the nearest known one.
    pub fn finish(self) -> Result<()> {
        let Some(key) = self.table.keys().next() else { return Ok(()) };
        let mut known = self.known.clone();
        known.sort_unstable();
        let hint = match suggestion(key, known.iter().copied()) {
            hint if hint.is_empty() => format!("\n  hint: known keys are {}", known.join(", ")),
            hint => hint,
        };
        Err(Error::usage(format!("unknown key `{}`{hint}", self.name(key))))
    }
}

/// `\n  hint: did you mean …?` for the nearest of `known`, or nothing where none is near.
pub(crate) fn suggestion<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> String {
    let limit = text.chars().count().div_ceil(3).max(1);
    known
        .map(|name| (distance(text, name), name))
        .filter(|(d, name)| *d <= limit || (text.len() >= 4 && (name.contains(text) || text.contains(name))))
        .min()
        .map(|(_, name)| format!("\n  hint: did you mean `{name}`?"))
        .unwrap_or_default()
}

/// Edits (insert, remove, replace) between two words; very long ones count as far apart.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != y)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

fn describe(value: &Value) -> String {
    match value {
        Value::String(text) => format!("the string \"{}\"", text.chars().take(60).collect::<String>()),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(value) => value.to_string(),
        Value::Datetime(time) => format!("the date {time}"),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Table(_) => "a table".to_string(),
    }
}
