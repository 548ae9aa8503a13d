//! A comparison as pictures. A run has the same colour in all of them, and each of its heads and routers the same mark: the adaptation head, or the only
//! one, the run's own; the preservation head the same, dashed and hollow; earlier rings, dashed, and routers, dotted, have others.

use std::collections::{BTreeMap, BTreeSet};

use super::run::{HeadPerplexity, Measured};
use super::tables::{NONE, format_bytes, format_seconds};
use super::{Comparison, Run};
use crate::eval::format_perplexity;
use crate::report::axis::{Scale, group_thousands};
use crate::report::svg::{MARKS, short};
use crate::report::{Align, Bar, Bars, Chart, Drawing, Point, Reference, Series, Table};

/// A picture of a page, and its numbers.
#[derive(Debug, Clone)]
pub struct Panel {
    /// Its name in links to it.
    pub id: String,
    /// The picture.
    pub drawing: Drawing,
    /// The numbers in it.
    pub data: Table,
    /// What is said where there is nothing to draw.
    pub absent: &'static str,
}

/// Picks a number of a head.
type Pick = fn(&HeadPerplexity) -> Option<f64>;

impl Comparison {
    /// Every picture, in the order of the page.
    pub fn panels(&self) -> Vec<Panel> {
        let unmeasured = "Nothing was measured yet: a recipe names held-out corpora under data.learn and data.forget.";
        let mut panels = vec![
            lines("forgetting-against-learning", self.chart(), unmeasured),
            lines("forgetting", self.over_steps("Forgetting", "old", |h| h.forgetting), unmeasured),
            lines("learning", self.over_steps("Learning", "new", |h| h.learning), unmeasured),
        ];
        let sets: BTreeSet<&str> =
            self.measurements_of_all().flat_map(|m| m.questions.keys()).filter_map(|name| Some(name.rsplit_once('/')?.0)).collect();
        panels.extend(sets.into_iter().zip(1..).map(|(set, number)| lines(&format!("questions-{number}"), self.questions(set), "")));
        let tasks: BTreeSet<&str> =
            self.measurements_of_all().flat_map(|m| m.suites.keys()).filter_map(|name| Some(name.rsplit_once('/')?.0)).collect();
        panels.extend(tasks.into_iter().zip(1..).map(|(task, number)| lines(&format!("task-{number}"), self.task(task), "")));
        panels.extend([
            lines(
                "representation",
                self.representation(),
                "Not measured in these runs: representation = true under [eval] does, in future ones.",
            ),
            lines("norms", self.norms(), "No run here trains W12, or noted its norms: methods without it leave the base stream alone."),
            lines("norms-by-layer", self.norms_by_layer(), "No run here trains W12, or noted its norms."),
            lines("loss", self.loss(), "No step was made yet."),
            lines("speed", self.speed(), "No step was made yet."),
            self.bars("memory", "Peak memory", "The most the training process has held, the base's file included; runs trained by one process, as the quickstart's, share it", "memory", |run| {
                run.peak_memory_bytes.map(|bytes| (bytes as f64, format_bytes(bytes as f64)))
            }),
            self.bars("parameters", "Trained parameters", "Values that are updated; by block below", "values", |run| {
                run.trained_parameters.map(|n| (n as f64, group_thousands(&n.to_string())))
            }),
            self.bars("time", "Training time", "Seconds in steps, measurements and checkpoints left out", "time", |run| {
                run.training_seconds.map(|seconds| (seconds, format_seconds(seconds)))
            }),
        ]);
        panels
    }

