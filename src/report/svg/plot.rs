//! The plotting area of a chart: axes, lines, marks, and labels that cover nothing.

use std::fmt::Write;

use super::super::axis::Axis;
use super::super::chart::{Chart, Point};
use super::super::labels::{Rect, place, place_among, text_width};
use super::parts::{LINE, MARGIN, PALETTE, TEXT, dash, escape, mark, short, text};

/// A line of more points has marks only where they do not run into one another: they would hide it.
const MOST_MARKS: usize = 12;
/// From one such mark to the next, at least.
const MARK_DISTANCE: f64 = 13.0;

/// The plotting area with its two axes.
pub(super) struct Plot {
    pub area: Rect,
    x: Axis,
    y: Axis,
}

impl Plot {
    /// Axes that fit `chart` into `width`, from `top` down.
    pub fn new(chart: &Chart, width: f64, top: f64) -> Self {
        let narrow = width < 450.0;
        let points = || chart.series.iter().flat_map(|s| &s.points);
        let x = Axis::fit(points().map(|p| p.x), chart.x_scale, if narrow { 4 } else { 7 });
        let x = if chart.x_whole { x.whole() } else { x };
        let y = Axis::fit(
            points().map(|p| p.y).chain(chart.references.iter().map(|r| r.y)).chain(chart.y_also.iter().copied()),
            chart.y_scale,
            7,
        );
        let widest = y.tick_labels().iter().map(|l| text_width(l, TEXT)).fold(0.0, f64::max);
        let left = MARGIN + widest + 14.0;
        Self { area: Rect { x: left, y: top, width: width - left - MARGIN - 4.0, height: if narrow { 250.0 } else { 300.0 } }, x, y }
    }

    fn column(&self, value: f64) -> Option<f64> {
        Some(self.area.x + self.x.position(value)? * self.area.width)
    }

    fn row(&self, value: f64) -> Option<f64> {
        Some(self.area.y + (1.0 - self.y.position(value)?) * self.area.height)
    }

    pub fn axes(&self, out: &mut String, chart: &Chart) {
        let Rect { x, y, width, height } = self.area;
        for (&tick, label) in self.y.ticks().iter().zip(self.y.tick_labels()) {
            let Some(row) = self.row(tick) else { continue };
            let _ = writeln!(out, "<path class=\"grid\" d=\"M{x:.1} {row:.1}h{width:.1}\"/>");
            text(out, "soft", x - 12.0, row + 5.0, "end", &label);
        }
        let mut free_from = f64::NEG_INFINITY;
        for (&tick, label) in self.x.ticks().iter().zip(self.x.tick_labels()) {
            let Some(column) = self.column(tick) else { continue };
            let _ = writeln!(out, "<path class=\"rule\" d=\"M{column:.1} {:.1}v5\"/>", y + height);
            let half = text_width(&label, TEXT) / 2.0;
            if column - half > free_from {
                text(out, "soft", column, y + height + LINE, "middle", &label);
                free_from = column + half + 6.0;
            }
        }
        let _ = writeln!(out, "<path class=\"rule\" d=\"M{x:.1} {:.1}h{width:.1}\"/>", y + height);
        for reference in &chart.references {
            if let Some(row) = self.row(reference.y) {
                let _ = writeln!(out, "<path class=\"reference\" d=\"M{x:.1} {row:.1}h{width:.1}\"/>");
            }
        }
    }

    pub fn series(&self, out: &mut String, chart: &Chart) {
        for series in chart.series.iter().rev() {
            let placed: Vec<(f64, f64, &Point)> =
                series.points.iter().filter_map(|p| Some((self.column(p.x)?, self.row(p.y)?, p))).collect();
            if series.joined && placed.len() > 1 {
                let path: Vec<String> = placed.iter().map(|(x, y, _)| format!("{x:.1} {y:.1}")).collect();
                let dash = dash(series);
                let _ = writeln!(out, "<path class=\"line c{}{dash}\" d=\"M{}\"/>", series.style % PALETTE.len(), path.join("L"));
            }
            let sparse = series.joined && placed.len() > MOST_MARKS;
            let mut marked: Option<(f64, f64)> = None;
            // From the end: where a line ends is always marked.
            for (x, y, point) in placed.into_iter().rev() {
                if sparse && marked.is_some_and(|(mx, my)| (x - mx).hypot(y - my) < MARK_DISTANCE) {
                    continue;
                }
                marked = Some((x, y));
                let words = if point.label.is_empty() { String::new() } else { format!(" ({})", point.label) };
                mark(
                    out,
                    (series.style, series.mark()),
                    series.dashed,
                    x,
                    y,
                    &format!("{}{words}: {}, {}", series.name, short(point.x), short(point.y)),
                );
            }
        }
    }

    pub fn labels(&self, out: &mut String, chart: &Chart) {
        let (size, height) = (TEXT - 1.5, TEXT);
        let mut taken: Vec<Rect> = Vec::new();
        for series in &chart.series {
            let spots: Vec<(f64, f64)> = series.points.iter().filter_map(|p| Some((self.column(p.x)?, self.row(p.y)?))).collect();
            taken.extend(spots.iter().map(|&(x, y)| Rect { x: x - 7.0, y: y - 7.0, width: 14.0, height: 14.0 }));
            // Small squares along the lines keep labels off them.
            for pair in spots.windows(2).filter(|_| series.joined) {
                let steps = ((pair[0].0 - pair[1].0).hypot(pair[0].1 - pair[1].1) / 8.0).ceil().max(1.0);
                taken.extend((1..steps as usize).map(|i| {
                    let share = i as f64 / steps;
                    let (x, y) = (pair[0].0 + (pair[1].0 - pair[0].0) * share, pair[0].1 + (pair[1].1 - pair[0].1) * share);
                    Rect { x: x - 3.0, y: y - 3.0, width: 6.0, height: 6.0 }
                }));
            }
        }
        for reference in &chart.references {
            let Some(row) = self.row(reference.y) else { continue };
            let width = text_width(&reference.label, size);
            let over = |x: f64, y: f64| Rect { x, y, width, height };
            let right = self.area.x + self.area.width - width;
            let spots = [
                over(right, row - height - 4.0),
                over(right, row + 4.0),
                over(self.area.x + 4.0, row - height - 4.0),
                over(self.area.x + 4.0, row + 4.0),
            ];
            let rect = place_among(&spots, &taken, &self.area);
            taken.push(rect);
            self.label(out, &rect, &reference.label, "soft ");
        }
        for point in chart.series.iter().flat_map(|s| &s.points).filter(|p| !p.label.is_empty()) {
            if let (Some(x), Some(y)) = (self.column(point.x), self.row(point.y)) {
                let rect = place(x, y, text_width(&point.label, size), height, &taken, &self.area);
                taken.push(rect);
                self.label(out, &rect, &point.label, "");
            }
        }
    }

    fn label(&self, out: &mut String, rect: &Rect, words: &str, class: &str) {
        let _ = writeln!(
            out,
            "<text class=\"{class}halo\" style=\"font-size:{}px\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            TEXT - 1.5,
            rect.x + rect.width / 2.0,
            rect.y + rect.height - 3.0,
            escape(words)
        );
    }
}
