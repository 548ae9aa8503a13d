//! The sizes of the benchmark with every number of theirs, and what a user may choose.

use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::checkpoint::Config;
use crate::data::biography::Attribute;
use crate::error::{Error, Result};
use crate::grow::Sizes;
use crate::model::Precision;
use crate::recipe::{MethodKind, suggestion};

/// The most people whose names differ.
const MOST_PEOPLE: u64 = 400 * 400 * 1000;
/// The most tasks in a row.
pub const MOST_TASKS: u64 = 100;

/// How large the benchmark is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Size {
    /// A walk through it, as `treering quickstart` takes it: dozens of people.
    Quickstart,
    /// 0.9 million parameters, minutes on two cores.
    Mini,
    /// 3 million parameters, an hour or so on two cores.
    Small,
    /// The paper's protocol, number by number.
    Paper,
}

/// Which tokens of a question count when it is learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Those of the answer: the question tells a router nothing about who knows it.
    Answer,
    /// All: whoever is asked about is predicted too.
    All,
}

/// Steps and rates of a stage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lesson {
    /// Updates.
    pub steps: u64,
    /// Windows in one forward pass.
    pub batch_size: usize,
    /// Forward passes in one update, so that a large batch fits into the memory of a small machine.
    pub gradient_accumulation: usize,
    /// Tokens a window; of questions at least, since a longer one makes all windows longer.
    pub sequence_length: usize,
    /// The peak rate; of Task 1 … k every method has its own.
    pub learning_rate: f64,
    /// Where the rate falls to along a cosine, as a share of its peak.
    pub learning_rate_floor: f64,
    /// Steps in which it rises.
    pub warmup_steps: u64,
    /// Weight decay.
    pub weight_decay: f64,
    /// AdamW's ε.
    pub epsilon: f64,
    /// Questions are asked after every so many steps.
    pub measure_every: u64,
}

/// Every number of a size.
#[derive(Debug, Clone, PartialEq)]
pub struct Protocol {
    /// People whose biographies are read in pre-training.
    pub pretrained: u64,
    /// How many of them Task 0 asks about while it is trained, from the first on.
    pub task_zero: u64,
    /// Whom Task 0 is measured on.
    pub task_zero_asked: Range<u64>,
    /// People of each task after it.
    pub new_people: u64,
    /// Biographies of a person.
    pub copies: u64,
    /// The model, its vocabulary the most that the tokenizer may have.
    pub config: Config,
    /// Arithmetic of the matrix products.
    pub dtype: Precision,
    /// Whether biographies in a window do not see one another: where few fit, most of a window would be about someone else.
    pub document_mask: bool,
    /// What a ring adds.
    pub growth: Sizes,
    /// Pre-training on biographies.
    pub pretrain: Lesson,
    /// Questions about people who are known.
    pub task_zero_lesson: Lesson,
    /// Questions about new people.
    pub task_lesson: Lesson,
    /// People of each task who are asked about while it is trained, the first ones.
    pub asked_along: u64,
    /// The same at a task's end.
    pub asked_at_end: u64,
}

/// What a user chose. It is kept in the folder, and a folder with another one is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// The size.
    pub size: Size,
    /// Seed of the people, the weights and the order of the texts.
    pub seed: u64,
    /// Which tokens of a question count.
    pub loss: Loss,
    /// What is asked for.
    pub attributes: Vec<Attribute>,
    /// People who are pre-trained, where it is not the size's own number.
    pub people: Option<u64>,
    /// People of a task, likewise.
    pub new_people: Option<u64>,
    /// People there are, where a data set was given.
    pub population: Option<u64>,
    /// A tokenizer.json; one is trained where there is none.
    pub tokenizer: Option<PathBuf>,
}

impl Size {
    /// All, from the smallest to the largest.
    pub const ALL: [Self; 4] = [Self::Quickstart, Self::Mini, Self::Small, Self::Paper];

    /// The name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quickstart => "quickstart",
            Self::Mini => "mini",
            Self::Small => "small",
            Self::Paper => "paper",
        }
    }
}

