use std::path::Path;

use serde_json::Value;
use treering::checkpoint::BaseCheckpoint;
use treering::tokenizer::Tokenizer;

use crate::gguf_writer::Writer;
use crate::{assert_error, fixture, fixture_json};

fn texts(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_string()).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn kinds(value: &Value) -> Vec<i32> {
    value.as_array().unwrap().iter().map(|v| v.as_i64().unwrap() as i32).collect()
}

fn tokenizer(writer: &Writer) -> Result<Tokenizer, treering::Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    writer.write(&path);
    BaseCheckpoint::open(&path).unwrap().tokenizer()
}

fn byte_level(pre: &str, rows: usize, change: impl FnOnce(&mut Vec<String>, &mut Vec<String>)) -> Writer {
    let golden = fixture_json("tokenizer-bpe.json");
    let (mut tokens, mut merges) = (texts(&golden["tokens"]), texts(&golden["merges"]));
    change(&mut tokens, &mut merges);
    let mut writer = Writer::llama_with_embedding(rows);
    writer.text("tokenizer.ggml.model", "gpt2");
    writer.text("tokenizer.ggml.pre", pre);
    writer.i32s("tokenizer.ggml.token_type", &kinds(&golden["types"]));
    writer.texts("tokenizer.ggml.tokens", &tokens);
    writer.texts("tokenizer.ggml.merges", &merges);
    writer.u32("tokenizer.ggml.bos_token_id", 1);
    writer.u32("tokenizer.ggml.eos_token_id", 2);
    writer
}

fn sentence_piece() -> Writer {
    let golden = fixture_json("tokenizer-spm.json");
    let tokens = texts(&golden["tokens"]);
    let scores: Vec<f32> = golden["scores"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
    let mut writer = Writer::llama_with_embedding(tokens.len());
    writer.text("tokenizer.ggml.model", "llama");
    writer.texts("tokenizer.ggml.tokens", &tokens);
    writer.f32s("tokenizer.ggml.scores", &scores);
    writer.i32s("tokenizer.ggml.token_type", &kinds(&golden["types"]));
    writer.u32("tokenizer.ggml.bos_token_id", golden["bos"].as_u64().unwrap() as u32);
    writer.u32("tokenizer.ggml.eos_token_id", golden["eos"].as_u64().unwrap() as u32);
    writer
}

#[test]
fn byte_level_tokens_are_those_of_the_published_pre_tokenizers() {
    let golden = fixture_json("tokenizer-bpe.json");
    for (pre, cases) in golden["cases"].as_object().unwrap() {
        let tokenizer = tokenizer(&byte_level(pre, 400, |_, _| {})).unwrap();
        for case in cases.as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let found = tokenizer.encode(text).unwrap();
            assert_eq!(found, ids(&case["ids"]), "{pre}: {text:?}");
            if !text.contains("<|") && pre != "qwen2" {
                assert_eq!(tokenizer.decode(&found).unwrap(), text, "{pre}");
            }
        }
    }
    assert_eq!(golden["cases"].as_object().unwrap().len(), 4);
}

#[test]
fn the_tokenizer_of_a_file_made_by_the_gguf_package_is_the_same() {
    let base = BaseCheckpoint::open(fixture("tiny.gguf")).unwrap();
    let tokenizer = base.tokenizer().unwrap();
    for case in fixture_json("tokenizer-bpe.json")["cases"]["smollm"].as_array().unwrap() {
        assert_eq!(tokenizer.encode(case["text"].as_str().unwrap()).unwrap(), ids(&case["ids"]));
    }
    assert_eq!((tokenizer.bos_token_id(), tokenizer.eos_token_id()), (Some(1), Some(2)));
    assert_eq!(tokenizer.token_to_id("<|im_end|>"), Some(2));
    assert_eq!(tokenizer.vocab_size(), base.config().vocab_size);
}

