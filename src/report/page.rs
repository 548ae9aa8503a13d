//! A comparison as one HTML page: a file that can be sent by mail and opened anywhere. It loads nothing, runs no script, follows the reader's
//! choice of light or dark, fits a phone, and has every number of its pictures as text.

use std::fmt::Write;

use super::chart::Drawing;
use super::comparison::Comparison;
use super::comparison::charts::Panel;
use super::svg::{self, NARROW, WIDE, escape};
use super::{Align, Table};

/// The page's own style; that of the drawings comes from [`svg::style`].
const STYLE: &str = "\
:root{color-scheme:light dark;--ground:#f3f4f6;--card:#ffffff;--ink:#1c1e21;--soft:#555b61;--edge:#d5d9dd;--link:#0060a0}\
@media (prefers-color-scheme:dark){:root{--ground:#0e0f11;--card:#16181b;--ink:#e8eaed;--soft:#a9b0b7;--edge:#34393f;--link:#7cc0f0}}\
*{box-sizing:border-box}\
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif}\
header,main,footer{max-width:1240px;margin:0 auto;padding:16px}\
h1{font-size:1.6rem;line-height:1.25;margin:8px 0;overflow-wrap:anywhere}h2{font-size:1.15rem;margin:0 0 4px}\
.finding{margin:12px 0}p{margin:4px 0}.note,.about{color:var(--soft)}a{color:var(--link)}\
nav{display:flex;flex-wrap:wrap;gap:4px 16px;margin:8px 0}\
section{background:var(--card);border:1px solid var(--edge);border-radius:8px;padding:16px;margin:0 0 16px}\
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,594px),1fr));gap:16px;align-items:start;margin:0 0 16px}\
.panels section{margin:0}\
.scroll{overflow-x:auto;margin-top:4px}\
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.92rem}\
th,td{padding:5px 12px 5px 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--edge)}\
thead th{color:var(--soft);font-weight:600;vertical-align:bottom}tbody th{font-weight:600;min-width:6em;max-width:18em;overflow-wrap:break-word}\
td{white-space:nowrap}small{display:block;font-weight:400;color:var(--soft)}\
th:first-child,td:first-child{position:sticky;left:0;background:var(--card)}\
.n{text-align:right;white-space:nowrap}thead th.n{white-space:normal;min-width:4.5em;overflow-wrap:break-word}\
details{margin-top:8px}summary{cursor:pointer;color:var(--link);padding:4px 0}\
svg{display:block;max-width:100%;height:auto}.narrow{display:none}\
@media (max-width:620px){nav{flex-wrap:nowrap;overflow-x:auto;white-space:nowrap;padding-bottom:4px}table{font-size:.84rem}th,td{padding-right:9px}tbody th{max-width:9em}\
header,main,footer{padding:10px}section{padding:12px 10px}.wide{display:none}.narrow{display:block}}\
@media print{body{background:none}section{break-inside:avoid}nav{display:none}}";

/// What stands before a comparison on a page that has a subject of its own, such as a study.
#[derive(Debug, Clone, Default)]
pub struct Preface {
    /// The page's heading.
    pub title: String,
    /// Paragraphs below it.
    pub about: Vec<String>,
    /// What came out, each in lines of which the first is the heading.
    pub findings: Vec<Vec<String>>,
    /// Numbers, each table under a heading.
    pub tables: Vec<(String, Table)>,
    /// Pictures.
    pub panels: Vec<Panel>,
}

/// Writes `comparison` as a page. The same runs give the same bytes.
pub fn render(comparison: &Comparison) -> String {
    render_with(comparison, None)
}

/// Writes `comparison` as a page, after `preface` where there is one.
pub fn render_with(comparison: &Comparison, preface: Option<&Preface>) -> String {
    let names: Vec<&str> = comparison.runs.iter().map(|run| run.name.as_str()).collect();
    let (heading, title) = match (preface, names.as_slice()) {
        (Some(preface), _) => (preface.title.clone(), preface.title.clone()),
        (None, [one]) => (format!("Run {one}"), format!("Run {one}")),
        (None, names) => (format!("{} runs compared", names.len()), format!("{} runs compared: {}", names.len(), names.join(", "))),
    };
    let panels = comparison.panels();
    let mut main = String::new();
    if let Some(preface) = preface {
        before(&mut main, preface, Some(comparison));
    }
    summary(&mut main, comparison);
    main.push_str("<div class=\"panels\">\n");
    for panel in &panels {
        figure(&mut main, panel, Some(comparison));
    }
    main.push_str("</div>\n");
    document(&title, &heading, &navigation(&panels), &main, &footer())
}