impl Protocol {
    /// The lines of `[method]` and `[train]` in which a method has settings of its own, and its rate, for Task `task` (from 1).
    ///
    /// # Paper
    /// Section 4.1: 5e-6 for all but SCALE, which has 5e-5. The rates of the small sizes are the best of those tried (docs/biography.md).
    pub fn method(&self, size: Size, kind: MethodKind, task: u64) -> MethodSettings {
        let Sizes { hidden_size, num_attention_heads, num_key_value_heads, intermediate_size } = self.growth;
        let sizes = format!(
            "hidden_size = {hidden_size}\nnum_attention_heads = {num_attention_heads}\nnum_key_value_heads = {num_key_value_heads}\n\
             intermediate_size = {intermediate_size}\n"
        );
        // Rings further out add to nothing within them.
        let trained = if task > 1 && kind.widens() { MethodKind::ScalePreserve } else { kind };
        let method = match trained {
            MethodKind::Full => String::new(),
            MethodKind::Lora => "r = 16\nlora_alpha = 32\n".into(),
            MethodKind::Freeze => "frozen_embedding = true\n".into(),
            MethodKind::LlamaPro => String::new(),
            MethodKind::ScalePreserve => sizes,
            // As the paper has it: the upper half, attention alone.
            MethodKind::ScaleAdapt => format!("{sizes}modules = [\"attention\"]\n"),
            // What is learnt need not be timid where a router holds forgetting: everywhere. Single facts need none of what running text gains by.
            MethodKind::ScaleRoute => {
                format!("{sizes}preserved_layers = 0\nmodules = [\"attention\", \"ffn\"]\nr = 0\nsink_layers = 0\n")
            }
        };
        let learning_rate = match (size, trained) {
            (Size::Paper, kind) => {
                if kind.widens() {
                    5e-5
                } else {
                    5e-6
                }
            }
            (_, MethodKind::Full) => 5e-4,
            (_, MethodKind::Freeze) => 1e-3,
            (_, MethodKind::Lora) => 3e-3,
            (_, MethodKind::LlamaPro) => 2e-3,
            (_, _) => 3e-3,
        };
        let blocks = if trained == MethodKind::ScaleRoute {
            format!("expansion_to_base = {:e}\n", expansion_to_base_rate(learning_rate))
        } else {
            String::new()
        };
        MethodSettings { kind: trained, method, blocks, learning_rate }
    }
}

/// What W12 learns at under `scale-route` where everything else learns at `learning_rate`.
///
/// The figures of docs/biography.md are of a tenth for every method; Route's default is [another](MethodKind::expansion_to_base_rate).
pub(super) fn expansion_to_base_rate(learning_rate: f64) -> f64 {
    learning_rate / 10.0
}

/// What a recipe says of a method.
#[derive(Debug, Clone, PartialEq)]
pub struct MethodSettings {
    /// What is trained: of a ring around others `scale-preserve`, whatever the first one was.
    pub kind: MethodKind,
    /// Lines of `[method]`.
    pub method: String,
    /// Lines of `[train.learning_rates]`.
    pub blocks: String,
    /// The peak rate.
    pub learning_rate: f64,
}

impl Setup {
    /// A size with its own numbers.
    pub fn new(size: Size) -> Self {
        let attributes = Attribute::ALL.to_vec();
        Self { size, seed: 42, loss: Loss::Answer, attributes, people: None, new_people: None, population: None, tokenizer: None }
    }

    /// The size's numbers with what was chosen in their place.
    ///
    /// # Errors
    /// [`Error::Usage`] where there are too few people for the pools of `tasks` tasks, or nothing to ask.
    pub fn protocol(&self, tasks: u64) -> Result<Protocol> {
        let mut protocol = self.size.protocol();
        if let Some(people) = self.people {
            let whole = protocol.task_zero_asked.start == 0;
            let half = people / 2;
            protocol.pretrained = people;
            (protocol.task_zero, protocol.task_zero_asked) = if whole { (people, 0..people) } else { (half, half..people) };
        }
        protocol.new_people = self.new_people.unwrap_or(protocol.new_people);
        for (what, count) in [
            ("whom pre-training knows", protocol.pretrained),
            ("whom Task 0 is trained on", protocol.task_zero),
            ("whom it is measured on", protocol.task_zero_asked.end.saturating_sub(protocol.task_zero_asked.start)),
            ("of a new task", protocol.new_people),
        ] {
            if count == 0 {
                return Err(Error::usage(format!(
                    "too few people: there is nobody {what}\n  hint: --people and --new-people say how many there are"
                )));
            }
        }
        if self.attributes.is_empty() {
            return Err(Error::usage("no attribute is asked for"));
        }
        if !(1..=MOST_TASKS).contains(&tasks) {
            return Err(Error::usage(format!("{tasks} tasks: there are 1 to {MOST_TASKS} after Task 0")));
        }
        let needed = protocol.new_people.saturating_mul(tasks).saturating_add(protocol.pretrained);
        let most = self.population.unwrap_or(MOST_PEOPLE);
        if needed > most {
            return Err(Error::usage(format!(
                "too few people: size {} needs {} for pre-training and {} for each of {tasks} tasks, {needed} in all, and there are {most}\n  \
                 hint: --people and --new-people take fewer, `treering biography generate --people` makes more",
                self.size.as_str(),
                protocol.pretrained,
                protocol.new_people
            )));
        }
        Ok(protocol)
    }
}

