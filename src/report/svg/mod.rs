//! Charts as SVG: drawings that read well on a phone and on paper, in light and in dark, and without colours.

mod bars;
mod parts;
mod plot;

use std::fmt::Write;

use super::chart::{Chart, Drawing};
use super::labels::{text_width, wrap};
pub use parts::escape;
pub(crate) use parts::short;
use parts::{LINE, MARGIN, PALETTE, TEXT, TITLE, dash, mark, text};
pub(super) use parts::{MARKS, style};
use plot::Plot;

/// Width of a chart that is a file of its own, or stands on a wide page.
pub(super) const WIDE: f64 = 560.0;
/// Width of a chart on a phone.
pub(super) const NARROW: f64 = 352.0;

/// Draws `chart` as a complete SVG document.
pub fn render(chart: &Chart) -> String {
    let mut body = String::new();
    let mut y = MARGIN;
    for line in wrap(&chart.title, TITLE, WIDE - 2.0 * MARGIN) {
        y += TITLE;
        text(&mut body, "title", MARGIN, y, "start", &line);
        y += 5.0;
    }
    for line in wrap(&chart.subtitle, TEXT, WIDE - 2.0 * MARGIN) {
        y += LINE - 4.0;
        text(&mut body, "soft", MARGIN, y, "start", &line);
        y += 4.0;
    }
    let height = lines(&mut body, chart, WIDE, y + 8.0);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDE} {height}\" width=\"{WIDE}\" height=\"{height}\" role=\"img\" \
         style=\"max-width:100%;height:auto\">\n<title>{}</title>\n<desc>{}</desc>\n<style>{}</style>\n\
         <rect class=\"ground\" width=\"{WIDE}\" height=\"{height}\" rx=\"6\"/>\n{body}</svg>\n",
        escape(&chart.title),
        escape(&describe(chart)),
        style()
    )
}

/// Draws `drawing` without its title, for a page that has [`style`] and a heading of its own; `class` is the element's.
pub(super) fn inline(drawing: &Drawing, width: f64, class: &str) -> String {
    let mut body = String::new();
    let (height, label, words) = match drawing {
        Drawing::Lines(chart) => (lines(&mut body, chart, width, 0.0), &chart.title, describe(chart)),
        Drawing::Bars(bars) => {
            let values: Vec<String> = bars.rows.iter().map(|bar| format!("{} {}", bar.name, bar.text)).collect();
            (bars::draw(&mut body, bars, width, 0.0) + 4.0, &bars.title, values.join("; "))
        }
    };
    // Without most of the margin at its left: there the page has its own. Some stays for fonts that are wider than was thought.
    let (cut, shown) = (MARGIN - 6.0, width - MARGIN + 6.0);
    format!(
        "<svg class=\"{class}\" viewBox=\"{cut} 0 {shown} {height:.1}\" width=\"{shown}\" height=\"{height:.1}\" role=\"img\" aria-label=\"{}\">\n{body}</svg>\n",
        escape(&format!("{label}. {words}"))
    )
}

/// Draws legend and plot from `y` down and returns where the drawing ends.
fn lines(body: &mut String, chart: &Chart, width: f64, y: f64) -> f64 {
    let mut y = legend(body, chart, width, y);
    y += LINE + 8.0;
    text(body, "soft", MARGIN, y, "start", &chart.y_label);
    let plot = Plot::new(chart, width, y + 12.0);
    plot.axes(body, chart);
    plot.series(body, chart);
    plot.labels(body, chart);
    let bottom = plot.area.y + plot.area.height + 2.0 * LINE + 8.0;
    text(body, "soft", plot.area.x + plot.area.width, bottom - 4.0, "end", &chart.x_label);
    bottom + MARGIN - 2.0
}

/// A sentence for those who cannot see the chart.
fn describe(chart: &Chart) -> String {
    let series: Vec<String> = chart
        .series
        .iter()
        .filter_map(|s| s.points.last().map(|last| format!("{} ends at {}, {}", s.name, short(last.x), short(last.y))))
        .collect();
    format!("{} against {}. {}. {}.", chart.y_label, chart.x_label, chart.subtitle, series.join("; "))
}

