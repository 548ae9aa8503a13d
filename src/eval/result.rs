//! What an evaluation gives, with the field names of its JSON (docs/format-eval.md).

use serde::Serialize;

use super::head_name;
use super::suite::SuiteResult;
use super::summary::{self, Summary};
use crate::model::Head;
use crate::report::{Align, Table};
use crate::route::Router;

/// One evaluation of one model on any number of corpora.
#[derive(Debug, Clone, Serialize)]
pub struct Evaluation {
    /// The version of these fields; it grows when one changes its meaning.
    pub version: u32,
    /// What was evaluated, in words.
    pub model: String,
    /// The base that spoke as the preservation head beside a fine-tuned model; absent where the model has both heads itself, or one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beside: Option<String>,
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
    /// Multiple-choice tasks; absent where none was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suite: Option<SuiteResult>,
    /// Forgetting and learning, one entry a head and router; empty where no corpus has a group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub summary: Vec<Summary>,
}

/// What a corpus tells about a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// What is to be learnt.
    Learn,
    /// What is not to be forgotten.
    Forget,
}

/// The results on one corpus.
#[derive(Debug, Clone, Serialize)]
pub struct CorpusResult {
    /// Its name.
    pub name: String,
    /// What it tells; absent where nobody said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Group>,
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
    /// One entry a router; absent where none was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routers: Vec<RouterResult>,
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

/// What the heads came to under a router.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RouterResult {
    /// The router.
    pub router: Router,
    /// Negative log-likelihood of the routed predictions, summed over the scored tokens, in nats.
    pub nll: f64,
    /// `exp(nll / scored_tokens)`.
    pub perplexity: f64,
    /// `nll / ln 2 / bytes`.
    pub bits_per_byte: f64,
    /// Share of scored tokens that were the most probable one of the head that spoke.
    pub accuracy: f64,
    /// Share of scored tokens on which the adaptation head spoke: those on which its favourite token was the more probable one in the mixture.
    pub adaptation_share: f64,
    /// The same share of every head, in the order of the heads; empty, and absent, where there are only two.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub head_shares: Vec<f64>,
    /// The largest excess, in nats, of a document's loss over the best head's on that document; `bayes:share=0` promises at most ln n for n heads.
    pub worst_document_excess: f64,
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
        for result in &self.routers {
            let path = format!("{group}/{}/{}", self.name, result.router);
            metrics.push((format!("{path}/perplexity"), result.perplexity));
            metrics.push((format!("{path}/bits_per_byte"), result.bits_per_byte));
            metrics.push((format!("{path}/accuracy"), result.accuracy));
            metrics.push((format!("{path}/adaptation_share"), result.adaptation_share));
        }
        if let Some(representation) = self.representation {
            metrics.push((format!("{group}/{}/representation/cosine", self.name), representation.cosine));
        }
        metrics
    }
}

impl CorpusResult {
    /// What every row of the table begins with; the numbers are perplexity, bits per byte and accuracy.
    fn row(&self, name: String, [perplexity, bits_per_byte, accuracy]: [f64; 3]) -> Vec<String> {
        let mut row = vec![self.name.clone(), name, format_perplexity(perplexity)];
        row.extend([format!("{bits_per_byte:.4}"), format!("{accuracy:.3}")]);
        row.extend([self.scored_tokens, self.bytes, self.documents].map(|n| n.to_string()));
        row
    }
}

impl Evaluation {
    /// The version of the JSON fields.
    pub const VERSION: u32 = 1;

    /// Fills in [`Evaluation::summary`] from the corpora.
    pub fn summarised(mut self) -> Self {
        self.summary = summary::of(&self.corpora);
        self
    }

    /// The results as a table, one row a corpus and head or router.
    pub fn table(&self) -> Table {
        let with_routers = self.corpora.iter().any(|c| !c.routers.is_empty());
        let with_representation = self.corpora.iter().any(|c| c.representation.is_some());
        let mut columns = vec![("corpus", Align::Left), ("head", Align::Left), ("perplexity", Align::Right), ("bits/byte", Align::Right)];
        if with_routers {
            columns[1].0 = "head or router";
        }
        columns.extend([("accuracy", Align::Right), ("tokens", Align::Right), ("bytes", Align::Right), ("documents", Align::Right)]);
        if with_representation {
            columns.push(("cosine with base", Align::Right));
        }
        if with_routers {
            let several = self.corpora.iter().flat_map(|c| &c.routers).any(|r| !r.head_shares.is_empty());
            columns.push((if several { "spoke, head by head" } else { "adaptation spoke" }, Align::Right));
        }
        let mut table = Table::new(columns);
        for corpus in &self.corpora {
            for result in &corpus.heads {
                let cosine = match (corpus.representation, result.head) {
                    (Some(_), Head::Preservation) => "1".to_owned(),
                    (Some(r), _) => format!("{:.5}", r.cosine),
                    (None, _) => String::new(),
                };
                let numbers = [result.perplexity, result.bits_per_byte, result.accuracy];
                let mut row = corpus.row(head_name(result.head), numbers);
                row.extend(with_representation.then_some(cosine));
                table.row(row);
            }
            for result in &corpus.routers {
                let mut row = corpus.row(result.router.to_string(), [result.perplexity, result.bits_per_byte, result.accuracy]);
                row.extend(with_representation.then(String::new));
                let alone = [result.adaptation_share];
                let shares = if result.head_shares.is_empty() { &alone[..] } else { &result.head_shares };
                let shares: Vec<String> = shares.iter().map(|share| format!("{:.1}", 100.0 * share)).collect();
                row.push(format!("{} %", shares.join(" / ")));
                table.row(row);
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
            beside: None,
            step: Some(300),
            dtype: "bf16".into(),
            window: 512,
            stride: 256,
            leading_token: None,
            corpora: vec![CorpusResult {
                name: "wikinews".into(),
                group: None,
                documents: 2,
                tokens: 102,
                scored_tokens: 100,
                bytes: 420,
                heads: vec![head(Head::Preservation, 200.0), head(Head::Adaptation, 150.0)],
                routers: Vec::new(),
                representation: Some(Representation { cosine: 0.95, smallest_cosine: 0.5, positions: 100 }),
                seconds: 1.5,
            }],
            suite: None,
            summary: Vec::new(),
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
