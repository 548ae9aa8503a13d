//! Models and corpora on the Hugging Face Hub: `hf://` names become folders of the cache that all of Hugging Face's libraries share.
//!
//! Whoever runs the crate says with [`configure`] where the cache is and what may be fetched; then every place that takes the path of a model, of
//! something that stands on one, or of a corpus takes a name too. A process asks the Hub once what a branch or a tag stands for; what it was told,
//! a run writes down ([`resolved`]) and goes on with ([`remember`]).

mod download;
mod files;
mod name;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use hf_hub::api::sync::{Api, ApiBuilder};
use hf_hub::{Cache, Repo, RepoType};

use crate::error::{Error, Result};
pub use name::{HubName, SCHEME};

/// How far a file has come.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Its name in the repository.
    pub file: &'a str,
    /// Bytes that are here.
    pub bytes_done: u64,
    /// Bytes in all.
    pub bytes_total: u64,
}

/// Hears how a file comes along; an error ends the work, and what has come stays for the next time.
pub type OnProgress = Box<dyn Fn(Progress) -> Result<()> + Send + Sync>;

/// Where things are and what may be done.
pub struct Settings {
    /// The cache's folder, `~/.cache/huggingface/hub` unless told otherwise.
    pub cache: PathBuf,
    /// The Hub's address, without a slash at its end.
    pub endpoint: String,
    /// What tells who is asking.
    pub token: Option<String>,
    /// Whether nothing is fetched.
    pub offline: bool,
    /// How often a download that broke off is taken up again.
    pub retries: usize,
    /// Told of every part that has come.
    pub on_progress: Option<OnProgress>,
}

struct Hub {
    settings: Settings,
    api: Api,
    /// Fetches files, from wherever they are.
    agent: ureq::Agent,
    /// Asks about files, and goes nowhere else for an answer.
    asking: ureq::Agent,
}

static SETTINGS: OnceLock<fn() -> Result<Settings>> = OnceLock::new();
static HUB: OnceLock<Hub> = OnceLock::new();
/// The commit of each name without its path, as it was asked for.
static COMMITS: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());

/// Makes `hf://` names known: `settings` is asked when the first of them is met. Only the first call counts.
pub fn configure(settings: fn() -> Result<Settings>) {
    let _ = SETTINGS.set(settings);
}

fn commits() -> MutexGuard<'static, BTreeMap<String, String>> {
    COMMITS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The path itself, or for an `hf://` name of a model the folder or file of the cache, fetched where it is not there.
///
/// # Errors
/// [`Error::Usage`] for what is no name, and [`Error::File`] saying what cannot be had and what to do about it.
pub fn local(path: &Path) -> Result<Cow<'_, Path>> {
    match HubName::of(path)? {
        None => Ok(Cow::Borrowed(path)),
        Some(name) => Ok(Cow::Owned(hub(&name)?.model(&name)?)),
    }
}

/// For an `hf://` name of a plain model its `config.json`, fetched where it is not there, and nothing else; `None` for any other path.
///
/// # Errors
/// As [`local`].
pub fn configuration(path: &Path) -> Result<Option<PathBuf>> {
    match HubName::of(path)? {
        None => Ok(None),
        Some(name) => hub(&name)?.configuration(&name),
    }
}

/// For an `hf://` name of a corpus the path, or pattern, of its files in the cache, those that `wanted` accepts fetched where they are not there.
///
/// # Errors
/// As [`local`].
pub fn local_corpus(name: &HubName, wanted: &dyn Fn(&Path) -> bool) -> Result<PathBuf> {
    hub(name)?.corpus(name, wanted)
}

/// The name of a path with its revision's commit in place of a branch or a tag; any other path as it is.
///
/// # Errors
/// As [`local`].
pub fn pinned(path: &str) -> Result<String> {
    match HubName::of(Path::new(path))? {
        Some(name) => Ok(name.at(&hub(&name)?.commit(&name)?).to_string()),
        None => Ok(path.into()),
    }
}

/// What branches and tags stood for in this process: a commit for each name, without its path, as it was asked for.
pub fn resolved() -> BTreeMap<String, String> {
    commits().clone()
}

