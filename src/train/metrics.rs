//! What a run writes down as it goes: `metrics.jsonl`, and the same numbers for TensorBoard.
//!
//! The lines are the truth and the event file is made from them. When a run is resumed both are cut back to the checkpoint's step, so that they
//! read as if it had never stopped.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::observe::Resources;
use super::tensorboard::{self, Scalar};
use crate::checkpoint::atomic;
use crate::error::{Error, IoContext, Result};

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// One step of training.
    Train(TrainRecord),
    /// One evaluation.
    Eval(EvalRecord),
}

/// One step of training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainRecord {
    /// Updates made so far, this one included.
    pub step: u64,
    /// Mean negative log-likelihood of the step's targets before the update, in nats.
    pub loss: f64,
    /// Norm of the gradient of that loss over all trained parameters, before it was clipped.
    pub gradient_norm: f64,
    /// Learning rate of each trained block in this update.
    pub learning_rates: BTreeMap<String, f64>,
    /// Whether the step was a spike and its update was left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
    /// Tokens read so far.
    pub tokens: u64,
    /// Tokens a second in this step.
    pub tokens_per_second: f64,
    /// Seconds spent training so far, evaluations and checkpoints left out.
    pub wall_seconds: f64,
    /// When the step ended, in seconds since 1970.
    pub unix_time: f64,
}

/// One evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalRecord {
    /// Updates made so far.
    pub step: u64,
    /// Numbers by name. One that is not finite is kept as `null`.
    pub values: BTreeMap<String, Option<f64>>,
    /// What training takes; absent from runs of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// When it ended, in seconds since 1970.
    pub unix_time: f64,
}

impl Record {
    /// Updates made when it was written.
    pub fn step(&self) -> u64 {
        match self {
            Self::Train(record) => record.step,
            Self::Eval(record) => record.step,
        }
    }

    fn unix_time(&self) -> f64 {
        match self {
            Self::Train(record) => record.unix_time,
            Self::Eval(record) => record.unix_time,
        }
    }

    fn scalars(&self) -> Vec<Scalar> {
        let scalar = |tag: String, value: f64| Scalar { tag, value: value as f32 };
        match self {
            Self::Train(r) => {
                let mut scalars = vec![
                    scalar("train/loss".into(), r.loss),
                    scalar("train/gradient_norm".into(), r.gradient_norm),
                    scalar("train/tokens_per_second".into(), r.tokens_per_second),
                ];
                if r.skipped {
                    scalars.push(scalar("train/skipped".into(), 1.0));
                }
                scalars.extend(r.learning_rates.iter().map(|(block, rate)| scalar(format!("learning_rate/{block}"), *rate)));
                scalars
            }
            Self::Eval(r) => {
                let values = r.values.iter().map(|(name, value)| scalar(format!("eval/{name}"), value.unwrap_or(f64::NAN)));
                let peak = r.resources.iter().filter_map(|resources| resources.peak_memory_bytes);
                values.chain(peak.map(|bytes| scalar("resources/peak_memory_bytes".into(), bytes as f64))).collect()
            }
        }
    }
}

/// Seconds since 1970; 0 on a clock that stands before it.
pub fn unix_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// Reads every whole line of a `metrics.jsonl`; what a killed run left half-written at the end is passed over.
///
/// # Errors
/// [`Error::Io`], and [`Error::File`] naming a line that is damaged and not the last.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<Record>> {
    let path = path.as_ref();
    let text = fs::read(path).at(path)?;
    let lines: Vec<&[u8]> = text.split(|&b| b == b'\n').collect();
    let mut records = Vec::new();
    for (index, line) in lines.iter().enumerate().filter(|(_, line)| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(record) => records.push(record),
            // A whole line ends in a line end, so the last piece is empty or half a line.
            Err(_) if index + 1 == lines.len() => {}
            Err(error) => return Err(Error::file(path, format!("line {}: {error}", index + 1))),
        }
    }
    Ok(records)
}

/// Appends to a run's metrics.
#[derive(Debug)]
pub struct Metrics {
    lines_path: PathBuf,
    lines: File,
    events_path: PathBuf,
    events: File,
}

