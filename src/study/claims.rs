//! What the paper says, as something that can be checked against numbers.

use serde::{Deserialize, Serialize};

use super::file::Metric;
use super::fit::Line;
use crate::eval::format_perplexity;
use crate::report::svg::short;

/// A claim, as a study's file has it: one of `order`, `alike`, `equals` and `linear`. Variants are named; `base` is the base, and `NAME@HEAD` another head or
/// router of a variant than its own.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The claim in words.
    pub says: String,
    /// The number it is about.
    #[serde(default)]
    pub metric: Metric,
    /// Groups of variants: each of one group has less than each of the next.
    #[serde(default)]
    order: Vec<Vec<String>>,
    /// Variants whose numbers are no further apart than `within`, as a share of the smallest.
    #[serde(default)]
    alike: Vec<String>,
    #[serde(default)]
    within: Option<f64>,
    /// The variant `of` has exactly this number.
    #[serde(default)]
    equals: Option<f64>,
    #[serde(default)]
    of: Option<String>,
    /// Over all variants that have both numbers, a straight rising line explains at least the share `r2` of the variance.
    #[serde(default)]
    linear: Option<Linear>,
    /// What the paper has, in words, where it is not in the variants' own numbers.
    #[serde(default)]
    pub paper: Option<String>,
}

/// A straight line through all variants.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Linear {
    /// Horizontal.
    pub x: Metric,
    /// Vertical.
    pub y: Metric,
    /// The least share of the variance.
    pub r2: f64,
}

/// What is claimed.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind<'a> {
    /// Each of one group below each of the next.
    Order(&'a [Vec<String>]),
    /// No further apart than a share of the smallest.
    Alike(&'a [String], f64),
    /// One exact value.
    Equals(&'a str, f64),
    /// A straight rising line.
    Linear(Linear),
}

/// A claim beside what came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// The claim in words.
    pub says: String,
    /// What the paper has.
    pub paper: String,
    /// What came out here.
    pub here: String,
    /// Whether that bears the claim out; absent where something is not measured.
    pub agrees: Option<bool>,
}

impl Verdict {
    /// `agrees`, `does not`, or `open`.
    pub fn word(&self) -> &'static str {
        match self.agrees {
            Some(true) => "agrees",
            Some(false) => "does not",
            None => "open: not all of it is measured",
        }
    }

    /// The claim and what came of it, one line each.
    pub fn lines(&self) -> Vec<String> {
        vec![self.says.clone(), format!("paper: {}; here: {}; {}", self.paper, self.here, self.word())]
    }
}

/// Where numbers are looked up by the name of a variant.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<f64>;

