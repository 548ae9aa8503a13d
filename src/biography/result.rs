//! What came out: accuracy by method, head or router, and task; and over several tasks in a row what was forgotten and what was gained.

use std::collections::BTreeMap;

use serde::Serialize;

use super::ask::{Accuracy, Answers};
use super::protocol::{Loss, Size};
use super::routers::RouterAnswers;
use super::run::Benchmark;
use super::stage::Stage;
use crate::error::Result;
use crate::report::axis::group_thousands;
use crate::report::{Align, Table};
use crate::train::RunFolder;
use crate::train::metrics::{self, METRICS_FILE, Record};

/// Version of the results' JSON.
pub const FORMAT_VERSION: u32 = 1;

/// The targets of the benchmark: people who were known, and new ones, for the best router at the end of Task 1; every task after the fifth.
pub const TARGETS: [f64; 3] = [0.99, 0.98, 0.97];

/// By task, `task-0` first.
pub type ByTask<T> = BTreeMap<String, T>;
/// By method, then by head or router.
pub type ByMethod<T> = BTreeMap<String, BTreeMap<String, T>>;

/// Everything that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Results {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The size.
    pub size: Size,
    /// Which tokens of a question counted.
    pub loss: Loss,
    /// The seed.
    pub seed: u64,
    /// Tasks after Task 0.
    pub tasks: u64,
    /// First-token accuracy at the end of the last task that a method finished: method → head or router → task.
    pub accuracy: ByMethod<ByTask<f64>>,
    /// The same with the token's probability, the whole answers, and everything by attribute.
    pub answers: ByMethod<ByTask<Detail>>,
    /// For methods that finished several tasks.
    pub continual: ByMethod<Continual>,
    /// The head or router that is best at its worse task, of every method.
    pub best: BTreeMap<String, Best>,
    /// Every stage.
    pub stages: Vec<StageResult>,
    /// The curves, for the page.
    #[serde(skip)]
    pub curves: Vec<Curve>,
}

/// Answers about the people of a task.
#[derive(Debug, Clone, Serialize)]
pub struct Detail {
    /// Over all attributes.
    #[serde(flatten)]
    pub all: Accuracy,
    /// By attribute.
    pub attributes: BTreeMap<String, Accuracy>,
}

/// Several tasks in a row.
///
/// # Paper
/// Average accuracy and backward transfer after Lopez-Paz & Ranzato (2017), forgetting after Chaudhry et al. (2018).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Continual {
    /// First-token accuracy, a row for each state (after Task 0, after Task 1, …), a column a task: as many as there were by then.
    pub matrix: Vec<Vec<f64>>,
    /// Mean of the last row.
    pub average_accuracy: f64,
    /// Mean over all tasks but the last of the best accuracy there was before the last task less that after it.
    pub forgetting: f64,
    /// Mean over all tasks but the last of the accuracy after the last task less that just after the task itself.
    pub backward_transfer: f64,
}

/// The best of a method's heads and routers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Best {
    /// Its name.
    pub speaker: String,
    /// The smallest accuracy over the tasks.
    pub worst_task: f64,
}

/// One stage as it stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageResult {
    /// Its name.
    pub name: String,
    /// Steps made.
    pub steps: u64,
    /// Steps of the whole stage.
    pub planned_steps: u64,
    /// Tokens read, those that fill windows up among them.
    pub tokens: u64,
    /// Values that are trained.
    pub trained_parameters: Option<u64>,
    /// Seconds in steps.
    pub training_seconds: f64,
    /// The learning rate's peak.
    pub learning_rate: f64,
}

/// Measurements of a stage by step.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// The stage.
    pub stage: Stage,
    /// By ascending step.
    pub points: Vec<(u64, Answers)>,
}

impl Curve {
    /// First-token accuracy of a head or router about a task, by step.
    pub fn of(&self, speaker: &str, task: u64) -> Vec<(f64, f64)> {
        self.points.iter().filter_map(|(step, answers)| Some((*step as f64, answers.of(speaker, task)?.first_token_accuracy))).collect()
    }

    /// The last measurement.
    pub fn last(&self) -> Option<&Answers> {
        self.points.last().map(|(_, answers)| answers)
    }
}

