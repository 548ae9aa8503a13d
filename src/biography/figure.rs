//! The paper's figure: accuracy over steps, a panel a method, and its bar chart with the paper's values beside ours; on a page with every number.

use super::protocol::{Loss, ORDER};
use super::result::{Curve, Results, ordered, percent};
use super::run::Benchmark;
use super::stage::Stage;
use crate::recipe::MethodKind;
use crate::report::comparison::charts::Panel;
use crate::report::page::Preface;
use crate::report::{Align, Bar, Bars, Chart, Drawing, Point, Series, Table};

/// What the paper's figure 1 shows: the method, its name there, and its accuracy about old and about new people.
///
/// # Paper
/// Figure 1.
pub const PAPER: [(MethodKind, &str, [f64; 2]); 3] = [
    (MethodKind::Full, "FFT", [0.08, 1.00]),
    (MethodKind::LlamaPro, "LLaMA Pro", [0.07, 0.99]),
    (MethodKind::ScaleRoute, "SCALE-Route", [0.369, 0.98]),
];

/// The page.
pub fn preface(benchmark: &Benchmark, results: &Results) -> Preface {
    let mut tables = vec![("Accuracy about every task".to_owned(), results.table(benchmark))];
    if results.tasks > 1 {
        tables.push(("Several tasks in a row".to_owned(), results.continual_table(benchmark)));
        for kind in &benchmark.methods {
            let name = kind.as_str();
            let Some(best) = results.best.get(name) else { continue };
            if let Some(continual) = results.continual.get(name).and_then(|speakers| speakers.get(&best.speaker)) {
                tables.push((format!("After each task: {}", speaker_of(name, &best.speaker)), Results::matrix(continual)));
            }
        }
    }
    tables.push(("By attribute".to_owned(), results.attributes(benchmark)));
    tables.push(("Stages".to_owned(), stages(results)));
    let (protocol, setup) = (&benchmark.protocol, &benchmark.setup);
    let counted = match setup.loss {
        Loss::Answer => "the answers alone count",
        Loss::All => "questions and answers count",
    };
    let about = vec![
        format!(
            "A model that answers questions about {} people is taught {} new ones{}. Accuracy is the share of questions whose answer's first token is the most probable one.",
            protocol.task_zero,
            protocol.new_people,
            if results.tasks > 1 { format!(", {} times in a row", results.tasks) } else { String::new() }
        ),
        format!(
            "Size {}, seed {}; in the loss {counted}. Along the way the first {} people of each task are asked about, at the end of each up to {}.",
            setup.size.as_str(),
            setup.seed,
            protocol.asked_along,
            protocol.asked_at_end
        ),
    ];
    let findings = results.findings();
    let findings = if findings.is_empty() {
        vec![vec!["Nothing is finished yet.".to_owned()]]
    } else {
        findings.into_iter().map(|f| vec![f]).collect()
    };
    Preface { title: "The biography benchmark".into(), about, findings, tables, panels: panels(benchmark, results) }
}

/// Every picture, in the order of the page.
fn panels(benchmark: &Benchmark, results: &Results) -> Vec<Panel> {
    let mut panels = bars(results);
    if results.tasks > 1 {
        panels.push(panel("average", averages(benchmark, results)));
    }
    let shown: Vec<MethodKind> = ORDER.into_iter().filter(|kind| benchmark.methods.contains(kind)).collect();
    // Routers in the panels of one method: the paper's own where it is there.
    let routed = shown.iter().rfind(|kind| kind.widens()).copied();
    for kind in shown {
        let curves: Vec<&Curve> = results.curves.iter().filter(|curve| matches!(curve.stage, Stage::Task(of, _) if of == kind)).collect();
        let Some(answers) = curves.last().and_then(|curve| curve.last()) else { continue };
        let names = answers.speakers().into_iter().map(|name| (name.to_owned(), ())).collect();
        for (speaker, ()) in ordered(&names) {
            let is_router = !matches!(speaker, "base" | "preservation" | "adaptation") && !speaker.starts_with("ring-");
            if speaker == "base" || speaker == "adaptation" || is_router && routed == Some(kind) {
                let id = format!("{}-{}", kind.as_str(), speaker).replace([':', '=', ',', '.'], "-");
                let chart = over_steps(results, kind, speaker, &curves);
                // A gate answers at the end of a stage alone; of a single stage there is no curve to draw.
                if chart.series.iter().any(|series| series.points.len() > 1) {
                    panels.push(panel(&id, chart));
                }
            }
        }
    }
    panels
}

fn speaker_of(method: &str, speaker: &str) -> String {
    match speaker {
        "base" => method.to_owned(),
        "preservation" | "adaptation" => format!("{method}, {speaker} head"),
        ring if ring.starts_with("ring-") => format!("{method}, head of {ring}"),
        router => format!("{method}, routed by {router}"),
    }
}

/// One method's accuracy about each task, over the steps of all its tasks.
fn over_steps(results: &Results, kind: MethodKind, speaker: &str, curves: &[&Curve]) -> Chart {
    let mut series = Vec::new();
    for task in 0..=results.tasks {
        let mut points = Vec::new();
        let mut before = 0.0;
        for curve in curves {
            let steps = results.stages.iter().find(|stage| stage.name == curve.stage.name()).map_or(0, |stage| stage.planned_steps);
            points.extend(curve.of(speaker, task).into_iter().map(|(step, share)| Point::new(before + step, 100.0 * share)));
            before += steps as f64;
        }
        series.push(Series {
            name: format!("Task {task}"),
            style: task as usize,
            dashed: task % 2 == 1,
            joined: true,
            points,
            ..Series::default()
        });
    }
    Chart {
        title: speaker_of(kind.as_str(), speaker),
        subtitle: "Questions whose answer's first token is right".into(),
        x_label: "steps".into(),
        y_label: "% right".into(),
        series,
        y_also: vec![0.0, 100.0],
        ..Chart::default()
    }
}

