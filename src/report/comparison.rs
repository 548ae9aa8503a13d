//! Runs side by side: what each learnt, forgot and cost, read from their folders.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Serialize;

use super::axis::{Scale, group_thousands};
use super::{Align, Chart, Point, Reference, Series, Table};
use crate::error::{Error, IoContext, Result};
use crate::eval::format_perplexity;
use crate::train::RunFolder;
use crate::train::checkpoint::TRAINED_FILE;
use crate::train::metrics::{METRICS_FILE, Record, read};

/// The heads in the order tables show them.
const HEADS: [&str; 3] = ["base", "preservation", "adaptation"];

/// Several runs, with the field names of the JSON (docs/format-eval.md).
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// In the order they were given.
    pub runs: Vec<Run>,
}

/// What is known of one run.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// The folder's name.
    pub name: String,
    /// What was trained.
    pub method: String,
    /// Updates made.
    pub steps: u64,
    /// Tokens read.
    pub tokens: u64,
    /// Median over the steps.
    pub tokens_per_second: Option<f64>,
    /// Number of trained values; absent where there is no checkpoint yet.
    pub trained_parameters: Option<u64>,
    /// One entry a measurement, by ascending step.
    pub evaluations: Vec<Measured>,
}

/// One measurement during a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// Updates made by then.
    pub step: u64,
    /// One entry a head.
    pub heads: Vec<HeadPerplexity>,
}

/// Forgetting and learning of one head; each the geometric mean of the perplexities on the corpora of its group, so that none of them outweighs the others.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HeadPerplexity {
    /// `base`, `preservation` or `adaptation`.
    pub head: String,
    /// On the corpora that are not to be forgotten; absent where none was measured.
    pub forgetting: Option<f64>,
    /// On the corpora that are to be learnt; absent where none was measured.
    pub learning: Option<f64>,
    /// Perplexity by `GROUP/CORPUS`.
    pub corpora: BTreeMap<String, f64>,
}

impl Comparison {
    /// Reads the runs in these folders.
    ///
    /// # Errors
    /// [`Error::Usage`] where there is no run, and whatever reading its files returns.
    pub fn read<P: AsRef<Path>>(folders: impl IntoIterator<Item = P>) -> Result<Self> {
        let runs: Vec<Run> = folders.into_iter().map(|folder| Run::read(folder.as_ref())).collect::<Result<_>>()?;
        Ok(Self { runs })
    }

    /// The base's own forgetting and learning: what was measured before the first step.
    fn base(&self) -> Option<&HeadPerplexity> {
        self.runs.iter().flat_map(|run| &run.evaluations).filter(|e| e.step == 0).find_map(|e| e.heads.first())
    }

    /// One row a run and head, as of the last measurement, after one for the base.
    pub fn table(&self) -> Table {
        let mut table = Table::new([
            ("run", Align::Left),
            ("method", Align::Left),
            ("step", Align::Right),
            ("head", Align::Left),
            ("forgetting", Align::Right),
            ("learning", Align::Right),
            ("trained parameters", Align::Right),
            ("tokens/s", Align::Right),
        ]);
        let perplexity = |value: Option<f64>| value.map_or("–".into(), format_perplexity);
        if let Some(base) = self.base() {
            table.row(["base".into(), String::new(), "0".into(), String::new(), perplexity(base.forgetting), perplexity(base.learning)]);
        }
        for run in &self.runs {
            let Some(last) = run.evaluations.last() else {
                table.row([run.name.clone(), run.method.clone(), run.steps.to_string(), "not measured yet".into()]);
                continue;
            };
            for (index, head) in last.heads.iter().enumerate() {
                let once = |text: String| if index == 0 { text } else { String::new() };
                table.row([
                    once(run.name.clone()),
                    once(run.method.clone()),
                    once(last.step.to_string()),
                    if head.head == "base" { "only one".into() } else { head.head.clone() },
                    perplexity(head.forgetting),
                    perplexity(head.learning),
                    once(run.trained_parameters.map_or("–".into(), |n| group_thousands(&n.to_string()))),
                    once(run.tokens_per_second.map_or("–".into(), |t| group_thousands(&format!("{t:.0}")))),
                ]);
            }
        }
        table
    }