/// Name of the lines in a run folder.
pub const METRICS_FILE: &str = "metrics.jsonl";
/// Name of the event file in a run folder: one run, one file.
pub const EVENTS_FILE: &str = "tensorboard/events.out.tfevents.0000000000.treering";

/// Where the metrics of a resumed run end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// The last step that stays.
    pub step: u64,
    /// Whether its measurement stays too; false where it is about to be made again.
    pub evaluated: bool,
}

impl Cut {
    fn keeps(&self, record: &Record) -> bool {
        record.step() < self.step || record.step() == self.step && (self.evaluated || matches!(record, Record::Train(_)))
    }
}

impl Metrics {
    /// Opens the metrics in `folder`, cut back to `cut`; `None` starts anew. Lines that stay are copied byte by byte.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::File`] naming a damaged line among those that stay.
    pub fn open(folder: &Path, cut: Option<Cut>) -> Result<Self> {
        let (lines_path, events_path) = (folder.join(METRICS_FILE), folder.join(EVENTS_FILE));
        let events_folder = events_path.parent().unwrap_or(folder);
        atomic::create_folders(events_folder)?;
        let old = match cut.filter(|_| lines_path.exists()) {
            Some(cut) => Some((cut, File::open(&lines_path).at(&lines_path)?)),
            None => None,
        };
        atomic::write_file(&lines_path, |lines| {
            atomic::write_file(&events_path, |events| {
                let mut begun = false;
                let mut begin = |events: &mut BufWriter<File>, time| match std::mem::replace(&mut begun, true) {
                    true => Ok(()),
                    false => tensorboard::write_header(events, time).at(&events_path),
                };
                if let Some((cut, old)) = old {
                    kept(&lines_path, old, cut, |line, record| {
                        lines.write_all(line).at(&lines_path)?;
                        begin(events, record.unix_time())?;
                        tensorboard::write_scalars(events, record.unix_time(), record.step(), &record.scalars()).at(&events_path)
                    })?;
                }
                begin(events, unix_time())
            })
        })?;
        let append = |path: &Path| File::options().append(true).open(path).at(path);
        Ok(Self { lines: append(&lines_path)?, events: append(&events_path)?, lines_path, events_path })
    }

    /// Appends one record.
    ///
    /// # Errors
    /// [`Error::Io`] (a full disk).
    pub fn write(&mut self, record: &Record) -> Result<()> {
        let line = line(&self.lines_path, record)?;
        self.lines.write_all(line.as_bytes()).at(&self.lines_path)?;
        tensorboard::write_scalars(&mut self.events, record.unix_time(), record.step(), &record.scalars()).at(&self.events_path)
    }

    /// Waits until everything written is on the disk.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sync(&self) -> Result<()> {
        self.lines.sync_data().at(&self.lines_path)?;
        self.events.sync_data().at(&self.events_path)
    }
}

/// Hands every line of `old` that `cut` keeps to `each`, with its line end. One at a time: a long run has many.
///
/// Lines up to a checkpoint were synced before it, so one that does not parse is damage where a line that stays comes after it; behind the last of those it
/// was torn by whatever made resuming necessary.
fn kept(path: &Path, old: File, cut: Cut, mut each: impl FnMut(&[u8], &Record) -> Result<()>) -> Result<()> {
    let mut old = BufReader::with_capacity(1 << 17, old);
    let (mut line, mut number, mut damage) = (Vec::new(), 0u64, None);
    loop {
        line.clear();
        number += 1;
        if old.read_until(b'\n', &mut line).at(path)? == 0 {
            return Ok(());
        }
        match serde_json::from_slice::<Record>(&line) {
            Ok(record) if cut.keeps(&record) => match damage {
                None if line.ends_with(b"\n") => each(&line, &record)?,
                // Whole but for its line end, which the kill took.
                None => {
                    line.push(b'\n');
                    each(&line, &record)?;
                }
                Some((number, error)) => {
                    return Err(Error::file(
                        path,
                        format!(
                            "line {number} is damaged: {error}\n  hint: the checkpoints are not; put the line right or take it out, then --resume"
                        ),
                    ));
                }
            },
            Ok(_) => {}
            Err(_) if line.iter().all(u8::is_ascii_whitespace) => {}
            Err(error) => damage = damage.or(Some((number, error))),
        }
    }
}

