//! Which tasks there are, what they are called, and how many examples come before each question.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::error::{Error, Result};
use crate::recipe::suggestion;

/// The kinds of tasks, by what their items look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Questions of school examinations.
    Arc,
    /// How a description goes on.
    HellaSwag,
    /// Questions with four lettered answers, by subject.
    Mmlu,
    /// Which of two things a sentence is about.
    WinoGrande,
    /// Questions that people answer wrongly, with one true answer.
    TruthfulQaMc1,
    /// The same with several true answers.
    TruthfulQaMc2,
    /// Yes or no about a paragraph, in Korean.
    KobestBoolQ,
    /// Cause or effect, in Korean.
    KobestCopa,
    /// How a description goes on, in Korean.
    KobestHellaSwag,
    /// Whether a review is a good one, in Korean.
    KobestSentiNeg,
    /// Whether a word means the same twice, in Korean.
    KobestWic,
}

/// What is made of the log-likelihoods of an item's choices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Whether the most probable choice is the right one; for TruthfulQA's mc2 the part of the probability that true answers have.
    Acc,
    /// Whether the choice with the largest log-likelihood a character is the right one.
    AccNorm,
    /// The mean over the labels of the F1 score.
    F1,
}

impl Metric {
    /// Its name in files and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Acc => "acc",
            Self::AccNorm => "acc_norm",
            Self::F1 => "f1",
        }
    }
}

/// A task, of those in [`Task::all`]. Written as its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    /// Its name, which is lm-evaluation-harness'.
    pub name: &'static str,
    /// Its kind.
    pub family: Family,
}

impl Task {
    /// Every task.
    pub fn all() -> impl Iterator<Item = Self> {
        let subjects = MMLU.iter().flat_map(|(_, subjects)| subjects.iter());
        ALONE.iter().map(|&(name, family)| Self { name, family }).chain(subjects.map(|&name| Self { name, family: Family::Mmlu }))
    }

