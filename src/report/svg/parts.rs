//! What every drawing is made of: colours, letters and marks.

use std::fmt::Write;

use super::super::chart::Series;

/// Okabe and Ito's colours, which people with any colour vision can tell apart: for a light and for a dark ground.
pub(super) const PALETTE: [(&str, &str); 7] = [
    ("#0072b2", "#56b4e9"),
    ("#d55e00", "#ff9d5c"),
    ("#007a5a", "#33c79b"),
    ("#aa4499", "#e5a0cc"),
    ("#8a6d00", "#f0d24a"),
    ("#444444", "#cccccc"),
    ("#3b3b98", "#a3a3f5"),
];

pub(super) const MARGIN: f64 = 16.0;
pub(super) const TITLE: f64 = 19.0;
pub(super) const TEXT: f64 = 14.5;
pub(super) const LINE: f64 = 20.0;

/// Escapes `text` for use as text or inside an attribute of SVG and HTML; characters XML does not allow, and those that turn the direction of
/// the text around them, are dropped.
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
            c if (c as u32) < 0x20 || matches!(c as u32, 0x7F..=0x9F | 0x202A..=0x202E | 0x2066..=0x2069 | 0xFFFE | 0xFFFF) => {}
            c => out.push(c),
        }
    }
    out
}

/// Four significant digits, without an exponent where it can be helped.
pub(crate) fn short(value: f64) -> String {
    if value != 0.0 && (value.abs() >= 1e6 || value.abs() < 1e-3) {
        return format!("{value:.3e}");
    }
    let digits = if value == 0.0 { 0 } else { value.abs().log10().floor() as i32 };
    let decimals = (3 - digits).clamp(0, 6) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// The style sheet of a drawing, or of a page with many.
pub(in crate::report) fn style() -> String {
    let mut css = String::from(
        "text{font:14.5px system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;fill:#1c1e21}\
         .title{font-size:19px;font-weight:600}.soft{fill:#555b61}.ground{fill:#ffffff}.grid{stroke:#e3e5e8}.rule{stroke:#8a9097}\
         .reference{stroke:#6b7178;stroke-dasharray:2 4;stroke-width:1.5}.halo{stroke:#ffffff;stroke-width:4;stroke-linejoin:round;paint-order:stroke}\
         path{fill:none}.line{stroke-width:2.5;stroke-linejoin:round;stroke-linecap:round}.dash{stroke-dasharray:7 5}.dots{stroke-dasharray:1 6}\
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

pub(super) fn text(out: &mut String, class: &str, x: f64, y: f64, anchor: &str, words: &str) {
    if !words.is_empty() {
        let _ = writeln!(out, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escape(words));
    }
}

/// The class of a series' line beside its colour's.
pub(super) fn dash(series: &Series) -> &'static str {
    match series {
        Series { dashed: true, .. } => " dash",
        Series { dotted: true, .. } => " dots",
        _ => "",
    }
}

/// A mark in the colour of a style: shapes differ too, so that colours are not needed to tell them apart; `tooltip` shows under the pointer.
pub(super) fn mark(out: &mut String, (style, shape): (usize, usize), hollow: bool, x: f64, y: f64, tooltip: &str) {
    let colour = style % PALETTE.len();
    let fill = if hollow { "hollow".to_owned() } else { format!("f{colour}") };
    let class = format!("class=\"mark c{colour} {fill}\"");
    let corners = |corners: &[(f64, f64)]| {
        let points: Vec<String> = corners.iter().map(|(dx, dy)| format!("{:.1},{:.1}", x + dx, y + dy)).collect();
        ("polygon", format!("points=\"{}\"", points.join(" ")))
    };
    let (name, shape) = match shape % MARKS {
        0 => ("circle", format!("cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\"")),
        1 => ("rect", format!("x=\"{:.1}\" y=\"{:.1}\" width=\"8\" height=\"8\"", x - 4.0, y - 4.0)),
        2 => corners(&[(0.0, -5.5), (5.2, 4.0), (-5.2, 4.0)]),
        3 => corners(&[(0.0, -5.8), (5.8, 0.0), (0.0, 5.8), (-5.8, 0.0)]),
        4 => corners(&[(0.0, 5.5), (5.2, -4.0), (-5.2, -4.0)]),
        // A star of five points, an hourglass, a bow tie, a cross.
        5 => corners(&star()),
        6 => corners(&[(-4.5, -5.0), (4.5, -5.0), (-4.5, 5.0), (4.5, 5.0)]),
        7 => corners(&[(-5.0, -4.5), (-5.0, 4.5), (5.0, -4.5), (5.0, 4.5)]),
        _ => corners(&CROSS),
    };
    let _ = match tooltip {
        "" => writeln!(out, "<{name} {class} {shape}/>"),
        words => writeln!(out, "<{name} {class} {shape}><title>{}</title></{name}>", escape(words)),
    };
}

/// How many different marks there are.
pub(in crate::report) const MARKS: usize = 9;

const CROSS: [(f64, f64); 12] = [
    (-1.6, -5.2),
    (1.6, -5.2),
    (1.6, -1.6),
    (5.2, -1.6),
    (5.2, 1.6),
    (1.6, 1.6),
    (1.6, 5.2),
    (-1.6, 5.2),
    (-1.6, 1.6),
    (-5.2, 1.6),
    (-5.2, -1.6),
    (-1.6, -1.6),
];

fn star() -> [(f64, f64); 10] {
    std::array::from_fn(|i| {
        let (angle, radius) = (i as f64 * std::f64::consts::PI / 5.0, if i % 2 == 0 { 6.4 } else { 2.8 });
        (radius * angle.sin(), -radius * angle.cos())
    })
}