    /// Forgetting against learning: one series a run and head, one point a measurement.
    ///
    /// # Paper
    /// Figure 4.
    pub fn chart(&self) -> Chart {
        let base = self.base();
        let at = |head: &HeadPerplexity| Some((head.learning?, head.forgetting?));
        let base_point = base.and_then(at);
        let mut series = Vec::new();
        let mut kept = 0;
        for (style, run) in self.runs.iter().enumerate() {
            for name in HEADS {
                let measured = run.evaluations.iter().filter_map(|e| Some((e.step, at(e.heads.iter().find(|h| h.head == name)?)?)));
                let mut points: Vec<Point> =
                    measured.map(|(step, (x, y))| Point { x, y, label: format!("step {}", group_thousands(&step.to_string())) }).collect();
                if points.is_empty() {
                    continue;
                }
                if name == "preservation" && points.iter().all(|p| Some((p.x, p.y)) == base_point) {
                    kept += 1;
                    continue;
                }
                let last = points.len() - 1;
                points[..last].iter_mut().for_each(|p| p.label.clear());
                let head = if name == "base" { String::new() } else { format!(", {name} head") };
                series.push(Series {
                    name: format!("{}{head}", run.name),
                    style: style + 1,
                    dashed: name == "preservation",
                    joined: true,
                    points,
                });
            }
        }
        if let Some((x, y)) = base_point {
            let name = match kept {
                0 => "base".into(),
                1 => "base = preservation head, all steps".into(),
                _ => "base = preservation heads, all steps".to_owned(),
            };
            series.insert(0, Series { name, points: vec![Point::new(x, y)], ..Series::default() });
        }
        Chart {
            title: "Forgetting against learning".into(),
            subtitle: "Perplexity on held-out text; one point a checkpoint; lower and further left is better".into(),
            x_label: "learning: perplexity on the new corpora".into(),
            y_label: "forgetting: perplexity on the old corpora".into(),
            x_scale: Scale::Log,
            y_scale: Scale::Log,
            series,
            references: base_point
                .map(|(_, y)| Reference { y, label: format!("the base's {}", format_perplexity(y)) })
                .into_iter()
                .collect(),
            y_also: Vec::new(),
        }
    }
}

impl Run {
    fn read(folder: &Path) -> Result<Self> {
        let recipe = RunFolder::recipe(folder)?
            .ok_or_else(|| Error::usage(format!("{}: no run is here (no recipe.toml); `treering train` makes one", folder.display())))?;
        let records = read(folder.join(METRICS_FILE))?;
        let absolute = std::path::absolute(folder).at(folder)?;
        let name = absolute.file_name().map_or_else(|| folder.display().to_string(), |name| name.to_string_lossy().into_owned());
        let trained_parameters = match RunFolder::checkpoints(folder)?.last() {
            Some((_, path)) => Some(count_values(&path.join(TRAINED_FILE))?),
            None => None,
        };
        Ok(Self { trained_parameters, ..Self::from_records(name, recipe.method.kind.as_str().into(), &records) })
    }

    fn from_records(name: String, method: String, records: &[Record]) -> Self {
        let mut speeds = Vec::new();
        let (mut steps, mut tokens) = (0, 0);
        let mut evaluations: Vec<Measured> = Vec::new();
        for record in records {
            steps = steps.max(record.step());
            match record {
                Record::Train(train) => {
                    tokens = tokens.max(train.tokens);
                    speeds.push(train.tokens_per_second);
                }
                Record::Eval(eval) => evaluations.push(Measured { step: eval.step, heads: heads(&eval.values) }),
            }
        }
        evaluations.retain(|e| !e.heads.is_empty());
        speeds.sort_by(f64::total_cmp);
        Self {
            name,
            method,
            steps,
            tokens,
            tokens_per_second: speeds.get(speeds.len() / 2).copied(),
            trained_parameters: None,
            evaluations,
        }
    }
}

/// The perplexities among the named numbers of a measurement, by head.
fn heads(values: &BTreeMap<String, Option<f64>>) -> Vec<HeadPerplexity> {
    let mut corpora: BTreeMap<&str, BTreeMap<String, f64>> = BTreeMap::new();
    for (name, value) in values {
        let Some((corpus, head)) = name.strip_suffix("/perplexity").and_then(|path| path.rsplit_once('/')) else { continue };
        if corpus.starts_with("learn/") || corpus.starts_with("forget/") {
            // A measurement that is not finite was kept as null.
            corpora.entry(head).or_default().insert(corpus.to_owned(), value.unwrap_or(f64::INFINITY));
        }
    }
    let mean = |corpora: &BTreeMap<String, f64>, group: &str| {
        let logs: Vec<f64> = corpora.iter().filter(|(name, _)| name.starts_with(group)).map(|(_, p)| p.ln()).collect();
        match logs.as_slice() {
            [] => None,
            // One alone is itself, not its rounded exponential.
            [_] => corpora.iter().find(|(name, _)| name.starts_with(group)).map(|(_, p)| *p),
            logs => Some((logs.iter().sum::<f64>() / logs.len() as f64).exp()),
        }
    };
    let found = HEADS.into_iter().filter_map(|head| Some((head, corpora.remove(head)?)));
    found
        .map(|(head, corpora)| HeadPerplexity {
            head: head.into(),
            forgetting: mean(&corpora, "forget/"),
            learning: mean(&corpora, "learn/"),
            corpora,
        })
        .collect()
}

