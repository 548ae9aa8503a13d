//! What the environment says of the Hugging Face Hub, under the names that Hugging Face's own libraries read, and the bar of a download.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use treering::hub::{OnProgress, Progress, Settings};
use treering::{Error, Result};

const ENDPOINT: &str = "https://huggingface.co";
/// How often a download that broke off is taken up again.
const RETRIES: usize = 4;

/// Raised by the first Ctrl-C where a command catches it.
static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Lets a download end when `stop` is raised.
pub(super) fn stop_with(stop: &Arc<AtomicBool>) {
    let _ = STOP.set(Arc::clone(stop));
}

/// The settings of this process.
///
/// # Errors
/// [`Error::Usage`] where there is neither a home nor another place for the cache.
pub(super) fn settings() -> Result<Settings> {
    let home = match text("HF_HOME") {
        Some(home) => Some(expanded(&home)),
        None => match text("XDG_CACHE_HOME") {
            Some(cache) => Some(expanded(&cache).join("huggingface")),
            None => env::home_dir().map(|home| home.join(".cache/huggingface")),
        },
    };
    let cache = match (text("HF_HUB_CACHE").or_else(|| text("HUGGINGFACE_HUB_CACHE")), &home) {
        (Some(cache), _) => expanded(&cache),
        (None, Some(home)) => home.join("hub"),
        (None, None) => return Err(Error::usage("there is no home folder for the Hub's cache\n  hint: HF_HOME says where it is to be")),
    };
    let cache = std::path::absolute(&cache).map_err(|error| Error::io(&cache, error))?;
    let token_file = text("HF_TOKEN_PATH").map(|path| expanded(&path)).or(home.map(|home| home.join("token")));
    let token = text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")).or_else(|| {
        let text = std::fs::read_to_string(token_file?).ok()?;
        Some(text.trim().to_string()).filter(|token| !token.is_empty())
    });
    if token.as_deref().is_some_and(|token| !token.bytes().all(|b| b.is_ascii_graphic())) {
        return Err(Error::usage("the token for the Hub (HF_TOKEN, or the file `token` in HF_HOME) is not one word of ASCII"));
    }
    Ok(Settings {
        cache,
        endpoint: text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into()),
        token,
        offline: flag("HF_HUB_OFFLINE") || flag("TRANSFORMERS_OFFLINE"),
        retries: RETRIES,
        on_progress: Some(bar()),
    })
}

/// A variable that says something.
fn text(name: &str) -> Option<String> {
    env::var(name).ok().map(|value| value.trim().to_string()).filter(|value| !value.is_empty())
}

/// A variable that says yes.
fn flag(name: &str) -> bool {
    text(name).is_some_and(|value| matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"))
}

/// A path in which `~` is the home folder.
fn expanded(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => Path::new(path).to_path_buf(),
    }
}

/// One bar for file after file, where stderr is a terminal.
fn bar() -> OnProgress {
    let shown = Mutex::new(None::<(String, ProgressBar)>);
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    Box::new(move |progress: Progress| {
        if STOP.get().is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            return Err(Error::Interrupted(format!("while {} was fetched; the same command goes on from there", progress.file)));
        }
        if !terminal {
            return Ok(());
        }
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.as_ref().is_none_or(|(file, _)| file != progress.file) {
            let bar = ProgressBar::with_draw_target(Some(progress.bytes_total), ProgressDrawTarget::stderr_with_hz(4));
            let style = ProgressStyle::with_template("fetching {msg} {wide_bar} {bytes}/{total_bytes}, {eta} left");
            // The template is constant; one that did not parse would show as the default bar.
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸ "));
            bar.set_message(progress.file.to_string());
            if let Some((_, old)) = shown.replace((progress.file.to_string(), bar)) {
                old.finish_and_clear();
            }
        }
        if let Some((_, bar)) = &*shown {
            bar.set_position(progress.bytes_done);
            if progress.bytes_done == progress.bytes_total {
                bar.finish_and_clear();
            }
        }
        Ok(())
    })
}
