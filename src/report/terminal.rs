//! Charts made of characters, for standard output.

use super::axis::{Axis, Scale};
use super::table::display_width;

/// One line of a [`plot`]: a mark, a name and its points.
#[derive(Debug, Clone)]
pub struct Line {
    /// The character its points are drawn with.
    pub mark: char,
    /// Its name in the legend.
    pub name: String,
    /// `(x, y)` by ascending x.
    pub points: Vec<(f64, f64)>,
}

/// Values from `low` to `high` as a row of blocks, one a value; a value that is not finite is a space.
pub fn sparkline(values: &[f64], low: f64, high: f64) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let block = |v: &f64| {
        if !v.is_finite() {
            return ' ';
        }
        let share = if high > low { ((v - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 };
        BLOCKS[(share * 7.0).round() as usize]
    };
    values.iter().map(block).collect()
}

/// A line chart of `width × height` characters with ticks, a legend below and straight lines between points.
/// Where lines meet, the one that comes first is seen; the vertical axis shows `also` in any case.
pub fn plot(lines: &[Line], also: &[f64], x_label: &str, width: usize, height: usize) -> String {
    let (width, height) = (width.max(16), height.max(4));
    let values = |pick: fn(&(f64, f64)) -> f64| lines.iter().flat_map(move |l| l.points.iter().map(pick));
    let x_axis = Axis::fit(values(|p| p.0), Scale::Linear, (width / 12).max(2));
    let y_axis = Axis::fit(values(|p| p.1).chain(also.iter().copied()), Scale::Linear, (height / 2).clamp(2, 6));
    let cell = |position: f64, size: usize| (position.clamp(0.0, 1.0) * (size - 1) as f64).round() as usize;
    let mut grid = vec![vec![' '; width]; height];
    for line in lines.iter().rev() {
        let placed: Vec<(usize, usize)> = line
            .points
            .iter()
            .filter_map(|&(x, y)| Some((cell(x_axis.position(x)?, width), height - 1 - cell(y_axis.position(y)?, height))))
            .collect();
        for pair in placed.windows(2) {
            draw_segment(&mut grid, pair[0], pair[1]);
        }
        for (column, row) in placed {
            grid[row][column] = line.mark;
        }
    }
    let labels: Vec<(usize, String)> = y_axis
        .ticks()
        .iter()
        .zip(y_axis.tick_labels())
        .filter_map(|(&t, label)| Some((height - 1 - cell(y_axis.position(t)?, height), label)))
        .collect();
    let margin = labels.iter().map(|(_, l)| display_width(l)).max().unwrap_or(0);
    let mut out = String::new();
    for (row, cells) in grid.iter().enumerate() {
        let label = labels.iter().find(|(r, _)| *r == row).map_or("", |(_, l)| l);
        let rule = if label.is_empty() { '│' } else { '┤' };
        let cells: String = cells.iter().collect();
        out.push_str(&format!("{label:>margin$} {rule}{}\n", cells.trim_end()));
    }
    let mut rule = vec!['─'; width];
    let mut below = vec![' '; width + margin + 2];
    for (&tick, label) in x_axis.ticks().iter().zip(x_axis.tick_labels()) {
        let Some(column) = x_axis.position(tick).map(|p| cell(p, width)) else { continue };
        rule[column] = '┬';
        let start = (column + margin + 2).saturating_sub(label.len() / 2).min(below.len().saturating_sub(label.len()));
        below[start..start + label.len()].iter_mut().zip(label.chars()).for_each(|(slot, c)| *slot = c);
    }
    out.push_str(&format!("{} └{}\n", " ".repeat(margin), rule.iter().collect::<String>()));
    out.push_str(&format!("{}  {x_label}\n", below.iter().collect::<String>().trim_end()));
    for line in lines {
        out.push_str(&format!("{}  {} {}\n", " ".repeat(margin), line.mark, line.name));
    }
    out
}

/// Dots from one cell to another, without overwriting marks.
fn draw_segment(grid: &mut [Vec<char>], from: (usize, usize), to: (usize, usize)) {
    let steps = from.0.abs_diff(to.0).max(from.1.abs_diff(to.1));
    for i in 1..steps {
        let at = |a: usize, b: usize| (a as f64 + (b as f64 - a as f64) * i as f64 / steps as f64).round() as usize;
        let slot = &mut grid[at(from.1, to.1)][at(from.0, to.0)];
        if *slot == ' ' {
            *slot = '·';
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_has_one_block_a_value() {
        assert_eq!(sparkline(&[0.0, 0.5, 1.0, f64::NAN, 2.0], 0.0, 1.0), "▁▅█ █");
        assert_eq!(sparkline(&[3.0, 3.0], 3.0, 3.0), "▅▅");
    }

    #[test]
    fn a_plot_shows_marks_ticks_and_names() {
        let lines = [
            Line { mark: 'o', name: "kept".into(), points: vec![(0.0, 1.0), (50.0, 1.0), (100.0, 1.0)] },
            Line { mark: 'x', name: "forgot".into(), points: vec![(0.0, 1.0), (50.0, 0.3), (100.0, 0.0)] },
        ];
        insta::assert_snapshot!(plot(&lines, &[], "steps", 40, 8), @r"
        1.0 ┤o··················o··················o
            │  ····
            │      ····
            │          ····
        0.5 ┤              ····
            │                  ·x····
            │                        ··········
        0.0 ┤                                  ····x
            └┬──────────────────┬──────────────────┬─
             0                 50                 100  steps
             o kept
             x forgot
        ");
    }

    #[test]
    fn a_plot_of_nothing_is_empty_axes() {
        assert!(plot(&[], &[], "steps", 20, 5).contains('└'));
    }
}