/// Mean accuracy over the tasks there were, after each of them, of every method's best head or router.
fn averages(benchmark: &Benchmark, results: &Results) -> Chart {
    let mut series = Vec::new();
    for (style, kind) in benchmark.methods.iter().enumerate() {
        let name = kind.as_str();
        let Some(best) = results.best.get(name) else { continue };
        let Some(continual) = results.continual.get(name).and_then(|speakers| speakers.get(&best.speaker)) else { continue };
        let mean = |row: &Vec<f64>| 100.0 * row.iter().sum::<f64>() / row.len().max(1) as f64;
        let points = continual.matrix.iter().enumerate().map(|(after, row)| Point::new(after as f64, mean(row))).collect();
        series.push(Series {
            name: speaker_of(name, &best.speaker),
            style,
            dashed: !kind.widens(),
            joined: true,
            points,
            ..Series::default()
        });
    }
    Chart {
        title: "Task after task".into(),
        subtitle: "Mean accuracy over all tasks so far; of every method its best head or router".into(),
        x_label: "tasks learnt".into(),
        y_label: "% right".into(),
        x_whole: true,
        series,
        y_also: vec![0.0, 100.0],
        ..Chart::default()
    }
}

/// The paper's figure 1, ours beside it: one chart about old people, one about new ones.
fn bars(results: &Results) -> Vec<Panel> {
    let last = format!("task-{}", results.tasks);
    let charts = [("task-0".to_owned(), 0, "old people", "Task 0"), (last.clone(), 1, "new people", last.as_str())];
    let mut panels = Vec::new();
    for (task, paper, people, title) in charts {
        let mut rows = Vec::new();
        let here = |method: &str, speaker: &str| results.accuracy.get(method)?.get(speaker)?.get(&task).copied();
        let bar = |name: String, style: usize, value: f64| Bar { name, style, value, text: format!("{value:.3}") };
        for (kind, called, values) in PAPER {
            let name = kind.as_str();
            let best = results.best.get(name).map(|best| best.speaker.as_str());
            let speakers: Vec<&str> =
                if kind.widens() { best.into_iter().filter(|b| *b != "cosine").chain(["cosine"]).collect() } else { vec!["base"] };
            for speaker in speakers {
                if let Some(value) = here(name, speaker) {
                    rows.push(bar(format!("{}, here", speaker_of(name, speaker)), if kind.widens() { 2 } else { 1 }, value));
                }
            }
            let routed = if kind.widens() { " (cosine)" } else { "" };
            rows.push(bar(format!("{called}{routed}, the paper"), 5, values[paper]));
        }
        panels.push(Panel {
            id: format!("figure-1-{task}"),
            data: data(&rows),
            drawing: Drawing::Bars(Bars {
                title: format!("Figure 1: {people}"),
                subtitle: format!(
                    "First-token accuracy about {} at the end; the paper's model is Pythia-160M",
                    title.replace("task-", "Task ")
                ),
                label: "accuracy".into(),
                rows,
            }),
            absent: "",
        });
    }
    panels
}

fn data(rows: &[Bar]) -> Table {
    let mut table = Table::new([("", Align::Left), ("accuracy", Align::Right)]);
    for bar in rows {
        table.row([bar.name.clone(), bar.text.clone()]);
    }
    table
}

/// A chart with its numbers.
fn panel(id: &str, chart: Chart) -> Panel {
    let mut steps: Vec<f64> = chart.series.iter().flat_map(|series| series.points.iter().map(|point| point.x)).collect();
    steps.sort_by(f64::total_cmp);
    steps.dedup();
    let columns = chart.series.iter().map(|series| (series.name.clone(), Align::Right));
    let mut table = Table::new([(chart.x_label.clone(), Align::Right)].into_iter().chain(columns));
    for step in steps {
        // Where a task ends and the next begins there are two values: the later one is the next task's beginning, asked of fewer people.
        let at =
            |series: &Series| series.points.iter().find(|point| point.x == step).map_or("–".into(), |point| percent(point.y / 100.0));
        table.row([format!("{step}")].into_iter().chain(chart.series.iter().map(at)));
    }
    Panel { id: id.to_owned(), drawing: Drawing::Lines(chart), data: table, absent: "Nothing was asked yet." }
}

fn stages(results: &Results) -> Table {
    let columns = [
        ("stage", Align::Left),
        ("steps", Align::Right),
        ("tokens", Align::Right),
        ("rate", Align::Right),
        ("trained", Align::Right),
        ("seconds", Align::Right),
        ("tokens/s", Align::Right),
    ];
    let mut table = Table::new(columns);
    let grouped = |n: u64| crate::report::axis::group_thousands(&n.to_string());
    for stage in &results.stages {
        let steps = grouped(stage.steps);
        table.row([
            stage.name.clone(),
            if stage.steps < stage.planned_steps { format!("{steps} of {}", grouped(stage.planned_steps)) } else { steps },
            grouped(stage.tokens),
            format!("{:e}", stage.learning_rate),
            stage.trained_parameters.map_or("–".into(), grouped),
            format!("{:.0}", stage.training_seconds),
            if stage.training_seconds > 0.0 { grouped((stage.tokens as f64 / stage.training_seconds) as u64) } else { "–".into() },
        ]);
    }
    table
}