    /// The subject of an MMLU task, `abstract_algebra`; of others their name.
    pub fn subject(self) -> &'static str {
        self.name.strip_prefix("mmlu_").unwrap_or(self.name)
    }

    /// What is measured.
    pub fn metrics(self) -> &'static [Metric] {
        match self.family {
            Family::Arc | Family::HellaSwag => &[Metric::Acc, Metric::AccNorm],
            Family::KobestHellaSwag => &[Metric::Acc, Metric::AccNorm, Metric::F1],
            Family::KobestBoolQ | Family::KobestCopa | Family::KobestSentiNeg | Family::KobestWic => &[Metric::Acc, Metric::F1],
            Family::Mmlu | Family::WinoGrande | Family::TruthfulQaMc1 | Family::TruthfulQaMc2 => &[Metric::Acc],
        }
    }

    /// The metric by which the task is usually quoted, and the paper quotes it: normalised accuracy where there is one.
    pub fn main_metric(self) -> Metric {
        if self.metrics().contains(&Metric::AccNorm) { Metric::AccNorm } else { Metric::Acc }
    }

    /// Whether its prompt is fixed, so that no example can be put before it.
    pub fn is_always_zero_shot(self) -> bool {
        matches!(self.family, Family::TruthfulQaMc1 | Family::TruthfulQaMc2)
    }

    /// The examples before a question on the Open LLM leaderboard, and none for tasks that it does not have.
    fn leaderboard_shots(self) -> usize {
        match self.family {
            Family::Arc => 25,
            Family::HellaSwag => 10,
            Family::Mmlu | Family::WinoGrande => 5,
            _ => 0,
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Serialize for Task {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

const ALONE: [(&str, Family); 11] = [
    ("arc_easy", Family::Arc),
    ("arc_challenge", Family::Arc),
    ("hellaswag", Family::HellaSwag),
    ("winogrande", Family::WinoGrande),
    ("truthfulqa_mc1", Family::TruthfulQaMc1),
    ("truthfulqa_mc2", Family::TruthfulQaMc2),
    ("kobest_boolq", Family::KobestBoolQ),
    ("kobest_copa", Family::KobestCopa),
    ("kobest_hellaswag", Family::KobestHellaSwag),
    ("kobest_sentineg", Family::KobestSentiNeg),
    ("kobest_wic", Family::KobestWic),
];

/// MMLU's groups and their subjects.
const MMLU: [(&str, &[&str]); 4] = [
    (
        "mmlu_stem",
        &[
            "mmlu_abstract_algebra",
            "mmlu_anatomy",
            "mmlu_astronomy",
            "mmlu_college_biology",
            "mmlu_college_chemistry",
            "mmlu_college_computer_science",
            "mmlu_college_mathematics",
            "mmlu_college_physics",
            "mmlu_computer_security",
            "mmlu_conceptual_physics",
            "mmlu_electrical_engineering",
            "mmlu_elementary_mathematics",
            "mmlu_high_school_biology",
            "mmlu_high_school_chemistry",
            "mmlu_high_school_computer_science",
            "mmlu_high_school_mathematics",
            "mmlu_high_school_physics",
            "mmlu_high_school_statistics",
            "mmlu_machine_learning",
        ],
    ),
    (
        "mmlu_other",
        &[
            "mmlu_business_ethics",
            "mmlu_clinical_knowledge",
            "mmlu_college_medicine",
            "mmlu_global_facts",
            "mmlu_human_aging",
            "mmlu_management",
            "mmlu_marketing",
            "mmlu_medical_genetics",
            "mmlu_miscellaneous",
            "mmlu_nutrition",
            "mmlu_professional_accounting",
            "mmlu_professional_medicine",
            "mmlu_virology",
        ],
    ),
    (
        "mmlu_social_sciences",
        &[
            "mmlu_econometrics",
            "mmlu_high_school_geography",
            "mmlu_high_school_government_and_politics",
            "mmlu_high_school_macroeconomics",
            "mmlu_high_school_microeconomics",
            "mmlu_high_school_psychology",
            "mmlu_human_sexuality",
            "mmlu_professional_psychology",
            "mmlu_public_relations",
            "mmlu_security_studies",
            "mmlu_sociology",
            "mmlu_us_foreign_policy",
        ],
    ),
    (
        "mmlu_humanities",
        &[
            "mmlu_formal_logic",
            "mmlu_high_school_european_history",
            "mmlu_high_school_us_history",
            "mmlu_high_school_world_history",
            "mmlu_international_law",
            "mmlu_jurisprudence",
            "mmlu_logical_fallacies",
            "mmlu_moral_disputes",
            "mmlu_moral_scenarios",
            "mmlu_philosophy",
            "mmlu_prehistory",
            "mmlu_professional_law",
            "mmlu_world_religions",
        ],
    ),
];

/// Names that stand for several tasks, each of which may be a group itself; `true` for those whose mean over the items is reported.
const GROUPS: [(&str, &[&str], bool); 5] = [
    ("mmlu", &["mmlu_stem", "mmlu_other", "mmlu_social_sciences", "mmlu_humanities"], true),
    ("kobest", &["kobest_boolq", "kobest_copa", "kobest_hellaswag", "kobest_sentineg", "kobest_wic"], true),
    ("ai2_arc", &["arc_easy", "arc_challenge"], false),
    ("truthfulqa", &["truthfulqa_mc1", "truthfulqa_mc2"], false),
    (
        Selection::PAPER,
        &["arc_challenge", "hellaswag", "mmlu", "truthfulqa_mc2", "winogrande", "kobest_boolq", "kobest_copa", "kobest_hellaswag"],
        false,
    ),
];

fn members(name: &str) -> Option<(&'static str, &'static [&'static str], bool)> {
    let of_mmlu = MMLU.iter().map(|&(group, subjects)| (group, subjects, true));
    GROUPS.iter().copied().chain(of_mmlu).find(|(group, ..)| *group == name)
}

/// Tasks with the same metrics whose mean over all items is reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: &'static str,
    /// The tasks in it, of groups within it too.
    pub tasks: Vec<Task>,
}

/// Tasks to measure, with the examples before each question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The tasks, none of them twice.
    pub tasks: Vec<(Task, usize)>,
    /// The groups that were named, and those within them.
    pub groups: Vec<Group>,
    /// Whether the paper's eight are among them as such, so that its averages are reported.
    pub paper: bool,
}

impl Selection {
    /// The name of the paper's eight.
    ///
    /// # Paper
    /// Table 1.
    pub const PAPER: &'static str = "paper";
    /// The name of the Open LLM leaderboard's numbers of examples.
    pub const LEADERBOARD: &'static str = "leaderboard";

    /// Reads names of tasks and groups, and how many examples come before a question: entries such as `5`, `arc_challenge:25` or `leaderboard`,
    /// of which the one for a task stands above those for all.
    ///
    /// # Errors
    /// [`Error::Usage`] for names that there are not, with the nearest ones, and examples that cannot be.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>, shots: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut selection = Self { tasks: Vec::new(), groups: Vec::new(), paper: false };
        for name in names.into_iter().map(str::trim).filter(|name| !name.is_empty()) {
            selection.add(name)?;
        }
        if selection.tasks.is_empty() {
            return Err(Error::usage(format!("no task is named\n  hint: for example arc_easy,hellaswag or {}", Self::PAPER)));
        }
        for entry in shots.into_iter().map(str::trim).filter(|entry| !entry.is_empty()) {
            selection.set_shots(entry)?;
        }
        Ok(selection)
    }

    fn add(&mut self, name: &str) -> Result<()> {
        if let Some((name, inner, reported)) = members(name) {
            self.paper |= name == Self::PAPER;
            for inner in inner {
                self.add(inner)?;
            }
            if reported && !self.groups.iter().any(|group| group.name == name) {
                self.groups.push(Group { name, tasks: tasks(name) });
            }
            return Ok(());
        }
        let Some(task) = Task::all().find(|task| task.name == name) else {
            let known: Vec<&str> = names().collect();
            let hint = match suggestion(name, known.iter().copied()) {
                hint if hint.is_empty() => {
                    let alone = ALONE.iter().map(|(name, _)| *name).chain(GROUPS.iter().map(|(name, ..)| *name));
                    format!("\n  hint: there are {}, mmlu_SUBJECT", alone.collect::<Vec<_>>().join(", "))
                }
                hint => hint,
            };
            return Err(Error::usage(format!("no task is called `{name}`{hint}")));
        };
        if !self.tasks.iter().any(|(other, _)| *other == task) {
            self.tasks.push((task, 0));
        }
        Ok(())
    }

    fn set_shots(&mut self, entry: &str) -> Result<()> {
        let number = |text: &str| {
            text.parse::<usize>().ok().filter(|&n| n <= 1000).ok_or_else(|| {
                Error::usage(format!(
                    "few-shot `{entry}`: expected a number up to 1000, {} or TASK:NUMBER, for example arc_challenge:25",
                    Self::LEADERBOARD
                ))
            })
        };
        if entry == Self::LEADERBOARD {
            self.tasks.iter_mut().for_each(|(task, shots)| *shots = task.leaderboard_shots());
            return Ok(());
        }
        let Some((name, count)) = entry.rsplit_once(':') else {
            let count = number(entry)?;
            self.tasks.iter_mut().filter(|(task, _)| !task.is_always_zero_shot()).for_each(|(_, shots)| *shots = count);
            return Ok(());
        };
        let (name, count) = (name.trim(), number(count.trim())?);
        let meant = tasks(name);
        let mut chosen = self.tasks.iter_mut().filter(|(task, _)| meant.contains(task)).peekable();
        if chosen.peek().is_none() {
            let what = if meant.is_empty() { suggestion(name, names()) } else { "\n  hint: name it among the tasks, too".into() };
            return Err(Error::usage(format!("few-shot `{entry}`: `{name}` is not among the tasks{what}")));
        }
        for (task, shots) in chosen {
            if task.is_always_zero_shot() && count > 0 {
                return Err(Error::usage(format!("few-shot `{entry}`: the prompt of {task} is fixed, and has no examples put before it")));
            }
            *shots = count;
        }
        Ok(())
    }
}

/// Every name that can be asked for.
fn names() -> impl Iterator<Item = &'static str> {
    let groups = GROUPS.iter().map(|(name, ..)| *name).chain(MMLU.iter().map(|(name, _)| *name));
    Task::all().map(|task| task.name).chain(groups)
}

