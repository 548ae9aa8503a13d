//! `hf://` names: what they say, and how they are written.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::error::{Error, Result};

/// How every name begins.
pub const SCHEME: &str = "hf://";
/// How the names of data sets go on.
const DATASETS: &str = "datasets/";
const MAIN: &str = "main";

/// Something on the Hugging Face Hub: `hf://OWNER/NAME[@REVISION][/PATH]`, or `hf://datasets/OWNER/NAME[@REVISION][/PATH]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HubName {
    /// Whether it is a data set rather than a model.
    pub dataset: bool,
    /// `OWNER/NAME`.
    pub repository: String,
    /// A branch, a tag or a commit; `main` where there is none.
    pub revision: Option<String>,
    /// A file, a folder or a pattern inside it; empty for all of it.
    pub path: String,
}

impl HubName {
    /// The name that `path` is, where it is one.
    ///
    /// # Errors
    /// [`Error::Usage`] for what begins like a name and is none.
    pub fn of(path: &Path) -> Result<Option<Self>> {
        match path.to_str().filter(|text| text.starts_with(SCHEME)) {
            Some(text) => text.parse().map(Some),
            None => Ok(None),
        }
    }

    /// The revision that it asks for.
    pub fn asked(&self) -> &str {
        self.revision.as_deref().unwrap_or(MAIN)
    }

    /// Whether its revision is a commit, which never changes.
    pub fn is_pinned(&self) -> bool {
        self.revision.as_deref().is_some_and(is_commit)
    }

    /// The same at a commit.
    pub fn at(&self, commit: &str) -> Self {
        Self { revision: Some(commit.into()), ..self.clone() }
    }

    /// Without the path: what one revision belongs to.
    pub fn root(&self) -> Self {
        Self { path: String::new(), ..self.clone() }
    }
}

/// Whether a revision is the whole hash of a commit.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}{}", if self.dataset { DATASETS } else { "" }, self.repository)?;
        if let Some(revision) = &self.revision {
            // A slash would end it; those that the Hub itself makes are known to have one.
            let written = if special(revision).is_some() { revision.clone() } else { revision.replace('/', "%2F") };
            write!(f, "@{written}")?;
        }
        if self.path.is_empty() { Ok(()) } else { write!(f, "/{}", self.path) }
    }
}

/// The length of `refs/pr/N` or `refs/convert/NAME` at the beginning of a text.
fn special(text: &str) -> Option<usize> {
    let rest = ["refs/pr/", "refs/convert/"].into_iter().find_map(|prefix| text.strip_prefix(prefix))?;
    let end = rest.find('/').unwrap_or(rest.len());
    (end > 0).then_some(text.len() - rest.len() + end)
}

impl FromStr for HubName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Error::usage(format!(
                "{text}: {why}\n  hint: a name is hf://OWNER/NAME[@REVISION][/PATH], or hf://datasets/OWNER/NAME[@REVISION][/PATH]"
            ))
        };
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| wrong("does not begin with hf://"))?;
        let (dataset, rest) = match rest.strip_prefix(DATASETS) {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        if rest.starts_with("spaces/") {
            return Err(wrong("spaces hold neither models nor corpora"));
        }
        let (owner, rest) = rest.split_once('/').ok_or_else(|| wrong("has no OWNER/NAME"))?;
        let end = rest.find(['/', '@']).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        let plain = |part: &str| {
            !part.is_empty() && !part.starts_with('.') && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        if !plain(owner) || !plain(name) || name.contains("--") || owner.contains("--") {
            return Err(wrong("OWNER and NAME are letters, digits, `-`, `_` and `.`"));
        }
        let (revision, path) = match rest.strip_prefix('@') {
            None => (None, rest),
            Some(rest) => {
                let end = special(rest).unwrap_or_else(|| rest.find('/').unwrap_or(rest.len()));
                let (revision, path) = rest.split_at(end);
                (Some(revision.replace("%2F", "/")), path)
            }
        };
        let steps_out = |text: &str| text.split('/').any(|part| matches!(part, "" | "." | ".."));
        if revision.as_deref().is_some_and(|r| steps_out(r) || r.contains(['\\', '?', '#', ' '])) {
            return Err(wrong("REVISION is a branch, a tag or a commit"));
        }
        let path = path.strip_prefix('/').unwrap_or(path).trim_end_matches('/');
        if !path.is_empty() && (steps_out(path) || path.contains('\\')) {
            return Err(wrong("PATH stays inside the repository"));
        }
        Ok(Self { dataset, repository: format!("{owner}/{name}"), revision, path: path.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_as_they_are_written() {
        for (text, dataset, repository, revision, path) in [
            ("hf://a/b", false, "a/b", None, ""),
            ("hf://a/b@v1.0", false, "a/b", Some("v1.0"), ""),
            ("hf://HuggingFaceTB/SmolLM2-135M@main/sub/model.gguf", false, "HuggingFaceTB/SmolLM2-135M", Some("main"), "sub/model.gguf"),
            ("hf://datasets/a/b_c.d/data/*.parquet", true, "a/b_c.d", None, "data/*.parquet"),
            ("hf://datasets/a/b@refs/convert/parquet/x/**/*.parquet", true, "a/b", Some("refs/convert/parquet"), "x/**/*.parquet"),
            ("hf://a/b@refs/pr/12", false, "a/b", Some("refs/pr/12"), ""),
            ("hf://a/b@feature%2Fx/y", false, "a/b", Some("feature/x"), "y"),
        ] {
            let name: HubName = text.parse().unwrap();
            assert_eq!(
                (name.dataset, name.repository.as_str(), name.revision.as_deref(), name.path.as_str()),
                (dataset, repository, revision, path)
            );
            assert_eq!(name.to_string(), text);
        }
        assert_eq!("hf://a/b/c/".parse::<HubName>().unwrap().path, "c");
        assert_eq!(HubName::of(Path::new("models/a")).unwrap(), None);
    }

    #[test]
    fn what_begins_like_a_name_and_is_none_is_refused() {
        for text in [
            "hf://",
            "hf://a",
            "hf:///b",
            "hf://a/",
            "hf://datasets/a",
            "hf://spaces/a/b",
            "hf://a b/c",
            "hf://../b",
            "hf://a/b@",
            "hf://a/b@../../x",
            "hf://a/b/../c",
            "hf://a/b//c",
            "hf://a/b@x?y",
            "hf://a--b/c",
        ] {
            let message = HubName::of(Path::new(text)).unwrap_err().to_string();
            assert!(message.contains(text) && message.contains("hf://OWNER/NAME"), "{message}");
        }
    }
}
