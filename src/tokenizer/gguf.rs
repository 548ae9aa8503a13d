//! The tokenizer inside a GGUF file, rebuilt as the `tokenizer.json` that its model was published with.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::Tokenizer;
use crate::checkpoint::gguf::Gguf;
use crate::error::{Error, Result};

/// Kinds of tokens, as `tokenizer.ggml.token_type` numbers them.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
/// A token longer than this is damage; it would also make the search for merges slow.
const MAX_TOKEN_BYTES: usize = 4096;
/// What stands for a space in SentencePiece vocabularies.
const SPACE: &str = "\u{2581}";

/// How text is cut before its pieces are merged.
struct Cut {
    normalizer: Value,
    pre_tokenizer: Value,
    /// Whether a piece that is a token is that token, whatever the merges say.
    ignore_merges: bool,
    add_bos: bool,
}

impl Tokenizer {
    /// Rebuilds the tokenizer of a GGUF file: byte-level BPE (`gpt2`) or SentencePiece BPE (`llama`).
    pub(crate) fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let wrong = |message: String| Error::file(&gguf.path, message);
        let tokens = gguf.strings("tokenizer.ggml.tokens")?.ok_or_else(|| wrong("has no tokenizer (`tokenizer.ggml.tokens`)".into()))?;
        let kinds = gguf.integers("tokenizer.ggml.token_type")?.unwrap_or_else(|| vec![1; tokens.len()]);
        if kinds.len() != tokens.len() {
            return Err(wrong(format!("`tokenizer.ggml.token_type` has {} entries for {} tokens", kinds.len(), tokens.len())));
        }
        let ids = token_ids(&tokens).map_err(wrong)?;
        let (json, default_bos) = match gguf.text("tokenizer.ggml.model")? {
            Some("gpt2") => byte_level(gguf, &ids, &kinds)?,
            Some("llama") => sentence_piece(gguf, &tokens, &ids, &kinds)?,
            other => {
                return Err(wrong(format!("its tokenizer is of type {:?}; \"gpt2\" and \"llama\" can be read", other.unwrap_or("(none)"))));
            }
        };
        let special = |key: &str| -> Result<Option<u32>> {
            let Some(id) = gguf.u64(key)?.filter(|&id| id != u64::from(u32::MAX)) else { return Ok(None) };
            if id < tokens.len() as u64 {
                Ok(Some(id as u32))
            } else {
                Err(wrong(format!("metadata `{key}` is {id}, and there are {} tokens", tokens.len())))
            }
        };
        let (bos, eos) = (special("tokenizer.ggml.bos_token_id")?, special("tokenizer.ggml.eos_token_id")?);
        let first = if gguf.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(default_bos) { bos } else { None };
        let last = if gguf.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false) { eos } else { None };
        let mut json = json;
        json["added_tokens"] = added_tokens(&tokens, &kinds);
        json["post_processor"] = template(&tokens, first, last);
        let tokenizer = Self::from_json(&json.to_string()).map_err(|e| wrong(format!("its tokenizer cannot be rebuilt: {e}")))?;
        Ok(tokenizer.with_defaults(bos, eos))
    }
}

fn token_ids(tokens: &[String]) -> std::result::Result<HashMap<&str, usize>, String> {
    let mut ids = HashMap::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate() {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(format!("token {id} is {} bytes long; at most {MAX_TOKEN_BYTES} were expected", token.len()));
        }
        if let Some(other) = ids.insert(token.as_str(), id) {
            return Err(format!("tokens {other} and {id} are both {token:?}"));
        }
    }
    Ok(ids)
}

fn byte_level(gguf: &Gguf, ids: &HashMap<&str, usize>, kinds: &[i64]) -> Result<(Value, bool)> {
    let wrong = |message: String| Error::file(&gguf.path, message);
    let merges = gguf.strings("tokenizer.ggml.merges")?.ok_or_else(|| wrong("its tokenizer has no `tokenizer.ggml.merges`".into()))?;
    let mut pairs = Vec::with_capacity(merges.len());
    for merge in &merges {
        match merge.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => pairs.push((left, right)),
            _ => return Err(wrong(format!("the merge {merge:?} is not two tokens with a space between"))),
        }
    }
    let kind = gguf.text("tokenizer.ggml.pre")?.unwrap_or("default");
    let cut = cut(kind).ok_or_else(|| {
        wrong(format!(
            "its tokenizer cuts text by the rules {kind:?}, which are not known; put the model's tokenizer.json and weights into a directory and open that"
        ))
    })?;
    let json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "normalizer": cut.normalizer,
        "pre_tokenizer": cut.pre_tokenizer,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": model(ids, kinds, &pairs, cut.ignore_merges, false),
    });
    Ok((json, cut.add_bos))
}

