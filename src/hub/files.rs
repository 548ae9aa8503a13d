//! Which files of a repository are needed, and what lies of it in the cache.

use std::io::Write;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::download::{Failure, guarded};
use super::name::is_commit;
use super::{Hub, HubName};
use crate::checkpoint::atomic;
use crate::checkpoint::huggingface::{INDEX, Index, SINGLE};
use crate::error::{Error, IoContext, Result};
use crate::files::pattern::PathPattern;

/// Files of a model's folder that are taken where they are there.
const OPTIONAL: [&str; 5] = ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json", "README.md"];

/// The names of a commit's files, kept beside its snapshot: what is not listed there is not in the repository.
#[derive(Serialize, Deserialize)]
struct Listing {
    commit: String,
    files: Vec<String>,
}

impl Hub {
    /// Asks the Hub for the commit of a revision, and keeps what it says of the commit's files.
    pub(super) fn ask(&self, name: &HubName, revision: &str) -> std::result::Result<String, Failure> {
        let info = guarded(self, name, "", || {
            self.api.repo(Self::repo(name, revision)).info().map_err(|error| Failure::of(self, name, "", error))
        })?;
        let wrong = |what: String| Failure::from(Error::file(name.to_string(), format!("{} {what}", self.settings.endpoint)));
        if !is_commit(&info.sha) {
            return Err(wrong(format!("says that it is at {:?}, which is no commit", info.sha)));
        }
        let files: Vec<String> = info.siblings.into_iter().map(|file| file.rfilename).collect();
        if let Some(file) = files.iter().find(|file| !is_inside(file)) {
            return Err(wrong(format!("lists a file {file:?}, which would lie outside of the folder")));
        }
        let listing = Listing { commit: info.sha.clone(), files };
        self.keep(name, revision, &listing).map_err(Failure::from)?;
        Ok(info.sha)
    }

    fn listing_path(&self, name: &HubName, commit: &str) -> PathBuf {
        self.folder(name).join(".treering").join(format!("{commit}.json"))
    }

    fn keep(&self, name: &HubName, revision: &str, listing: &Listing) -> Result<()> {
        let path = self.listing_path(name, &listing.commit);
        let folder = path.parent().unwrap_or(Path::new(""));
        atomic::create_folders(folder)?;
        let text = serde_json::to_string(listing).map_err(|error| Error::file(&path, error))?;
        atomic::write_file(&path, |out| out.write_all(text.as_bytes()).at(&path))?;
        if !is_commit(revision) {
            self.cache().repo(Self::repo(name, revision)).create_ref(&listing.commit).at(&path)?;
        }
        Ok(())
    }

    /// The names of a commit's files: as the Hub listed them, or where it may not be asked and never was, those that are here.
    fn list(&self, name: &HubName, commit: &str) -> Result<Vec<String>> {
        let read = || {
            let text = std::fs::read(self.listing_path(name, commit)).ok()?;
            let listing: Listing = serde_json::from_slice(&text).ok()?;
            (listing.commit == commit && listing.files.iter().all(|file| is_inside(file))).then_some(listing.files)
        };
        if let Some(files) = read() {
            return Ok(files);
        }
        let here = || {
            let (root, mut files) = (self.snapshot(name, commit), Vec::new());
            walk(&root, "", &mut files, 0);
            files
        };
        if self.settings.offline {
            let files = here();
            return if files.is_empty() { Err(self.not_here(name, &format!("commit {commit}"))) } else { Ok(files) };
        }
        match self.ask(name, commit) {
            Ok(_) => Ok(read().unwrap_or_default()),
            Err(failure) if failure.unreachable && !here().is_empty() => Ok(here()),
            Err(failure) => Err(failure.error),
        }
    }

