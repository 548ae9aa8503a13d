//! Files cut, grown and with bits flipped in every region: an error or another model, never a panic nor memory without bounds.

use std::fs;
use std::path::Path;

use treering::checkpoint::BaseCheckpoint;

use crate::damage::{Damage, every_way, put};
use crate::huggingface::copy;
use crate::{assert_memory_was_bounded, fixture};

/// Does everything that can be done with a base; whether all of it worked.
fn use_all(path: &Path) -> bool {
    let Ok(base) = BaseCheckpoint::open(path) else { return false };
    let mut worked = base.sha256().is_ok();
    for info in base.tensor_infos() {
        worked &= base.tensor(&info.name, &info.shape).is_ok();
    }
    let _ = treering::checkpoint::rope::inverse_frequencies(base.config());
    worked
}

/// Damages a file of a model in every way, at every byte of its first `dense` ones and some of the rest. What ends too early is never taken for whole; what
/// goes on behind its end isn't where `ends` says that the file knows its end.
fn survive(file: &Path, model: &Path, dense: usize, ends: bool) {
    let whole = fs::read(file).unwrap();
    assert!(use_all(model), "{} is whole and cannot be used", file.display());
    for (damage, bytes) in every_way(&whole, dense, 211) {
        put(file, bytes);
        let used = use_all(model);
        let refused = matches!(damage, Damage::Cut(_)) || ends && damage == Damage::Grown(whole.len());
        assert!(!(used && refused), "{} was taken for whole: {damage:?}", file.display());
    }
    fs::write(file, &whole).unwrap();
    assert_memory_was_bounded();
}

#[test]
fn damaged_safetensors_are_survived() {
    let folder = copy("llama-gqa-tied");
    survive(&folder.path().join("model.safetensors"), folder.path(), 1200, true);
}

#[test]
fn damaged_configurations_are_survived() {
    let folder = copy("llama-yarn");
    let path = folder.path().join("config.json");
    // Without its last line end it is still whole.
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.trim_end()).unwrap();
    survive(&path, folder.path(), usize::MAX, true);
}

#[test]
fn damaged_indices_are_survived() {
    let folder = copy("llama-sharded");
    let path = folder.path().join("model.safetensors.index.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.trim_end()).unwrap();
    survive(&path, folder.path(), usize::MAX, true);
}

#[test]
fn damaged_gguf_files_are_survived() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::copy(fixture("tiny.gguf"), &path).unwrap();
    // Metadata, then the long lists of tokens, sampled, then the list of tensors and the data. A GGUF file doesn't say where it ends.
    survive(&path, &path, 900, false);
    let whole = fs::read(&path).unwrap();
    for (_, bytes) in every_way(&whole, 0, 53) {
        put(&path, bytes);
        if let Ok(tokenizer) = BaseCheckpoint::open(&path).and_then(|base| base.tokenizer()) {
            let tokens = tokenizer.encode("rings 나이테 <|im_end|>").unwrap_or_default();
            let _ = tokenizer.decode(&tokens);
        }
    }
    let start = whole.windows(10).position(|w| w == b"token_embd").unwrap();
    for at in start - 64..start + 900 {
        for bit in [0, 3, 7] {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << bit;
            put(&path, &flipped);
            use_all(&path);
        }
    }
    assert_memory_was_bounded();
}

#[test]
fn damaged_tokenizers_are_survived() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let json = BaseCheckpoint::open(fixture("tiny.gguf")).unwrap().tokenizer().unwrap().to_json().unwrap();
    for (damage, bytes) in every_way(json.as_bytes(), 600, 211) {
        put(&path, bytes);
        if let Ok(tokenizer) = treering::tokenizer::Tokenizer::from_file(&path) {
            assert!(!matches!(damage, Damage::Cut(_)) && damage != Damage::Grown(json.len()), "{damage:?}");
            let _ = tokenizer.encode("rings 나이테 <|im_end|>");
        }
    }
    assert_memory_was_bounded();
}