    /// Forgetting against learning: one series a run and head, one point a measurement.
    ///
    /// # Paper
    /// Figure 4.
    pub fn chart(&self) -> Chart {
        let at = |head: &HeadPerplexity| Some((head.learning?, head.forgetting?));
        let base_point = self.base().and_then(at);
        let (mut series, kept) = self.series(
            |measured: &Measured, head: &str| at(measured.head(head)?),
            |points: &[Point]| points.iter().all(|p| Some((p.x, p.y)) == base_point),
        );
        for line in &mut series {
            if let Some(last) = line.points.len().checked_sub(1) {
                line.points[..last].iter_mut().for_each(|p| p.label.clear());
            }
        }
        let ends = common_end(&mut series);
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
            subtitle: format!("Perplexity on held-out text; one point a measurement{ends}; lower and further left is better"),
            x_label: "learning: perplexity on the new corpora".into(),
            y_label: "forgetting: perplexity on the old corpora".into(),
            x_scale: Scale::Log,
            y_scale: Scale::Log,
            series,
            references: base_point.map(|(_, y)| reference("the base's", y)).into_iter().collect(),
            ..Chart::default()
        }
    }

    /// One of the two perplexities over the steps.
    fn over_steps(&self, title: &str, which: &str, pick: Pick) -> Chart {
        let base = self.base().and_then(pick);
        let (series, kept) = self.series(
            |measured: &Measured, head: &str| Some((measured.step as f64, pick(measured.head(head)?)?)),
            |points: &[Point]| points.iter().all(|p| Some(p.y) == base),
        );
        let label = if kept > 0 { "base = preservation head" } else { "base" };
        Chart {
            title: format!("{title} over steps"),
            subtitle: format!("Perplexity on the {which} held-out corpora; lower is better"),
            x_label: "steps".into(),
            x_whole: true,
            y_label: format!("perplexity on the {which} corpora"),
            y_scale: Scale::Log,
            series: unlabelled(series),
            references: base.map(|y| reference(label, y)).into_iter().collect(),
            ..Chart::default()
        }
    }

    /// Shares of questions of one set that are answered right.
    fn questions(&self, set: &str) -> Chart {
        let (series, _) = self.series(
            |measured: &Measured, head: &str| Some((measured.step as f64, 100.0 * measured.questions.get(&format!("{set}/{head}"))?)),
            |_: &[Point]| false,
        );
        Chart {
            title: format!("Questions about {}", set.replace('_', " ")),
            subtitle: "Questions whose answer's first token is the most probable one; higher is better".into(),
            x_label: "steps".into(),
            x_whole: true,
            y_label: "% right".into(),
            series: unlabelled(series),
            y_also: vec![0.0, 100.0],
            ..Chart::default()
        }
    }

    /// What a multiple-choice task is quoted by.
    fn task(&self, task: &str) -> Chart {
        let (series, _) = self.series(
            |measured: &Measured, head: &str| Some((measured.step as f64, 100.0 * measured.suites.get(&format!("{task}/{head}"))?)),
            |_: &[Point]| false,
        );
        Chart {
            title: task.replace('_', " "),
            subtitle: "Normalised accuracy where the task has one, else accuracy; higher is better".into(),
            x_label: "steps".into(),
            x_whole: true,
            y_label: "%".into(),
            series: unlabelled(series),
            ..Chart::default()
        }
    }

    fn representation(&self) -> Chart {
        Chart {
            title: "Representation forgetting".into(),
            subtitle: "1 − cosine between the base stream's last hidden state and the base's, on the old corpora; 0: nothing moved".into(),
            x_label: "steps".into(),
            x_whole: true,
            y_label: "1 − cosine".into(),
            series: self.of_runs(|run| measured(run, |m| m.representation_cosine.map(|cosine| 1.0 - cosine))),
            y_also: vec![0.0],
            ..Chart::default()
        }
    }

    fn norms(&self) -> Chart {
        let mut series = Vec::new();
        for (name, dashed, pick) in [
            ("mean", false, (|m| Some(m.expansion_to_base_norm.as_ref()?.mean)) as fn(&Measured) -> Option<f64>),
            ("largest", true, |m| Some(m.expansion_to_base_norm.as_ref()?.largest)),
        ] {
            let of_runs = self.of_runs(|run| measured(run, pick));
            series.extend(of_runs.into_iter().map(|s| Series { name: format!("{}, {name}", s.name), dashed, ..s }));
        }
        Chart {
            title: "Norm of W12".into(),
            subtitle: "Frobenius norms of what the expansion adds to the base stream; forgetting grows with them".into(),
            x_label: "steps".into(),
            x_whole: true,
            y_label: "norm".into(),
            series,
            y_also: vec![0.0],
            ..Chart::default()
        }
    }

    fn norms_by_layer(&self) -> Chart {
        let by_layer = |run: &Run| {
            let mut layers: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
            for (module, norm) in run.last().and_then(|m| m.expansion_to_base_norm.as_ref()).into_iter().flat_map(|norms| &norms.modules) {
                let mut parts = module.split('.').skip_while(|part| *part != "layers").skip(1);
                if let Some(layer) = parts.next().and_then(|layer| layer.parse().ok()) {
                    layers.entry(layer).or_default().push(*norm);
                }
            }
            layers.into_iter().map(|(layer, norms)| Point::new(layer as f64, norms.iter().sum::<f64>() / norms.len() as f64)).collect()
        };
        Chart {
            title: "Norm of W12 by layer".into(),
            subtitle: "At the last measurement: mean over the layer's modules that train it".into(),
            x_label: "layer".into(),
            x_whole: true,
            y_label: "norm".into(),
            series: self.of_runs(by_layer),
            y_also: vec![0.0],
            ..Chart::default()
        }
    }

    fn loss(&self) -> Chart {
        Chart {
            title: "Training loss".into(),
            subtitle: "Mean over stretches of steps, in nats a token".into(),
            x_label: "steps".into(),
            x_whole: true,
            y_label: "nats a token".into(),
            series: self.of_runs(|run| run.training.iter().map(|s| Point::new(s.step as f64, s.loss)).collect()),
            ..Chart::default()
        }
    }

    fn speed(&self) -> Chart {
        Chart {
            title: "Speed".into(),
            subtitle: "Tokens trained a second, over stretches of steps; whatever else the machine did counts".into(),
            x_label: "steps".into(),
            x_whole: true,
            y_label: "tokens/s".into(),
            series: self.of_runs(|run| run.training.iter().map(|s| Point::new(s.step as f64, s.tokens_per_second)).collect()),
            y_also: vec![0.0],
            ..Chart::default()
        }
    }

    fn bars(&self, id: &str, title: &str, subtitle: &str, label: &str, value: impl Fn(&Run) -> Option<(f64, String)>) -> Panel {
        let mut data = Table::new([("run", Align::Left), (label, Align::Right)]);
        let mut rows = Vec::new();
        for (index, run) in self.runs.iter().enumerate() {
            let (value, text) = value(run).unwrap_or((f64::NAN, NONE.into()));
            data.row([run.name.clone(), text.clone()]);
            rows.push(Bar { name: run.name.clone(), style: index + 1, value, text });
        }
        let bars = Bars { title: title.into(), subtitle: subtitle.into(), label: label.into(), rows };
        Panel { id: id.into(), drawing: Drawing::Bars(bars), data, absent: "Not noted by the versions that made these runs." }
    }

    fn measurements_of_all(&self) -> impl Iterator<Item = &Measured> {
        self.runs.iter().flat_map(|run| &run.evaluations)
    }

    /// One series a run and head, with the measurements for which `place` finds a place, labelled with their steps. Preservation heads of which
    /// all points are `kept` are counted instead: they would lie on one another.
    fn series(&self, place: impl Fn(&Measured, &str) -> Option<(f64, f64)>, kept: impl Fn(&[Point]) -> bool) -> (Vec<Series>, usize) {
        let (mut series, mut count) = (Vec::new(), 0);
        // Marks after those of the runs, one for each ring within and each router of any run.
        let mut others = self.runs.len();
        for (index, run) in self.runs.iter().enumerate() {
            let mut heads: Vec<&str> = Vec::new();
            for head in run.evaluations.iter().flat_map(|m| &m.heads) {
                if !heads.contains(&head.head.as_str()) {
                    heads.push(&head.head);
                }
            }
            for head in heads {
                let point = |m: &Measured| {
                    let (x, y) = place(m, head)?;
                    Some(Point { x, y, label: format!("step {}", group_thousands(&m.step.to_string())) })
                };
                let points: Vec<Point> = run.evaluations.iter().filter_map(point).collect();
                let preservation = head == "preservation";
                // What a ring within says does not change either.
                let ring = head.starts_with("ring-");
                let of_run = preservation || head == "base" || head == "adaptation";
                let mark = (!of_run).then(|| {
                    // Neither the base's nor the run's own.
                    let free = |mark: &usize| !mark.is_multiple_of(MARKS) && mark % MARKS != (index + 1) % MARKS;
                    others = (others + 1..).find(free).unwrap_or(others);
                    others
                });
                if points.is_empty() {
                    continue;
                }
                if preservation && kept(&points) {
                    count += 1;
                    continue;
                }
                let name = match head {
                    "base" => run.name.clone(),
                    _ if of_run || ring => format!("{}, {head} head", run.name),
                    router => format!("{}, routed by {router}", run.name),
                };
                let dashed = preservation || ring;
                let dotted = !dashed && !of_run;
                series.push(Series { name, style: index + 1, mark, dashed, dotted, joined: true, points });
            }
        }
        (series, count)
    }

    /// One series a run that has points.
    fn of_runs(&self, points: impl Fn(&Run) -> Vec<Point>) -> Vec<Series> {
        let series = |(index, run): (usize, &Run)| Series {
            name: run.name.clone(),
            style: index + 1,
            joined: true,
            points: points(run),
            ..Series::default()
        };
        self.runs.iter().enumerate().map(series).filter(|series| !series.points.is_empty()).collect()
    }
}