    /// The folder, or the one file, of a model.
    pub(super) fn model(&self, name: &HubName) -> Result<PathBuf> {
        let commit = self.commit(name)?;
        let files = self.list(name, &commit)?;
        let named = name.at(&commit);
        let path = self.snapshot(name, &commit).join(&name.path);
        if files.contains(&name.path) {
            self.fetch(&named, &name.path)?;
            return Ok(path);
        }
        let prefix = if name.path.is_empty() { String::new() } else { format!("{}/", name.path) };
        let has = |file: &str| files.contains(&format!("{prefix}{file}"));
        let get = |file: &str| self.fetch(&named, &format!("{prefix}{file}"));
        for whole in [["treering.json", "expansion.safetensors"], ["adapter_config.json", "adapter_model.safetensors"]] {
            if has(whole[0]) {
                whole.into_iter().try_for_each(|file| get(file).map(drop))?;
                return Ok(path);
            }
        }
        let refused = |message: String| Err(Error::file(name.to_string(), message));
        if !has("config.json") {
            let models: Vec<&String> =
                files.iter().filter(|file| file.starts_with(&prefix) && file.to_ascii_lowercase().ends_with(".gguf")).collect();
            return match models.first() {
                Some(first) => refused(format!(
                    "has {} GGUF files and no config.json: name one of them\n  hint: {}",
                    models.len(),
                    HubName { path: first.to_string(), ..name.clone() }
                )),
                None if !prefix.is_empty() && !files.iter().any(|file| file.starts_with(&prefix)) => {
                    refused(format!("has no `{}`", name.path))
                }
                None => refused("has no config.json, so it is no model that can be read".into()),
            };
        }
        get("config.json")?;
        OPTIONAL.into_iter().filter(|file| has(file)).try_for_each(|file| get(file).map(drop))?;
        if has(SINGLE) {
            get(SINGLE)?;
        } else if has(INDEX) {
            for shard in Index::read(&get(INDEX)?)?.shards() {
                if !has(shard) {
                    return refused(format!("has no `{prefix}{shard}`, and {INDEX} names it"));
                }
                get(shard)?;
            }
        } else {
            let other = files
                .iter()
                .find(|file| file.ends_with(".bin") || file.ends_with(".pth"))
                .map_or(String::new(), |f| format!(" (it has {f})"));
            return refused(format!("has neither {SINGLE} nor {INDEX}{other}; other formats must be converted to safetensors first"));
        }
        Ok(path)
    }

    /// The `config.json` of what is a plain model in a folder.
    pub(super) fn configuration(&self, name: &HubName) -> Result<Option<PathBuf>> {
        let commit = self.commit(name)?;
        let files = self.list(name, &commit)?;
        let prefix = if name.path.is_empty() { String::new() } else { format!("{}/", name.path) };
        let has = |file: &str| files.contains(&format!("{prefix}{file}"));
        let plain = has("config.json") && !["treering.json", "adapter_config.json"].into_iter().any(has);
        if plain { self.fetch(&name.at(&commit), &format!("{prefix}config.json")).map(Some) } else { Ok(None) }
    }

    /// The path, or the pattern, of a corpus in the cache, with its files there.
    pub(super) fn corpus(&self, name: &HubName, wanted: &dyn Fn(&Path) -> bool) -> Result<PathBuf> {
        let commit = self.commit(name)?;
        let files = self.list(name, &commit)?;
        let root = self.snapshot(name, &commit);
        let named = name.at(&commit);
        if files.contains(&name.path) {
            self.fetch(&named, &name.path)?;
            return Ok(root.join(&name.path));
        }
        // A pattern that matches a folder means all that is in it; nothing means everything.
        let pattern = PathPattern::new(&name.path).map_err(|e| Error::usage(format!("{name}: is not a valid pattern: {e}")))?;
        let found: Vec<&String> = files.iter().filter(|file| wanted(file.as_ref()) && pattern.covers(file.as_ref())).collect();
        if found.is_empty() {
            let message = format!("none of its {} files at {commit} is a corpus of that name", files.len());
            return Err(Error::file(name.to_string(), message));
        }
        found.into_iter().try_for_each(|file| self.fetch(&named, file).map(drop))?;
        Ok(root.join(&name.path))
    }
}

/// Whether a file's name leads to nowhere but below its folder.
pub(super) fn is_inside(file: &str) -> bool {
    !file.is_empty() && !file.contains('\\') && Path::new(file).components().all(|part| matches!(part, Component::Normal(_)))
}

/// The files below a folder, by their names from it.
fn walk(folder: &Path, prefix: &str, files: &mut Vec<String>, depth: usize) {
    // Whatever cannot be read counts as not here.
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Some(name) = entry.file_name().to_str().map(|name| format!("{prefix}{name}")) else { continue };
        let path = entry.path();
        if path.is_dir() && depth < 32 {
            walk(&path, &format!("{name}/"), files, depth + 1);
        } else if path.is_file() {
            files.push(name);
        }
    }
}
