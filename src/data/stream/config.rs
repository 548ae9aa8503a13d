//! What a training stream is made of.

use serde::{Deserialize, Serialize};

use crate::data::corpus::{CorpusConfig, Format, Split, default_text_field};
use crate::error::{Error, Result};

/// One weighted source of training text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSource {
    /// A file, a glob pattern, or a folder.
    pub path: String,
    /// The share of this source in the training tokens, relative to the other sources.
    #[serde(default = "default_weight")]
    pub weight: f64,
    /// The JSON field or Parquet column that holds the text.
    #[serde(default = "default_text_field")]
    pub text_field: String,
    /// What the files hold, where the suffix does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// How plain text files are cut into documents.
    #[serde(default)]
    pub split: Split,
    /// Whether documents that cannot be read are left out and counted, rather than an error.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skip_bad_records: bool,
}

fn default_weight() -> f64 {
    1.0
}

impl TrainSource {
    /// A source at `path` with weight 1, read in the default way.
    pub fn new(path: impl Into<String>) -> Self {
        let corpus = CorpusConfig::new(path);
        let CorpusConfig { path, text_field, format, split, skip_bad_records } = corpus;
        Self { path, weight: default_weight(), text_field, format, split, skip_bad_records }
    }

    /// The corpus, without its weight.
    pub fn corpus(&self) -> CorpusConfig {
        CorpusConfig {
            path: self.path.clone(),
            text_field: self.text_field.clone(),
            format: self.format,
            split: self.split,
            skip_bad_records: self.skip_bad_records,
        }
    }
}
/// What a training stream is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamConfig {
    /// The sources.
    pub train: Vec<TrainSource>,
    /// Tokens a window.
    pub sequence_length: usize,
    /// Whether attention and positions stop at document borders.
    #[serde(default)]
    pub document_mask: bool,
    /// Documents of a source that are open at a time; with 1, a long document fills whole batches.
    #[serde(default = "default_open_documents")]
    pub open_documents: usize,
    /// Whether documents are put one after another until a window is full; otherwise every window is one whole document, filled up at its end.
    #[serde(default = "packing_is_default", skip_serializing_if = "is_packing")]
    pub packing: bool,
    /// Only what follows the last occurrence of this text in a document counts in the loss: the answer, and not its question. Without `packing` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_template: Option<String>,
}

fn default_open_documents() -> usize {
    8
}

fn packing_is_default() -> bool {
    true
}

fn is_packing(packing: &bool) -> bool {
    *packing
}

impl StreamConfig {
    /// A stream of `sources`, packed to `sequence_length`, without document masks.
    pub fn new(sources: Vec<TrainSource>, sequence_length: usize) -> Self {
        Self {
            train: sources,
            sequence_length,
            document_mask: false,
            open_documents: default_open_documents(),
            packing: packing_is_default(),
            response_template: None,
        }
    }

    /// Checks what can be checked without touching a file.
    ///
    /// # Errors
    /// When there is no source, a weight is not a positive number, a length is zero, or there is a template and `packing`.
    pub fn validate(&self) -> Result<()> {
        if self.train.is_empty() {
            return Err(Error::usage("data.train names no corpus"));
        }
        if self.sequence_length == 0 || self.sequence_length > 1 << 24 {
            return Err(Error::usage(format!("data.sequence_length must be 1 to {}, found {}", 1 << 24, self.sequence_length)));
        }
        if self.packing && self.response_template.is_some() {
            return Err(Error::usage(
                "data.response_template: answers are told from questions only where every window is one document\n  hint: packing = false",
            ));
        }
        if self.open_documents == 0 || self.open_documents > 1 << 16 {
            return Err(Error::usage(format!("data.open_documents must be 1 to {}, found {}", 1 << 16, self.open_documents)));
        }
        match self.train.iter().find(|source| !(source.weight > 0.0 && source.weight.is_finite())) {
            Some(bad) => Err(Error::usage(format!("data.train: the weight of {:?} must be positive, found {}", bad.path, bad.weight))),
            None => Ok(()),
        }
    }
}