/// A number of every measurement over the steps.
fn measured(run: &Run, pick: impl Fn(&Measured) -> Option<f64>) -> Vec<Point> {
    run.evaluations.iter().filter_map(|m| Some(Point::new(m.step as f64, pick(m)?))).collect()
}

fn reference(label: &str, y: f64) -> Reference {
    Reference { y, label: format!("{label} {}", format_perplexity(y)) }
}

/// Where most of many lines end at the same step, says so once and takes the words away from their ends.
fn common_end(series: &mut [Series]) -> String {
    let mut ends: BTreeMap<&str, usize> = BTreeMap::new();
    for point in series.iter().filter_map(|s| s.points.last()) {
        *ends.entry(&point.label).or_default() += 1;
    }
    let Some((label, _)) = ends.into_iter().max_by_key(|(_, count)| *count).filter(|(_, count)| *count > 3) else { return String::new() };
    let label = label.to_owned();
    series.iter_mut().filter_map(|s| s.points.last_mut()).filter(|p| p.label == label).for_each(|p| p.label.clear());
    format!(", lines end at {label}")
}

fn unlabelled(mut series: Vec<Series>) -> Vec<Series> {
    series.iter_mut().flat_map(|s| &mut s.points).for_each(|p| p.label.clear());
    series
}

