//! Horizontal bars: one number a row, its name above it and its value at its end.

use std::fmt::Write;

use super::super::chart::Bars;
use super::super::labels::{text_width, wrap};
use super::parts::{LINE, MARGIN, PALETTE, TEXT, mark, text};

const THICKNESS: f64 = 16.0;

/// Draws `bars` from `y` down and returns where they end.
pub(super) fn draw(out: &mut String, bars: &Bars, width: f64, mut y: f64) -> f64 {
    let value_width = bars.rows.iter().map(|bar| text_width(&bar.text, TEXT)).fold(0.0, f64::max);
    let full = width - 2.0 * MARGIN - value_width - 10.0;
    let top = y + 4.0;
    let most = bars.rows.iter().map(|bar| bar.value).filter(|v| v.is_finite()).fold(0.0, f64::max);
    for bar in &bars.rows {
        mark(out, (bar.style, bar.style), false, MARGIN + 10.0, y + LINE - 5.0, "");
        for line in wrap(&bar.name, TEXT, width - 2.0 * MARGIN - 23.0) {
            y += LINE;
            text(out, "", MARGIN + 23.0, y, "start", &line);
        }
        let share = if most > 0.0 && bar.value.is_finite() { (bar.value / most).clamp(0.0, 1.0) } else { 0.0 };
        let length = share * full;
        let _ = writeln!(
            out,
            "<rect class=\"f{}\" x=\"{MARGIN:.1}\" y=\"{:.1}\" width=\"{length:.1}\" height=\"{THICKNESS}\"/>",
            bar.style % PALETTE.len(),
            y + 6.0
        );
        text(out, "", MARGIN + length + 8.0, y + 6.0 + THICKNESS - 3.0, "start", &bar.text);
        y += THICKNESS + 14.0;
    }
    // The line that all bars start from.
    let _ = writeln!(out, "<path class=\"rule\" d=\"M{MARGIN:.1} {top:.1}V{y:.1}\"/>");
    y
}
