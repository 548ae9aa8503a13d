//! One key of a recipe over several values, all else equal, and which value is best.

use serde::Serialize;

use super::{Ending, Score, final_score, scores};
use crate::error::{Error, Result};
use crate::eval::format_perplexity;
use crate::model::Block;
use crate::report::axis::Scale;
use crate::report::comparison::{Comparison, Run};
use crate::report::{Align, Chart, Point, Series, Table};

/// What is swept.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sweep {
    /// The keys that are set, all to the same value.
    pub keys: Vec<String>,
    /// The values, as an override has them, ascending where they are numbers.
    pub values: Vec<String>,
    /// The values as numbers, where all are; absent otherwise.
    #[serde(skip)]
    pub numbers: Option<Vec<f64>>,
    /// What run folders are called, before the value.
    #[serde(skip)]
    prefix: String,
}

/// By what the best value is chosen; lower is better in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// Perplexity on what is to be learnt.
    Learn,
    /// Perplexity on what is not to be forgotten.
    Forget,
    /// The geometric mean of the two.
    Both,
}

impl By {
    /// What it is, in words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Learn => "learning perplexity",
            Self::Forget => "forgetting perplexity",
            Self::Both => "geometric mean of learning and forgetting perplexity",
        }
    }
}

impl Sweep {
    /// Learning rates: of all blocks (`train.learning_rate`, of which W12 has its method's share unless the recipe gives it a rate), or of `blocks` alone.
    ///
    /// # Errors
    /// [`Error::Usage`] for a rate that is none, no rate at all, or an unknown block.
    pub fn rates(rates: &str, blocks: &[String]) -> Result<Self> {
        let mut numbers = Vec::new();
        for text in rates.split(',').map(str::trim) {
            let rate: f64 =
                text.parse().map_err(|_| Error::usage(format!("--rates: expected numbers such as 1e-4,3e-4,1e-3, found `{text}`")))?;
            if !(rate > 0.0 && rate <= 10.0) {
                return Err(Error::usage(format!("--rates: {text} is no learning rate; expected one above 0 and at most 10")));
            }
            numbers.push(rate);
        }
        numbers.sort_by(f64::total_cmp);
        numbers.dedup();
        for block in blocks {
            if !Block::ALL.iter().any(|known| known.as_str() == block) {
                let names = Block::ALL.map(|known| known.as_str()).join(", ");
                return Err(Error::usage(format!("--blocks: `{block}` is no block; expected some of {names}")));
            }
        }
        let keys = match blocks {
            [] => vec!["train.learning_rate".to_owned()],
            blocks => blocks.iter().map(|block| format!("train.learning_rates.{block}")).collect(),
        };
        let prefix = std::iter::once("rate").chain(blocks.iter().map(String::as_str)).collect::<Vec<_>>().join("-");
        Ok(Self { keys, values: numbers.iter().map(|rate| format!("{rate:e}")).collect(), numbers: Some(numbers), prefix })
    }

    /// `KEY=VALUE,VALUE,…`: any key of a recipe. A comma within quotes or brackets belongs to a value.
    ///
    /// # Errors
    /// [`Error::Usage`] without a key, or with fewer than one value.
    pub fn each(assignment: &str) -> Result<Self> {
        let wrong = |what: &str| {
            Error::usage(format!("--set-each {assignment}: {what}; expected KEY=VALUE,VALUE, for example train.learning_rate=1e-4,3e-4"))
        };
        let (key, list) = assignment.split_once('=').ok_or_else(|| wrong("no `=` is there"))?;
        let key = key.trim();
        let mut values: Vec<String> = split(list).into_iter().map(|value| value.trim().to_owned()).collect();
        if key.is_empty() || values.iter().any(String::is_empty) {
            return Err(wrong("the key or a value is empty"));
        }
        let mut seen = Vec::new();
        values.retain(|value| {
            !seen.contains(value) && {
                seen.push(value.clone());
                true
            }
        });
        let numbers: Option<Vec<f64>> = values.iter().map(|value| value.parse().ok().filter(|n: &f64| n.is_finite())).collect();
        if let Some(numbers) = &numbers {
            let mut order: Vec<usize> = (0..values.len()).collect();
            order.sort_by(|&a, &b| numbers[a].total_cmp(&numbers[b]));
            values = order.iter().map(|&at| values[at].clone()).collect();
        }
        let numbers = numbers.map(|mut numbers| {
            numbers.sort_by(f64::total_cmp);
            numbers
        });
        let prefix = key.rsplit('.').next().unwrap_or(key).to_owned();
        Ok(Self { keys: vec![key.to_owned()], values, numbers, prefix })
    }

