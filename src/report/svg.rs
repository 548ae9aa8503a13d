//! Charts as SVG: one file that reads well on a phone and on paper, in light and in dark, and without colours.

use std::fmt::Write;

use super::axis::Axis;
use super::chart::{Chart, Series};
use super::labels::{Rect, place, place_among, text_width, wrap};

/// Okabe and Ito's colours, which people with any colour vision can tell apart: for a light and for a dark ground.
const PALETTE: [(&str, &str); 7] = [
    ("#0072b2", "#56b4e9"),
    ("#d55e00", "#ff9d5c"),
    ("#007a5a", "#33c79b"),
    ("#aa4499", "#e5a0cc"),
    ("#8a6d00", "#f0d24a"),
    ("#444444", "#cccccc"),
    ("#3b3b98", "#a3a3f5"),
];

const WIDTH: f64 = 560.0;
const PLOT_HEIGHT: f64 = 300.0;
const MARGIN: f64 = 16.0;
const TITLE: f64 = 19.0;
const TEXT: f64 = 14.5;
const LINE: f64 = 20.0;

/// Escapes `text` for use as SVG text or inside an attribute; characters XML does not allow are dropped.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\t' | '\n' | '\r' => out.push(' '),
            c if (c as u32) < 0x20 || matches!(c as u32, 0x7F..=0x9F | 0xFFFE | 0xFFFF) => {}
            c => out.push(c),
        }
    }
    out
}

/// Draws `chart` as a complete SVG document.
pub fn render(chart: &Chart) -> String {
    let mut body = String::new();
    let mut y = MARGIN;
    for line in wrap(&chart.title, TITLE, WIDTH - 2.0 * MARGIN) {
        y += TITLE;
        text(&mut body, "title", MARGIN, y, "start", &line);
        y += 5.0;
    }
    for line in wrap(&chart.subtitle, TEXT, WIDTH - 2.0 * MARGIN) {
        y += LINE - 4.0;
        text(&mut body, "soft", MARGIN, y, "start", &line);
        y += 4.0;
    }
    y = legend(&mut body, chart, y + 8.0);
    y += LINE + 8.0;
    text(&mut body, "soft", MARGIN, y, "start", &chart.y_label);
    let plot = Plot::new(chart, y + 12.0);
    plot.axes(&mut body, chart);
    plot.series(&mut body, chart);
    plot.labels(&mut body, chart);
    let bottom = plot.area.y + plot.area.height + 2.0 * LINE + 8.0;
    text(&mut body, "soft", plot.area.x + plot.area.width, bottom - 4.0, "end", &chart.x_label);
    let height = bottom + MARGIN - 2.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\" \
         style=\"max-width:100%;height:auto\">\n<title>{}</title>\n<desc>{}</desc>\n<style>{}</style>\n\
         <rect class=\"ground\" width=\"{WIDTH}\" height=\"{height}\" rx=\"6\"/>\n{body}</svg>\n",
        escape(&chart.title),
        escape(&describe(chart)),
        style()
    )
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

/// Four significant digits, without an exponent where it can be helped.
fn short(value: f64) -> String {
    if value != 0.0 && (value.abs() >= 1e6 || value.abs() < 1e-3) {
        return format!("{value:.3e}");
    }
    let digits = if value == 0.0 { 0 } else { value.abs().log10().floor() as i32 };
    let decimals = (3 - digits).clamp(0, 6) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn style() -> String {
    let mut css = String::from(
        "text{font:14.5px system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;fill:#1c1e21}\
         .title{font-size:19px;font-weight:600}.soft{fill:#555b61}.ground{fill:#ffffff}.grid{stroke:#e3e5e8}.rule{stroke:#8a9097}\
         .reference{stroke:#6b7178;stroke-dasharray:2 4;stroke-width:1.5}.halo{stroke:#ffffff;stroke-width:4;stroke-linejoin:round;paint-order:stroke}\
         path{fill:none}.line{stroke-width:2.5;stroke-linejoin:round;stroke-linecap:round}.dash{stroke-dasharray:7 5}\
         .mark{stroke-width:2}.hollow{fill:#ffffff}",
    );
    let colours = |css: &mut String, pick: fn(&(&'static str, &'static str)) -> &'static str| {
        for (i, pair) in PALETTE.iter().enumerate() {
            let colour = pick(pair);
            let _ = write!(css, ".c{i}{{stroke:{colour}}}.f{i}{{fill:{colour}}}");
        }
    };
    colours(&mut css, |pair| pair.0);
    css.push_str(
        "@media (prefers-color-scheme:dark){text{fill:#e8eaed}.soft{fill:#a9b0b7}.ground{fill:#16181b}.grid{stroke:#2c3035}\
         .rule{stroke:#70777e}.reference{stroke:#969da4}.halo{stroke:#16181b}.hollow{fill:#16181b}",
    );
    colours(&mut css, |pair| pair.1);
    css.push('}');
    css
}

fn text(out: &mut String, class: &str, x: f64, y: f64, anchor: &str, words: &str) {
    if !words.is_empty() {
        let _ = writeln!(out, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escape(words));
    }
}

/// Writes the legend from `y` down, in as many rows as it needs, and returns where it ends.
fn legend(out: &mut String, chart: &Chart, mut y: f64) -> f64 {
    const KEY: f64 = 34.0;
    let mut x = MARGIN;
    let mut rows = 0;
    for series in chart.series.iter().filter(|s| !s.name.is_empty()) {
        let width = KEY + text_width(&series.name, TEXT) + 14.0;
        if rows == 0 || x + width > WIDTH - MARGIN + 14.0 {
            (x, rows) = (MARGIN, rows + 1);
            y += LINE + 2.0;
        }
        if series.joined {
            let dash = if series.dashed { " dash" } else { "" };
            let _ = writeln!(out, "<path class=\"line c{}{dash}\" d=\"M{x:.1} {:.1}h26\"/>", series.style % PALETTE.len(), y - 5.0);
        }
        mark(out, series, x + 13.0, y - 5.0, "");
        text(out, "", x + KEY, y, "start", &series.name);
        x += width;
    }
    y
}

