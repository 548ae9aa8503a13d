//! One checkpoint: a folder `step-NNNNNN` that is there whole or not at all.
//!
//! `trained.safetensors` (trained blocks), `optimizer.safetensors` (their moments), `state.json` (the rest), and `SHA256SUMS` of the three,
//! which `sha256sum --check` reads too. The base is named by path and hash and never copied.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::optimizer::moment_names;
use super::spikes::SpikeState;
use crate::checkpoint::atomic;
use crate::data::StreamState;
use crate::error::{Error, IoContext, Result};
use crate::files::hex;
use crate::grow::file::{BaseReference, FileMetadata, load_parameters, save_parameters};
use crate::grow::layout::Expected;
use crate::grow::ring::{RingReference, Standing};
use crate::model::Parameter;

/// Version of the checkpoint's layout; a reader refuses what is newer.
pub const FORMAT_VERSION: u32 = 2;
/// The trained blocks.
pub const TRAINED_FILE: &str = "trained.safetensors";
/// The optimizer's moments.
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";
/// Everything else.
pub const STATE_FILE: &str = "state.json";
/// Hashes of the other files.
pub const SUMS_FILE: &str = "SHA256SUMS";

/// The largest state that is read.
const MAX_STATE_BYTES: u64 = 64 << 20;

/// What a run needs to go on beside its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The oldest version that has all of this: 1, or 2 for a ring that stands on others.
    pub format_version: u32,
    /// Updates made: the position in the schedule, and in the bias correction.
    pub step: u64,
    /// Tokens read.
    pub tokens: u64,
    /// Seconds spent training.
    pub wall_seconds: f64,
    /// Whether a stop came before this step was measured.
    pub evaluation_due: bool,
    /// The factor that the schedule gave in the last update, for readers.
    pub learning_rate_factor: f64,
    /// What is remembered to tell spikes by; absent where none are skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spikes: Option<SpikeState>,
    /// Position in the data, seed included.
    pub stream: StreamState,
    /// The base.
    pub base: BaseReference,
    /// The rings within the one that is trained, from the innermost out; empty where it is the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rings: Vec<RingReference>,
    /// Fingerprint of the tokenizer.
    pub tokenizer: String,
    /// [`crate::recipe::Recipe::fingerprint`] of the recipe.
    pub recipe: String,
}

impl State {
    /// What was trained stands on.
    pub fn standing(&self) -> Standing {
        Standing { base: self.base.clone(), rings: self.rings.clone() }
    }
}

/// Writes a checkpoint to the new folder `path`, atomically.
///
/// # Errors
/// [`Error::Io`]; nothing is left behind then.
pub fn save(path: &Path, state: &State, parameters: &[Parameter], moments: &[Parameter]) -> Result<()> {
    atomic::write_dir(path, |folder| {
        let kind = |kind: &str| {
            FileMetadata::from([
                ("format".into(), "pt".into()),
                ("treering.kind".into(), kind.into()),
                ("treering.format_version".into(), state.format_version.to_string()),
                ("treering.step".into(), state.step.to_string()),
            ])
        };
        save_parameters(folder.join(TRAINED_FILE), parameters, &kind("trained"))?;
        save_parameters(folder.join(OPTIMIZER_FILE), moments, &kind("optimizer"))?;
        let state_path = folder.join(STATE_FILE);
        let text = serde_json::to_string_pretty(state).map_err(|e| Error::file(&state_path, format!("cannot be written as JSON: {e}")))?;
        fs::write(&state_path, text + "\n").at(&state_path)?;
        let sums_path = folder.join(SUMS_FILE);
        let mut sums = File::create(&sums_path).at(&sums_path)?;
        for name in [TRAINED_FILE, OPTIMIZER_FILE, STATE_FILE] {
            writeln!(sums, "{}  {name}", sha256(&folder.join(name))?).at(&sums_path)?;
        }
        Ok(())
    })
}

