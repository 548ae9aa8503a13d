//! A comparison as tables: one for people, one a corpus, and every measurement for programs.

use std::collections::BTreeSet;

use super::run::HeadPerplexity;
use super::{Comparison, Run};
use crate::eval::format_perplexity;
use crate::report::axis::group_thousands;
use crate::report::{Align, Table};

/// What stands where there is no number.
pub(in crate::report) const NONE: &str = "–";

impl Comparison {
    /// One row a run and head, as of the last measurement, after one for the base. Columns without any number are left out.
    pub fn table(&self) -> Table {
        let mut table = Table::new([
            ("run", Align::Left),
            ("head", Align::Left),
            ("forgetting", Align::Right),
            ("learning", Align::Right),
            ("cosine", Align::Right),
            ("W12 norm", Align::Right),
            ("step", Align::Right),
            ("method", Align::Left),
            ("trained", Align::Right),
            ("tokens/s", Align::Right),
            ("memory", Align::Right),
            ("time", Align::Right),
        ]);
        if let Some(base) = self.base() {
            let perplexity = |value: Option<f64>| value.map_or(NONE.into(), format_perplexity);
            let base = ["base".into(), String::new(), perplexity(base.forgetting), perplexity(base.learning)];
            table.row(base.into_iter().chain(["", "", "0"].map(String::from)));
        }
        for run in &self.runs {
            let base = run.base().or_else(|| self.base());
            let cost = run.cost();
            let Some(last) = run.last() else {
                let start = [run.name.clone(), "not measured yet".into()].into_iter().chain(["", "", "", ""].map(String::from));
                table.row(start.chain([run.progress(), run.method.clone()]).chain(cost));
                continue;
            };
            for (index, head) in last.heads.iter().enumerate() {
                let once = |text: String| if index == 0 { text } else { String::new() };
                // Both speak of the base stream that the last head reads; the preservation head's is the base's by construction.
                let own = |text: Option<String>| if index + 1 == last.heads.len() { text.unwrap_or(NONE.into()) } else { String::new() };
                let row = [
                    once(run.name.clone()),
                    if head.head == "base" { "only one".into() } else { head.head.clone() },
                    change(head.forgetting, base.and_then(|base| base.forgetting)),
                    change(head.learning, base.and_then(|base| base.learning)),
                    own(last.representation_cosine.map(format_cosine)),
                    own(last.expansion_to_base_norm.as_ref().map(|norms| format!("{:.2}", norms.mean))),
                    once(run.progress_at(last.step)),
                    once(run.method.clone()),
                ];
                table.row(row.into_iter().chain(cost.clone().map(once)));
            }
        }
        table.select(|name, cells| {
            !["cosine", "W12 norm", "memory", "time"].contains(&name) || cells.iter().any(|c| !c.is_empty() && *c != NONE)
        })
    }

    /// The table of results and the table of costs, which fit a terminal one above the other.
    pub fn to_text(&self) -> String {
        let costs = ["method", "trained", "tokens/s", "memory", "time"];
        let table = self.table();
        let results = table.select(|name, _| !costs.contains(&name)).to_text();
        let mut of_runs = Table::new(table.columns().iter().cloned());
        // A run's first row has its costs; the base has none.
        let rows = table.rows().iter().skip(usize::from(self.base().is_some())).filter(|row| !row[0].is_empty());
        for row in rows {
            of_runs.row(row.iter().cloned());
        }
        let mut text = format!("{results}\n{}", of_runs.select(|name, _| name == "run" || costs.contains(&name)).to_text());
        if !self.notes.is_empty() {
            text.push('\n');
        }
        self.notes.iter().for_each(|note| text.push_str(&format!("note: {note}\n")));
        text
    }

    /// The table as Markdown, with the notes below it.
    pub fn to_markdown(&self) -> String {
        let mut text = self.table().to_markdown();
        if !self.notes.is_empty() {
            text.push('\n');
        }
        self.notes.iter().for_each(|note| text.push_str(&format!("- {note}\n")));
        text
    }

    /// Perplexity on each corpus at the last measurement, one column a run and head.
    pub fn corpora(&self) -> Table {
        let heads: Vec<(&Run, &HeadPerplexity)> = self
            .runs
            .iter()
            .filter_map(|run| Some((run, run.last()?)))
            .flat_map(|(run, last)| last.heads.iter().map(move |h| (run, h)))
            .collect();
        let names: BTreeSet<&String> = heads.iter().flat_map(|(_, head)| head.corpora.keys()).collect();
        let named =
            |run: &Run, head: &HeadPerplexity| if head.head == "base" { run.name.clone() } else { format!("{}, {}", run.name, head.head) };
        let mut columns = vec![("corpus".to_owned(), Align::Left), ("base".to_owned(), Align::Right)];
        columns.extend(heads.iter().map(|(run, head)| (named(run, head), Align::Right)));
        let mut table = Table::new(columns);
        for name in names {
            let show = |value: Option<&f64>| value.map_or(NONE.into(), |v| format_perplexity(*v));
            let base = self.runs.iter().filter_map(Run::base).find_map(|base| base.corpora.get(name));
            table.row([name.clone(), show(base)].into_iter().chain(heads.iter().map(|(_, head)| show(head.corpora.get(name)))));
        }
        table
    }

