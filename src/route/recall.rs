//! What a ring was taught, as sequences of tokens: a head speaks where the text before a token holds sequences that it read in few of its documents,
//! and the base where none does. Made of the new text alone; no old data and no training.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::lesson::OnPhase;
use crate::checkpoint::atomic;
use crate::data::order::mix;
use crate::data::{Encoder, Progress, StreamConfig, TokenCache};
use crate::error::{Error, IoContext, Result};
use crate::eval::leading_token;
use crate::files::{hex, read_limited};
use crate::tokenizer::Tokenizer;

/// Where it lies: beside the trained values that it belongs to.
pub const FILE: &str = "recall.safetensors";
const FORMAT: &str = "treering-recall";
const VERSION: u32 = 1;
/// The key of the file's metadata that describes it.
const KEY: &str = "treering_recall";
/// The largest file that is read: 2³⁰ sequences.
const MOST_BYTES: u64 = 1 << 32;
/// Longest sequences that can be asked for.
const MOST_NGRAM: usize = 64;
/// What is left of the evidence after a further sequence that tells something.
const DECAY: f64 = 0.9;
/// Documents whose tokens are read between two reports.
const BLOCK: u64 = 1024;

/// What is kept of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecallSettings {
    /// Tokens of a sequence, 1 to 64.
    pub ngram: usize,
    /// A sequence found in more documents than this is the way they are written and says nothing about what they are about.
    pub common_above: u32,
    /// Tokens of the text that are read at most; the rest is not remembered.
    pub most_tokens: u64,
}

impl Default for RecallSettings {
    fn default() -> Self {
        Self { ngram: 4, common_above: 32, most_tokens: 1 << 26 }
    }
}

impl RecallSettings {
    /// Refuses what cannot be.
    ///
    /// # Errors
    /// [`Error::Usage`] saying what.
    pub fn validate(&self) -> Result<()> {
        self.check().map_err(|what| Error::usage(format!("recall: {what}")))
    }

    fn check(&self) -> std::result::Result<(), String> {
        if !(1..=MOST_NGRAM).contains(&self.ngram) {
            return Err(format!("an n-gram has 1 to {MOST_NGRAM} tokens, not {}", self.ngram));
        }
        if self.common_above == 0 || self.most_tokens == 0 {
            return Err("every sequence would be common, or nothing read".into());
        }
        Ok(())
    }
}

/// What the file says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    format: String,
    version: u32,
    settings: RecallSettings,
    documents: u64,
    tokens: u64,
    /// Of the fingerprints as they are stored, rare before common.
    sha256: String,
}

/// The token sequences of the text that a head was trained on, as 32-bit fingerprints: one in 2³² per stored sequence is taken for another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recall {
    settings: RecallSettings,
    documents: u64,
    tokens: u64,
    /// In ascending order, as `common`; none is in both.
    rare: Vec<u32>,
    common: Vec<u32>,
}

/// What a sequence tells about a text that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It was read in few documents.
    Rare,
    /// It was read in many: nothing.
    Common,
    /// It was not read.
    Unknown,
}

/// Collects documents.
#[derive(Debug)]
pub struct Builder {
    settings: RecallSettings,
    documents: u32,
    tokens: u64,
    /// Fingerprint and number of the document, of every sequence.
    seen: Vec<u64>,
}

impl Builder {
    /// Of no document yet.
    ///
    /// # Errors
    /// [`Error::Usage`] for settings that cannot be.
    pub fn new(settings: RecallSettings) -> Result<Self> {
        settings.validate()?;
        Ok(Self { settings, documents: 0, tokens: 0, seen: Vec::new() })
    }

    /// Adds a document.
    pub fn add(&mut self, tokens: &[u32]) {
        let document = u64::from(self.documents);
        self.seen.extend(tokens.windows(self.settings.ngram).map(|ngram| u64::from(fingerprint(ngram)) << 32 | document));
        self.documents = self.documents.saturating_add(1);
        self.tokens += tokens.len() as u64;
    }