/// Reads the state of the checkpoint at `path`, after every file was checked against its hash.
///
/// # Errors
/// [`Error::Io`], and [`Error::File`] naming the file that is missing, damaged or of a newer version.
pub fn load_state(path: &Path) -> Result<State> {
    verify(path)?;
    let state_path = path.join(STATE_FILE);
    let size = fs::metadata(&state_path).at(&state_path)?.len();
    if size > MAX_STATE_BYTES {
        return Err(Error::file(
            &state_path,
            format!("{size} bytes are no training state; the largest that is read has {MAX_STATE_BYTES}"),
        ));
    }
    let text = fs::read_to_string(&state_path).at(&state_path)?;
    #[derive(Deserialize)]
    struct Version {
        format_version: u32,
    }
    let damaged = |error| Error::file(&state_path, format!("this is no training state: {error}"));
    let Version { format_version } = serde_json::from_str(&text).map_err(damaged)?;
    if format_version == 0 || format_version > FORMAT_VERSION {
        let message = format!("format version {format_version}, but this treering reads up to {FORMAT_VERSION}: use a newer one");
        return Err(Error::file(&state_path, message));
    }
    let state: State = serde_json::from_str(&text).map_err(damaged)?;
    match path.file_name().and_then(step_of) {
        Some(step) if step != state.step => {
            let message =
                format!("is of step {}, and its folder of step {step}: the checkpoint was renamed, or the two were mixed up", state.step);
            Err(Error::file(&state_path, message))
        }
        _ => Ok(state),
    }
}

/// Reads the trained blocks of the checkpoint at `path`, which must be exactly those expected, in that order.
///
/// # Errors
/// [`Error::Io`], and [`Error::File`] naming the tensor that does not fit.
pub fn load_trained(path: &Path, expected: &[Expected]) -> Result<Vec<Parameter>> {
    load_parameters(path.join(TRAINED_FILE), Some(expected)).map(|(parameters, _)| parameters)
}

/// Reads the optimizer's moments of the checkpoint at `path`, in the order of [`super::optimizer::Optimizer::moments`].
///
/// # Errors
/// [`Error::Io`], and [`Error::File`] naming the tensor that does not fit.
pub fn load_moments(path: &Path, parameters: &[Parameter]) -> Result<Vec<Parameter>> {
    let names = moment_names(parameters.iter().map(|p| p.name.as_str()));
    let expected: Vec<Expected> = names
        .into_iter()
        .zip(parameters.iter().chain(parameters))
        .map(|(name, p)| Expected { name, block: p.block, shape: p.shape.clone() })
        .collect();
    let (mut moments, _) = load_parameters(path.join(OPTIMIZER_FILE), Some(&expected))?;
    moments.iter_mut().zip(&expected).for_each(|(moment, e)| moment.block = e.block);
    Ok(moments)
}

/// Checks every file of the checkpoint at `path` against its hash.
///
/// # Errors
/// [`Error::File`] naming the file that is missing or damaged.
pub fn verify(path: &Path) -> Result<()> {
    let sums_path = path.join(SUMS_FILE);
    let mut text = String::new();
    let file = File::open(&sums_path).at(&sums_path)?;
    file.take(4096).read_to_string(&mut text).at(&sums_path)?;
    for name in [TRAINED_FILE, OPTIMIZER_FILE, STATE_FILE] {
        let expected = text
            .lines()
            .find_map(|line| line.strip_suffix(name)?.strip_suffix("  "))
            .ok_or_else(|| Error::file(&sums_path, format!("has no line for {name}: the checkpoint is damaged")))?;
        let found = sha256(&path.join(name))?;
        if found != expected {
            return Err(Error::file(path.join(name), format!("the file is damaged: its SHA-256 is {found}, {SUMS_FILE} has {expected}")));
        }
    }
    Ok(())
}

fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).at(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer).at(path)?;
        if count == 0 {
            return Ok(hex(hash.finalize()));
        }
        hash.update(&buffer[..count]);
    }
}

/// The folder's name of a checkpoint.
pub fn folder_name(step: u64) -> String {
    format!("step-{step:06}")
}

/// The step of a checkpoint whose folder has this name; `None` for a name that no checkpoint is given.
pub fn step_of(name: &OsStr) -> Option<u64> {
    let name = name.to_str()?;
    let step = name.strip_prefix("step-")?.parse().ok()?;
    (folder_name(step) == name).then_some(step)
}

/// The checkpoints in `folder`, oldest first; unfinished and foreign entries are passed over.
///
/// # Errors
/// [`Error::Io`].
pub fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(folder) {
        // A run that was stopped before it began.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        other => other.at(folder)?,
    };
    for entry in entries {
        let entry = entry.at(folder)?;
        found.extend(step_of(&entry.file_name()).map(|step| (step, entry.path())));
    }
    found.sort();
    Ok(found)
}