/// The mark of a series: a shape for each style, so that colours are not needed to tell them apart.
fn mark(out: &mut String, series: &Series, x: f64, y: f64, tooltip: &str) {
    let colour = series.style % PALETTE.len();
    let fill = if series.dashed { "hollow".to_owned() } else { format!("f{colour}") };
    let class = format!("class=\"mark c{colour} {fill}\"");
    let shape = match series.style % 4 {
        0 => format!("<circle {class} cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\""),
        1 => format!("<rect {class} x=\"{:.1}\" y=\"{:.1}\" width=\"8\" height=\"8\"", x - 4.0, y - 4.0),
        2 => format!("<polygon {class} points=\"{:.1},{:.1} {:.1},{:.1} {:.1},{:.1}\"", x, y - 5.5, x + 5.2, y + 4.0, x - 5.2, y + 4.0),
        _ => format!(
            "<polygon {class} points=\"{:.1},{:.1} {:.1},{:.1} {:.1},{:.1} {:.1},{:.1}\"",
            x,
            y - 5.8,
            x + 5.8,
            y,
            x,
            y + 5.8,
            x - 5.8,
            y
        ),
    };
    let name = shape[1..].split(' ').next().unwrap_or("circle");
    let _ =
        if tooltip.is_empty() { writeln!(out, "{shape}/>") } else { writeln!(out, "{shape}><title>{}</title></{name}>", escape(tooltip)) };
}

/// The plotting area with its two axes.
struct Plot {
    area: Rect,
    x: Axis,
    y: Axis,
}

impl Plot {
    fn new(chart: &Chart, top: f64) -> Self {
        let points = || chart.series.iter().flat_map(|s| &s.points);
        let x = Axis::fit(points().map(|p| p.x), chart.x_scale, 6);
        let y = Axis::fit(
            points().map(|p| p.y).chain(chart.references.iter().map(|r| r.y)).chain(chart.y_also.iter().copied()),
            chart.y_scale,
            7,
        );
        let widest = y.tick_labels().iter().map(|l| text_width(l, TEXT)).fold(0.0, f64::max);
        let left = MARGIN + widest + 8.0;
        Self { area: Rect { x: left, y: top, width: WIDTH - left - MARGIN - 4.0, height: PLOT_HEIGHT }, x, y }
    }

    fn column(&self, value: f64) -> Option<f64> {
        Some(self.area.x + self.x.position(value)? * self.area.width)
    }

    fn row(&self, value: f64) -> Option<f64> {
        Some(self.area.y + (1.0 - self.y.position(value)?) * self.area.height)
    }

    fn axes(&self, out: &mut String, chart: &Chart) {
        let Rect { x, y, width, height } = self.area;
        for (&tick, label) in self.y.ticks().iter().zip(self.y.tick_labels()) {
            let Some(row) = self.row(tick) else { continue };
            let _ = writeln!(out, "<path class=\"grid\" d=\"M{x:.1} {row:.1}h{width:.1}\"/>");
            text(out, "soft", x - 8.0, row + 5.0, "end", &label);
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

    fn series(&self, out: &mut String, chart: &Chart) {
        for series in chart.series.iter().rev() {
            let placed: Vec<(f64, f64, &super::Point)> =
                series.points.iter().filter_map(|p| Some((self.column(p.x)?, self.row(p.y)?, p))).collect();
            if series.joined && placed.len() > 1 {
                let path: Vec<String> = placed.iter().map(|(x, y, _)| format!("{x:.1} {y:.1}")).collect();
                let dash = if series.dashed { " dash" } else { "" };
                let _ = writeln!(out, "<path class=\"line c{}{dash}\" d=\"M{}\"/>", series.style % PALETTE.len(), path.join("L"));
            }
            for (x, y, point) in placed {
                let words = if point.label.is_empty() { String::new() } else { format!(" ({})", point.label) };
                mark(out, series, x, y, &format!("{}{words}: {}, {}", series.name, short(point.x), short(point.y)));
            }
        }
    }

    fn labels(&self, out: &mut String, chart: &Chart) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::axis::Scale;
    use crate::report::{Point, Reference};

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
            y_also: Vec::new(),
        }
    }

    /// Every tag closed in order, every attribute quoted, no stray `<` or `&`.
    fn assert_well_formed(svg: &str) {
        let mut open = Vec::new();
        let mut rest = svg;
        while let Some(at) = rest.find('<') {
            let (text, tag) = rest.split_at(at);
            assert!(!text.contains('>'), "stray > in {text:?}");
            let end = tag.find('>').expect("a tag ends");
            let inner = &tag[1..end];
            if let Some(name) = inner.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name.to_owned()));
            } else {
                assert_eq!(inner.matches('"').count() % 2, 0, "{inner}");
                if !inner.ends_with('/') {
                    open.push(inner.split_whitespace().next().unwrap().to_owned());
                }
            }
            rest = &tag[end + 1..];
        }
        assert!(open.is_empty(), "{open:?}");
        for (at, _) in svg.match_indices('&') {
            let entity = &svg[at..svg.len().min(at + 6)];
            assert!(["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"].iter().any(|e| entity.starts_with(e)), "{entity}");
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
}
