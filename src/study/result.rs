//! What a study came to: numbers beside the paper's, and its claims with what became of them.

use serde::Serialize;

use super::claims::Verdict;
use super::file::{Metric, Paper, Study};
use super::fit::Line;
use super::{Ending, Score, Variant, figure, final_score, own_speaker, scores};
use crate::report::axis::group_thousands;
use crate::report::comparison::tables::change;
use crate::report::comparison::{Comparison, Run};
use crate::report::page::Preface;
use crate::report::{Align, Table};

/// What stands where there is no number.
const NONE: &str = "–";

/// A study and its runs, with the field names of its JSON (docs/studies.md).
#[derive(Debug, Clone, Serialize)]
pub struct StudyResult {
    /// The study's name.
    pub study: String,
    /// What it asks.
    pub title: String,
    /// Where the paper's numbers are from.
    pub source: String,
    /// Steps of each run.
    pub steps: u64,
    /// What the base scored here.
    pub base: Numbers,
    /// What the paper's base scored.
    pub paper_base: Paper,
    /// One entry a variant.
    pub variants: Vec<Row>,
    /// One entry a claim.
    pub claims: Vec<Verdict>,
    /// The line through the variants; absent where the study has none, or there are too few points.
    pub fit: Option<Line>,
    /// What a reader must know before comparing.
    pub notes: Vec<String>,
}

/// Numbers of a variant at the end of its run, or of the base; absent where they were not measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Numbers {
    /// Perplexity on what is not to be forgotten.
    pub forgetting: Option<f64>,
    /// Perplexity on what is to be learnt.
    pub learning: Option<f64>,
    /// Mean Frobenius norm of the trained W12.
    pub norm: Option<f64>,
    /// Cosine between the base stream's last hidden state and the base's.
    pub cosine: Option<f64>,
    /// Number of trained values.
    pub trained: Option<u64>,
}

impl Numbers {
    /// The number of this kind.
    pub fn get(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::Forgetting => self.forgetting,
            Metric::Learning => self.learning,
            Metric::Norm => self.norm,
            Metric::Cosine => self.cosine,
            Metric::Trained => self.trained.map(|n| n as f64),
        }
    }
}

/// A variant.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Its name, and that of its run folder.
    pub name: String,
    /// What tables call it.
    pub label: String,
    /// Variants of one group have one colour.
    pub group: Option<String>,
    /// What it changed in the recipe, as the study has it.
    pub set: Vec<String>,
    /// How it ended.
    pub ending: Ending,
    /// The head or router whose numbers stand here.
    pub speaker: String,
    /// Its numbers.
    #[serde(flatten)]
    pub numbers: Numbers,
    /// Every head and router.
    pub scores: Vec<Score>,
    /// The paper's numbers.
    pub paper: Paper,
}

impl StudyResult {
    /// Puts the runs of `comparison`, those of the variants that were not left out, beside the paper.
    pub fn new(study: &Study, variants: &[Variant], endings: &[Ending], comparison: &Comparison) -> Self {
        let base = comparison.base();
        let base = Numbers {
            forgetting: base.and_then(|b| b.forgetting),
            learning: base.and_then(|b| b.learning),
            cosine: Some(1.0),
            ..Numbers::default()
        };
        let mut runs = comparison.runs.iter();
        let mut rows = Vec::new();
        for ((entry, variant), ending) in study.variants.iter().zip(variants).zip(endings) {
            let run = if *ending == Ending::LeftOut { None } else { runs.next() };
            let speaker = own_speaker(&variant.recipe);
            let run = run.filter(|_| *ending == Ending::Finished);
            rows.push(Row {
                name: entry.name.clone(),
                label: entry.label.clone(),
                group: entry.group.clone(),
                set: entry.set.clone(),
                ending: ending.clone(),
                numbers: run.map_or(Numbers::default(), |run| numbers(run, &speaker)),
                speaker,
                scores: run.map_or(Vec::new(), scores),
                paper: entry.paper,
            });
        }
        let steps = variants.first().map_or(0, |variant| variant.recipe.train.schedule.steps);
        let mut result = Self {
            study: study.name.clone(),
            title: study.title.clone(),
            source: study.source.clone(),
            steps,
            base,
            paper_base: study.base,
            variants: rows,
            claims: Vec::new(),
            fit: None,
            notes: Vec::new(),
        };
        result.fit = if study.plot.fit { Line::through(&result.points(study.plot.x, study.plot.y)) } else { None };
        result.claims = result.judge(study);
        result.notes = result.note(comparison);
        result
    }

    /// Two numbers of every variant that has both.
    pub fn points(&self, x: Metric, y: Metric) -> Vec<(f64, f64)> {
        self.variants.iter().filter_map(|row| Some((row.numbers.get(x)?, row.numbers.get(y)?))).collect()
    }

