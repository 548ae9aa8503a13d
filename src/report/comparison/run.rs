//! One run, as far as its folder tells: finished, stopped or still going.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

use crate::error::{Error, IoContext, Result};
use crate::grow::file::list_parameters;
use crate::model::Head;
use crate::report::axis::group_thousands;
use crate::train::RunFolder;
use crate::train::checkpoint::TRAINED_FILE;
use crate::train::metrics::{EvalRecord, METRICS_FILE, Record, TrainRecord, read};
use crate::train::observe::{LARGEST_NORM, MEAN_NORM, NORM_PREFIX};

/// Stretches into which the steps are drawn together for the curves of loss and speed.
const STRETCHES: usize = 24;

/// What is known of one run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Run {
    /// The folder's name, with as much of its path as tells it from the others.
    pub name: String,
    /// What was trained.
    pub method: String,
    /// The base's folder or file, by its name.
    pub model: String,
    /// Updates made.
    pub steps: u64,
    /// Updates the recipe asks for.
    pub planned_steps: u64,
    /// Steps whose updates were left out as spikes.
    pub skipped_steps: u64,
    /// Tokens read.
    pub tokens: u64,
    /// Median over the steps.
    pub tokens_per_second: Option<f64>,
    /// Seconds spent training, measurements and checkpoints left out.
    pub training_seconds: Option<f64>,
    /// The most memory the training process has held.
    pub peak_memory_bytes: Option<u64>,
    /// Number of trained values; absent where it was neither noted nor is there a checkpoint.
    pub trained_parameters: Option<u64>,
    /// The same by block; empty in runs of versions that did not note it.
    pub trained_parameters_by_block: BTreeMap<String, u64>,
    /// One entry a measurement, by ascending step.
    pub evaluations: Vec<Measured>,
    /// Loss and speed in up to 24 stretches of the run.
    pub training: Vec<Stretch>,
}

/// Several steps of training together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Stretch {
    /// The last of its steps.
    pub step: u64,
    /// Mean of their losses.
    pub loss: f64,
    /// Tokens of the stretch over its seconds.
    pub tokens_per_second: f64,
}

/// One measurement during a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Measured {
    /// Updates made by then.
    pub step: u64,
    /// One entry a head.
    pub heads: Vec<HeadPerplexity>,
    /// Cosine between the base stream's hidden state and the base's: mean over the corpora that are not to be forgotten, or where there is
    /// none over the others; absent where it was not measured.
    pub representation_cosine: Option<f64>,
    /// How large W12 is; absent where none is trained, or it was not noted.
    pub expansion_to_base_norm: Option<Norms>,
    /// Share of questions whose answer's first token is right, by `SET/HEAD`.
    pub questions: BTreeMap<String, f64>,
    /// What multiple-choice tasks are quoted by, `acc_norm` where there is one and `acc` else, by `TASK/HEAD`; of MMLU's subjects only the mean.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub suites: BTreeMap<String, f64>,
}

/// Frobenius norms of the W12 blocks.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Norms {
    /// Their mean.
    pub mean: f64,
    /// The largest.
    pub largest: f64,
    /// Each, by the module's path.
    pub modules: BTreeMap<String, f64>,
}

/// Forgetting and learning of one head; each the geometric mean of the perplexities on the corpora of its group, so that none of them outweighs the others.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HeadPerplexity {
    /// `base`, `preservation`, `ring-1` …, `adaptation`, or a router.
    pub head: String,
    /// On the corpora that are not to be forgotten; absent where none was measured.
    pub forgetting: Option<f64>,
    /// On the corpora that are to be learnt; absent where none was measured.
    pub learning: Option<f64>,
    /// Perplexity by `GROUP/CORPUS`.
    pub corpora: BTreeMap<String, f64>,
}