fn line(path: &Path, record: &Record) -> Result<String> {
    let mut line =
        serde_json::to_string(record).map_err(|error| Error::file(path, format!("a record cannot be written as JSON: {error}")))?;
    line.push('\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn train(step: u64) -> Record {
        Record::Train(TrainRecord {
            step,
            loss: 1.0 / step as f64,
            gradient_norm: 0.5,
            learning_rates: BTreeMap::from([("expansion_head".to_string(), 1e-3)]),
            skipped: false,
            tokens: step * 10,
            tokens_per_second: 7.0,
            wall_seconds: step as f64,
            unix_time: 100.0 + step as f64,
        })
    }

    fn eval(step: u64) -> Record {
        Record::Eval(EvalRecord {
            step,
            values: BTreeMap::from([("a/perplexity".to_string(), Some(3.5)), ("b".to_string(), None)]),
            resources: Some(Resources { peak_memory_bytes: Some(1 << 30), trained_parameters: BTreeMap::new() }),
            unix_time: 1.0,
        })
    }

    #[test]
    fn a_resumed_run_reads_as_if_it_had_never_stopped() {
        let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let all = [train(1), train(2), eval(2), train(3), train(4), eval(4)];
        let mut metrics = Metrics::open(whole.path(), None).unwrap();
        all.iter().for_each(|r| metrics.write(r).unwrap());

        let mut metrics = Metrics::open(cut.path(), None).unwrap();
        all[..5].iter().for_each(|r| metrics.write(r).unwrap());
        metrics.lines.write_all(b"{\"kind\":\"train\",\"st").unwrap();
        drop(metrics);
        let mut metrics = Metrics::open(cut.path(), Some(Cut { step: 2, evaluated: true })).unwrap();
        assert_eq!(read(cut.path().join(METRICS_FILE)).unwrap(), all[..3]);
        all[3..].iter().for_each(|r| metrics.write(r).unwrap());
        metrics.sync().unwrap();

        let bytes = |folder: &tempfile::TempDir, name: &str| fs::read(folder.path().join(name)).unwrap();
        assert_eq!(bytes(&whole, METRICS_FILE), bytes(&cut, METRICS_FILE));
        let events = |folder| bytes(folder, EVENTS_FILE);
        // The headers' clocks differ, and they are the first 12 + 9 bytes.
        assert_eq!(events(&whole)[60..], events(&cut)[60..]);
    }

    #[test]
    fn a_measurement_that_is_to_be_made_again_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let mut metrics = Metrics::open(folder.path(), None).unwrap();
        [train(1), eval(1), train(2), eval(2)].iter().for_each(|r| metrics.write(r).unwrap());
        Metrics::open(folder.path(), Some(Cut { step: 2, evaluated: false })).unwrap();
        assert_eq!(read(folder.path().join(METRICS_FILE)).unwrap(), [train(1), eval(1), train(2)]);
    }

    #[test]
    fn half_a_last_line_is_passed_over_and_a_damaged_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.jsonl");
        let whole = line(&path, &train(1)).unwrap();
        fs::write(&path, format!("{whole}{{\"kind\"")).unwrap();
        assert_eq!(read(&path).unwrap(), [train(1)]);
        fs::write(&path, format!("{whole}{{\"kind\"\n{whole}")).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("line 2"));
    }

    #[test]
    fn measurements_of_earlier_versions_are_read() {
        let line = r#"{"kind":"eval","step":3,"values":{"a":1.0},"unix_time":2.0}"#;
        let record = EvalRecord { step: 3, values: BTreeMap::from([("a".to_string(), Some(1.0))]), resources: None, unix_time: 2.0 };
        assert_eq!(serde_json::from_str::<Record>(line).unwrap(), Record::Eval(record.clone()));
        assert_eq!(serde_json::to_string(&Record::Eval(record)).unwrap(), line);
    }

    #[test]
    fn a_new_run_starts_with_empty_metrics() {
        let folder = tempfile::tempdir().unwrap();
        Metrics::open(folder.path(), None).unwrap().write(&train(1)).unwrap();
        Metrics::open(folder.path(), None).unwrap();
        assert_eq!(read(folder.path().join(METRICS_FILE)).unwrap(), []);
    }
}