#[test]
fn sentence_piece_tokens_are_those_of_sentencepiece() {
    let golden = fixture_json("tokenizer-spm.json");
    let tokenizer = tokenizer(&sentence_piece()).unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let found = tokenizer.encode(text).unwrap();
        assert_eq!(found, ids(&case["ids"]), "{text:?}");
        assert_eq!(tokenizer.decode(&found).unwrap(), case["decoded"].as_str().unwrap());
    }
    let with_bos = tokenizer.encode_with_special("ring").unwrap();
    assert_eq!(with_bos[0], golden["bos"].as_u64().unwrap() as u32);
    assert_eq!(with_bos[1..], tokenizer.encode("ring").unwrap());
}

#[test]
fn streamed_pieces_are_whole_characters_and_together_the_text() {
    for (name, tokenizer) in [
        ("byte level", tokenizer(&byte_level("gpt-2", 400, |_, _| {})).unwrap()),
        ("sentence piece", tokenizer(&sentence_piece()).unwrap()),
    ] {
        for text in ["한국어와 English 🌲🌳, été\n done", "  spaces  ", "", "🌲"] {
            let tokens = tokenizer.encode(text).unwrap();
            let mut stream = tokenizer.stream();
            let mut streamed = String::new();
            for &token in &tokens {
                let piece = stream.push(token).unwrap();
                assert!(!piece.contains(char::REPLACEMENT_CHARACTER), "{name}: {piece:?}");
                streamed.push_str(&piece);
            }
            streamed.push_str(&stream.finish().unwrap());
            assert_eq!(streamed, tokenizer.decode(&tokens).unwrap(), "{name}");
            assert_eq!(streamed, text, "{name}");
        }
    }
}

#[test]
fn a_stream_of_broken_characters_goes_on() {
    let tokenizer = tokenizer(&byte_level("gpt-2", 400, |_, _| {})).unwrap();
    let tree = tokenizer.encode("🌲").unwrap();
    assert!(tree.len() > 1);
    let a = tokenizer.token_to_id("a").unwrap();
    let mut stream = tokenizer.stream();
    let mut streamed = String::new();
    for token in std::iter::repeat_n(tree[0], 40).chain([a]) {
        streamed.push_str(&stream.push(token).unwrap());
    }
    streamed.push_str(&stream.finish().unwrap());
    assert!(streamed.contains(char::REPLACEMENT_CHARACTER) && streamed.ends_with('a'), "{streamed:?}");
    // And the end of half a character is said, not swallowed.
    let mut stream = tokenizer.stream();
    assert_eq!(stream.push(tree[0]).unwrap(), "");
    assert_eq!(stream.finish().unwrap(), "\u{fffd}");
}

#[test]
fn a_tokenizer_that_does_not_fit_is_refused() {
    let tokens = texts(&fixture_json("tokenizer-bpe.json")["tokens"]).len();
    assert!(tokenizer(&byte_level("gpt-2", tokens, |_, _| {})).is_ok());
    let error = tokenizer(&byte_level("gpt-2", tokens - 1, |_, _| {})).unwrap_err();
    assert_error(&error, &["does not fit", &format!("number {}", tokens - 1), &format!("`vocab_size` is {}", tokens - 1)]);
}

#[test]
fn damaged_vocabularies_are_refused_by_name() {
    assert_error(&tokenizer(&byte_level("gpt-9", 400, |_, _| {})).unwrap_err(), &["\"gpt-9\""]);
    assert_error(&tokenizer(&byte_level("gpt-2", 400, |t, _| t[9] = t[8].clone())).unwrap_err(), &["tokens 8 and 9"]);
    assert_error(&tokenizer(&byte_level("gpt-2", 400, |t, _| drop(t.pop()))).unwrap_err(), &["token_type"]);
    assert_error(&tokenizer(&byte_level("gpt-2", 400, |_, m| m[3] = "abc".into())).unwrap_err(), &["merge \"abc\""]);
    assert_error(&tokenizer(&byte_level("gpt-2", 400, |_, m| m[3] = "한 국".into())).unwrap_err(), &["cannot be rebuilt"]);
    assert_error(&tokenizer(&Writer::llama_with_embedding(4)).unwrap_err(), &["tokenizer.ggml.tokens"]);
    let mut writer = sentence_piece();
    writer.bool("tokenizer.ggml.add_bos_token", false);
    let tokenizer = tokenizer(&writer).unwrap();
    assert_eq!(tokenizer.encode_with_special("ring").unwrap(), tokenizer.encode("ring").unwrap());
}