    /// What was collected.
    pub fn finish(mut self) -> Recall {
        self.seen.par_sort_unstable();
        self.seen.dedup();
        let (mut rare, mut common) = (Vec::new(), Vec::new());
        for same in self.seen.chunk_by(|a, b| a >> 32 == b >> 32) {
            let side = if same.len() as u64 > u64::from(self.settings.common_above) { &mut common } else { &mut rare };
            side.push((same[0] >> 32) as u32);
        }
        Recall { settings: self.settings, documents: u64::from(self.documents), tokens: self.tokens, rare, common }
    }
}

/// Thirty-two bits of a sequence.
fn fingerprint(ngram: &[u32]) -> u32 {
    (ngram.iter().fold(ngram.len() as u64, |hash, &token| mix(hash ^ u64::from(token))) >> 32) as u32
}

impl Recall {
    /// Reads the documents of the text that a head was trained on, each once, whatever their weights; their tokens are kept in the folder `cache`.
    ///
    /// # Errors
    /// [`Error::Usage`] for settings that cannot be; whatever reading the texts returns; what `progress` returns.
    pub fn of_text(
        tokenizer: Tokenizer,
        stream: &StreamConfig,
        cache: &Path,
        settings: RecallSettings,
        progress: OnPhase<'_>,
    ) -> Result<Self> {
        let mut builder = Builder::new(settings)?;
        let first = leading_token(&tokenizer)?.or(tokenizer.eos_token_id());
        let encoder = Encoder::new(tokenizer)?;
        for source in &stream.train {
            let mut reading = |read: &Progress| progress("reading", read.bytes_done, read.bytes_total, &read.corpus);
            let corpus = TokenCache::open(&source.corpus(), Path::new(""), cache, &encoder, &mut reading)?;
            for index in 0..corpus.documents() {
                if index % BLOCK == 0 {
                    progress("remembering", index, corpus.documents(), &source.path)?;
                }
                let room = settings.most_tokens.saturating_sub(builder.tokens);
                if room == 0 {
                    break;
                }
                let (range, _) = corpus.document(index)?;
                // Evaluation begins a document with this token, and so do its sequences.
                let mut tokens: Vec<u32> = first.into_iter().collect();
                corpus.read(range.start..range.end.min(range.start.saturating_add(room)), &mut tokens)?;
                builder.add(&tokens);
            }
        }
        progress("remembering", 1, 1, "")?;
        Ok(builder.finish())
    }

    /// What is kept of the text.
    pub fn settings(&self) -> RecallSettings {
        self.settings
    }

    /// Documents and tokens that were read.
    pub fn read(&self) -> (u64, u64) {
        (self.documents, self.tokens)
    }

    /// Sequences that tell something, and those that are found in too many documents to.
    pub fn sequences(&self) -> (usize, usize) {
        (self.rare.len(), self.common.len())
    }

    fn kind(&self, ngram: &[u32]) -> Kind {
        let fingerprint = fingerprint(ngram);
        if self.rare.binary_search(&fingerprint).is_ok() {
            Kind::Rare
        } else if self.common.binary_search(&fingerprint).is_ok() {
            Kind::Common
        } else {
            Kind::Unknown
        }
    }

    /// Writes it beside the trained values in `folder`, whole or not at all, and returns where. The bytes depend on nothing but what it holds.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, folder: &Path) -> Result<PathBuf> {
        let path = folder.join(FILE);
        let [rare, common] = [&self.rare, &self.common].map(|side| side.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
        let description = Description {
            format: FORMAT.into(),
            version: VERSION,
            settings: self.settings,
            documents: self.documents,
            tokens: self.tokens,
            sha256: sha256(&[&rare, &common]),
        };
        let text = serde_json::to_string(&description).map_err(|error| Error::file(&path, error))?;
        let view = |bytes| TensorView::new(Dtype::U32, vec![<[u8]>::len(bytes) / 4], bytes).map_err(|error| Error::file(&path, error));
        let views = [("rare", view(&rare)?), ("common", view(&common)?)];
        let bytes =
            safetensors::serialize(views, Some(HashMap::from([(KEY.to_owned(), text)]))).map_err(|error| Error::file(&path, error))?;
        atomic::write_file(&path, |out| std::io::Write::write_all(out, &bytes).at(&path))?;
        Ok(path)
    }

