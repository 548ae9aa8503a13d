//! Patterns of paths, such as `data/*.jsonl` and `**/train-*.parquet`.

use std::path::{Path, PathBuf, is_separator};

/// Letters that make a path a pattern.
pub const WILDCARDS: [char; 3] = ['*', '?', '['];

/// A path in whose names `*` stands for any letters, `?` for one and `[abc]` for one of some, and in which `**` stands for any number of folders.
///
/// A name that begins with a dot is matched by nothing but a pattern that begins with one, and no wildcard leads upwards. What was matched on the way down a
/// tree is a set of places in the pattern, so a tree is walked once, and no pattern takes longer than its parts times the tree's names. (The crate `glob`, of
/// which only the matching of a name is used here, lists a folder again for each `**`, takes `.*` for `..` too, and panics on names that are not UTF-8.)
/// The default matches whatever is at its root.
#[derive(Debug, Clone, Default)]
pub struct PathPattern {
    /// The folder where names are matched from: all before the first wildcard, or the whole path where there is none.
    pub root: PathBuf,
    parts: Vec<Part>,
    /// It ended with a separator.
    folders_only: bool,
}

#[derive(Debug, Clone)]
enum Part {
    Folders,
    Name { pattern: glob::Pattern, hidden: bool },
}

/// The parts of a pattern that the next name may match; the one behind the last is there where all of them were.
#[derive(Debug, Clone)]
pub struct Places(Vec<bool>);

impl Places {
    /// Whether nothing below can be matched any more, nor is what was reached.
    pub fn is_empty(&self) -> bool {
        !self.0.contains(&true)
    }
}

impl PathPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// A sentence that names the part that is none.
    pub fn new(text: &str) -> Result<Self, String> {
        let Some(wild) = text.find(WILDCARDS) else {
            return Ok(Self { root: text.into(), parts: Vec::new(), folders_only: false });
        };
        let (root, rest) = text.split_at(text[..wild].rfind(is_separator).map_or(0, |at| at + 1));
        let parts = rest.split(is_separator).filter(|part| !matches!(*part, "" | "."));
        let read = |part: &str| match part {
            "**" => Ok(Part::Folders),
            ".." => Err("`..` cannot follow a wildcard".to_owned()),
            _ => match glob::Pattern::new(part) {
                Ok(pattern) => Ok(Part::Name { pattern, hidden: part.starts_with('.') }),
                Err(error) => Err(format!("{part:?}: {}", error.msg)),
            },
        };
        Ok(Self { root: root.into(), parts: parts.map(read).collect::<Result<_, _>>()?, folders_only: rest.ends_with(is_separator) })
    }

    /// The places at the root.
    pub fn start(&self) -> Places {
        let mut places = vec![false; self.parts.len() + 1];
        places[0] = true;
        self.with_none(places)
    }

    /// The places after one more name.
    pub fn step(&self, places: &Places, name: &str) -> Places {
        let dotted = name.starts_with('.');
        let mut next = vec![false; self.parts.len() + 1];
        for (at, part) in self.parts.iter().enumerate().filter(|(at, _)| places.0[*at]) {
            match part {
                Part::Folders => next[at] |= !dotted,
                Part::Name { pattern, hidden } => next[at + 1] |= (*hidden || !dotted) && pattern.matches(name),
            }
        }
        self.with_none(next)
    }

    /// Whether what was reached, a folder or not, is matched as a whole.
    pub fn matches(&self, places: &Places, folder: bool) -> bool {
        places.0[self.parts.len()] && (folder || !self.folders_only)
    }

    /// Whether a path is matched, or a folder above it and no name below that begins with a dot.
    pub fn covers(&self, path: &Path) -> bool {
        // `./data` is `data`.
        let Ok(rest) = path.strip_prefix(self.root.strip_prefix(".").unwrap_or(&self.root)) else { return false };
        let (mut places, mut all) = (self.start(), false);
        for name in rest {
            let name = name.to_string_lossy();
            all = (all || self.matches(&places, true)) && !name.starts_with('.');
            places = self.step(&places, &name);
        }
        all || self.matches(&places, false)
    }

    /// `**` stands for no folder too.
    fn with_none(&self, mut places: Vec<bool>) -> Places {
        for (at, part) in self.parts.iter().enumerate() {
            places[at + 1] |= places[at] && matches!(part, Part::Folders);
        }
        Places(places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_covered_where_they_or_a_folder_above_them_are_matched() {
        for (pattern, yes, no) in [
            ("*.jsonl", &["a.jsonl", "a.jsonl/b.txt"][..], &["a.txt", "b/a.jsonl", ".a.jsonl"][..]),
            ("data/*.jsonl", &["data/a.jsonl"], &["data", "data/b/a.jsonl", "a.jsonl", "other/a.jsonl"]),
            ("data/**", &["data/a", "data/b/c"], &["dat/a", "data/.b/c", "data/b/.c"]),
            ("**/b/*.txt", &["b/a.txt", "x/y/b/a.txt", "b/b/a.txt"], &["a.txt", "x/b/y/a.txt", ".x/b/a.txt"]),
            ("./a?/[xy].txt", &["ab/x.txt"], &["a/x.txt", "ab/z.txt"]),
            ("a*/", &["ab/c"], &["ab"]),
            (".*/x", &[".a/x"], &["a/x", "x"]),
            ("data", &["data", "data/x"], &["data2"]),
            ("", &["a", "b/c"], &[]),
        ] {
            let read = PathPattern::new(pattern).unwrap();
            for (path, expected) in yes.iter().map(|path| (path, true)).chain(no.iter().map(|path| (path, false))) {
                assert_eq!(read.covers(Path::new(path)), expected, "{pattern} {path}");
            }
        }
        for (pattern, says) in
            [("a/[b", "\"[b\": invalid range"), ("a**", "\"a**\": recursive wildcards"), ("*/../a", "`..` cannot follow")]
        {
            let error = PathPattern::new(pattern).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        assert_eq!(PathPattern::new("../a/b*/c").unwrap().root, Path::new("../a/"));
    }
}
