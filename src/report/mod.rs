//! What people see of results: aligned tables, small charts for the terminal, SVG charts, the comparison of runs, and its page.

pub mod axis;
pub mod chart;
pub mod comparison;
mod labels;
pub mod page;
pub mod svg;
pub mod table;
pub mod terminal;

pub use chart::{Bar, Bars, Chart, Drawing, Point, Reference, Series};
pub use table::{Align, Table};

/// Every tag closed in order, every attribute quoted, no stray `<` or `&`.
#[cfg(test)]
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
        let rest = &svg[at..];
        let entity = ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"].iter().any(|entity| rest.starts_with(entity));
        assert!(entity, "{}", rest.chars().take(6).collect::<String>());
    }
}