/// Writes a page of findings, numbers and pictures that are no comparison of runs.
pub fn render_alone(preface: &Preface) -> String {
    let mut main = String::new();
    before(&mut main, preface, None);
    let mut nav = String::from("<a href=\"#findings\">What came out</a>");
    let tables = || preface.tables.iter().enumerate().map(|(number, (heading, _))| (format!("numbers-{}", number + 1), heading.as_str()));
    let panels = preface.panels.iter().map(|panel| (panel.id.clone(), heading(panel).0));
    for (id, heading) in tables().take(1).chain(panels).chain(tables().skip(1)) {
        let _ = write!(nav, " <a href=\"#{}\">{}</a>", escape(&id), escape(heading));
    }
    let footer = format!(
        "<p>Made by treering {} from the runs&#39; metrics.jsonl. This file loads nothing from elsewhere and runs no script.</p>\n",
        env!("CARGO_PKG_VERSION")
    );
    document(&preface.title, &preface.title, &nav, &main, &footer)
}

/// A whole page.
fn document(title: &str, heading: &str, nav: &str, main: &str, footer: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta name=\"color-scheme\" content=\"light dark\"/>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n\
         <meta name=\"generator\" content=\"treering {version}\"/>\n\
         <title>{title}</title>\n<style>{drawing}{STYLE}</style>\n</head>\n<body>\n\
         <header>\n<h1>{heading}</h1>\n<nav aria-label=\"On this page\">{nav}</nav>\n</header>\n<main>\n{main}</main>\n\
         <footer class=\"about\">\n{footer}</footer>\n</body>\n</html>\n",
        version = env!("CARGO_PKG_VERSION"),
        title = escape(title),
        drawing = svg::style(),
        heading = escape(heading),
    )
}

/// The sections of a preface.
fn before(out: &mut String, preface: &Preface, comparison: Option<&Comparison>) {
    out.push_str("<section id=\"findings\">\n<h2>What came out</h2>\n");
    for paragraph in &preface.about {
        let _ = writeln!(out, "<p class=\"about\">{}</p>", escape(paragraph));
    }
    for lines in &preface.findings {
        let mut lines = lines.iter();
        if let Some(first) = lines.next() {
            let _ = write!(out, "<div class=\"finding\"><p><strong>{}</strong></p>", escape(first));
        }
        lines.for_each(|line| {
            let _ = write!(out, "<p>{}</p>", escape(line));
        });
        out.push_str("</div>\n");
    }
    out.push_str("</section>\n");
    // A page that is about its pictures has them before the numbers, but for the first table.
    let first = if comparison.is_some() { preface.tables.len() } else { 1 };
    numbers(out, preface, 0, first);
    if !preface.panels.is_empty() {
        out.push_str("<div class=\"panels\">\n");
        preface.panels.iter().for_each(|panel| figure(out, panel, comparison));
        out.push_str("</div>\n");
    }
    numbers(out, preface, first, preface.tables.len());
}

/// The tables of a preface from `first` to `end`.
fn numbers(out: &mut String, preface: &Preface, first: usize, end: usize) {
    for (number, (heading, numbers)) in preface.tables.iter().enumerate().take(end).skip(first) {
        let _ = writeln!(out, "<section id=\"numbers-{}\">\n<h2>{}</h2>", number + 1, escape(heading));
        table(out, numbers, heading);
        out.push_str("</section>\n");
    }
}

/// What was run, in a line for each run.
fn what_was_run(comparison: &Comparison) -> String {
    let mut out = String::new();
    for run in &comparison.runs {
        let _ = writeln!(
            out,
            "<p class=\"about\"><strong>{}</strong>: {} on {}, {} steps, {} tokens</p>",
            escape(&run.name),
            escape(&run.method),
            escape(&run.model),
            run.progress(),
            super::axis::group_thousands(&run.tokens.to_string())
        );
    }
    out
}

fn navigation(panels: &[Panel]) -> String {
    let mut out = String::from("<a href=\"#summary\">Summary</a>");
    for panel in panels.iter().filter(|panel| !panel.drawing.is_empty()) {
        let _ = write!(out, " <a href=\"#{}\">{}</a>", escape(&panel.id), escape(heading(panel).0));
    }
    out
}