impl Claim {
    /// What is claimed.
    ///
    /// # Errors
    /// A message where it is none of the kinds, or several.
    pub fn kind(&self) -> Result<Kind<'_>, String> {
        let wrong = |what: &str| Err(format!("claim `{}`: {what}", self.says));
        let given = [!self.order.is_empty(), !self.alike.is_empty(), self.equals.is_some(), self.linear.is_some()];
        if given.iter().filter(|given| **given).count() != 1 {
            return wrong("expected one of order, alike, equals and linear");
        }
        if self.within.is_some() == self.alike.is_empty() {
            return wrong("`within` belongs to `alike`, and `alike` needs it");
        }
        if self.of.is_some() != self.equals.is_some() {
            return wrong("`of` belongs to `equals`, and `equals` needs it");
        }
        match (&self.linear, self.equals, &self.of, self.within) {
            (Some(linear), ..) => Ok(Kind::Linear(*linear)),
            (_, Some(value), Some(of), _) => Ok(Kind::Equals(of, value)),
            (_, _, _, Some(within)) if self.alike.len() > 1 => Ok(Kind::Alike(&self.alike, within)),
            (_, _, _, Some(_)) => wrong("`alike` needs two variants or more"),
            _ if self.order.len() > 1 && self.order.iter().all(|group| !group.is_empty()) => Ok(Kind::Order(&self.order)),
            _ => wrong("`order` needs two groups or more, none of them empty"),
        }
    }

    /// Checks that it is one claim, and about variants of these names.
    ///
    /// # Errors
    /// A message that says what is wrong.
    pub fn check(&self, variants: &[&str]) -> Result<(), String> {
        let named = match self.kind()? {
            Kind::Order(groups) => groups.concat(),
            Kind::Alike(names, _) => names.to_vec(),
            Kind::Equals(name, _) => vec![name.to_owned()],
            Kind::Linear(_) => Vec::new(),
        };
        for name in named {
            let variant = name.split('@').next().unwrap_or_default();
            if variant != "base" && !variants.contains(&variant) {
                return Err(format!("claim `{}`: `{variant}` is no variant; there are {}", self.says, variants.join(", ")));
            }
        }
        Ok(())
    }

    /// Sets it beside the numbers of the runs, `here`, and of the paper; `line` is the fitted one where the claim is about it.
    pub fn verdict(&self, here: Lookup<'_>, paper: Lookup<'_>, label: &dyn Fn(&str) -> String, line: Option<Line>) -> Verdict {
        let Ok(kind) = self.kind() else {
            return Verdict { says: self.says.clone(), paper: String::new(), here: String::new(), agrees: None };
        };
        let shown = |value: f64| match self.metric {
            Metric::Forgetting | Metric::Learning => format_perplexity(value),
            Metric::Cosine if value != 1.0 => format!("{value:.5}"),
            _ => short(value),
        };
        let ours = match (&kind, line) {
            (Kind::Linear(_), Some(line)) => format!("R² {:.2} over {} variants, slope {}", line.r_squared, line.points, short(line.slope)),
            (Kind::Linear(_), None) => "fewer than three variants have both numbers, or they do not differ".into(),
            _ => kind.describe(here, label, &shown),
        };
        let agrees = match (&kind, line) {
            (Kind::Linear(linear), line) => line.map(|line| line.slope > 0.0 && line.r_squared >= linear.r2),
            _ => kind.judge(here),
        };
        let paper = self.paper.clone().unwrap_or_else(|| kind.describe(paper, label, &shown));
        Verdict { says: self.says.clone(), paper, here: ours, agrees }
    }
}

impl Kind<'_> {
    /// Whether it holds for these numbers; `None` where one is missing or not finite, or it is about a line.
    pub fn judge(&self, value: Lookup<'_>) -> Option<bool> {
        let all = |names: &[String]| names.iter().map(|name| value(name).filter(|v| v.is_finite())).collect::<Option<Vec<f64>>>();
        match self {
            Self::Order(groups) => {
                let ranges = groups.iter().map(|group| all(group).map(|values| range(&values))).collect::<Option<Vec<_>>>()?;
                Some(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0))
            }
            Self::Alike(names, within) => {
                let (least, most) = range(&all(names)?);
                Some(most == least || most / least - 1.0 <= *within)
            }
            Self::Equals(name, expected) => value(name).filter(|v| v.is_finite()).map(|v| v == *expected),
            Self::Linear(_) => None,
        }
    }

    /// The numbers in words.
    fn describe(&self, value: Lookup<'_>, label: &dyn Fn(&str) -> String, shown: &dyn Fn(f64) -> String) -> String {
        let one = |name: &String| format!("{} {}", label(name), value(name).map_or("–".into(), shown));
        match self {
            Self::Order(groups) => {
                let values: Vec<Vec<f64>> = groups.iter().map(|group| group.iter().filter_map(|name| value(name)).collect()).collect();
                let mut words = String::new();
                for (index, group) in groups.iter().enumerate() {
                    if index > 0 {
                        words += sign(&values[index - 1], &values[index]);
                    }
                    words += &group.iter().map(one).collect::<Vec<_>>().join(", ");
                }
                words
            }
            Self::Alike(names, within) => {
                let words = names.iter().map(one).collect::<Vec<_>>().join(", ");
                let values: Vec<f64> = names.iter().filter_map(|name| value(name)).collect();
                let (least, most) = range(&values);
                match values.len() == names.len() {
                    true if *within == 0.0 => format!("{words} ({})", if most == least { "the same" } else { "not the same" }),
                    true => format!("{words} ({:.1} % apart; up to {:.1} % counts as alike)", 100.0 * (most / least - 1.0), 100.0 * within),
                    false => words,
                }
            }
            Self::Equals(name, _) => one(&(*name).to_owned()),
            Self::Linear(_) => "a straight line".into(),
        }
    }
}

fn range(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), &v| (least.min(v), most.max(v)))
}

