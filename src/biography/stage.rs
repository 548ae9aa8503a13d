//! The stages: pre-training, Task 0, and Task 1 … k of each method, each a recipe like any other.

use super::protocol::{Lesson, Loss, Protocol, Setup};
use crate::model::Precision;
use crate::recipe::MethodKind;
use crate::route::Router;

/// After this the answer begins; a part of the prompt between spaces, so that tokenizers write it as they write it alone.
pub const RESPONSE_TEMPLATE: &str = "Answer:";

/// One stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The untrained model reads biographies.
    Pretrain,
    /// It learns to answer questions about those people.
    TaskZero,
    /// A method learns what is asked about new people.
    Task(MethodKind, u64),
}

impl Stage {
    /// All stages of these methods and so many tasks, in an order in which each finds what it needs: task by task, so that a first result is there early.
    pub fn all(methods: &[MethodKind], tasks: u64) -> Vec<Self> {
        let later = (1..=tasks).flat_map(|task| methods.iter().map(move |&kind| Self::Task(kind, task)));
        [Self::Pretrain, Self::TaskZero].into_iter().chain(later).collect()
    }

    /// Its name: that of its recipe, its run folder, and the model it makes.
    pub fn name(self) -> String {
        match self {
            Self::Pretrain => "pretrain".into(),
            Self::TaskZero => "task-0".into(),
            Self::Task(kind, task) => format!("{}-task-{task}", kind.as_str()),
        }
    }

    /// What `--set` calls it: one name for all tasks of a method.
    pub fn group(self) -> String {
        match self {
            Self::Task(kind, _) => kind.as_str().into(),
            other => other.name(),
        }
    }

    /// In words.
    pub fn title(self) -> String {
        match self {
            Self::Pretrain => "pre-training on biographies".into(),
            Self::TaskZero => "Task 0: questions about the people who are known".into(),
            Self::Task(kind, task) => format!("{}, Task {task}: questions about new people", kind.as_str()),
        }
    }

    /// The last task whose people are asked about.
    pub fn task(self) -> u64 {
        match self {
            Self::Pretrain | Self::TaskZero => 0,
            Self::Task(_, task) => task,
        }
    }

    /// Steps and rates.
    pub fn lesson(self, protocol: &Protocol) -> &Lesson {
        match self {
            Self::Pretrain => &protocol.pretrain,
            Self::TaskZero => &protocol.task_zero_lesson,
            Self::Task(..) => &protocol.task_lesson,
        }
    }

    /// The stage whose result it starts from, and whether that is a run that is grown around rather than a plain model.
    pub fn before(self) -> Option<(Self, bool)> {
        match self {
            Self::Pretrain => None,
            Self::TaskZero => Some((Self::Pretrain, false)),
            Self::Task(_, 1) => Some((Self::TaskZero, false)),
            Self::Task(kind, task) => Some((Self::Task(kind, task - 1), kind.widens())),
        }
    }