fn summary(out: &mut String, comparison: &Comparison) {
    out.push_str("<section id=\"summary\">\n<h2>Summary</h2>\n");
    out.push_str("<p class=\"about\">At the last measurement. Forgetting and learning are perplexities on held-out text of the old and of the new kind, lower is better; in brackets, the change from the base.</p>\n");
    results(out, &comparison.table());
    for note in &comparison.notes {
        let _ = writeln!(out, "<p class=\"note\"><strong>Note:</strong> {}</p>", escape(note));
    }
    let corpora = comparison.corpora();
    if !corpora.is_empty() {
        out.push_str("<details>\n<summary>Perplexity by corpus</summary>\n");
        table(out, &corpora, "Perplexity by corpus");
        out.push_str("</details>\n");
    }
    let _ = writeln!(out, "<details>\n<summary>What was run</summary>\n{}</details>\n</section>", what_was_run(comparison));
}

/// The table of results with the head below the run's name, in every row: beside them the rest scrolls on a phone.
fn results(out: &mut String, results: &Table) {
    let first = |name: &str| name == "run" || name == "head";
    let mut run = "";
    let mut names = Vec::new();
    let head = results.columns().iter().position(|(name, _)| name == "head");
    for row in results.rows() {
        if !row[0].is_empty() {
            run = &row[0];
        }
        let head = head.map_or("", |at| match row[at].as_str() {
            "only one" => "",
            head => head,
        });
        let small = if head.is_empty() { String::new() } else { format!(" <small>{}</small>", escape(head)) };
        names.push(format!("{}{small}", escape(run)));
    }
    let numbers = results.select(|name, _| !first(name));
    table_with(out, &numbers, "Summary", Some(("run and head", &names)));
}

/// Title and subtitle of a panel.
fn heading(panel: &Panel) -> (&str, &str) {
    match &panel.drawing {
        Drawing::Lines(chart) => (&chart.title, &chart.subtitle),
        Drawing::Bars(bars) => (&bars.title, &bars.subtitle),
    }
}

fn figure(out: &mut String, panel: &Panel, comparison: Option<&Comparison>) {
    let (title, subtitle) = heading(panel);
    let _ = writeln!(out, "<section id=\"{}\">\n<h2>{}</h2>", escape(&panel.id), escape(title));
    if panel.drawing.is_empty() {
        let _ = writeln!(out, "<p class=\"note\">{}</p>\n</section>", escape(panel.absent));
        return;
    }
    let _ = writeln!(out, "<p class=\"about\">{}</p>", escape(subtitle));
    // Two drawings, of which the style shows the one that fits: a drawing that is only scaled has letters that cannot be read on a phone.
    out.push_str(&svg::inline(&panel.drawing, WIDE, "wide"));
    out.push_str(&svg::inline(&panel.drawing, NARROW, "narrow"));
    out.push_str("<details>\n<summary>Numbers</summary>\n");
    table(out, &panel.data, title);
    if let Some(blocks) = comparison.filter(|_| panel.id == "parameters").map(Comparison::blocks).filter(|blocks| !blocks.is_empty()) {
        table(out, &blocks, "Trained parameters by block");
    }
    out.push_str("</details>\n</section>\n");
}

/// A table that scrolls by itself where it is wider than the page; the keyboard reaches it too.
fn table(out: &mut String, table: &Table, name: &str) {
    table_with(out, table, name, None);
}