impl Protocol {
    /// The people whom Task `task` asks about: while it is trained, and when it is measured.
    pub fn asked(&self, task: u64) -> Range<u64> {
        if task == 0 {
            return self.task_zero_asked.clone();
        }
        let first = self.pretrained + (task - 1) * self.new_people;
        first..first + self.new_people
    }
}

impl FromStr for Size {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|size| size.as_str() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::as_str);
            Error::usage(format!("`{text}` is no size; there are {}{}", names.join(", "), suggestion(text, names.into_iter())))
        })
    }
}

impl FromStr for Loss {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "answer" => Ok(Self::Answer),
            "all" => Ok(Self::All),
            _ => Err(Error::usage(format!("`{text}` is neither `answer` nor `all`"))),
        }
    }
}

/// Methods by name, each once; `all` are all.
///
/// # Errors
/// [`Error::Usage`] naming the one that is none.
pub fn methods(names: &[String]) -> Result<Vec<MethodKind>> {
    let mut found = Vec::new();
    for name in names {
        let kinds: Vec<MethodKind> = match name.as_str() {
            "all" => ORDER.to_vec(),
            name => vec![MethodKind::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, kind)| kind).ok_or_else(|| {
                let known = MethodKind::ALL.map(|(name, _)| name);
                Error::usage(format!("`{name}` is no method; there are all, {}{}", known.join(", "), suggestion(name, known.into_iter())))
            })?],
        };
        found.extend(kinds);
    }
    // In one order, so that the same choice is the same benchmark.
    Ok(ORDER.into_iter().filter(|kind| found.contains(kind)).collect())
}

/// Methods in the order of the paper's figure.
pub const ORDER: [MethodKind; 7] = [
    MethodKind::Full,
    MethodKind::LlamaPro,
    MethodKind::Lora,
    MethodKind::Freeze,
    MethodKind::ScalePreserve,
    MethodKind::ScaleAdapt,
    MethodKind::ScaleRoute,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_do_not_overlap_and_too_few_people_are_refused() {
        for size in Size::ALL {
            let protocol = Setup::new(size).protocol(5).unwrap();
            let mut end = protocol.pretrained;
            assert!(protocol.task_zero <= end && protocol.asked(0).end <= end, "{size:?}");
            for task in 1..=5 {
                assert_eq!(protocol.asked(task), end..end + protocol.new_people, "{size:?}");
                end += protocol.new_people;
            }
            let exactly = Setup { population: Some(end), ..Setup::new(size) };
            assert!(exactly.protocol(5).is_ok());
            let error = exactly.protocol(6).unwrap_err().to_string();
            assert!(error.contains(&format!("{} in all, and there are {end}", end + protocol.new_people)), "{error}");
        }
        // The protocol of the paper is on people it was not trained on, in any number.
        let halved = Setup { people: Some(10), ..Setup::new(Size::Paper) }.protocol(1).unwrap();
        assert_eq!((halved.task_zero, halved.task_zero_asked), (5, 5..10));
        assert!(Setup { people: Some(1), ..Setup::new(Size::Paper) }.protocol(1).is_err());
        assert_eq!(Size::Paper.protocol().pretrain.batch_size * Size::Paper.protocol().pretrain.gradient_accumulation, 96);
    }

    #[test]
    fn methods_are_named_once_in_one_order() {
        let named = |names: &[&str]| methods(&names.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(named(&["scale-route", "full", "full"]).unwrap(), [MethodKind::Full, MethodKind::ScaleRoute]);
        assert_eq!(named(&["all", "lora"]).unwrap(), ORDER);
        assert_eq!(ORDER.len(), MethodKind::ALL.len());
        assert!(named(&["loro"]).unwrap_err().to_string().contains("did you mean `lora`?"));
    }
}
