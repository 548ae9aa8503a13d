use std::collections::HashMap;
use std::fs;
use std::path::Path;

use treering::checkpoint::{BaseCheckpoint, Config, Dtype, names};

use crate::{assert_error, fixture};

/// A copy of a fixture that a test may damage.
pub fn copy(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

/// Every tensor of a base.
pub fn all_tensors(base: &BaseCheckpoint) -> HashMap<String, (Vec<usize>, Vec<f32>)> {
    let infos = base.tensor_infos();
    infos.into_iter().map(|info| (info.name.clone(), (info.shape.clone(), base.tensor(&info.name, &info.shape).unwrap()))).collect()
}

#[test]
fn every_kind_of_weights_is_read_exactly() {
    for (name, dtype) in [("mha-untied", "F32"), ("gqa-tied", "BF16"), ("head-dim", "F16")] {
        let folder = fixture(&format!("llama-{name}"));
        let base = BaseCheckpoint::open(&folder).unwrap();
        let bytes = fs::read(folder.join("model.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(base.tensor_infos().len(), file.len());
        for info in base.tensor_infos() {
            let view = file.tensor(&info.name).unwrap();
            assert_eq!((info.dtype.as_str(), info.shape.as_slice(), info.bytes), (dtype, view.shape(), view.data().len() as u64));
            let expected: Vec<f32> = match dtype {
                "F32" => view.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
                "F16" => view.data().chunks(2).map(|b| half::f16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect(),
                _ => view.data().chunks(2).map(|b| f32::from_bits(u32::from(u16::from_le_bytes(b.try_into().unwrap())) << 16)).collect(),
            };
            assert_eq!(base.tensor(&info.name, &info.shape).unwrap(), expected, "{}", info.name);
        }
    }
}

#[test]
fn shards_read_as_one_file_does() {
    let base = BaseCheckpoint::open(fixture("llama-sharded")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("whole");
    base.save_hf(&path, Dtype::Bf16).unwrap();
    assert!(path.join("model.safetensors").exists());
    let whole = BaseCheckpoint::open(&path).unwrap();
    assert_eq!(all_tensors(&base), all_tensors(&whole));
    assert_eq!(base.config(), whole.config());
    assert_eq!(base.sha256().unwrap(), whole.sha256().unwrap());
}

#[test]
fn the_hash_follows_every_weight_and_the_configuration() {
    let folder = copy("llama-gqa-tied");
    let hash = || BaseCheckpoint::open(folder.path()).unwrap().sha256().unwrap();
    let before = hash();
    assert_eq!(before.len(), 64);
    assert_eq!(before, hash());
    let path = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let changed = hash();
    assert_ne!(changed, before);
    bytes[last] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert_eq!(hash(), before);
    let config = fs::read_to_string(folder.path().join("config.json")).unwrap();
    fs::write(folder.path().join("config.json"), config.replace("500.0", "501.0")).unwrap();
    assert_ne!(hash(), before);
    // Spaces and what does not concern the model do not count.
    fs::write(folder.path().join("config.json"), config.replace('\n', " ").replace("5.23", "9.99")).unwrap();
    assert_eq!(hash(), before);
}

#[test]
fn a_base_in_memory_is_the_base_it_is_saved_as() {
    let config = Config::new(8, 4, 6, 1, 2);
    let shape = vec![8, 4];
    let values: Vec<f32> = (0..32).map(|i| (i as f32).sin()).collect();
    let name = names::weight(names::EMBED_TOKENS);
    let base = BaseCheckpoint::from_memory(config.clone(), HashMap::from([(name.clone(), (shape.clone(), values.clone()))]), None).unwrap();
    assert_eq!(base.tensor(&name, &shape).unwrap(), values);
    assert!(base.has_tensor(&name) && !base.has_tensor("lm_head.weight"));
    assert!(base.tokenizer().unwrap_err().to_string().contains("without a tokenizer"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("saved");
    base.save_hf(&path, Dtype::F32).unwrap();
    let saved = BaseCheckpoint::open(&path).unwrap();
    assert_eq!((saved.config(), saved.tensor(&name, &shape).unwrap()), (&config, values));
    assert_eq!(saved.sha256().unwrap(), base.sha256().unwrap());
    assert!(base.save_hf(&path, Dtype::F32).unwrap_err().to_string().contains("already exists"));
    let wrong = HashMap::from([(name, (vec![8, 5], vec![0.0; 32]))]);
    assert_eq!(BaseCheckpoint::from_memory(config, wrong, None).unwrap_err().exit_code(), 2);
}

#[test]
fn missing_and_misshapen_tensors_are_named() {
    let base = BaseCheckpoint::open(fixture("llama-gqa-tied")).unwrap();
    assert_error(&base.tensor("model.norm.bias", &[16]).unwrap_err(), &["llama-gqa-tied", "`model.norm.bias`", "[16]"]);
    assert_error(&base.tensor("model.norm.weight", &[17]).unwrap_err(), &["`model.norm.weight`", "[16]", "[17]"]);
}

#[test]
fn a_weight_that_is_not_finite_is_found() {
    let folder = copy("llama-mha-untied");
    let path = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let base = BaseCheckpoint::open(folder.path()).unwrap();
    let damaged: Vec<_> = base.tensor_infos().iter().filter_map(|info| base.tensor(&info.name, &info.shape).err()).collect();
    assert_eq!(damaged.len(), 1);
    assert_error(&damaged[0], &["model.safetensors", "NaN", "damaged"]);
}

#[test]
fn what_is_missing_from_a_directory_is_named() {
    let open = |path: &Path| BaseCheckpoint::open(path).unwrap_err();
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(open(&folder.path().join("nowhere")), treering::Error::Io { .. }));
    assert_error(&open(folder.path()), &["no config.json"]);
    let folder = copy("llama-sharded");
    fs::remove_file(folder.path().join("model-00002-of-00002.safetensors")).unwrap();
    assert_error(&open(folder.path()), &["model-00002-of-00002.safetensors", "missing"]);
    fs::remove_file(folder.path().join("model.safetensors.index.json")).unwrap();
    assert_error(&open(folder.path()), &["neither model.safetensors nor model.safetensors.index.json"]);
    let folder = copy("llama-gqa-tied");
    assert_error(&BaseCheckpoint::open(folder.path()).unwrap().tokenizer().unwrap_err(), &["no tokenizer.json"]);
    assert_error(&open(&folder.path().join("model.safetensors")), &["config.json"]);
    assert_error(&open(&folder.path().join("config.json")), &["GGUF"]);
}

#[test]
fn an_index_cannot_lead_out_of_its_folder_or_lie() {
    for (from, to, message) in [
        ("model-00001-of-00002.safetensors", "../elsewhere.safetensors", "not one of its own folder"),
        ("model-00001-of-00002.safetensors", "/etc/hostname", "not one of its own folder"),
        ("model-00001-of-00002.safetensors", "..", "not one of its own folder"),
        ("model-00001-of-00002.safetensors", "sub/x.safetensors", "not one of its own folder"),
        ("model.embed_tokens.weight", "model.embed_tokens.other", "`model.embed_tokens.other`"),
    ] {
        let folder = copy("llama-sharded");
        let path = folder.path().join("model.safetensors.index.json");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from));
        fs::write(&path, text.replace(from, to)).unwrap();
        assert_error(&BaseCheckpoint::open(folder.path()).unwrap_err(), &[message]);
    }
    let folder = copy("llama-sharded");
    fs::copy(folder.path().join("model-00001-of-00002.safetensors"), folder.path().join("model-00002-of-00002.safetensors")).unwrap();
    assert_error(&BaseCheckpoint::open(folder.path()).unwrap_err(), &["and so has"]);
}

#[test]
fn lying_lengths_in_a_header_are_refused() {
    let folder = copy("llama-gqa-tied");
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    for length in [u64::MAX, 1 << 62, 99_999_999, bytes.len() as u64 - 7] {
        let mut damaged = bytes.clone();
        damaged[..8].copy_from_slice(&length.to_le_bytes());
        fs::write(&path, damaged).unwrap();
        assert_error(&BaseCheckpoint::open(folder.path()).unwrap_err(), &["model.safetensors", "header", &length.to_string()]);
    }
    let mut longer = bytes.clone();
    longer.push(0);
    fs::write(&path, longer).unwrap();
    assert_error(&BaseCheckpoint::open(folder.path()).unwrap_err(), &["its header says"]);
    crate::assert_memory_was_bounded();
}