/// Takes these commits for what names stand for, whatever the Hub says by now: they are those of a run that goes on.
pub fn remember(recorded: &BTreeMap<String, String>) {
    let known = recorded.iter().filter(|(_, commit)| name::is_commit(commit)).map(|(name, commit)| (name.clone(), commit.clone()));
    commits().extend(known);
}

/// An absolute path, or an `hf://` name as it is.
///
/// # Errors
/// Where there is no current folder.
pub fn absolute(path: &Path) -> std::io::Result<PathBuf> {
    if path.to_str().is_some_and(|text| text.starts_with(SCHEME)) { Ok(path.to_path_buf()) } else { std::path::absolute(path) }
}

fn hub(name: &HubName) -> Result<&'static Hub> {
    if let Some(hub) = HUB.get() {
        return Ok(hub);
    }
    let unknown = || Error::usage(format!("{name}: the program has not said where the Hub's cache is (treering::hub::configure)"));
    let made = Hub::new(SETTINGS.get().ok_or_else(unknown)?()?)?;
    Ok(HUB.get_or_init(|| made))
}

impl Hub {
    fn new(mut settings: Settings) -> Result<Self> {
        settings.endpoint = settings.endpoint.trim_end_matches('/').to_string();
        if !settings.endpoint.starts_with("https://") && !settings.endpoint.starts_with("http://") {
            return Err(Error::usage(format!("HF_ENDPOINT is {:?}; an address that begins with https:// was expected", settings.endpoint)));
        }
        let builder = ApiBuilder::from_cache(Cache::new(settings.cache.clone()))
            .with_endpoint(settings.endpoint.clone())
            .with_token(settings.token.clone())
            .with_user_agent("treering", env!("CARGO_PKG_VERSION"))
            .with_progress(false);
        let api = builder.build().map_err(|error| Error::usage(format!("no client for {}: {error}", settings.endpoint)))?;
        Ok(Self { agent: download::agent(download::REDIRECTS), asking: download::agent(0), settings, api })
    }

    fn repo(name: &HubName, revision: &str) -> Repo {
        let kind = if name.dataset { RepoType::Dataset } else { RepoType::Model };
        Repo::with_revision(name.repository.clone(), kind, revision.into())
    }

    fn cache(&self) -> Cache {
        Cache::new(self.settings.cache.clone())
    }

    /// The folder of everything that is kept of a repository.
    fn folder(&self, name: &HubName) -> PathBuf {
        self.settings.cache.join(Self::repo(name, name.asked()).folder_name())
    }

    /// The folder of a commit's files.
    fn snapshot(&self, name: &HubName, commit: &str) -> PathBuf {
        self.cache().repo(Self::repo(name, commit)).pointer_path(commit)
    }

    /// The commit that a name stands for.
    fn commit(&self, name: &HubName) -> Result<String> {
        if name.is_pinned() {
            return Ok(name.asked().into());
        }
        // Held while the Hub is asked, so that no two threads hear different answers.
        let mut commits = commits();
        let key = name.root().to_string();
        if let Some(commit) = commits.get(&key) {
            return Ok(commit.clone());
        }
        let known = || {
            let text = std::fs::read_to_string(self.folder(name).join("refs").join(name.asked())).ok()?;
            Some(text.trim().to_string()).filter(|commit| name::is_commit(commit))
        };
        let commit = if self.settings.offline {
            known().ok_or_else(|| self.not_here(name, &format!("revision \"{}\"", name.asked())))?
        } else {
            match self.ask(name, name.asked()) {
                Ok(commit) => commit,
                // Nobody answers: what was fetched before does, as in Hugging Face's own libraries.
                Err(failure) => match known().filter(|_| failure.unreachable) {
                    Some(commit) => commit,
                    None => return Err(failure.error),
                },
            }
        };
        commits.insert(key, commit.clone());
        Ok(commit)
    }

    /// The error for what is not in the cache and may not be fetched.
    fn not_here(&self, name: &HubName, what: &str) -> Error {
        Error::file(
            name.to_string(),
            format!(
                "{what} is not in the cache {}, and HF_HUB_OFFLINE forbids to fetch it\n  hint: run this once without HF_HUB_OFFLINE, \
                 or copy the cache of a machine that has it and set HF_HUB_CACHE",
                self.settings.cache.display()
            ),
        )
    }
}