    /// Whether a file of one lies in `folder`; [`Self::load`] says whether it is whole.
    pub fn is_in(folder: &Path) -> bool {
        folder.join(FILE).exists()
    }

    /// What lies in `folder`; `None` where nothing does.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::File`] for a file that holds something else, or is damaged.
    pub fn load(folder: &Path) -> Result<Option<Self>> {
        if !Self::is_in(folder) {
            return Ok(None);
        }
        let path = folder.join(FILE);
        let bytes = read_limited(&path, MOST_BYTES, "recall")?;
        let found = Self::parse(&bytes);
        found.map(Some).map_err(|what| Error::file(&path, format!("{what}\n  hint: `treering recall` makes another")))
    }

    /// A recall from the bytes of its file.
    ///
    /// # Errors
    /// In words, what is wrong with them.
    pub fn parse(bytes: &[u8]) -> std::result::Result<Self, String> {
        let no_file = |error: safetensors::SafeTensorError| format!("no recall: {error}");
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(no_file)?;
        let text = metadata.metadata().as_ref().and_then(|metadata| metadata.get(KEY));
        let text = text.ok_or_else(|| format!("no recall: its metadata have no {KEY:?}"))?;
        let description: Description = serde_json::from_str(text).map_err(|error| format!("{KEY}: {error}"))?;
        let Description { format, version, settings, documents, tokens, sha256: expected } = description;
        if format != FORMAT || version != VERSION {
            return Err(format!("expected format {FORMAT:?} of version {VERSION}, found {format:?} of version {version}"));
        }
        settings.check()?;
        let tensors = SafeTensors::deserialize(bytes).map_err(no_file)?;
        let mut sides = Vec::with_capacity(2);
        for name in ["rare", "common"] {
            let tensor = tensors.tensor(name).map_err(|_| format!("`{name}`: missing"))?;
            if tensor.dtype() != Dtype::U32 || tensor.shape().len() != 1 {
                return Err(format!("`{name}`: expected U32 of one dimension, found {:?} {:?}", tensor.dtype(), tensor.shape()));
            }
            sides.push(tensor.data());
        }
        if sha256(&sides) != expected {
            return Err("its values are not those that it was written with: the file is damaged".into());
        }
        let [rare, common] = [sides[0], sides[1]].map(|side| {
            let values = side.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            values.collect::<Vec<u32>>()
        });
        if [&rare, &common].iter().any(|side| !side.is_sorted_by(|a, b| a < b)) {
            return Err("`rare` or `common`: its values do not ascend".into());
        }
        Ok(Self { settings, documents, tokens, rare, common })
    }
}

fn sha256(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    hex(hash.finalize())
}

/// What a text has in common with what one head was taught: decayed counts of sequences that it read in few documents, and of those it never read.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Trace {
    known: f64,
    unknown: f64,
}

impl Trace {
    /// After the text `tokens`, of which the last is new.
    pub fn after(self, recall: &Recall, tokens: &[u32]) -> Self {
        let Some(start) = tokens.len().checked_sub(recall.settings.ngram) else { return self };
        let (known, unknown) = match recall.kind(&tokens[start..]) {
            Kind::Common => return self,
            Kind::Rare => (1.0, 0.0),
            Kind::Unknown => (0.0, 1.0),
        };
        Self { known: DECAY * self.known + known, unknown: DECAY * self.unknown + unknown }
    }

    /// From 0 to below 1: the share of known sequences, with one unknown sequence before there were any.
    pub fn claim(self) -> f64 {
        self.known / (self.known + self.unknown + 1.0)
    }
}