impl Run {
    /// Reads the run in `folder`, whatever state it is in.
    ///
    /// # Errors
    /// [`Error::Usage`] where no run is there; [`Error::Io`] and [`Error::File`] for files that are unreadable or damaged.
    pub fn read(folder: &Path) -> Result<Self> {
        let recipe = RunFolder::recipe(folder)?
            .ok_or_else(|| Error::usage(format!("{}: no run is here (no recipe.toml); `treering train` makes one", folder.display())))?;
        let metrics = folder.join(METRICS_FILE);
        let records = if metrics.exists() { read(metrics)? } else { Vec::new() };
        let absolute = std::path::absolute(folder).at(folder)?;
        let file_name =
            |path: &Path| path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
        let mut run = Self::from_records(file_name(&absolute), recipe.method.kind.as_str().into(), &records);
        run.model = file_name(&recipe.model.path);
        run.planned_steps = recipe.train.schedule.steps;
        if run.trained_parameters.is_none()
            && let Some((_, path)) = RunFolder::checkpoints(folder)?.last()
        {
            run.trained_parameters = match count_values(&path.join(TRAINED_FILE)) {
                // The run went on and put a newer checkpoint in its place.
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => None,
                other => Some(other?),
            };
        }
        Ok(run)
    }

    pub(in crate::report) fn from_records(name: String, method: String, records: &[Record]) -> Self {
        let mut run = Self { name, method, ..Self::default() };
        let mut steps: Vec<&TrainRecord> = Vec::new();
        for record in records {
            run.steps = run.steps.max(record.step());
            match record {
                Record::Train(train) => steps.push(train),
                Record::Eval(eval) => {
                    if let Some(resources) = &eval.resources {
                        // A resumed run was several processes; the largest of them counts.
                        run.peak_memory_bytes = run.peak_memory_bytes.max(resources.peak_memory_bytes);
                        run.trained_parameters = Some(resources.trained_parameters.values().fold(0, |sum, n| sum.saturating_add(*n)));
                        run.trained_parameters_by_block.clone_from(&resources.trained_parameters);
                    }
                    let measured = Measured::from_record(eval);
                    if !measured.heads.is_empty() {
                        run.evaluations.push(measured);
                    }
                }
            }
        }
        let mut speeds: Vec<f64> = steps.iter().map(|train| train.tokens_per_second).collect();
        run.skipped_steps = steps.iter().filter(|train| train.skipped).count() as u64;
        speeds.sort_by(f64::total_cmp);
        run.tokens_per_second = speeds.get(speeds.len() / 2).copied();
        if let Some(last) = steps.last() {
            (run.tokens, run.training_seconds) = (last.tokens, Some(last.wall_seconds));
        }
        run.training = stretches(&steps);
        run
    }

    /// The last measurement.
    pub fn last(&self) -> Option<&Measured> {
        self.evaluations.last()
    }

    /// What the base scored, where the run was measured before its first step.
    pub fn base(&self) -> Option<&HeadPerplexity> {
        self.evaluations.first().filter(|measured| measured.step == 0)?.heads.first()
    }

    /// `300`, or `120 of 300` where steps are left to do.
    pub fn progress(&self) -> String {
        self.progress_at(self.steps)
    }

    /// The same for an earlier step.
    pub fn progress_at(&self, step: u64) -> String {
        let steps = group_thousands(&step.to_string());
        if step < self.planned_steps { format!("{steps} of {}", group_thousands(&self.planned_steps.to_string())) } else { steps }
    }
}

impl Measured {
    /// The head of this name.
    pub fn head(&self, name: &str) -> Option<&HeadPerplexity> {
        self.heads.iter().find(|head| head.head == name)
    }

    fn from_record(record: &EvalRecord) -> Self {
        let values = &record.values;
        let finite = |name: &str| values.get(name).copied().flatten();
        let modules = values.iter().filter_map(|(name, norm)| Some((name.strip_prefix(NORM_PREFIX)?.to_owned(), (*norm)?)));
        let norms = finite(MEAN_NORM).zip(finite(LARGEST_NORM));
        let questions = values.iter().filter_map(|(name, share)| {
            let path = name.strip_prefix("questions/")?.strip_suffix("/first_token_accuracy")?;
            Some((path.to_owned(), (*share)?))
        });
        Self {
            step: record.step,
            heads: heads(values),
            representation_cosine: representation(values),
            expansion_to_base_norm: norms.map(|(mean, largest)| Norms { mean, largest, modules: modules.collect() }),
            questions: questions.collect(),
            suites: suites(values),
        }
    }
}