/// A panel of lines. Over steps or layers its table has a column a series, else a row a point.
fn lines(id: &str, chart: Chart, absent: &'static str) -> Panel {
    let data = if chart.x_whole {
        let mut columns = vec![(chart.x_label.as_str(), Align::Right)];
        columns.extend(chart.series.iter().map(|series| (series.name.as_str(), Align::Right)));
        let mut data = Table::new(columns);
        // Steps and layers are whole numbers.
        let places: BTreeSet<u64> = chart.series.iter().flat_map(|s| &s.points).map(|p| p.x as u64).collect();
        for x in places {
            let cell = |series: &Series| series.points.iter().find(|p| p.x as u64 == x).map_or(NONE.into(), |p| short(p.y));
            data.row([group_thousands(&x.to_string())].into_iter().chain(chart.series.iter().map(cell)));
        }
        data
    } else {
        // "learning: perplexity on the new corpora" is an axis; a column has room for less.
        let column = |label: &str| (label.split(':').next().unwrap_or_default().to_owned(), Align::Right);
        let mut data = Table::new([("run and head".to_owned(), Align::Left), column(&chart.x_label), column(&chart.y_label)]);
        for series in &chart.series {
            for (index, point) in series.points.iter().enumerate() {
                let name = if index == 0 { series.name.clone() } else { String::new() };
                data.row([name, short(point.x), short(point.y)]);
            }
        }
        data
    };
    Panel { id: id.into(), drawing: Drawing::Lines(chart), data, absent }
}