    /// The overrides that give a recipe the value of this index.
    pub fn overrides(&self, index: usize) -> Vec<String> {
        self.keys.iter().map(|key| format!("{key}={}", self.values[index])).collect()
    }

    /// The names of the run folders, one a value: `rate-3e-4`.
    pub fn folders(&self) -> Vec<String> {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-._+".contains(c) { c } else { '_' };
        let name = |value: &String| format!("{}-{}", self.prefix, value.chars().map(plain).collect::<String>().trim_matches('_'));
        let mut names: Vec<String> = self.values.iter().map(name).collect();
        for index in 1..names.len() {
            if names[..index].contains(&names[index]) {
                names[index] = format!("{}-{}", names[index], index + 1);
            }
        }
        names
    }
}

/// At commas that stand outside quotes and brackets.
fn split(list: &str) -> Vec<&str> {
    let (mut depth, mut quote, mut start, mut pieces) = (0i32, None, 0, Vec::new());
    for (at, c) in list.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[' | '{') => depth += 1,
            (None, ']' | '}') => depth -= 1,
            (None, ',') if depth == 0 => {
                pieces.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    pieces.push(&list[start..]);
    pieces
}

/// What a sweep came to, with the field names of its JSON (docs/studies.md).
#[derive(Debug, Clone, Serialize)]
pub struct Findings {
    /// What was swept.
    #[serde(flatten)]
    pub sweep: Sweep,
    /// Steps of every run.
    pub steps: u64,
    /// By what the best is chosen.
    pub by: By,
    /// Of which head or router.
    pub of: String,
    /// One entry a value.
    pub trials: Vec<Trial>,
    /// The index of the best; absent where no run has the number it is chosen by.
    pub best: Option<usize>,
    /// What a reader must know before taking it.
    pub warnings: Vec<String>,
}

/// One value and what it gave.
#[derive(Debug, Clone, Serialize)]
pub struct Trial {
    /// The value.
    pub value: String,
    /// The run folder, beside the other ones.
    pub run: String,
    /// The overrides that make it.
    pub set: Vec<String>,
    /// How it ended.
    pub ending: Ending,
    /// One entry a head and router.
    pub scores: Vec<Score>,
    /// The number that the best is chosen by; absent where it failed, was not measured, or is not finite.
    pub criterion: Option<f64>,
}

impl Findings {
    /// Puts together what the runs of `comparison`, one a value, came to; `of` is the head or router whose numbers are compared.
    pub fn new(sweep: Sweep, steps: u64, by: By, of: &str, endings: &[Ending], comparison: &Comparison) -> Self {
        let folders = sweep.folders();
        let mut trials = Vec::new();
        for (index, (run, ending)) in comparison.runs.iter().zip(endings).enumerate() {
            let finished = *ending == Ending::Finished;
            trials.push(Trial {
                value: sweep.values[index].clone(),
                run: folders[index].clone(),
                set: sweep.overrides(index),
                ending: ending.clone(),
                scores: if finished { scores(run) } else { Vec::new() },
                criterion: if finished { criterion(run, of, by) } else { None },
            });
        }
        let scored = trials.iter().enumerate().filter_map(|(index, trial)| Some((index, trial.criterion?)));
        let best = scored.reduce(|best, next| if next.1 < best.1 { next } else { best }).map(|(index, _)| index);
        let mut findings = Self { sweep, steps, by, of: of.into(), trials, best, warnings: Vec::new() };
        findings.warnings = findings.warn();
        findings
    }

    fn warn(&self) -> Vec<String> {
        let (by, count) = (self.by.describe(), self.trials.len());
        let mut warnings: Vec<String> = Vec::new();
        for trial in &self.trials {
            match &trial.ending {
                Ending::Failed(message) => warnings.push(format!("{} failed: {message}", trial.value)),
                Ending::Finished if trial.criterion.is_none() => {
                    warnings.push(format!("{} has no finite {by} of `{}`", trial.value, self.of));
                }
                Ending::Finished | Ending::LeftOut => {}
            }
        }
        let Some(best) = self.best else {
            warnings.push(format!("no run has a finite {by} of `{}`, so none is best", self.of));
            return warnings;
        };
        if self.sweep.numbers.is_some() {
            let value = &self.trials[best].value;
            match (best == 0, best + 1 == count) {
                (true, true) => warnings.push(format!("{value} is the only value that was tried")),
                (true, false) => warnings.push(format!("the best, {value}, is the smallest that was tried: a smaller one may be better")),
                (false, true) => warnings.push(format!("the best, {value}, is the largest that was tried: a larger one may be better")),
                _ => {}
            }
        }
        warnings
    }

    /// One row a value and head or router; the best is marked.
    pub fn table(&self) -> Table {
        let keys = self.sweep.keys.iter().map(|key| key.strip_prefix("train.").unwrap_or(key)).collect::<Vec<_>>().join(", ");
        let mut table = Table::new([
            (keys.as_str(), Align::Right),
            ("head or router", Align::Left),
            ("learning", Align::Right),
            ("forgetting", Align::Right),
            ("", Align::Left),
        ]);
        let shown = |value: Option<f64>| value.map_or("–".into(), format_perplexity);
        for (index, trial) in self.trials.iter().enumerate() {
            if trial.scores.is_empty() {
                let why = if matches!(trial.ending, Ending::Failed(_)) { "failed" } else { "not measured" };
                table.row([trial.value.clone(), why.into(), "–".into(), "–".into(), String::new()]);
            }
            for (row, score) in trial.scores.iter().enumerate() {
                let mark = if self.best == Some(index) && score.name == self.of { "best" } else { "" };
                let name = if score.name == "base" { "only one".into() } else { score.name.clone() };
                let value = if row == 0 { trial.value.clone() } else { String::new() };
                table.row([value, name, shown(score.learning), shown(score.forgetting), mark.into()]);
            }
        }
        table
    }

    /// Learning and forgetting over the values, where they are numbers.
    pub fn chart(&self) -> Option<Chart> {
        let numbers = self.sweep.numbers.as_ref()?;
        let mut series = Vec::new();
        for (style, (name, dashed, pick)) in
            [("learning", false, (|s| s.learning) as fn(&Score) -> Option<f64>), ("forgetting", true, |s| s.forgetting)]
                .into_iter()
                .enumerate()
        {
            let of = |trial: &Trial| pick(trial.scores.iter().find(|score| score.name == self.of)?);
            let points: Vec<Point> = numbers.iter().zip(&self.trials).filter_map(|(&x, trial)| Some(Point::new(x, of(trial)?))).collect();
            series.push(Series { name: format!("{name}, {}", self.of), style, dashed, joined: true, points, ..Series::default() });
        }
        let positive = numbers.iter().all(|&n| n > 0.0);
        Some(Chart {
            title: format!("{} over {}", "Perplexity", self.sweep.keys.join(" and ")),
            subtitle: format!("At the end of {} steps; lower is better", crate::report::axis::group_thousands(&self.steps.to_string())),
            x_label: self.sweep.keys.join(", "),
            y_label: "perplexity".into(),
            x_scale: if positive { Scale::Log } else { Scale::Linear },
            y_scale: Scale::Log,
            series,
            ..Chart::default()
        })
    }
}

fn criterion(run: &Run, of: &str, by: By) -> Option<f64> {
    let head = final_score(run, of)?;
    let value = match by {
        By::Learn => head.learning?,
        By::Forget => head.forgetting?,
        By::Both => (head.learning? * head.forgetting?).sqrt(),
    };
    value.is_finite().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::comparison::{HeadPerplexity, Measured};
    use std::collections::BTreeMap;

    fn run(scores: &[(&str, f64, f64)]) -> Run {
        let head = |&(head, learning, forgetting): &(&str, f64, f64)| HeadPerplexity {
            head: head.into(),
            learning: Some(learning),
            forgetting: Some(forgetting),
            corpora: BTreeMap::new(),
        };
        let last = Measured { step: 30, heads: scores.iter().map(head).collect(), ..Measured::default() };
        Run { steps: 30, planned_steps: 30, evaluations: vec![last], ..Run::default() }
    }

    fn findings(rates: &str, by: By, runs: Vec<(Ending, Run)>) -> Findings {
        let (endings, runs): (Vec<Ending>, Vec<Run>) = runs.into_iter().unzip();
        Findings::new(Sweep::rates(rates, &[]).unwrap(), 30, by, "base", &endings, &Comparison::new(runs))
    }

    #[test]
    fn rates_are_sorted_named_and_put_on_the_right_keys() {
        let all = Sweep::rates("1e-3, 0.0001,3e-4,1e-4", &[]).unwrap();
        assert_eq!(all.values, ["1e-4", "3e-4", "1e-3"]);
        assert_eq!(all.folders(), ["rate-1e-4", "rate-3e-4", "rate-1e-3"]);
        assert_eq!(all.overrides(1), ["train.learning_rate=3e-4"]);
        let w12 = Sweep::rates("1e-4", &["expansion_to_base".into()]).unwrap();
        assert_eq!(
            (w12.folders(), w12.overrides(0)),
            (vec!["rate-expansion_to_base-1e-4".into()], vec!["train.learning_rates.expansion_to_base=1e-4".into()])
        );
        for (rates, block, part) in [
            ("", "", "found ``"),
            ("1e-4,x", "", "found `x`"),
            ("0", "", "above 0"),
            ("-1", "", "above 0"),
            ("1e-4", "W12", "expansion_to_base"),
        ] {
            let blocks = if block.is_empty() { vec![] } else { vec![block.to_owned()] };
            assert!(Sweep::rates(rates, &blocks).unwrap_err().to_string().contains(part), "{rates}");
        }
    }

    #[test]
    fn any_key_is_swept_and_commas_within_values_stay() {
        let init = Sweep::each("method.init=\"svd,zero\",\"zero,svd\"").unwrap();
        assert_eq!(init.values, ["\"svd,zero\"", "\"zero,svd\""]);
        assert_eq!((init.numbers.clone(), init.folders()), (None, vec!["init-svd_zero".into(), "init-zero_svd".into()]));
        let modules = Sweep::each("method.modules=['attention'],['attention','ffn']").unwrap();
        assert_eq!(modules.values.len(), 2);
        assert_eq!(Sweep::each("method.preserved_layers=20,10,10").unwrap().values, ["10", "20"]);
        for wrong in ["train.steps", "=1,2", "a=", "a=1,,2"] {
            assert!(Sweep::each(wrong).unwrap_err().to_string().contains("expected KEY=VALUE"), "{wrong}");
        }
    }

    #[test]
    fn the_best_is_the_lowest_by_the_criterion_and_failures_are_never_best() {
        let runs = || {
            vec![
                (Ending::Finished, run(&[("base", 9.0, 20.0)])),
                (Ending::Finished, run(&[("base", 7.0, 24.0)])),
                (Ending::Finished, run(&[("base", f64::INFINITY, 19.0)])),
                (Ending::Failed("step 3: the loss is NaN".into()), Run::default()),
            ]
        };
        let learn = findings("1e-4,3e-4,1e-3,3e-3", By::Learn, runs());
        assert_eq!(learn.best, Some(1));
        assert_eq!(learn.warnings, ["1e-3 has no finite learning perplexity of `base`", "3e-3 failed: step 3: the loss is NaN"]);
        insta::assert_snapshot!(learn.table().to_text(), @r"
        learning_rate  head or router  learning  forgetting
        ─────────────────────────────────────────────────────────
                 1e-4  only one            9.00       20.00
                 3e-4  only one            7.00       24.00  best
                 1e-3  only one             inf       19.00
                 3e-3  failed                 –           –
        ");
        let forget = findings("1e-4,3e-4,1e-3,3e-3", By::Forget, runs());
        assert_eq!(forget.best, Some(2));
        assert_eq!(findings("1e-4,3e-4,1e-3,3e-3", By::Both, runs()).best, Some(1));
        assert_eq!(learn.chart().unwrap().series.len(), 2);
    }

    #[test]
    fn the_best_at_an_edge_is_warned_about() {
        let at = |best: usize| {
            let runs = (0..3).map(|i| (Ending::Finished, run(&[("base", if i == best { 5.0 } else { 6.0 }, 20.0)])));
            findings("1e-4,3e-4,1e-3", By::Learn, runs.collect()).warnings
        };
        assert!(at(0)[0].contains("smallest that was tried") && at(1).is_empty() && at(2)[0].contains("largest that was tried"));
        let none = findings("1e-4", By::Learn, vec![(Ending::Failed("x".into()), Run::default())]);
        assert!(none.best.is_none() && none.warnings[1].contains("none is best"));
    }
}
