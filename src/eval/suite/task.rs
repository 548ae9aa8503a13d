//! Which tasks and groups of tasks there are, and what they are called.

use std::fmt;

use serde::{Serialize, Serializer};

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
    pub(super) fn leaderboard_shots(self) -> usize {
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

/// The name of the paper's eight.
pub(super) const PAPER: &str = "paper";

/// Tasks that are in no group of their own.
pub(super) const ALONE: [(&str, Family); 11] = [
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
pub(super) const GROUPS: [(&str, &[&str], bool); 5] = [
    ("mmlu", &["mmlu_stem", "mmlu_other", "mmlu_social_sciences", "mmlu_humanities"], true),
    ("kobest", &["kobest_boolq", "kobest_copa", "kobest_hellaswag", "kobest_sentineg", "kobest_wic"], true),
    ("ai2_arc", &["arc_easy", "arc_challenge"], false),
    ("truthfulqa", &["truthfulqa_mc1", "truthfulqa_mc2"], false),
    (
        PAPER,
        &["arc_challenge", "hellaswag", "mmlu", "truthfulqa_mc2", "winogrande", "kobest_boolq", "kobest_copa", "kobest_hellaswag"],
        false,
    ),
];

/// What a group is made of, with its name as it is kept, and whether its mean is reported; `None` for what is no group.
pub(super) fn members(name: &str) -> Option<(&'static str, &'static [&'static str], bool)> {
    let of_mmlu = MMLU.iter().map(|&(group, subjects)| (group, subjects, true));
    GROUPS.iter().copied().chain(of_mmlu).find(|(group, ..)| *group == name)
}

/// Every name that can be asked for.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let groups = GROUPS.iter().map(|(name, ..)| *name).chain(MMLU.iter().map(|(name, _)| *name));
    Task::all().map(|task| task.name).chain(groups)
}

/// The task of this name, or all tasks of the group.
pub(super) fn tasks(name: &str) -> Vec<Task> {
    match members(name) {
        Some((_, inner, _)) => inner.iter().flat_map(|inner| tasks(inner)).collect(),
        None => Task::all().filter(|task| task.name == name).collect(),
    }
}