    fn judge(&self, study: &Study) -> Vec<Verdict> {
        let row = |name: &str| self.variants.iter().find(|row| row.name == name);
        let label = |name: &str| {
            let (variant, head) = name.split_once('@').map_or((name, None), |(variant, head)| (variant, Some(head)));
            let label = row(variant).map_or_else(|| variant.to_owned(), |row| row.label.clone());
            head.map_or(label.clone(), |head| format!("{label}, {head}"))
        };
        let mut verdicts = Vec::new();
        for claim in &study.claims {
            let metric = claim.metric;
            let here = |name: &str| match name.split_once('@') {
                None if name == "base" => self.base.get(metric),
                None => row(name)?.numbers.get(metric),
                Some((variant, head)) => {
                    let score = row(variant)?.scores.iter().find(|score| score.name == head)?;
                    match metric {
                        Metric::Forgetting => score.forgetting,
                        Metric::Learning => score.learning,
                        _ => None,
                    }
                }
            };
            let paper = |name: &str| if name == "base" { self.paper_base.get(metric) } else { row(name)?.paper.get(metric) };
            let line = match claim.kind() {
                Ok(super::claims::Kind::Linear(linear)) => Line::through(&self.points(linear.x, linear.y)),
                _ => None,
            };
            verdicts.push(claim.verdict(&here, &paper, &label, line));
        }
        verdicts
    }

    fn note(&self, comparison: &Comparison) -> Vec<String> {
        let mut notes = vec![
            "One run each, with one seed: differences that another seed would turn round are not told apart from those that it would not."
                .to_owned(),
            "The paper's base, corpora and number of tokens are others; what can be compared is the order, and the change from the base."
                .to_owned(),
        ];
        for row in &self.variants {
            match &row.ending {
                Ending::Failed(message) => notes.push(format!("{} failed: {message}.", row.label)),
                Ending::LeftOut => notes.push(format!("{} has not been run.", row.label)),
                Ending::Finished => {}
            }
        }
        notes.extend(comparison.notes.iter().cloned());
        notes
    }

    /// One row a variant, after one for the base: what came out, and what the paper has, each with its change from its base.
    pub fn table(&self) -> Table {
        let mut table = Table::new([
            ("variant", Align::Left),
            ("forgetting", Align::Right),
            ("learning", Align::Right),
            ("paper: forgetting", Align::Right),
            ("paper: learning", Align::Right),
            ("cosine", Align::Right),
            ("W12 norm", Align::Right),
            ("trained", Align::Right),
            ("head or router", Align::Left),
        ]);
        let paper = &self.paper_base;
        let plain = |value: Option<f64>| change(value, None);
        let base = [plain(self.base.forgetting), plain(self.base.learning), plain(paper.forgetting), plain(paper.learning)];
        table.row(std::iter::once("base".to_owned()).chain(base));
        for row in &self.variants {
            let n = &row.numbers;
            let speaker = match &row.ending {
                Ending::Finished if row.speaker == "base" => "only one".to_owned(),
                Ending::Finished => row.speaker.clone(),
                Ending::Failed(_) => "failed".into(),
                Ending::LeftOut => "not run".into(),
            };
            table.row([
                row.label.clone(),
                change(n.forgetting, self.base.forgetting),
                change(n.learning, self.base.learning),
                change(row.paper.forgetting, paper.forgetting),
                change(row.paper.learning, paper.learning),
                n.cosine.map_or(NONE.into(), |c| if c == 1.0 { "1".into() } else { format!("{c:.5}") }),
                n.norm.map_or(NONE.into(), |norm| format!("{norm:.2}")),
                n.trained.map_or(NONE.into(), |n| group_thousands(&n.to_string())),
                speaker,
            ]);
        }
        table.select(|name, cells| {
            !["cosine", "W12 norm", "paper: forgetting", "paper: learning"].contains(&name)
                || cells.iter().any(|c| !c.is_empty() && *c != NONE)
        })
    }

    /// The tables and the claims for a terminal.
    pub fn to_text(&self) -> String {
        let mut text = format!("{}\n{}\n\n{}", self.heading(), self.source, self.table().to_text());
        for verdict in &self.claims {
            text += "\n";
            verdict.lines().iter().for_each(|line| text += &format!("{line}\n"));
        }
        text += "\n";
        self.notes.iter().for_each(|note| text += &format!("note: {note}\n"));
        text
    }

    /// The same as Markdown, with every head and router of every run below.
    pub fn to_markdown(&self, comparison: &Comparison) -> String {
        let mut text =
            format!("# {}\n\nSource of the paper's numbers: {}\n\n{}\n", self.heading(), self.source, self.table().to_markdown());
        for verdict in &self.claims {
            let lines = verdict.lines();
            text += &format!("- **{}** {}\n", lines[0], lines[1]);
        }
        text += "\n";
        self.notes.iter().for_each(|note| text += &format!("- {note}\n"));
        text + "\n## Every head and router\n\n" + &comparison.table().to_markdown()
    }

    /// What stands before the comparison of the runs on their page.
    pub fn preface(&self, study: &Study) -> Preface {
        let mut about = vec![format!("Source of the paper's numbers: {}", self.source)];
        about.extend(self.notes.iter().take(2).cloned());
        Preface {
            title: self.heading(),
            about,
            findings: self.claims.iter().map(Verdict::lines).collect(),
            tables: vec![("Here and in the paper, each with its change from its base".into(), self.table())],
            panels: figure::panels(study, self),
        }
    }

    fn heading(&self) -> String {
        format!("{} ({} steps)", self.title, group_thousands(&self.steps.to_string()))
    }
}

fn numbers(run: &Run, speaker: &str) -> Numbers {
    let score = final_score(run, speaker);
    let last = run.last();
    Numbers {
        forgetting: score.and_then(|score| score.forgetting),
        learning: score.and_then(|score| score.learning),
        norm: last.and_then(|last| last.expansion_to_base_norm.as_ref()).map(|norms| norms.mean),
        cosine: last.and_then(|last| last.representation_cosine),
        trained: run.trained_parameters,
    }
}
