//! Names, places and sentence forms, composed by this project.

use std::sync::LazyLock;

/// Everything the people are made of.
pub(super) struct Lists {
    pub first_names: Vec<String>,
    pub middle_names: Vec<String>,
    pub last_names: Vec<String>,
    pub cities: Vec<&'static str>,
    pub universities: Vec<String>,
    pub majors: Vec<&'static str>,
    pub companies: Vec<String>,
    /// For each attribute the forms, each as the words between name and value and what follows the value.
    pub forms: [Vec<(&'static str, &'static str)>; 6],
}

pub(super) static LISTS: LazyLock<Lists> = LazyLock::new(|| Lists {
    first_names: names(include_str!("lists/first_names.txt")),
    middle_names: names(include_str!("lists/middle_names.txt")),
    last_names: names(include_str!("lists/last_names.txt")),
    cities: items(include_str!("lists/cities.txt")).collect(),
    universities: universities(),
    majors: items(include_str!("lists/majors.txt")).collect(),
    companies: companies(),
    forms: [
        forms(include_str!("lists/forms_birth_date.txt")),
        forms(include_str!("lists/forms_birth_city.txt")),
        forms(include_str!("lists/forms_university.txt")),
        forms(include_str!("lists/forms_major.txt")),
        forms(include_str!("lists/forms_company.txt")),
        forms(include_str!("lists/forms_company_city.txt")),
    ],
});

/// The months, as dates name them.
pub(super) const MONTHS: [&str; 12] =
    ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];

/// A line of beginnings and a line of endings: every combination is a name.
fn names(text: &'static str) -> Vec<String> {
    let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let (starts, ends) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    starts.iter().flat_map(|start| ends.iter().map(move |end| format!("{start}{end}"))).collect()
}

/// Items that stand between bars and line ends.
fn items(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.lines().flat_map(|line| line.split('|'))
}

/// Every place with every kind of university; the place comes first, so that the first token tells universities apart.
fn universities() -> Vec<String> {
    let text = include_str!("lists/universities.txt");
    let kinds: Vec<&str> = text.lines().nth(2).unwrap_or_default().split('|').collect();
    let places = names(text);
    kinds.iter().flat_map(|kind| places.iter().map(move |place| format!("{place} {kind}"))).collect()
}

/// Every company name with every trade.
fn companies() -> Vec<String> {
    let mut lines = include_str!("lists/companies.txt").lines();
    let (first, trades) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    first.split_whitespace().flat_map(|name| trades.split('|').map(move |trade| format!("{name} {trade}"))).collect()
}

/// Sentences in which `N` stands for the name and `V` for the value.
fn forms(text: &'static str) -> Vec<(&'static str, &'static str)> {
    text.lines().filter_map(|line| line.strip_prefix('N')?.split_once(" V")).collect()
}