/// The same with a column before the others, whose cells are markup already.
fn table_with(out: &mut String, table: &Table, name: &str, before: Option<(&str, &[String])>) {
    let _ = writeln!(out, "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"{}\">\n<table>\n<thead><tr>", escape(name));
    let class = |align: &Align| if *align == Align::Right { " class=\"n\"" } else { "" };
    if let Some((column, _)) = before {
        let _ = write!(out, "<th scope=\"col\">{}</th>", escape(column));
    }
    for (column, align) in table.columns() {
        let _ = write!(out, "<th scope=\"col\"{}>{}</th>", class(align), escape(column));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for (number, row) in table.rows().iter().enumerate() {
        out.push_str("<tr>");
        if let Some(cell) = before.and_then(|(_, cells)| cells.get(number)) {
            let _ = write!(out, "<th scope=\"row\">{cell}</th>");
        }
        for (index, (cell, (_, align))) in row.iter().zip(table.columns()).enumerate() {
            let (class, cell) = (class(align), escape(cell));
            let _ = match index {
                0 if before.is_none() && !cell.is_empty() => write!(out, "<th scope=\"row\"{class}>{cell}</th>"),
                _ => write!(out, "<td{class}>{cell}</td>"),
            };
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table>\n</div>\n");
}

fn footer() -> String {
    format!(
        "<p>Where there are several corpora of a kind, forgetting and learning are the geometric mean of their perplexities. Cosine and W12 norm \
         are means; – means that it was not measured. docs/format-compare.md of treering says how each number is made.</p>\n\
         <p>Made by treering {} from the runs&#39; metrics.jsonl. This file loads nothing from elsewhere and runs no script.</p>\n",
        env!("CARGO_PKG_VERSION")
    )
}

#[cfg(test)]
mod tests {
    use super::super::assert_well_formed;
    use super::super::comparison::tests::{records, sample};
    use super::super::comparison::{Comparison, Run};
    use super::*;

    /// The page without its first line, which is no element.
    fn check(page: &str) {
        assert_well_formed(page.strip_prefix("<!DOCTYPE html>\n").expect("a page"));
        // Whatever a browser would fetch: addresses, scripts, imports, images.
        let lower = page.to_lowercase();
        for word in ["http:", "https:", "//", "<script", "<link", "<img", "<iframe", "<object", "@import", "url(", "javascript:", "data:"] {
            assert!(!lower.contains(word), "{word}");
        }
        assert!(!page.contains("src="));
        for (at, _) in page.match_indices("href=") {
            assert!(page[at..].starts_with("href=\"#"), "{}", &page[at..at + 40]);
        }
        for (at, _) in page.match_indices("href=\"#") {
            let target = page[at + 7..].split('"').next().unwrap_or_default();
            assert_eq!(page.matches(&format!(" id=\"{target}\"")).count(), 1, "{target}");
        }
        assert!(!page.contains("NaN") && !page.contains("inf,") && !page.contains("undefined"));
    }

    #[test]
    fn the_page_is_well_formed_and_has_every_panel_with_its_numbers() {
        let page = render(&sample());
        check(&page);
        for panel in ["forgetting-against-learning", "forgetting", "learning", "representation", "norms", "norms-by-layer", "loss", "speed"]
        {
            assert!(page.contains(&format!("<section id=\"{panel}\">")), "{panel}");
        }
        let drawn = sample().panels().iter().filter(|panel| !panel.drawing.is_empty()).count();
        assert_eq!(page.matches("<svg class=\"wide\"").count(), drawn);
        assert_eq!(page.matches("<svg class=\"narrow\"").count(), drawn);
        assert_eq!(page.matches("<summary>Numbers</summary>").count(), drawn);
        assert!(page.contains("prefers-color-scheme:dark") && page.contains("max-width:620px") && page.contains("width=device-width"));
        assert_eq!(page, render(&sample()), "the same runs give the same bytes");
    }

    #[test]
    fn a_page_of_its_own_has_its_pictures_between_its_tables() {
        let table = || {
            let mut table = Table::new([("a", Align::Left), ("b", Align::Right)]);
            table.row(["<x>", "1"]);
            table
        };
        let panels = sample().panels().into_iter().take(2).collect();
        let tables = vec![("First".to_owned(), table()), ("Second".to_owned(), table())];
        let preface = Preface { title: "A & B".into(), findings: vec![vec!["found".into()]], tables, panels, ..Preface::default() };
        let page = render_alone(&preface);
        check(&page);
        let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text}"));
        let order =
            ["<h1>A &amp; B", "id=\"findings\"", "id=\"numbers-1\"", "id=\"forgetting-against-learning\"", "id=\"numbers-2\""].map(at);
        assert!(order.is_sorted(), "{order:?}");
        assert!(!page.contains("id=\"summary\""));
    }

    #[test]
    fn hostile_names_are_text() {
        let mut runs = sample().runs;
        runs[0].name = "</title><script>alert('1')</script>".into();
        runs[1].method = "\"onload=\"alert(2)".into();
        runs[1].model = "a & b\u{202e}".into();
        for measured in &mut runs[0].evaluations {
            measured.questions.insert("\"><svg onload=x/base".into(), 0.5);
            measured.heads[0].corpora.insert("forget/<b>".into(), 2.0);
        }
        let page = render(&Comparison::new(runs));
        check(&page);
        assert!(page.contains("&lt;script&gt;") && !page.contains("<b>") && !page.contains('\u{202e}'));
    }

    #[test]
    fn runs_that_crashed_or_have_just_begun_have_a_page() {
        let begun = Run { planned_steps: 100, ..Run::from_records("begun".into(), "full".into(), &[]) };
        let mut crashed = Run::from_records("crashed".into(), "full".into(), &records(&["base"], &[(f64::INFINITY, 4.0)])[..4]);
        crashed.planned_steps = 1000;
        for runs in [vec![begun.clone()], vec![crashed.clone()], vec![begun, crashed]] {
            let page = render(&Comparison::new(runs));
            check(&page);
            assert!(page.contains("has not finished"));
        }
        check(&render(&Comparison::new(Vec::new())));
    }
}
