//! Where each task's data comes from: its splits, and the names of its files as they are published.

use super::task::{Family, Task};

/// A part of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Examples to learn from.
    Train,
    /// MMLU's five examples a subject.
    Dev,
    /// What is measured on where the answers of the test split are secret.
    Validation,
    /// What is measured on.
    Test,
}

impl Split {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Dev => "dev",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// What is looked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// The task's name.
    pub name: &'static str,
    task: Task,
}

impl Wanted {
    /// The data of a task.
    pub fn new(task: Task) -> Self {
        Self { name: task.name, task }
    }

    /// The task.
    pub fn task(&self) -> Task {
        self.task
    }

    /// The split that is measured on.
    pub fn measured(&self) -> Split {
        match self.task.family {
            Family::HellaSwag | Family::WinoGrande | Family::TruthfulQaMc1 | Family::TruthfulQaMc2 => Split::Validation,
            _ => Split::Test,
        }
    }

    /// The splits that examples before a question come from: the first that is there.
    pub fn pools(&self) -> &'static [Split] {
        match self.task.family {
            Family::Mmlu => &[Split::Dev],
            Family::HellaSwag | Family::WinoGrande => &[Split::Train, Split::Validation],
            Family::TruthfulQaMc1 | Family::TruthfulQaMc2 => &[],
            _ => &[Split::Train, Split::Validation, Split::Test],
        }
    }

    /// How the paths of a split's files end, in the order of preference; a compression's suffix may follow.
    pub fn patterns(&self, split: Split) -> Vec<String> {
        let name = self.name;
        let hub = |folder: &str| {
            let split = split.as_str();
            vec![format!("{folder}/{split}-*.parquet"), format!("{folder}/{split}.parquet"), format!("{folder}/{split}.jsonl")]
        };
        let both = |own: Vec<String>, folders: &[&str]| own.into_iter().chain(folders.iter().flat_map(|folder| hub(folder))).collect();
        match self.task.family {
            Family::Arc => {
                let set = if name == "arc_easy" { "ARC-Easy" } else { "ARC-Challenge" };
                let part = match split {
                    Split::Train => "Train",
                    Split::Test => "Test",
                    _ => "Dev",
                };
                both(vec![format!("{set}-{part}.jsonl")], &[set, name])
            }
            Family::HellaSwag => {
                let part = if split == Split::Train { "train" } else { "val" };
                both(vec![format!("hellaswag_{part}.jsonl")], &["hellaswag/data", name])
            }
            Family::Mmlu => {
                let (subject, part) = (self.task.subject(), if split == Split::Validation { "val" } else { split.as_str() });
                both(vec![format!("{part}/{subject}_{part}.csv")], &[subject, name])
            }
            Family::WinoGrande => {
                let own = match split {
                    Split::Train => vec!["winogrande_1.1/train_xl.jsonl".into(), "winogrande_train_xl.jsonl".into()],
                    _ => vec!["winogrande_1.1/dev.jsonl".into(), "winogrande_dev.jsonl".into()],
                };
                both(own, &["winogrande_xl", name])
            }
            Family::TruthfulQaMc1 | Family::TruthfulQaMc2 => {
                let mut own = vec!["mc_task.json".into(), "truthfulqa_mc_task*.json".into()];
                own.extend(hub("multiple_choice"));
                own.extend(hub("truthfulqa"));
                own.push("TruthfulQA.csv".into());
                own
            }
            Family::KobestBoolQ | Family::KobestCopa | Family::KobestHellaSwag | Family::KobestSentiNeg | Family::KobestWic => {
                let set = name.trim_start_matches("kobest_");
                // The folder's name is BoolQ, COPA …, and letter case does not count.
                let part = if split == Split::Validation { "dev" } else { split.as_str() };
                let of_hub = format!("kobest_v1/{set}");
                both(vec![format!("v1.0/{set}/{part}.tsv"), format!("kobest/{set}/{part}.tsv")], &[of_hub.as_str(), name])
            }
        }
    }

    /// Where it can be had.
    pub fn origin(&self) -> String {
        let (hub, home) = match self.task.family {
            Family::Arc => ("allenai/ai2_arc", "https://allenai.org/data/arc"),
            Family::HellaSwag => ("Rowan/hellaswag", "https://github.com/rowanz/hellaswag/tree/master/data"),
            Family::Mmlu => ("cais/mmlu", "https://github.com/hendrycks/test"),
            Family::WinoGrande => ("allenai/winogrande", "https://winogrande.allenai.org"),
            Family::TruthfulQaMc1 | Family::TruthfulQaMc2 => ("truthfulqa/truthful_qa", "https://github.com/sylinrl/TruthfulQA"),
            _ => ("skt/kobest_v1", "https://github.com/SKT-LSL/KoBEST_datarepo"),
        };
        format!("it is at {home}, or as Parquet at https://huggingface.co/datasets/{hub} (docs/evaluation.md#data)")
    }
}