impl Results {
    /// Reads the runs of a benchmark, however far they are.
    ///
    /// # Errors
    /// Whatever reading them returns.
    pub fn read(benchmark: &Benchmark) -> Result<Self> {
        let (mut stages, mut curves) = (Vec::new(), Vec::new());
        for stage in benchmark.stages() {
            let folder = benchmark.run_folder(stage);
            let Some(recipe) = RunFolder::recipe(&folder)? else { continue };
            let (mut points, mut steps, mut trained, mut seconds, mut tokens) = (Vec::new(), 0, None, 0.0, 0);
            let path = folder.join(METRICS_FILE);
            for record in if path.exists() { metrics::read(&path)? } else { Vec::new() } {
                match record {
                    Record::Train(record) => (steps, seconds, tokens) = (record.step, record.wall_seconds, record.tokens),
                    Record::Eval(record) => {
                        points.push((record.step, Answers::read(&record.values)));
                        trained = record.resources.map(|r| r.trained_parameters.values().sum()).or(trained);
                    }
                }
            }
            // The gate is trained when the stage is finished, and asked then.
            if let (Some((step, answers)), Some(gate)) = (points.last_mut(), RouterAnswers::read(&folder)?)
                && *step == gate.step
            {
                answers.add(&gate.values);
            }
            stages.push(StageResult {
                name: stage.name(),
                steps,
                planned_steps: recipe.train.schedule.steps,
                tokens,
                trained_parameters: trained,
                training_seconds: seconds,
                learning_rate: recipe.train.learning_rates.learning_rate,
            });
            curves.push(Curve { stage, points });
        }
        let setup = &benchmark.setup;
        let mut results = Self {
            format_version: FORMAT_VERSION,
            size: setup.size,
            loss: setup.loss,
            seed: setup.seed,
            tasks: benchmark.tasks,
            accuracy: ByMethod::new(),
            answers: ByMethod::new(),
            continual: ByMethod::new(),
            best: BTreeMap::new(),
            stages,
            curves,
        };
        results.gather(benchmark);
        Ok(results)
    }

    fn gather(&mut self, benchmark: &Benchmark) {
        let finished = |stage: Stage| {
            let name = stage.name();
            let done = self.stages.iter().any(|s| s.name == name && s.steps >= s.planned_steps);
            self.curves.iter().find(|curve| done && curve.stage == stage).and_then(Curve::last)
        };
        let Some(base) = finished(Stage::TaskZero) else { return };
        for &kind in &benchmark.methods {
            let after: Vec<&Answers> = (1..=benchmark.tasks).map_while(|task| finished(Stage::Task(kind, task))).collect();
            let Some(last) = after.last() else { continue };
            let method = kind.as_str().to_owned();
            for speaker in last.speakers() {
                let detail = |task: u64| {
                    let attributes = last.attributes.get(&(speaker.to_owned(), task)).cloned().unwrap_or_default();
                    last.of(speaker, task).map(|all| (format!("task-{task}"), Detail { all, attributes }))
                };
                let details: ByTask<Detail> = (0..=benchmark.tasks).filter_map(detail).collect();
                let worst = details.values().map(|d| d.all.first_token_accuracy).fold(f64::INFINITY, f64::min);
                let accuracy = details.iter().map(|(task, d)| (task.clone(), d.all.first_token_accuracy)).collect();
                self.accuracy.entry(method.clone()).or_default().insert(speaker.to_owned(), accuracy);
                self.answers.entry(method.clone()).or_default().insert(speaker.to_owned(), details);
                let best = self.best.entry(method.clone()).or_insert_with(|| Best { speaker: speaker.to_owned(), worst_task: worst });
                if worst > best.worst_task {
                    *best = Best { speaker: speaker.to_owned(), worst_task: worst };
                }
                if let Some(continual) = Continual::new(base, &after, speaker) {
                    self.continual.entry(method.clone()).or_default().insert(speaker.to_owned(), continual);
                }
            }
        }
    }