/// The number of values in a safetensors file, from its header.
fn count_values(path: &Path) -> Result<u64> {
    const MOST: u64 = 100_000_000;
    let mut file = File::open(path).at(path)?;
    let mut word = [0; 8];
    file.read_exact(&mut word).at(path)?;
    let length = u64::from_le_bytes(word);
    if length > MOST.min(file.metadata().at(path)?.len()) {
        return Err(Error::file(path, format!("a header of {length} bytes: this is no safetensors file, or it is truncated")));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).at(path)?;
    let damaged = |error: serde_json::Error| Error::file(path, format!("the safetensors header does not hold: {error}"));
    #[derive(serde::Deserialize)]
    struct Tensor {
        shape: Vec<u64>,
    }
    let header: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&header).map_err(damaged)?;
    let mut count = 0u64;
    for (_, tensor) in header.into_iter().filter(|(name, _)| name != "__metadata__") {
        let Tensor { shape } = serde_json::from_value(tensor).map_err(damaged)?;
        count = count.saturating_add(shape.into_iter().fold(1, u64::saturating_mul));
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::svg;
    use crate::train::metrics::{EvalRecord, TrainRecord};

    fn records(heads: &[&str], last: &[(f64, f64)]) -> Vec<Record> {
        let eval = |step, values: &[(f64, f64)]| {
            let named = heads.iter().zip(values).flat_map(|(head, (forget, learn))| {
                [
                    (format!("forget/news/{head}/perplexity"), Some(*forget)),
                    (format!("learn/wiki/2026/{head}/perplexity"), Some(*learn)),
                    (format!("learn/wiki/2026/{head}/accuracy"), Some(0.5)),
                ]
            });
            Record::Eval(EvalRecord { step, values: named.collect(), unix_time: 0.0 })
        };
        let train = |step: u64| {
            Record::Train(TrainRecord {
                step,
                loss: 2.0,
                gradient_norm: 1.0,
                learning_rates: BTreeMap::new(),
                tokens: step * 1024,
                tokens_per_second: 1000.0 + step as f64,
                wall_seconds: step as f64,
                unix_time: 0.0,
            })
        };
        let start = vec![(35.49, 6.93); heads.len()];
        vec![eval(0, &start), train(1), train(2), train(300), eval(300, last)]
    }

    fn sample() -> Comparison {
        let mut preserve = Run::from_records(
            "preserve".into(),
            "scale-preserve".into(),
            &records(&["preservation", "adaptation"], &[(35.49, 6.93), (45.36, 5.96)]),
        );
        preserve.trained_parameters = Some(12_345_678);
        let full = Run::from_records("full".into(), "full".into(), &records(&["base"], &[(34.8, 4.22)]));
        Comparison { runs: vec![preserve, full] }
    }

    #[test]
    fn the_table_has_the_base_and_every_run_and_head() {
        insta::assert_snapshot!(sample().table().to_text(), @"");
    }

    #[test]
    fn preservation_heads_that_kept_the_base_share_its_point() {
        let chart = sample().chart();
        let names: Vec<&str> = chart.series.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["base = preservation head, all steps", "preserve, adaptation head", "full"]);
        assert_eq!(chart.series[2].points.last().unwrap(), &Point { x: 4.22, y: 34.8, label: "step 300".into() });
        assert!(svg::render(&chart).contains("step 300"));
    }

    #[test]
    fn a_preservation_head_that_moved_is_drawn() {
        let mut comparison = sample();
        comparison.runs[0].evaluations[1].heads[0].forgetting = Some(35.5);
        assert!(comparison.chart().series.iter().any(|s| s.name == "preserve, preservation head" && s.dashed));
    }

    #[test]
    fn several_corpora_are_joined_by_their_geometric_mean() {
        let values = BTreeMap::from([
            ("forget/a/base/perplexity".to_owned(), Some(2.0)),
            ("forget/b/base/perplexity".to_owned(), Some(8.0)),
            ("learn/c/base/perplexity".to_owned(), None),
        ]);
        let heads = heads(&values);
        assert!((heads[0].forgetting.unwrap() - 4.0).abs() < 1e-12);
        assert_eq!(heads[0].learning, Some(f64::INFINITY));
    }

    #[test]
    fn a_run_without_measurements_is_still_listed() {
        let comparison = Comparison { runs: vec![Run::from_records("new".into(), "full".into(), &[])] };
        assert!(comparison.table().to_text().contains("not measured yet"));
        assert!(comparison.chart().series.is_empty());
    }
}