/// The task of this name, or all tasks of the group.
fn tasks(name: &str) -> Vec<Task> {
    match members(name) {
        Some((_, inner, _)) => inner.iter().flat_map(|inner| tasks(inner)).collect(),
        None => Task::all().filter(|task| task.name == name).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(names: &str, shots: &str) -> Result<Selection> {
        Selection::new(names.split(','), shots.split(','))
    }

    fn shots(names: &str, shots: &str) -> Vec<(&'static str, usize)> {
        select(names, shots).unwrap().tasks.into_iter().map(|(task, shots)| (task.name, shots)).collect()
    }

    #[test]
    fn groups_hold_what_lm_evaluation_harness_puts_into_them() {
        let selection = select("mmlu", "").unwrap();
        let sizes: Vec<(&str, usize)> = selection.groups.iter().map(|group| (group.name, group.tasks.len())).collect();
        assert_eq!(sizes, [("mmlu_stem", 19), ("mmlu_other", 13), ("mmlu_social_sciences", 12), ("mmlu_humanities", 13), ("mmlu", 57)]);
        assert_eq!(selection.tasks.len(), 57);
        assert_eq!(select("kobest,kobest_wic,kobest", "").unwrap().tasks.len(), 5);
        assert_eq!(shots("ai2_arc", ""), [("arc_easy", 0), ("arc_challenge", 0)]);
        assert!(select("ai2_arc", "").unwrap().groups.is_empty());
        let paper = select("paper", "").unwrap();
        assert!(paper.paper && paper.tasks.len() == 7 + 57 && paper.groups.len() == 5);
    }

    #[test]
    fn examples_are_given_for_all_by_name_and_as_the_leaderboard_has_them() {
        let names = "arc_challenge,hellaswag,truthfulqa_mc2,winogrande,kobest_copa,mmlu_anatomy";
        assert_eq!(
            shots(names, "leaderboard"),
            [("arc_challenge", 25), ("hellaswag", 10), ("truthfulqa_mc2", 0), ("winogrande", 5), ("kobest_copa", 0), ("mmlu_anatomy", 5)]
        );
        assert_eq!(
            shots("arc_easy,truthfulqa_mc1,kobest_copa,kobest_wic", "3,kobest:5,kobest_wic:1"),
            [("arc_easy", 3), ("truthfulqa_mc1", 0), ("kobest_copa", 5), ("kobest_wic", 1)]
        );
    }

    #[test]
    fn what_there_is_not_is_refused_with_what_there_is() {
        let refused = |names: &str, shots: &str| {
            let error = select(names, shots).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        };
        assert!(refused("hellaswg", "").contains("did you mean `hellaswag`?"));
        assert!(refused("mmlu_astrology", "").contains("did you mean `mmlu_astronomy`?"));
        let unknown = refused("xyz", "");
        assert!(unknown.contains("no task is called `xyz`") && unknown.contains("kobest_wic") && unknown.contains("paper"), "{unknown}");
        assert!(refused(" ,", "").contains("no task is named"));
        assert!(refused("arc_easy", "many").contains("expected a number"));
        assert!(refused("arc_easy", "hellaswag:3").contains("not among the tasks"));
        assert!(refused("truthfulqa_mc1", "truthfulqa_mc1:5").contains("fixed"));
    }
}