#[test]
fn a_directory_names_its_first_and_last_token() {
    let folder = tempfile::tempdir().unwrap();
    let original = tokenizer(&byte_level("smollm", 400, |_, _| {})).unwrap();
    original.save(folder.path()).unwrap();
    let path = folder.path().join("tokenizer.json");
    let read = Tokenizer::from_file(&path).unwrap();
    assert_eq!((read.bos_token_id(), read.eos_token_id()), (Some(1), Some(2)));
    assert_eq!(read.encode("2026 rings").unwrap(), original.encode("2026 rings").unwrap());
    let config = folder.path().join("tokenizer_config.json");
    std::fs::write(&config, r#"{"bos_token": {"content": "<|endoftext|>"}, "eos_token": null}"#).unwrap();
    let read = Tokenizer::from_file(&path).unwrap();
    assert_eq!((read.bos_token_id(), read.eos_token_id()), (Some(0), None));
    std::fs::write(&config, r#"{"bos_token": "<nothing>"}"#).unwrap();
    assert_error(&Tokenizer::from_file(&path).unwrap_err(), &["tokenizer_config.json", "`bos_token`", "<nothing>"]);
    std::fs::write(&path, "{}").unwrap();
    assert_error(&Tokenizer::from_file(&path).unwrap_err(), &["tokenizer.json", "not a tokenizer"]);
    assert!(matches!(Tokenizer::from_file(Path::new("/nowhere/tokenizer.json")), Err(treering::Error::Io { .. })));
}

#[test]
fn truncation_in_a_file_is_not_taken_over() {
    let json = tokenizer(&byte_level("gpt-2", 400, |_, _| {})).unwrap().to_json().unwrap();
    let mut value: Value = serde_json::from_str(&json).unwrap();
    value["truncation"] = serde_json::json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    let tokenizer = Tokenizer::from_json(&value.to_string()).unwrap();
    assert!(tokenizer.encode("a text that is longer than two tokens").unwrap().len() > 2);
}

/// Found by fuzzing: the crate `tokenizers` panics where a decoder's JSON breaks off.
#[test]
fn a_tokenizer_that_breaks_off_in_its_decoder_is_an_error() {
    let whole = r#"{"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "decoder": {"type": "Fuse", "x": {"y": 1}}}"#;
    assert!(Tokenizer::from_json(whole).is_ok());
    for at in whole.find("\"decoder\"").unwrap()..whole.len() {
        assert!(Tokenizer::from_json(&whole[..at]).unwrap_err().to_string().contains("is not JSON"), "cut at {at}");
        let mut broken = whole.as_bytes().to_vec();
        broken[at] = b'%';
        let _ = Tokenizer::from_json(std::str::from_utf8(&broken).unwrap());
    }
    for decoder in [
        r#"{"type": "Sequence", "decoders": [{}]}"#,
        r#"{"type": "Strip"}"#,
        r#"{"type": 5}"#,
        "[]",
        r#"{"type": "Replace", "pattern": {"Regex": "("}, "content": ""}"#,
    ] {
        let text = whole.replace(r#"{"type": "Fuse", "x": {"y": 1}}"#, decoder);
        if let Ok(tokenizer) = Tokenizer::from_json(&text) {
            let _ = tokenizer.decode(&[0, 7]);
        }
    }
}