    /// Its recipe, which lies in a folder beside those of the corpora, the models and the runs. `question_length` is what its longest question needs.
    pub fn recipe(self, setup: &Setup, protocol: &Protocol, question_length: usize) -> String {
        let lesson = self.lesson(protocol);
        let base = match self.before() {
            None => "../models/untrained".to_owned(),
            Some((stage, true)) => format!("../runs/{}", stage.name()),
            Some((stage, false)) => format!("../models/{}", stage.name()),
        };
        let (kind, method, blocks, rate) = match self {
            Self::Task(kind, task) => {
                let settings = protocol.method(setup.size, kind, task);
                (settings.kind, settings.method, settings.blocks, settings.learning_rate)
            }
            _ => (MethodKind::Full, String::new(), String::new(), lesson.learning_rate),
        };
        let data = match self {
            Self::Pretrain => format!(
                "train = [\"../corpora/pretrain.biographies.jsonl\"]\nsequence_length = {}\ndocument_mask = {}\n",
                lesson.sequence_length, protocol.document_mask
            ),
            _ => {
                let length = lesson.sequence_length.max(question_length);
                let template = match setup.loss {
                    Loss::Answer => format!("response_template = \"{RESPONSE_TEMPLATE}\"\n"),
                    Loss::All => String::new(),
                };
                let task = self.task();
                format!("train = [\"../corpora/task-{task}.questions.jsonl\"]\nsequence_length = {length}\npacking = false\n{template}")
            }
        };
        let blocks = if blocks.is_empty() { blocks } else { format!("[train.learning_rates]\n{blocks}\n") };
        let route = if kind.widens() { format!("\n[route]\nrouter = [{}]\n", quoted(&routers())) } else { String::new() };
        format!(
            "# {title}; size {size} (treering biography run).\n[model]\npath = \"{base}\"\ndtype = \"{dtype}\"\n\n[method]\nkind = \"{kind}\"\n{method}\n\
             [data]\n{data}\n[train]\nsteps = {steps}\nbatch_size = {batch}\ngradient_accumulation = {accumulation}\nlearning_rate = {rate:e}\nschedule = \"cosine\"\n\
             learning_rate_floor = {floor}\nwarmup_steps = {warmup}\nweight_decay = {decay}\nepsilon = {epsilon:e}\nseed = {seed}\n\
             checkpoint_every_steps = {every}\nkeep_checkpoints = 1\n\n{blocks}[eval]\nevery_steps = {every}\n{route}",
            title = self.title(),
            size = setup.size.as_str(),
            dtype = if protocol.dtype == Precision::Bf16 { "bf16" } else { "f32" },
            kind = kind.as_str(),
            steps = lesson.steps,
            batch = lesson.batch_size,
            accumulation = lesson.gradient_accumulation,
            floor = lesson.learning_rate_floor,
            warmup = lesson.warmup_steps,
            decay = lesson.weight_decay,
            epsilon = lesson.epsilon,
            seed = setup.seed,
            every = lesson.measure_every,
        )
    }
}

/// Every router there is, with its defaults, but for the two that are a head each, and those that ask what is made after a stage (`super::routers`).
pub fn routers() -> Vec<Router> {
    let chosen = Router::NAMES.iter().filter_map(|name| name.parse::<Router>().ok());
    chosen.filter(|router| !matches!(router, Router::Preserve | Router::Adapt) && router.asks().is_none()).collect()
}

fn quoted(routers: &[Router]) -> String {
    routers.iter().map(|router| format!("\"{router}\"")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::protocol::{ORDER, Size};
    use super::*;
    use crate::recipe::Recipe;

    #[test]
    fn every_stage_finds_what_it_stands_on_and_its_recipe_is_one() {
        for size in Size::ALL {
            for loss in [Loss::Answer, Loss::All] {
                let setup = Setup { loss, ..Setup::new(size) };
                let protocol = setup.protocol(3).unwrap();
                let stages = Stage::all(&ORDER, 3);
                assert_eq!(stages.len(), 2 + 3 * ORDER.len());
                for (index, stage) in stages.iter().enumerate() {
                    let recipe = Recipe::parse(&stage.recipe(&setup, &protocol, 77), Path::new("/b/recipes"), &[]).unwrap();
                    if let Some((before, ring)) = stage.before() {
                        assert!(stages[..index].contains(&before), "{stage:?}");
                        let folder = if ring { "runs" } else { "models" };
                        assert!(recipe.model.path.ends_with(format!("{folder}/{}", before.name())), "{stage:?}");
                        let stream = &recipe.data.stream;
                        assert_eq!((stream.packing, stream.sequence_length), (false, 77), "the longest question sets the length");
                        assert_eq!(stream.response_template.is_some(), loss == Loss::Answer);
                    }
                    assert_eq!(recipe.routers, if recipe.method.kind.widens() { routers() } else { Vec::new() });
                }
            }
        }
    }
}