/// The most tokens of a text that a [`Trace`] looks back on.
pub(super) const MOST_HISTORY: usize = MOST_NGRAM;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Documents that all begin and end alike, with a few tokens of their own in between.
    fn question(person: u32) -> Vec<u32> {
        [1, 2, 3, 4, 5, 6, 100 + 5 * person, 101 + 5 * person, 102 + 5 * person, 7, 8, 9].into()
    }

    fn recall(people: std::ops::Range<u32>) -> Recall {
        let settings = RecallSettings { ngram: 3, common_above: 8, ..RecallSettings::default() };
        let mut builder = Builder::new(settings).unwrap();
        people.for_each(|person| builder.add(&question(person)));
        builder.finish()
    }

    fn claim(recall: &Recall, tokens: &[u32]) -> f64 {
        (1..=tokens.len()).fold(Trace::default(), |trace, end| trace.after(recall, &tokens[..end])).claim()
    }

    #[test]
    fn whom_a_text_is_about_is_told_from_how_such_texts_are_written() {
        let recall = recall(0..20);
        // Sequences that all twenty documents share, [1 2 3] to [4 5 6] and [7 8 9], are common; the five around each of the names are not.
        assert_eq!((recall.sequences(), recall.read()), ((100, 5), (20, 240)));
        for person in 0..20 {
            assert!(claim(&recall, &question(person)) > 0.75, "{person}");
            assert_eq!(claim(&recall, &question(20 + person)), 0.0, "{person}");
        }
        assert_eq!(claim(&recall, &[1, 2, 3, 4, 5, 6]), 0.0, "nothing was said yet");
        // Half a name is not enough.
        let mut half = question(3);
        half[8] = 999;
        assert!((0.1..0.6).contains(&claim(&recall, &half)), "{}", claim(&recall, &half));
    }

    #[test]
    fn documents_are_counted_and_not_how_often_they_say_it() {
        let settings = RecallSettings { ngram: 2, common_above: 1, ..RecallSettings::default() };
        let mut builder = Builder::new(settings).unwrap();
        builder.add(&[1, 2, 1, 2, 1, 2, 3]);
        builder.add(&[2, 3]);
        let recall = builder.finish();
        assert_eq!(
            [[1, 2], [2, 1], [2, 3], [3, 1]].map(|ngram| recall.kind(&ngram)),
            [Kind::Rare, Kind::Rare, Kind::Common, Kind::Unknown]
        );
    }

    #[test]
    fn a_file_holds_it_all_and_damage_is_found_wherever_it_is() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Recall::load(folder.path()).unwrap(), None);
        let recall = recall(0..20);
        let path = recall.save(folder.path()).unwrap();
        assert_eq!(Recall::load(folder.path()).unwrap().as_ref(), Some(&recall));
        let bytes = std::fs::read(&path).unwrap();
        recall.save(folder.path()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "the same bytes again");
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            // Only the counts of documents and tokens, which are for people, could change unseen.
            if let Ok(found) = Recall::parse(&damaged) {
                assert_eq!((&found.rare, &found.common), (&recall.rare, &recall.common), "byte {at}");
            }
        }
        for length in 0..bytes.len() {
            assert!(Recall::parse(&bytes[..length]).is_err(), "{length}");
        }
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let error = Recall::load(folder.path()).unwrap_err().to_string();
        assert!(error.contains("recall.safetensors") && error.contains("hint: `treering recall` makes another"), "{error}");
        for (ngram, common_above) in [(0, 1), (65, 1), (3, 0)] {
            assert!(RecallSettings { ngram, common_above, ..RecallSettings::default() }.validate().is_err());
        }
    }

    proptest! {
        #[test]
        fn a_claim_is_a_share_and_what_is_asked_for_is_found(
            documents in prop::collection::vec(prop::collection::vec(0u32..40, 0..30), 1..20), ngram in 1usize..6, common_above in 1u32..4,
        ) {
            let mut builder = Builder::new(RecallSettings { ngram, common_above, ..RecallSettings::default() }).unwrap();
            documents.iter().for_each(|document| builder.add(document));
            let recall = builder.finish();
            for document in &documents {
                for window in document.windows(ngram) {
                    let count = documents.iter().filter(|other| other.windows(ngram).any(|w| w == window)).count();
                    let expected = if count as u32 > common_above { Kind::Common } else { Kind::Rare };
                    prop_assert_eq!(recall.kind(window), expected);
                }
                prop_assert!((0.0..1.0).contains(&claim(&recall, document)));
            }
        }
    }
}