/// How two groups stand to one another.
fn sign(left: &[f64], right: &[f64]) -> &'static str {
    let ((left_least, left_most), (right_least, right_most)) = (range(left), range(right));
    match () {
        () if left.is_empty() || right.is_empty() => " ; ",
        () if left_most < right_least => " < ",
        () if left_least > right_most => " > ",
        () if left_least == left_most && right_least == right_most => " = ",
        () => " overlaps ",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(text: &str) -> Claim {
        toml::from_str(&format!("says = \"it\"\n{text}")).unwrap()
    }

    fn here(name: &str) -> Option<f64> {
        Some(match name {
            "a" => 1.0,
            "b" => 2.0,
            "c" => 3.0,
            "d" => 3.01,
            "lost" => f64::INFINITY,
            _ => return None,
        })
    }

    fn judged(text: &str) -> (String, Option<bool>) {
        let verdict = claim(text).verdict(&here, &|_| Some(7.0), &|name| name.to_uppercase(), None);
        (verdict.here, verdict.agrees)
    }

    #[test]
    fn order_compares_every_one_of_a_group_with_every_one_of_the_next() {
        assert_eq!(judged("order = [[\"a\"], [\"b\"], [\"c\", \"d\"]]"), ("A 1.00 < B 2.00 < C 3.00, D 3.01".into(), Some(true)));
        assert_eq!(judged("order = [[\"b\"], [\"a\"]]"), ("B 2.00 > A 1.00".into(), Some(false)));
        assert_eq!(judged("order = [[\"a\", \"c\"], [\"b\"]]"), ("A 1.00, C 3.00 overlaps B 2.00".into(), Some(false)));
        assert_eq!(judged("order = [[\"a\"], [\"a\"]]").1, Some(false));
        assert_eq!(judged("order = [[\"a\"], [\"missing\"]]"), ("A 1.00 ; MISSING –".into(), None));
        assert_eq!(judged("order = [[\"a\"], [\"lost\"]]").1, None, "what diverged bears nothing out");
    }

    #[test]
    fn alike_equal_and_straight() {
        assert_eq!(
            judged("alike = [\"c\", \"d\"]\nwithin = 0.01"),
            ("C 3.00, D 3.01 (0.3 % apart; up to 1.0 % counts as alike)".into(), Some(true))
        );
        assert_eq!(judged("alike = [\"a\", \"b\"]\nwithin = 0.5").1, Some(false));
        assert_eq!(judged("alike = [\"c\", \"d\"]\nwithin = 0.0").1, Some(false));
        assert_eq!(judged("equals = 2.0\nof = \"b\""), ("B 2.00".into(), Some(true)));
        assert_eq!(judged("equals = 2.0\nof = \"c\"").1, Some(false));
        let line = |slope: f64, r_squared| Some(Line { intercept: 0.0, slope, r_squared, points: 5 });
        let text = "paper = \"almost\"\nlinear = { x = \"norm\", y = \"forgetting\", r2 = 0.9 }";
        for (line, agrees) in [(line(1.0, 0.95), Some(true)), (line(1.0, 0.5), Some(false)), (line(-1.0, 0.99), Some(false)), (None, None)]
        {
            let verdict = claim(text).verdict(&here, &here, &str::to_owned, line);
            assert_eq!((verdict.agrees, verdict.paper.as_str()), (agrees, "almost"));
        }
        let verdict = claim("order = [[\"a\"], [\"b\"]]").verdict(&here, &|_| Some(7.0), &str::to_owned, None);
        assert_eq!(verdict.lines()[1], "paper: a 7.00 = b 7.00; here: a 1.00 < b 2.00; agrees");
    }

    #[test]
    fn claims_that_are_none_are_refused() {
        for (text, part) in [
            ("", "expected one of"),
            ("order = [[\"a\"], [\"b\"]]\nequals = 1.0\nof = \"a\"", "expected one of"),
            ("order = [[\"a\"]]", "two groups"),
            ("order = [[\"a\"], []]", "two groups"),
            ("alike = [\"a\", \"b\"]", "`within`"),
            ("alike = [\"a\"]\nwithin = 0.1", "two variants"),
            ("equals = 1.0", "`of`"),
            ("order = [[\"a\"], [\"x\"]]", "`x` is no variant; there are a, b"),
        ] {
            assert!(claim(text).check(&["a", "b"]).unwrap_err().contains(part), "{text}");
        }
        claim("order = [[\"a@preservation\"], [\"base\"]]").check(&["a"]).unwrap();
    }
}