/// Writes the legend from `y` down, in as many rows as it needs, and returns where it ends.
fn legend(out: &mut String, chart: &Chart, width: f64, mut y: f64) -> f64 {
    const KEY: f64 = 34.0;
    let mut x = MARGIN;
    let mut rows = 0;
    for series in chart.series.iter().filter(|s| !s.name.is_empty()) {
        let lines = wrap(&series.name, TEXT, width - 2.0 * MARGIN - KEY);
        let widest = lines.iter().map(|line| text_width(line, TEXT)).fold(0.0, f64::max);
        let entry = KEY + widest + 14.0;
        if rows == 0 || x + entry > width - MARGIN + 14.0 {
            (x, rows) = (MARGIN, rows + 1);
            y += LINE + 2.0;
        }
        if series.joined {
            let dash = dash(series);
            let _ = writeln!(out, "<path class=\"line c{}{dash}\" d=\"M{x:.1} {:.1}h26\"/>", series.style % PALETTE.len(), y - 5.0);
        }
        mark(out, (series.style, series.mark()), series.dashed, x + 13.0, y - 5.0, "");
        for (index, line) in lines.iter().enumerate() {
            if index > 0 {
                // A name of several lines has its row to itself: it is as wide as the drawing.
                y += LINE - 2.0;
            }
            text(out, "", x + KEY, y, "start", line);
        }
        x += entry;
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::axis::Scale;
    use crate::report::{Bar, Bars, Point, Reference, Series, assert_well_formed};

    fn sample() -> Chart {
        let series = |name: &str, style, dashed, points: &[(f64, f64)]| Series {
            name: name.into(),
            style,
            dashed,
            joined: true,
            points: points
                .iter()
                .enumerate()
                .map(|(i, &(x, y))| Point { x, y, label: if i + 1 == points.len() { format!("step {}", i * 100) } else { String::new() } })
                .collect(),
            ..Series::default()
        };
        Chart {
            title: "Forgetting against learning".into(),
            subtitle: "Perplexity on held-out text, one point a checkpoint; lower left is better".into(),
            x_label: "learning: Korean perplexity".into(),
            y_label: "forgetting: English perplexity".into(),
            x_scale: Scale::Log,
            y_scale: Scale::Log,
            series: vec![
                series("scale-preserve, adaptation head", 0, false, &[(6.93, 35.49), (6.3, 39.2), (6.1, 43.0), (5.96, 45.36)]),
                series("scale-preserve, preservation head", 0, true, &[(6.93, 35.49)]),
                series("full", 1, false, &[(6.93, 35.49), (5.1, 34.1), (4.6, 34.6), (4.22, 34.8)]),
                series("scale-adapt, adaptation head", 2, false, &[(6.93, 35.49), (5.6, 38.0), (5.02, 40.1)]),
            ],
            references: vec![Reference { y: 35.49, label: "base model 35.49".into() }],
            ..Chart::default()
        }
    }

    #[test]
    fn hostile_labels_are_escaped() {
        let mut chart = sample();
        let hostile = "</text><script>alert(\"1\")</script> & 'more' \u{0}\u{8}\u{ffff}";
        chart.title = hostile.into();
        chart.x_label = hostile.into();
        chart.references[0].label = hostile.into();
        chart.series[0].name = hostile.into();
        chart.series[0].points[0].label = hostile.into();
        let svg = render(&chart);
        assert_well_formed(&svg);
        assert!(!svg.contains("<script") && !svg.contains('\u{0}') && !svg.contains('\u{8}') && !svg.contains('\u{ffff}'));
    }

    #[test]
    fn every_point_is_a_mark_and_every_series_is_named_once_in_the_legend() {
        let chart = sample();
        let svg = render(&chart);
        assert_well_formed(&svg);
        let points: usize = chart.series.iter().map(|s| s.points.len()).sum();
        assert_eq!(svg.matches("class=\"mark ").count(), points + chart.series.len());
        for series in &chart.series {
            assert_eq!(svg.matches(&format!(">{}</text>", series.name)).count(), 1);
        }
    }

    #[test]
    fn one_file_serves_light_and_dark() {
        let svg = render(&sample());
        assert!(svg.contains("prefers-color-scheme:dark") && svg.contains(PALETTE[0].0) && svg.contains(PALETTE[0].1));
    }

    #[test]
    fn empty_and_unusable_values_draw_axes_and_no_marks() {
        assert_well_formed(&render(&Chart::default()));
        let mut chart = sample();
        chart.series.truncate(1);
        chart.series[0].points = vec![Point::new(f64::NAN, 1.0), Point::new(0.0, 3.0)];
        let svg = render(&chart);
        assert_well_formed(&svg);
        assert_eq!(svg.matches("class=\"mark ").count(), 1, "only the legend's");
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn a_long_line_has_a_mark_at_its_end_and_not_on_every_point() {
        let mut chart = sample();
        chart.series.truncate(1);
        chart.series[0].points = (1..=200).map(|i| Point::new(f64::from(i), f64::from(i))).collect();
        let svg = render(&chart);
        let marks = svg.matches("class=\"mark ").count() - 1;
        assert!((10..=60).contains(&marks), "{marks}");
        assert!(svg.contains(": 200, 200</title>"));
    }

    #[test]
    fn drawings_for_a_page_name_nothing_outside_it() {
        let bar = |name: &str, style, value: f64| Bar { name: name.into(), style, value, text: format!("{value} GiB") };
        let bars =
            Bars { title: "Memory".into(), rows: vec![bar("a", 1, 2.0), bar("<b>", 2, 1.0), bar("c", 3, f64::NAN)], ..Bars::default() };
        for drawing in [Drawing::Lines(sample()), Drawing::Bars(bars), Drawing::Bars(Bars::default())] {
            for width in [WIDE, NARROW] {
                let svg = inline(&drawing, width, "wide");
                assert_well_formed(&svg);
                assert!(!svg.contains("http") && !svg.contains("width=\"NaN"), "{svg}");
            }
        }
    }
}