    /// Every method, head and router, with its accuracy about every task.
    pub fn table(&self, benchmark: &Benchmark) -> Table {
        let tasks: Vec<String> = (0..=self.tasks).map(|task| format!("task-{task}")).collect();
        let columns = tasks.iter().map(|task| (task.replace("task-", "Task "), Align::Right));
        let columns = [("method".to_owned(), Align::Left), ("head or router".to_owned(), Align::Left)].into_iter().chain(columns);
        let mut table = Table::new(columns.chain([("whole answers".to_owned(), Align::Right), ("trained".to_owned(), Align::Right)]));
        for kind in &benchmark.methods {
            let Some(speakers) = self.answers.get(kind.as_str()) else { continue };
            let trained =
                self.stages.iter().rfind(|s| s.name.starts_with(&format!("{}-task-", kind.as_str()))).and_then(|s| s.trained_parameters);
            for (index, (speaker, details)) in ordered(speakers).into_iter().enumerate() {
                let once = |text: String| if index == 0 { text } else { String::new() };
                let whole: Vec<String> = tasks.iter().filter_map(|task| Some(percent(details.get(task)?.all.exact_match))).collect();
                let mut row = vec![once(kind.as_str().to_owned()), if speaker == "base" { "only one".into() } else { speaker.to_owned() }];
                row.extend(tasks.iter().map(|task| details.get(task).map_or("–".into(), |d| percent(d.all.first_token_accuracy))));
                row.push(whole.join(" / "));
                row.push(once(trained.map_or("–".into(), |n| group_thousands(&n.to_string()))));
                table.row(row);
            }
        }
        table
    }

    /// By attribute, of the best head or router of each method.
    pub fn attributes(&self, benchmark: &Benchmark) -> Table {
        let names: Vec<&str> = benchmark.setup.attributes.iter().map(|attribute| attribute.as_str()).collect();
        let columns = names.iter().map(|name| (name.replace('_', " "), Align::Right));
        let columns = ["method", "head or router", "task"].map(|name| (name.to_owned(), Align::Left)).into_iter().chain(columns);
        let mut table = Table::new(columns);
        for kind in &benchmark.methods {
            let Some(best) = self.best.get(kind.as_str()) else { continue };
            let details = self.answers.get(kind.as_str()).and_then(|speakers| speakers.get(&best.speaker));
            for (task, detail) in details.into_iter().flatten() {
                let mut row = vec![kind.as_str().to_owned(), best.speaker.clone(), task.replace("task-", "Task ")];
                row.extend(names.iter().map(|name| detail.attributes.get(*name).map_or("–".into(), |a| percent(a.first_token_accuracy))));
                table.row(row);
            }
        }
        table
    }

    /// The measures of several tasks in a row.
    pub fn continual_table(&self, benchmark: &Benchmark) -> Table {
        let columns = [
            ("method", Align::Left),
            ("head or router", Align::Left),
            ("average accuracy", Align::Right),
            ("forgetting", Align::Right),
            ("backward transfer", Align::Right),
            ("worst task", Align::Right),
        ];
        let mut table = Table::new(columns);
        for kind in &benchmark.methods {
            for (speaker, c) in self.continual.get(kind.as_str()).map(ordered).into_iter().flatten() {
                let worst = c.matrix.last().into_iter().flatten().copied().fold(f64::INFINITY, f64::min);
                let name = if speaker == "base" { "only one" } else { speaker };
                let cells = [c.average_accuracy, c.forgetting, c.backward_transfer, worst].map(percent);
                table.row([kind.as_str().to_owned(), name.to_owned()].into_iter().chain(cells));
            }
        }
        table
    }

    /// The matrix of one head or router.
    pub fn matrix(continual: &Continual) -> Table {
        let count = continual.matrix.len();
        let columns = (0..count).map(|task| (format!("Task {task}"), Align::Right));
        let mut table = Table::new([("after".to_owned(), Align::Left)].into_iter().chain(columns));
        for (after, row) in continual.matrix.iter().enumerate() {
            let cells = (0..count).map(|task| row.get(task).map_or(String::new(), |share| percent(*share)));
            table.row([format!("Task {after}")].into_iter().chain(cells));
        }
        table
    }

