//! What an evaluation gives, with the field names of its JSON (docs/format-eval.md).

use serde::Serialize;

use super::head_name;
use crate::model::Head;
use crate::report::{Align, Table};

/// One evaluation of one model on any number of corpora.
#[derive(Debug, Clone, Serialize)]
pub struct Evaluation {
    /// The version of these fields; it grows when one changes its meaning.
    pub version: u32,
    /// What was evaluated, in words.
    pub model: String,
    /// The step of the run's checkpoint; absent where the model is no run's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// Arithmetic of the matrix products, `f32` or `bf16`.
    pub dtype: String,
    /// Tokens a window.
    pub window: usize,
    /// Tokens from one window's beginning to the next's.
    pub stride: usize,
    /// The token before every document, so that its first token is scored too; `null` where there is none and first tokens are not scored.
    pub leading_token: Option<u32>,
    /// One entry a corpus, in the order they were asked for.
    pub corpora: Vec<CorpusResult>,
}

/// The results on one corpus.
#[derive(Debug, Clone, Serialize)]
pub struct CorpusResult {
    /// Its name.
    pub name: String,
    /// Number of documents.
    pub documents: u64,
    /// Number of tokens in them.
    pub tokens: u64,
    /// Number of tokens that were predicted; smaller by one a document where no token stands before it.
    pub scored_tokens: u64,
    /// UTF-8 bytes of the documents.
    pub bytes: u64,
    /// One entry a head.
    pub heads: Vec<HeadResult>,
    /// How far the base stream moved; absent unless asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub representation: Option<Representation>,
    /// Wall-clock time.
    pub seconds: f64,
}

/// What one head thought of a corpus.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct HeadResult {
    /// The head.
    pub head: Head,
    /// Negative log-likelihood summed over the scored tokens, in nats.
    pub nll: f64,
    /// `exp(nll / scored_tokens)`.
    pub perplexity: f64,
    /// `nll / ln 2 / bytes`, which compares models whatever their tokenizers.
    pub bits_per_byte: f64,
    /// Share of scored tokens that were the head's most probable one.
    pub accuracy: f64,
}

/// The cosine between the base stream's hidden state and the base model's, before the final norm.
///
/// # Paper
/// Section 5, representation forgetting.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Representation {
    /// Mean over all scored positions; 1 means nothing moved.
    pub cosine: f64,
    /// The smallest of any position.
    pub smallest_cosine: f64,
    /// Number of positions.
    pub positions: u64,
}

impl CorpusResult {
    /// The result as named numbers for `metrics.jsonl` and TensorBoard, each name beginning with `group` (such as `forget`) and the corpus.
    pub fn metrics(&self, group: &str) -> Vec<(String, f64)> {
        let mut metrics = Vec::new();
        for result in &self.heads {
            let path = format!("{group}/{}/{}", self.name, head_name(result.head));
            metrics.push((format!("{path}/perplexity"), result.perplexity));
            metrics.push((format!("{path}/bits_per_byte"), result.bits_per_byte));
            metrics.push((format!("{path}/accuracy"), result.accuracy));
        }
        if let Some(representation) = self.representation {
            metrics.push((format!("{group}/{}/representation/cosine", self.name), representation.cosine));
        }
        metrics
    }
}

impl Evaluation {
    /// The version of the JSON fields.
    pub const VERSION: u32 = 1;