/// The perplexities among the named numbers of a measurement, by head.
fn heads(values: &BTreeMap<String, Option<f64>>) -> Vec<HeadPerplexity> {
    let mut corpora: BTreeMap<&str, BTreeMap<String, f64>> = BTreeMap::new();
    // A head that was asked tasks alone is a head, too.
    corpora.extend(values.keys().filter_map(|name| Some((task_metric(name)?.1, BTreeMap::new()))));
    for (name, value) in values {
        let Some((corpus, head)) = name.strip_suffix("/perplexity").and_then(|path| path.rsplit_once('/')) else { continue };
        if corpus.starts_with("learn/") || corpus.starts_with("forget/") {
            // A measurement that is not finite was kept as null.
            corpora.entry(head).or_default().insert(corpus.to_owned(), value.unwrap_or(f64::INFINITY));
        }
    }
    let mean = |corpora: &BTreeMap<String, f64>, group: &str| {
        let logs: Vec<f64> = corpora.iter().filter(|(name, _)| name.starts_with(group)).map(|(_, p)| p.ln()).collect();
        match logs.as_slice() {
            [] => None,
            // One alone is itself, not its rounded exponential.
            [_] => corpora.iter().find(|(name, _)| name.starts_with(group)).map(|(_, p)| *p),
            logs => Some((logs.iter().sum::<f64>() / logs.len() as f64).exp()),
        }
    };
    // Heads in the order of the model, then routers by name.
    let rings: BTreeSet<usize> =
        corpora.keys().filter_map(|name| if let Ok(Head::Ring(n)) = name.parse() { Some(n) } else { None }).collect();
    let rings = rings.into_iter().map(Head::Ring);
    let heads = [Head::Base, Head::Preservation].into_iter().chain(rings).chain([Head::Adaptation]).map(|head| head.to_string());
    let known: Vec<(String, BTreeMap<String, f64>)> = heads.filter_map(|head| corpora.remove(head.as_str()).map(|of| (head, of))).collect();
    known
        .into_iter()
        .chain(corpora.into_iter().map(|(router, of)| (router.to_owned(), of)))
        .map(|(head, corpora)| HeadPerplexity { head, forgetting: mean(&corpora, "forget/"), learning: mean(&corpora, "learn/"), corpora })
        .collect()
}

/// Task, head and metric of a number's name, `suite/arc_easy/preservation/acc`.
fn task_metric(name: &str) -> Option<(&str, &str, &str)> {
    let (path, metric) = name.strip_prefix("suite/")?.rsplit_once('/')?;
    let (task, head) = path.rsplit_once('/')?;
    Some((task, head, metric))
}

/// The number that stands for each task, by task and head.
fn suites(values: &BTreeMap<String, Option<f64>>) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    for (name, value) in values {
        let (Some((task, head, metric)), Some(value)) = (task_metric(name), value) else { continue };
        let subject = task.starts_with("mmlu_") && values.keys().any(|name| name.starts_with("suite/mmlu/"));
        // `acc` comes before `acc_norm`, which takes its place.
        if ["acc", "acc_norm"].contains(&metric) && !subject {
            found.insert(format!("{task}/{head}"), *value);
        }
    }
    found
}

fn representation(values: &BTreeMap<String, Option<f64>>) -> Option<f64> {
    let mean = |group: &str| {
        let cosines: Vec<f64> = values
            .iter()
            .filter(|(name, _)| name.starts_with(group) && name.ends_with("/representation/cosine"))
            .filter_map(|(_, cosine)| *cosine)
            .collect();
        if cosines.is_empty() { None } else { Some(cosines.iter().sum::<f64>() / cosines.len() as f64) }
    };
    mean("forget/").or_else(|| mean("learn/"))
}

/// The steps in stretches of equal length.
fn stretches(steps: &[&TrainRecord]) -> Vec<Stretch> {
    let (mut tokens, mut seconds) = (0, 0.0);
    let mut found = Vec::new();
    for stretch in steps.chunks(steps.len().div_ceil(STRETCHES).max(1)) {
        let Some(last) = stretch.last() else { continue };
        found.push(Stretch {
            step: last.step,
            loss: stretch.iter().map(|train| train.loss).sum::<f64>() / stretch.len() as f64,
            tokens_per_second: last.tokens.saturating_sub(tokens) as f64 / (last.wall_seconds - seconds).max(1e-9),
        });
        (tokens, seconds) = (last.tokens, last.wall_seconds);
    }
    found
}

/// The number of values in a file of trained blocks, from its header.
fn count_values(path: &Path) -> Result<u64> {
    let (parameters, _) = list_parameters(path)?;
    Ok(parameters.iter().map(|parameter| parameter.shape.iter().product::<usize>() as u64).sum())
}
