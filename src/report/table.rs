//! Tables of text: aligned for a terminal, or as Markdown.

/// Which side a column's cells lean to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table of ready-made cells.
#[derive(Debug, Clone, Default)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns and no rows.
    pub fn new<S: Into<String>>(columns: impl IntoIterator<Item = (S, Align)>) -> Self {
        Self { columns: columns.into_iter().map(|(name, align)| (name.into(), align)).collect(), rows: Vec::new() }
    }

    /// Adds a row; missing cells are empty, surplus cells are dropped.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) -> &mut Self {
        let mut row: Vec<String> = cells.into_iter().map(Into::into).collect();
        row.resize(self.columns.len(), String::new());
        self.rows.push(row);
        self
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Names of the columns, and which side they lean to.
    pub fn columns(&self) -> &[(String, Align)] {
        &self.columns
    }

    /// The rows, each with one cell a column.
    pub fn rows(&self) -> &[Vec<String>] {
        &self.rows
    }

    /// The columns that `keep` says yes to, by their names and cells.
    pub fn select(&self, keep: impl Fn(&str, &[&str]) -> bool) -> Self {
        let cells = |c: usize| self.rows.iter().map(|row| row[c].as_str()).collect::<Vec<_>>();
        let kept: Vec<usize> = (0..self.columns.len()).filter(|&c| keep(&self.columns[c].0, &cells(c))).collect();
        Self {
            columns: kept.iter().map(|&c| self.columns[c].clone()).collect(),
            rows: self.rows.iter().map(|row| kept.iter().map(|&c| row[c].clone()).collect()).collect(),
        }
    }

    /// The table as comma-separated values with a head, as RFC 4180 has them but for plain line feeds.
    pub fn to_csv(&self) -> String {
        let quote = |cell: &str| {
            if cell.contains([',', '"', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.to_owned() }
        };
        let line = |cells: Vec<String>| cells.join(",") + "\n";
        let mut out = line(self.columns.iter().map(|(name, _)| quote(name)).collect());
        out.extend(self.rows.iter().map(|row| line(row.iter().map(|cell| quote(cell)).collect())));
        out
    }

    /// The table as aligned lines under a ruled head, each ending in a line feed.
    pub fn to_text(&self) -> String {
        let widths = self.widths(|cell| cell.to_owned(), 1);
        let mut out = self.line(self.columns.iter().map(|(name, _)| name.as_str()), &widths, "  ").trim_end().to_owned();
        out.push('\n');
        out.push_str(&widths.iter().map(|&w| "─".repeat(w)).collect::<Vec<_>>().join("──"));
        out.push('\n');
        for row in &self.rows {
            out.push_str(self.line(row.iter().map(String::as_str), &widths, "  ").trim_end());
            out.push('\n');
        }
        out
    }

    /// The table as GitHub-flavoured Markdown, each line ending in a line feed.
    pub fn to_markdown(&self) -> String {
        let escape = |cell: &str| cell.replace('|', "\\|").replace('\n', " ");
        let widths = self.widths(escape, 3);
        let line = |cells: Vec<String>| format!("| {} |\n", self.line(cells.iter().map(String::as_str), &widths, " | "));
        let mut out = line(self.columns.iter().map(|(name, _)| escape(name)).collect());
        let rule: Vec<String> = self
            .columns
            .iter()
            .zip(&widths)
            .map(|((_, align), &w)| if *align == Align::Right { format!("{}:", "-".repeat(w + 1)) } else { "-".repeat(w + 2) })
            .collect();
        out.push_str(&format!("|{}|\n", rule.join("|")));
        for row in &self.rows {
            out.push_str(&line(row.iter().map(|cell| escape(cell)).collect()));
        }
        out
    }

    fn widths(&self, shown: impl Fn(&str) -> String, least: usize) -> Vec<usize> {
        let width = |cell: &str| display_width(&shown(cell));
        (0..self.columns.len())
            .map(|c| self.rows.iter().map(|r| width(&r[c])).fold(width(&self.columns[c].0), usize::max).max(least))
            .collect()
    }

    fn line<'a>(&self, cells: impl Iterator<Item = &'a str>, widths: &[usize], gap: &str) -> String {
        let padded: Vec<String> = cells
            .zip(widths)
            .zip(&self.columns)
            .map(|((cell, &width), (_, align))| {
                let space = " ".repeat(width.saturating_sub(display_width(cell)));
                if *align == Align::Right { format!("{space}{cell}") } else { format!("{cell}{space}") }
            })
            .collect();
        padded.join(gap)
    }
}

/// Terminal columns that `text` takes: two for East Asian wide characters, none for combining marks.
pub fn display_width(text: &str) -> usize {
    text.chars()
        .map(|c| match c as u32 {
            0x0300..=0x036F | 0x200B..=0x200F | 0xFE00..=0xFE0F => 0,
            0x1100..=0x115F | 0x2E80..=0xA4CF | 0xAC00..=0xD7A3 | 0xF900..=0xFAFF | 0xFE30..=0xFE6F | 0xFF00..=0xFF60 | 0xFFE0..=0xFFE6 => {
                2
            }
            0x1F300..=0x1FAFF | 0x20000..=0x3FFFD => 2,
            _ => 1,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new([("method", Align::Left), ("perplexity", Align::Right)]);
        table.row(["scale-preserve", "35.49"]).row(["한국어", "6.93"]).row(["a|b", "104.1"]).row(["short"]);
        table
    }

    #[test]
    fn text_is_aligned_by_terminal_columns() {
        insta::assert_snapshot!(sample().to_text(), @r"
        method          perplexity
        ──────────────────────────
        scale-preserve       35.49
        한국어                6.93
        a|b                  104.1
        short
        ");
    }

    #[test]
    fn markdown_escapes_bars_and_keeps_alignment() {
        insta::assert_snapshot!(sample().to_markdown(), @r"
        | method         | perplexity |
        |----------------|-----------:|
        | scale-preserve |      35.49 |
        | 한국어         |       6.93 |
        | a\|b           |      104.1 |
        | short          |            |
        ");
    }

    #[test]
    fn csv_quotes_what_would_break_a_line_apart() {
        let mut table = Table::new([("run", Align::Left), ("a,b", Align::Right)]);
        table.row(["say \"hi\"", "1"]).row(["two\nlines", "2"]);
        assert_eq!(table.to_csv(), "run,\"a,b\"\n\"say \"\"hi\"\"\",1\n\"two\nlines\",2\n");
    }

    #[test]
    fn columns_can_be_left_out() {
        let table = sample().select(|name, cells| name != "method" && cells.iter().any(|cell| !cell.is_empty()));
        assert_eq!((table.columns().len(), table.rows()[0].as_slice()), (1, ["35.49".to_owned()].as_slice()));
    }
}