/// The rules that `tokenizer.ggml.pre` names.
fn cut(kind: &str) -> Option<Cut> {
    let byte_level =
        |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let sequence = |first: Value, second: Value| json!({"type": "Sequence", "pretokenizers": [first, second]});
    let split = |digits: &str| {
        // Contractions; words with a sign before them; digits; signs with line ends; line ends; spaces.
        let pattern = [
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
            r"[^\r\n\p{L}\p{N}]?\p{L}+",
            digits,
            r" ?[^\s\p{L}\p{N}]+[\r\n]*",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        ]
        .join("|");
        sequence(json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}), byte_level(false))
    };
    Some(match kind {
        "default" | "gpt-2" | "gpt2" | "phi-2" | "mpt" | "olmo" | "roberta-bpe" => {
            Cut { normalizer: Value::Null, pre_tokenizer: byte_level(true), ignore_merges: false, add_bos: false }
        }
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" => Cut {
            normalizer: Value::Null,
            pre_tokenizer: sequence(json!({"type": "Digits", "individual_digits": true}), byte_level(true)),
            ignore_merges: false,
            add_bos: false,
        },
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "pixtral" => {
            Cut { normalizer: Value::Null, pre_tokenizer: split(r"\p{N}{1,3}"), ignore_merges: true, add_bos: true }
        }
        "qwen2" | "deepseek-r1-qwen" => {
            Cut { normalizer: json!({"type": "NFC"}), pre_tokenizer: split(r"\p{N}"), ignore_merges: false, add_bos: false }
        }
        _ => return None,
    })
}

fn sentence_piece(gguf: &Gguf, tokens: &[String], ids: &HashMap<&str, usize>, kinds: &[i64]) -> Result<(Value, bool)> {
    let wrong = |message: String| Error::file(&gguf.path, message);
    let scores = gguf.floats("tokenizer.ggml.scores")?.ok_or_else(|| wrong("its tokenizer has no `tokenizer.ggml.scores`".into()))?;
    if scores.len() != tokens.len() {
        return Err(wrong(format!("`tokenizer.ggml.scores` has {} entries for {} tokens", scores.len(), tokens.len())));
    }
    let merges = merges_of_scores(tokens, ids, &scores);
    let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let mut normalizers = vec![replace(" ", SPACE)];
    let mut decoders = vec![replace(SPACE, " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    if gguf.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true) {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": SPACE}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": model(ids, kinds, &merges, false, true),
    });
    Ok((json, true))
}

/// SentencePiece keeps no merges: any two tokens that together are a third may be merged, the third's score says when.
fn merges_of_scores<'a>(tokens: &'a [String], ids: &HashMap<&str, usize>, scores: &[f32]) -> Vec<(&'a str, &'a str)> {
    let mut merges = Vec::new();
    for (token, &score) in tokens.iter().zip(scores) {
        let from = merges.len();
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&left_id), Some(&right_id)) = (ids.get(left), ids.get(right)) {
                merges.push((left, right, score, left_id, right_id));
            }
        }
        merges[from..].sort_by_key(|merge| (merge.3, merge.4));
    }
    // Equal scores: the longer left part first, as the converter of `transformers` sorts them; the sort is stable.
    let length = |text: &str| text.chars().count();
    merges.sort_by(|a, b| b.2.total_cmp(&a.2).then_with(|| length(b.0).cmp(&length(a.0))).then_with(|| length(b.1).cmp(&length(a.1))));
    merges.into_iter().map(|merge| (merge.0, merge.1)).collect()
}

/// The `model` of a `tokenizer.json`.
fn model(ids: &HashMap<&str, usize>, kinds: &[i64], merges: &[(&str, &str)], ignore_merges: bool, byte_fallback: bool) -> Value {
    let unknown = if byte_fallback { ids.iter().find(|&(_, &id)| kinds[id] == UNKNOWN).map(|(&token, _)| token) } else { None };
    let vocab: Map<String, Value> = ids.iter().map(|(&token, &id)| (token.to_string(), json!(id))).collect();
    json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": unknown,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": byte_fallback,
        "byte_fallback": byte_fallback,
        "ignore_merges": ignore_merges,
        "vocab": vocab,
        "merges": merges,
    })
}

/// Tokens that are found in a text before anything else.
fn added_tokens(tokens: &[String], kinds: &[i64]) -> Value {
    let added = tokens
        .iter()
        .zip(kinds)
        .enumerate()
        .filter(|(_, (token, kind))| !token.is_empty() && matches!(**kind, UNKNOWN | CONTROL | USER_DEFINED));
    added
        .map(|(id, (token, &kind))| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                "special": kind != USER_DEFINED,
            })
        })
        .collect()
}

/// Puts the first and the last token around a text.
fn template(tokens: &[String], first: Option<u32>, last: Option<u32>) -> Value {
    if first.is_none() && last.is_none() {
        return Value::Null;
    }
    let name = |id: u32| &tokens[id as usize];
    let around = |sequences: &[(&str, u32)]| -> Vec<Value> {
        let mut pieces = Vec::new();
        for &(sequence, type_id) in sequences {
            pieces.extend(first.map(|id| json!({"SpecialToken": {"id": name(id), "type_id": type_id}})));
            pieces.push(json!({"Sequence": {"id": sequence, "type_id": type_id}}));
            pieces.extend(last.map(|id| json!({"SpecialToken": {"id": name(id), "type_id": type_id}})));
        }
        pieces
    };
    let special: Map<String, Value> =
        first.into_iter().chain(last).map(|id| (name(id).clone(), json!({"id": name(id), "ids": [id], "tokens": [name(id)]}))).collect();
    json!({
        "type": "TemplateProcessing",
        "single": around(&[("A", 0)]),
        "pair": around(&[("A", 0), ("B", 1)]),
        "special_tokens": special,
    })
}