    /// Every measurement of every head, for programs: one row each, numbers in full, empty where there is none.
    pub fn measurements(&self) -> Table {
        let columns = [
            "run",
            "method",
            "model",
            "step",
            "head",
            "forgetting",
            "learning",
            "representation_cosine",
            "expansion_to_base_mean_norm",
            "expansion_to_base_largest_norm",
            "trained_parameters",
            "tokens_per_second",
            "training_seconds",
            "peak_memory_bytes",
        ];
        let mut table = Table::new(columns.map(|name| (name, Align::Left)));
        let number = |value: Option<f64>| value.map_or(String::new(), |v| v.to_string());
        let count = |value: Option<u64>| value.map_or(String::new(), |v| v.to_string());
        for run in &self.runs {
            let costs =
                [count(run.trained_parameters), number(run.tokens_per_second), number(run.training_seconds), count(run.peak_memory_bytes)];
            let begin = [run.name.clone(), run.method.clone(), run.model.clone()];
            for measured in &run.evaluations {
                let norms = measured.expansion_to_base_norm.as_ref();
                for head in &measured.heads {
                    let middle = [
                        measured.step.to_string(),
                        head.head.clone(),
                        number(head.forgetting),
                        number(head.learning),
                        number(measured.representation_cosine),
                        number(norms.map(|n| n.mean)),
                        number(norms.map(|n| n.largest)),
                    ];
                    table.row(begin.iter().cloned().chain(middle).chain(costs.iter().cloned()));
                }
            }
            if run.evaluations.is_empty() {
                let nothing = std::array::from_fn::<_, 6, _>(|_| String::new());
                table.row(begin.into_iter().chain([run.steps.to_string()]).chain(nothing).chain(costs));
            }
        }
        table
    }

    /// Trained values of each run by block; empty where no run noted them.
    pub fn blocks(&self) -> Table {
        let noted: BTreeSet<&str> = self.runs.iter().flat_map(|run| run.trained_parameters_by_block.keys().map(String::as_str)).collect();
        // In the order of the model's blocks; whatever a newer version added comes last.
        let known = crate::model::Block::ALL.map(|block| block.as_str());
        let blocks: Vec<&str> =
            known.into_iter().filter(|block| noted.contains(block)).chain(noted.iter().copied().filter(|b| !known.contains(b))).collect();
        let mut columns = vec![("block", Align::Left)];
        columns.extend(self.runs.iter().map(|run| (run.name.as_str(), Align::Right)));
        let mut table = Table::new(columns);
        for block in blocks {
            let cell = |run: &Run| run.trained_parameters_by_block.get(block).map_or(NONE.into(), |n| group_thousands(&n.to_string()));
            table.row([block.to_owned()].into_iter().chain(self.runs.iter().map(cell)));
        }
        if !table.is_empty() {
            let total = |run: &Run| run.trained_parameters.map_or(NONE.into(), |n| group_thousands(&n.to_string()));
            table.row(["all".to_owned()].into_iter().chain(self.runs.iter().map(total)));
        }
        table
    }
}

impl Run {
    /// Trained values, tokens a second, memory and time, as the table shows them.
    fn cost(&self) -> [String; 4] {
        let show = |value: Option<f64>, format: fn(f64) -> String| value.map_or(NONE.into(), format);
        [
            self.trained_parameters.map_or(NONE.into(), |n| group_thousands(&n.to_string())),
            show(self.tokens_per_second, |t| group_thousands(&format!("{t:.0}"))),
            show(self.peak_memory_bytes.map(|bytes| bytes as f64), format_bytes),
            show(self.training_seconds, format_seconds),
        ]
    }
}

/// A perplexity, and how far it is from the base's.
pub(crate) fn change(value: Option<f64>, base: Option<f64>) -> String {
    match (value, base) {
        (None, _) => NONE.into(),
        (Some(value), Some(base)) if value == base => format!("{} (same)", format_perplexity(value)),
        (Some(value), Some(base)) if value.is_finite() && base.is_finite() && base > 0.0 => {
            format!("{} ({:+.1} %)", format_perplexity(value), 100.0 * (value / base - 1.0)).replace('-', "−")
        }
        (Some(value), _) => format_perplexity(value),
    }
}

/// `1` only where nothing moved at all.
pub(in crate::report) fn format_cosine(cosine: f64) -> String {
    if cosine == 1.0 { "1".into() } else { format!("{cosine:.5}") }
}

pub(in crate::report) fn format_bytes(bytes: f64) -> String {
    const MIB: f64 = (1 << 20) as f64;
    if bytes < 1000.0 * MIB { format!("{:.0} MiB", bytes / MIB) } else { format!("{:.2} GiB", bytes / (1024.0 * MIB)) }
}

pub(in crate::report) fn format_seconds(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        _ if seconds < 9.95 => format!("{seconds:.1} s"),
        0..120 => format!("{whole} s"),
        120..7200 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}
