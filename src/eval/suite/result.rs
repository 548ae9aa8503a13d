//! What a suite gives, with the field names of its JSON (docs/format-eval.md).

use std::collections::BTreeMap;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::metric::{Estimate, of_group};
use super::request::Bos;
use super::selection::{Group, Selection};
use super::source::Split;
use super::task::{Family, Metric, Task};
use crate::eval::Speaker;
use crate::report::{Align, Table};

/// The results on all tasks.
#[derive(Debug, Clone, Serialize)]
pub struct SuiteResult {
    /// Whether a token began every prompt.
    pub bos: Bos,
    /// One entry a task.
    pub tasks: Vec<TaskResult>,
    /// One entry a group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupResult>,
    /// The paper's averages; absent unless its eight were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub averages: Vec<Average>,
}

/// The results on a task.
#[derive(Debug, Clone, Serialize)]
pub struct TaskResult {
    /// The task.
    pub task: Task,
    /// What was measured on.
    pub split: Split,
    /// Number of items.
    pub items: usize,
    /// Examples before each question.
    pub few_shot: usize,
    /// Where they came from; absent at zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub few_shot_split: Option<Split>,
    /// Items whose prompt was longer than the model's context and lost its beginning.
    pub truncated_items: usize,
    /// One entry a head, then one a router.
    pub results: Vec<SpeakerResult>,
    /// Items measured in this process: fewer than `items` where others were measured before a stop.
    pub measured_items: usize,
    /// Wall-clock time of those.
    pub seconds: f64,
}

/// The results on several tasks together.
#[derive(Debug, Clone, Serialize)]
pub struct GroupResult {
    /// The group.
    pub group: &'static str,
    /// Number of tasks.
    pub tasks: usize,
    /// Number of items.
    pub items: usize,
    /// One entry a head, then one a router.
    pub results: Vec<SpeakerResult>,
}

/// What a head or router came to: in JSON `head`, then each metric and its standard error, `acc` and `acc_stderr`.
#[derive(Debug, Clone)]
pub struct SpeakerResult {
    /// The head or router.
    pub head: Speaker,
    /// Its metrics.
    pub metrics: BTreeMap<Metric, Estimate>,
}

/// A mean over tasks, each counting alike.
///
/// # Paper
/// Table 1: "English avg" and "Korean avg".
#[derive(Debug, Clone, Serialize)]
pub struct Average {
    /// `english` or `korean`.
    pub name: &'static str,
    /// One entry a head, then one a router.
    pub results: Vec<AverageResult>,
}

/// The average of a head or router.
#[derive(Debug, Clone, Serialize)]
pub struct AverageResult {
    /// The head or router.
    pub head: Speaker,
    /// The mean of the tasks' main metrics.
    pub value: f64,
}

impl Serialize for SpeakerResult {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("head", &self.head)?;
        for (metric, estimate) in &self.metrics {
            map.serialize_entry(metric.as_str(), &estimate.value)?;
            map.serialize_entry(&format!("{}_stderr", metric.as_str()), &estimate.stderr)?;
        }
        map.end()
    }
}

impl SuiteResult {
    /// Groups and averages of these tasks.
    pub(super) fn new(bos: Bos, tasks: Vec<TaskResult>, selection: &Selection) -> Self {
        let of = |members: &[Task]| tasks.iter().filter(|result| members.contains(&result.task)).collect::<Vec<&TaskResult>>();
        let group = |group: &Group| {
            let members = of(&group.tasks);
            let results =
                speakers(&members, |index| of_group(&members.iter().map(|m| (&m.results[index].metrics, m.items)).collect::<Vec<_>>()));
            let items = members.iter().map(|m| m.items).sum();
            GroupResult { group: group.name, tasks: members.len(), items, results }
        };
        let groups: Vec<GroupResult> = selection.groups.iter().map(group).collect();
        let averages = if selection.paper { averages(&tasks, &groups) } else { Vec::new() };
        Self { bos, tasks, groups, averages }
    }

    /// The results as named numbers for `metrics.jsonl` and TensorBoard: `suite/TASK/HEAD/METRIC`. Of a group that was asked for its own stand for
    /// those of the tasks in it.
    pub fn metrics(&self) -> Vec<(String, f64)> {
        let of = |name: &str, results: &[SpeakerResult]| -> Vec<(String, f64)> {
            let metrics = results.iter().flat_map(|result| result.metrics.iter().map(move |(metric, e)| (result.head, metric, e.value)));
            metrics.map(|(head, metric, value)| (format!("suite/{name}/{head}/{}", metric.as_str()), value)).collect()
        };
        let tasks = self.tasks.iter().flat_map(|task| of(task.task.name, &task.results));
        let groups = self.groups.iter().flat_map(|group| of(group.group, &group.results));
        let averages = self.averages.iter().flat_map(|average| {
            average.results.iter().map(move |result| (format!("suite/{}_average/{}/acc", average.name, result.head), result.value))
        });
        tasks.chain(groups).chain(averages).collect()
    }

