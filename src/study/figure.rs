//! The picture of a study: one point a variant.

use super::file::{Metric, Study};
use super::result::StudyResult;
use crate::report::axis::Scale;
use crate::report::comparison::charts::Panel;
use crate::report::svg::short;
use crate::report::{Align, Chart, Drawing, Point, Reference, Series, Table};

/// The study's own pictures, for its page.
pub fn panels(study: &Study, result: &StudyResult) -> Vec<Panel> {
    let mut data = Table::new([
        ("variant".to_owned(), Align::Left),
        (study.plot.x.describe().to_owned(), Align::Right),
        (study.plot.y.describe().to_owned(), Align::Right),
    ]);
    for row in &result.variants {
        let cell = |metric| row.numbers.get(metric).map_or("–".into(), short);
        data.row([row.label.clone(), cell(study.plot.x), cell(study.plot.y)]);
    }
    let drawing = Drawing::Lines(chart(study, result));
    vec![Panel { id: "figure".into(), drawing, data, absent: "No variant has both numbers yet." }]
}

/// One point a variant, at the end of its run.
pub fn chart(study: &Study, result: &StudyResult) -> Chart {
    let (x, y) = (study.plot.x, study.plot.y);
    let mut series: Vec<Series> = Vec::new();
    for row in &result.variants {
        let (Some(at), Some(height)) = (row.numbers.get(x), row.numbers.get(y)) else { continue };
        let mut point = Point::new(at, height);
        match &row.group {
            Some(group) => {
                point.label.clone_from(&row.label);
                match series.iter_mut().find(|series| series.name == *group) {
                    Some(series) => series.points.push(point),
                    None => {
                        let (name, style) = (group.clone(), series.len() + 1);
                        series.push(Series { name, style, joined: study.plot.joined, points: vec![point], ..Series::default() });
                    }
                }
            }
            None => {
                let style = series.len() + 1;
                series.push(Series { name: row.label.clone(), style, points: vec![point], ..Series::default() });
            }
        }
    }
    let mut subtitle = format!("One point a variant, after {} steps", crate::report::axis::group_thousands(&result.steps.to_string()));
    if let Some(line) = result.fit {
        let ends = result.points(x, y).into_iter().map(|p| p.0);
        let (least, most) = ends.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), x| (least.min(x), most.max(x)));
        let points = [least, most].map(|x| Point::new(x, line.at(x))).to_vec();
        series.push(Series {
            name: format!("straight line, R² {:.2}", line.r_squared),
            style: 0,
            dashed: true,
            joined: true,
            points,
            ..Series::default()
        });
        subtitle += &format!("; {} = {} + {} × {}", word(y), short(line.intercept), short(line.slope), word(x));
    }
    // A line is straight on straight axes only.
    let scale = |metric| match metric {
        Metric::Forgetting | Metric::Learning | Metric::Trained if !study.plot.fit => Scale::Log,
        _ => Scale::Linear,
    };
    let mut references = Vec::new();
    match (result.base.get(x), result.base.get(y)) {
        (Some(at), Some(height)) => {
            series.insert(0, Series { name: "base".into(), points: vec![Point::new(at, height)], ..Series::default() })
        }
        (None, Some(height)) => references.push(Reference { y: height, label: format!("base {}", short(height)) }),
        _ => {}
    }
    if series.iter().all(|series| series.name == "base") {
        series.clear();
    }
    Chart {
        title: result.title.clone(),
        subtitle,
        x_label: x.describe().into(),
        y_label: y.describe().into(),
        x_scale: scale(x),
        y_scale: scale(y),
        series,
        references,
        ..Chart::default()
    }
}

fn word(metric: Metric) -> &'static str {
    match metric {
        Metric::Forgetting => "forgetting",
        Metric::Learning => "learning",
        Metric::Norm => "norm",
        Metric::Cosine => "cosine",
        Metric::Trained => "trained",
    }
}
