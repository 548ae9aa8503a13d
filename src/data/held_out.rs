//! Held-out corpora: the texts on which learning and forgetting are measured.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Encode;
use super::cache::{OnProgress, Skipped, TokenCache};
use super::corpus::{CorpusConfig, Format, Split, default_text_field};
use crate::error::{Error, Result};

/// A named held-out corpus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldOutConfig {
    /// The name under which results are reported.
    pub name: String,
    /// A file, a glob pattern, or a folder.
    pub path: String,
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
    /// At most this many documents, the first ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_documents: Option<u64>,
    /// At most as many whole documents as have this many tokens together, the first ones, but at least one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
}

impl HeldOutConfig {
    /// The whole corpus at `path`, reported as `name`.
    pub fn new(name: impl Into<String>, path: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            path: path.into(),
            text_field: default_text_field(),
            format: None,
            split: Split::default(),
            skip_bad_records: false,
            max_documents: None,
            max_tokens: None,
        }
    }

    fn corpus(&self) -> CorpusConfig {
        CorpusConfig {
            path: self.path.clone(),
            text_field: self.text_field.clone(),
            format: self.format,
            split: self.split,
            skip_bad_records: self.skip_bad_records,
        }
    }
}

/// A tokenised document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its tokens, without any that begin or end it.
    pub tokens: Vec<u32>,
    /// The bytes of its text in UTF-8, for bits per byte.
    pub bytes: u64,
}

/// A held-out corpus that is ready to be scored.
#[derive(Debug)]
pub struct HeldOut {
    name: String,
    cache: TokenCache,
    documents: u64,
    tokens: u64,
    bytes: u64,
}

impl HeldOut {
    /// Opens the corpus, tokenising it first if it is not in `cache_folder` yet; a relative path starts at `base`.
    ///
    /// # Errors
    /// When a limit is zero, or the corpus cannot be read, is empty, or cannot be cached.
    pub fn open(config: &HeldOutConfig, base: &Path, cache_folder: &Path, encoder: &dyn Encode, progress: OnProgress) -> Result<Self> {
        if config.max_documents == Some(0) || config.max_tokens == Some(0) {
            return Err(Error::usage(format!("the held-out corpus {:?} is limited to nothing; limits must be at least 1", config.name)));
        }
        let cache = TokenCache::open(&config.corpus(), base, cache_folder, encoder, progress)?;
        let most = config.max_documents.unwrap_or(u64::MAX).min(cache.documents());
        let (mut documents, mut tokens, mut bytes) = (0, 0, 0);
        while documents < most {
            let (range, size) = cache.document(documents)?;
            let length = range.end - range.start;
            if documents > 0 && config.max_tokens.is_some_and(|limit| tokens + length > limit) {
                break;
            }
            documents += 1;
            tokens += length;
            bytes += size;
        }
        Ok(Self { name: config.name.clone(), cache, documents, tokens, bytes })
    }

    /// The name under which results are reported.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of documents; at least 1.
    pub fn len(&self) -> usize {
        self.documents as usize
    }

    /// Whether there is no document, which cannot be.
    pub fn is_empty(&self) -> bool {
        self.documents == 0
    }

    /// Tokens of all documents.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Bytes of all documents' texts in UTF-8.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A hash of the whole corpus as it was tokenised.
    pub fn fingerprint(&self) -> &str {
        self.cache.fingerprint()
    }

    /// Documents of the whole corpus that could not be read and were left out.
    pub fn skipped(&self) -> &Skipped {
        self.cache.skipped()
    }

    /// The largest token of the corpus, to be checked against the vocabulary.
    pub fn largest_token(&self) -> u32 {
        self.cache.largest_token()
    }

    /// Document `index`.
    ///
    /// # Errors
    /// When there is no such document or the token cache is damaged.
    pub fn document(&self, index: usize) -> Result<Document> {
        if index as u64 >= self.documents {
            return Err(Error::usage(format!("the held-out corpus {:?} has {} documents, no document {index}", self.name, self.documents)));
        }
        let (range, bytes) = self.cache.document(index as u64)?;
        let mut tokens = Vec::with_capacity((range.end - range.start) as usize);
        self.cache.read(range, &mut tokens)?;
        Ok(Document { tokens, bytes })
    }
}