    /// Whether the targets are met, in a line each; empty until there is something to judge.
    pub fn findings(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let best = |names: [&'static str; 3]| {
            let found = names.into_iter().filter_map(|method| self.best.get(method).map(|best| (method, best)));
            found.reduce(|a, b| if b.1.worst_task > a.1.worst_task { b } else { a })
        };
        let of = |method: &str, speaker: &str, task: &str| self.accuracy.get(method)?.get(speaker)?.get(task).copied();
        if let Some((method, best)) = best(["scale-preserve", "scale-adapt", "scale-route"]) {
            let speaker = &best.speaker;
            if self.tasks == 1 {
                if let (Some(old), Some(new)) = (of(method, speaker, "task-0"), of(method, speaker, "task-1")) {
                    let met = old >= TARGETS[0] && new >= TARGETS[1];
                    lines.push(format!(
                        "{method} routed by {speaker}: {} of the questions about those who were known, {} about the new ones; target {} and {}: {}",
                        percent(old),
                        percent(new),
                        percent(TARGETS[0]),
                        percent(TARGETS[1]),
                        if met { "met" } else { "not met" }
                    ));
                }
            } else {
                let met = best.worst_task >= TARGETS[2];
                lines.push(format!(
                    "{method} routed by {speaker}: its worst task of {} has {}; target {} for each: {}",
                    self.tasks + 1,
                    percent(best.worst_task),
                    percent(TARGETS[2]),
                    if met { "met" } else { "not met" }
                ));
            }
            let last = format!("task-{}", self.tasks);
            if let (Some(old), Some(new)) = (of(method, "cosine", "task-0"), of(method, "cosine", &last)) {
                lines.push(format!("{method} routed by cosine, the paper's router: {} and {}", percent(old), percent(new)));
            }
            if let (Some(old), Some(new)) = (of("full", "base", "task-0"), of("full", "base", &last)) {
                lines.push(format!("full fine-tuning: {} and {}", percent(old), percent(new)));
            }
        }
        lines
    }
}

impl Continual {
    /// From the answers after Task 0 and after each later task; `None` where there are fewer than two of those or someone is missing.
    fn new(base: &Answers, after: &[&Answers], speaker: &str) -> Option<Self> {
        if after.len() < 2 {
            return None;
        }
        // Before the first task there is one head, whoever speaks later.
        let mut matrix = vec![vec![base.of("base", 0)?.first_token_accuracy]];
        for (index, answers) in after.iter().enumerate() {
            let row = (0..=index as u64 + 1).map(|task| Some(answers.of(speaker, task)?.first_token_accuracy));
            matrix.push(row.collect::<Option<Vec<f64>>>()?);
        }
        Some(Self::of_matrix(matrix))
    }

    /// The measures of a lower-triangular matrix of at least two rows.
    fn of_matrix(matrix: Vec<Vec<f64>>) -> Self {
        let last = matrix.len() - 1;
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let at_end = &matrix[last];
        let best_before = |task: usize| matrix[..last].iter().filter_map(|row| row.get(task)).copied().fold(f64::NEG_INFINITY, f64::max);
        let forgetting: Vec<f64> = (0..last).map(|task| best_before(task) - at_end[task]).collect();
        let transfer: Vec<f64> = (0..last).map(|task| at_end[task] - matrix[task][task]).collect();
        Self { average_accuracy: mean(at_end), forgetting: mean(&forgetting), backward_transfer: mean(&transfer), matrix }
    }
}

/// Heads in the order of the model, then routers.
pub fn ordered<T>(speakers: &BTreeMap<String, T>) -> Vec<(&str, &T)> {
    let rank = |name: &str| match name {
        "base" | "preservation" => (0, 0),
        "adaptation" => (2, 0),
        name => match name.strip_prefix("ring-").and_then(|number| number.parse::<u64>().ok()) {
            Some(number) => (1, number),
            None => (3, 0),
        },
    };
    let mut all: Vec<(&str, &T)> = speakers.iter().map(|(name, value)| (name.as_str(), value)).collect();
    all.sort_by_key(|(name, _)| rank(name));
    all
}

/// A share in percent.
pub fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.1} %", 100.0 * share) } else { "–".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgetting_is_from_the_best_there_was_and_transfer_from_just_after_the_task() {
        let found = Continual::of_matrix(vec![vec![0.9], vec![1.0, 0.8], vec![0.5, 0.9, 1.0]]);
        assert!((found.average_accuracy - 0.8).abs() < 1e-12);
        // Task 0: 1.0 → 0.5; Task 1: 0.8 → 0.9, which is a gain.
        assert!((found.forgetting - (0.5 - 0.1) / 2.0).abs() < 1e-12);
        assert!((found.backward_transfer - (-0.4 + 0.1) / 2.0).abs() < 1e-12);
    }

    #[test]
    fn heads_come_in_the_order_of_the_model_and_routers_after_them() {
        let names = ["adaptation", "bayes", "cosine", "preservation", "ring-10", "ring-2"];
        let all: BTreeMap<String, ()> = names.iter().map(|name| ((*name).to_owned(), ())).collect();
        let found: Vec<&str> = ordered(&all).into_iter().map(|(name, ())| name).collect();
        assert_eq!(found, ["preservation", "ring-2", "ring-10", "adaptation", "bayes", "cosine"]);
    }
}