    /// A row a task, group or average and head or router. Tasks that are part of a group shown are left out where there are many (MMLU's subjects).
    pub fn table(&self) -> Table {
        let metrics: std::collections::BTreeSet<Metric> =
            self.tasks.iter().flat_map(|task| &task.results).flat_map(|result| result.metrics.keys().copied()).collect();
        let columns = [("task", Align::Left), ("head or router", Align::Left), ("items", Align::Right), ("shots", Align::Right)];
        let mut table = Table::new(columns.into_iter().chain(metrics.iter().map(|metric| (metric.as_str(), Align::Right))));
        let cell = |result: &SpeakerResult, metric: &Metric| match result.metrics.get(metric) {
            None => String::new(),
            Some(Estimate { value, stderr: None }) => format!("{value:.4}"),
            Some(Estimate { value, stderr: Some(stderr) }) => format!("{value:.4} ± {stderr:.4}"),
        };
        let mut rows = |name: &str, items: String, shots: String, results: &[SpeakerResult]| {
            for result in results {
                let row = [name.to_owned(), result.head.to_string(), items.clone(), shots.clone()];
                table.row(row.into_iter().chain(metrics.iter().map(|metric| cell(result, metric))));
            }
        };
        let has_mmlu = self.groups.iter().any(|group| group.group.starts_with("mmlu"));
        for task in self.tasks.iter().filter(|task| !(has_mmlu && task.task.family == Family::Mmlu)) {
            rows(task.task.name, task.items.to_string(), task.few_shot.to_string(), &task.results);
        }
        for group in &self.groups {
            let mut shots: Vec<usize> = self
                .tasks
                .iter()
                .filter(|t| t.task.name.starts_with(group.group.split('_').next().unwrap_or_default()))
                .map(|t| t.few_shot)
                .collect();
            shots.sort_unstable();
            shots.dedup();
            let shots = if let [one] = shots[..] { one.to_string() } else { "various".into() };
            rows(group.group, group.items.to_string(), shots, &group.results);
        }
        for average in &self.averages {
            for result in &average.results {
                let value = Estimate { value: result.value, stderr: None };
                let result = SpeakerResult { head: result.head, metrics: BTreeMap::from([(Metric::Acc, value)]) };
                // A mean over tasks, not over items.
                rows(&format!("{} average", average.name), String::new(), String::new(), &[result]);
            }
        }
        table
    }
}

/// One result a speaker, with the metrics that `of` says the one at an index has.
fn speakers(tasks: &[&TaskResult], of: impl Fn(usize) -> BTreeMap<Metric, Estimate>) -> Vec<SpeakerResult> {
    let heads = tasks.first().map_or(&[][..], |task| &task.results);
    heads.iter().enumerate().map(|(index, result)| SpeakerResult { head: result.head, metrics: of(index) }).collect()
}

/// The means of Table 1: MMLU counts as one.
fn averages(tasks: &[TaskResult], groups: &[GroupResult]) -> Vec<Average> {
    const ENGLISH: [&str; 5] = ["arc_challenge", "hellaswag", "mmlu", "truthfulqa_mc2", "winogrande"];
    const KOREAN: [&str; 3] = ["kobest_boolq", "kobest_copa", "kobest_hellaswag"];
    let value = |name: &str, index: usize| {
        let task = tasks.iter().find(|task| task.task.name == name);
        let of_task = task.and_then(|task| task.results[index].metrics.get(&task.task.main_metric()));
        let group = groups.iter().find(|group| group.group == name);
        of_task.or_else(|| group.and_then(|group| group.results[index].metrics.get(&Metric::Acc))).map(|estimate| estimate.value)
    };
    let heads: Vec<Speaker> = tasks.first().map_or(Vec::new(), |task| task.results.iter().map(|result| result.head).collect());
    let average = |name, names: &[&str]| {
        let of = |(index, &head): (usize, &Speaker)| {
            let values: Option<Vec<f64>> = names.iter().map(|name| value(name, index)).collect();
            values.map(|values| AverageResult { head, value: values.iter().sum::<f64>() / values.len() as f64 })
        };
        Average { name, results: heads.iter().enumerate().filter_map(of).collect() }
    };
    vec![average("english", &ENGLISH), average("korean", &KOREAN)]
}