    /// The results as a table, one row a corpus and head.
    pub fn table(&self) -> Table {
        let with_representation = self.corpora.iter().any(|c| c.representation.is_some());
        let mut columns = vec![("corpus", Align::Left), ("head", Align::Left), ("perplexity", Align::Right), ("bits/byte", Align::Right)];
        columns.extend([("accuracy", Align::Right), ("tokens", Align::Right), ("bytes", Align::Right), ("documents", Align::Right)]);
        if with_representation {
            columns.push(("cosine with base", Align::Right));
        }
        let mut table = Table::new(columns);
        for corpus in &self.corpora {
            for result in &corpus.heads {
                let cosine = match (corpus.representation, result.head) {
                    (Some(_), Head::Preservation) => "1".to_owned(),
                    (Some(r), _) => format!("{:.5}", r.cosine),
                    (None, _) => String::new(),
                };
                table.row([
                    corpus.name.clone(),
                    head_name(result.head).to_owned(),
                    format_perplexity(result.perplexity),
                    format!("{:.4}", result.bits_per_byte),
                    format!("{:.3}", result.accuracy),
                    corpus.scored_tokens.to_string(),
                    corpus.bytes.to_string(),
                    corpus.documents.to_string(),
                    cosine,
                ]);
            }
        }
        table
    }
}

/// A perplexity with two decimals, fewer where it is large.
pub fn format_perplexity(value: f64) -> String {
    if !value.is_finite() || value >= 1e6 {
        format!("{value:.1e}")
    } else if value >= 1000.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Evaluation {
        let head = |head, nll: f64| HeadResult {
            head,
            nll,
            perplexity: (nll / 100.0).exp(),
            bits_per_byte: nll / 2f64.ln() / 420.0,
            accuracy: 0.25,
        };
        Evaluation {
            version: Evaluation::VERSION,
            model: "runs/korean".into(),
            step: Some(300),
            dtype: "bf16".into(),
            window: 512,
            stride: 256,
            leading_token: None,
            corpora: vec![CorpusResult {
                name: "wikinews".into(),
                documents: 2,
                tokens: 102,
                scored_tokens: 100,
                bytes: 420,
                heads: vec![head(Head::Preservation, 200.0), head(Head::Adaptation, 150.0)],
                representation: Some(Representation { cosine: 0.95, smallest_cosine: 0.5, positions: 100 }),
                seconds: 1.5,
            }],
        }
    }

    #[test]
    fn json_field_names_are_stable() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&sample()).unwrap(), @r#"
        {
          "version": 1,
          "model": "runs/korean",
          "step": 300,
          "dtype": "bf16",
          "window": 512,
          "stride": 256,
          "leading_token": null,
          "corpora": [
            {
              "name": "wikinews",
              "documents": 2,
              "tokens": 102,
              "scored_tokens": 100,
              "bytes": 420,
              "heads": [
                {
                  "head": "preservation",
                  "nll": 200.0,
                  "perplexity": 7.38905609893065,
                  "bits_per_byte": 0.6869976385185541,
                  "accuracy": 0.25
                },
                {
                  "head": "adaptation",
                  "nll": 150.0,
                  "perplexity": 4.4816890703380645,
                  "bits_per_byte": 0.5152482288889155,
                  "accuracy": 0.25
                }
              ],
              "representation": {
                "cosine": 0.95,
                "smallest_cosine": 0.5,
                "positions": 100
              },
              "seconds": 1.5
            }
          ]
        }
        "#);
    }

    #[test]
    fn the_table_has_a_row_for_every_corpus_and_head() {
        insta::assert_snapshot!(sample().table().to_text(), @r"
        corpus    head          perplexity  bits/byte  accuracy  tokens  bytes  documents  cosine with base
        ───────────────────────────────────────────────────────────────────────────────────────────────────
        wikinews  preservation        7.39     0.6870     0.250     100    420          2                 1
        wikinews  adaptation          4.48     0.5152     0.250     100    420          2           0.95000
        ");
    }

    #[test]
    fn metrics_are_named_by_group_corpus_head_and_quantity() {
        let names: Vec<String> = sample().corpora[0].metrics("forget").into_iter().map(|m| m.0).collect();
        assert_eq!(
            names,
            [
                "forget/wikinews/preservation/perplexity",
                "forget/wikinews/preservation/bits_per_byte",
                "forget/wikinews/preservation/accuracy",
                "forget/wikinews/adaptation/perplexity",
                "forget/wikinews/adaptation/bits_per_byte",
                "forget/wikinews/adaptation/accuracy",
                "forget/wikinews/representation/cosine",
            ]
        );
    }
}
