//! Files cut at every region and with bits flipped in every region: an error or another model, never a panic nor memory without bounds.

use std::fs;
use std::path::Path;

use treering::checkpoint::BaseCheckpoint;

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

/// Every byte of the first part of a file, and some of the rest.
fn positions(length: usize, dense: usize) -> impl Iterator<Item = usize> {
    (0..length.min(dense)).chain((dense..length).step_by(211))
}

fn cut_and_flip(file: &Path, model: &Path, dense: usize) {
    let whole = fs::read(file).unwrap();
    assert!(use_all(model), "{} is whole and cannot be used", file.display());
    for at in positions(whole.len(), dense).step_by(2) {
        fs::write(file, &whole[..at]).unwrap();
        assert!(!use_all(model), "{} cut at {at} was taken for whole", file.display());
    }
    for at in positions(whole.len(), dense) {
        // Every bit is flipped somewhere, in turn.
        for bit in [at % 8, (at + 3) % 8] {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << bit;
            fs::write(file, &flipped).unwrap();
            use_all(model);
        }
    }
    fs::write(file, &whole).unwrap();
    assert_memory_was_bounded();
}

#[test]
fn damaged_safetensors_are_survived() {
    let folder = copy("llama-gqa-tied");
    cut_and_flip(&folder.path().join("model.safetensors"), folder.path(), 1200);
}

#[test]
fn damaged_configurations_are_survived() {
    let folder = copy("llama-yarn");
    let path = folder.path().join("config.json");
    // Without its last line end it is still whole.
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.trim_end()).unwrap();
    cut_and_flip(&path, folder.path(), usize::MAX);
}

#[test]
fn damaged_indices_are_survived() {
    let folder = copy("llama-sharded");
    let path = folder.path().join("model.safetensors.index.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.trim_end()).unwrap();
    cut_and_flip(&path, folder.path(), usize::MAX);
}

#[test]
fn damaged_gguf_files_are_survived() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::copy(fixture("tiny.gguf"), &path).unwrap();
    // Metadata, then the long lists of tokens, sampled, then the list of tensors and the data.
    cut_and_flip(&path, &path, 900);
    let whole = fs::read(&path).unwrap();
    for at in (0..whole.len()).step_by(53) {
        let mut flipped = whole.clone();
        flipped[at] ^= 4;
        fs::write(&path, &flipped).unwrap();
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
            fs::write(&path, &flipped).unwrap();
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
    for at in positions(json.len(), 600) {
        let mut bytes = json.clone().into_bytes();
        fs::write(&path, &bytes[..at]).unwrap();
        assert!(treering::tokenizer::Tokenizer::from_file(&path).is_err(), "cut at {at}");
        bytes[at] ^= 4;
        fs::write(&path, bytes).unwrap();
        if let Ok(tokenizer) = treering::tokenizer::Tokenizer::from_file(&path) {
            let _ = tokenizer.encode("rings 나이테 <|im_end|>");
        }
    }
    assert_memory_was_bounded();
}
