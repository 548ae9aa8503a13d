//! Headers that claim more than there can be: an error within a millisecond and a megabyte. And paths that lead elsewhere.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use treering::checkpoint::{BaseCheckpoint, Config};
use treering::grow::file::{list_parameters, load_parameters};

use crate::huggingface::copy;
use crate::{fixture, largest_piece};

const HUGE: u64 = 1 << 60;

/// Does something that must fail, often enough to see how long it takes when nothing else runs.
#[track_caller]
fn refused_at_once(what: &str, work: impl Fn() -> treering::Result<()>) {
    let mut best = Duration::MAX;
    for _ in 0..30 {
        let start = Instant::now();
        let (result, largest) = largest_piece(&work);
        best = best.min(start.elapsed());
        let error = result.expect_err(what);
        assert_eq!(error.exit_code(), 1, "{what}: {error}");
        // The readers' own buffers are up to a mebibyte, whatever the file says.
        assert!(largest <= 1 << 20, "{what}: {largest} bytes were asked for at once");
    }
    assert!(best <= Duration::from_millis(1), "{what}: {best:?}");
}

fn safetensors(header: &str, length: Option<u64>) -> Vec<u8> {
    let mut bytes = length.unwrap_or(header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(&[0; 64]);
    bytes
}

#[test]
fn a_safetensors_header_that_claims_everything_costs_nothing() {
    let folder = copy("llama-gqa-tied");
    let path = folder.path().join("model.safetensors");
    let tensor = |shape: String, end: u64| format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{end}]}}}}"#);
    let headers = [
        safetensors("{}", Some(HUGE)),
        safetensors("{}", Some(u64::MAX)),
        safetensors("{}", Some(99_999_999)),
        safetensors(&tensor(format!("[{HUGE}]"), 4 * HUGE), None),
        safetensors(&tensor(format!("[{HUGE}]"), 64), None),
        safetensors(&tensor("[1073741824,1073741824]".into(), HUGE), None),
        safetensors(&tensor("[4294967296,4294967296,4294967296]".into(), 64), None),
        safetensors(&tensor(format!("[0,{HUGE}]"), 64), None),
    ];
    for (index, bytes) in headers.iter().enumerate() {
        fs::write(&path, bytes).unwrap();
        refused_at_once(&format!("model {index}"), || BaseCheckpoint::open(folder.path()).map(drop));
        refused_at_once(&format!("trained blocks {index}"), || load_parameters(&path, None).map(drop));
        refused_at_once(&format!("list of blocks {index}"), || list_parameters(&path).map(drop));
    }
}

#[test]
fn a_gguf_header_that_claims_everything_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    let start = |tensors: u64, pairs: u64| {
        [b"GGUF".to_vec(), 3u32.to_le_bytes().to_vec(), tensors.to_le_bytes().to_vec(), pairs.to_le_bytes().to_vec()].concat()
    };
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    };
    let mut files = vec![start(HUGE, 0), start(0, HUGE), start(u64::MAX, u64::MAX)];
    let mut key = start(0, 1);
    key.extend(HUGE.to_le_bytes());
    files.push(key);
    // A text, an array of numbers, an array of texts, an array of arrays.
    for value in [vec![8u32], vec![9, 4], vec![9, 8], vec![9, 9]] {
        let mut bytes = start(0, 1);
        text(&mut bytes, "a");
        value.iter().for_each(|kind| bytes.extend(kind.to_le_bytes()));
        bytes.extend(HUGE.to_le_bytes());
        files.push(bytes);
    }
    for shape in [vec![HUGE], vec![1 << 30, 1 << 30], vec![u64::MAX, 2], vec![1 << 32, 1 << 32, 1 << 32, 1 << 32]] {
        let mut bytes = start(1, 0);
        text(&mut bytes, "token_embd.weight");
        bytes.extend((shape.len() as u32).to_le_bytes());
        shape.iter().for_each(|size| bytes.extend(size.to_le_bytes()));
        bytes.extend([0; 12]);
        files.push(bytes);
    }
    for (index, bytes) in files.iter().enumerate() {
        let padded = [&bytes[..], &[0; 256]].concat();
        fs::write(&path, padded).unwrap();
        refused_at_once(&format!("GGUF {index}"), || BaseCheckpoint::open(&path).map(drop));
    }
}

#[test]
fn a_configuration_that_claims_everything_costs_nothing() {
    let folder = copy("llama-gqa-tied");
    let path = folder.path().join("config.json");
    let good: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    for key in
        ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"]
    {
        let mut config = good.clone();
        config[key] = HUGE.into();
        fs::write(&path, config.to_string()).unwrap();
        refused_at_once(key, || Config::from_file(&path).map(drop));
    }
    // As many layers as other sizes may be; each would be listed.
    let mut config = good.clone();
    config["num_hidden_layers"] = (1 << 30).into();
    fs::write(&path, config.to_string()).unwrap();
    refused_at_once("layers", || Config::from_file(&path).map(drop));
}

/// What is larger than any such file is refused by its length, before it is read.
#[test]
fn files_that_are_larger_than_any_of_their_kind_are_not_read() {
    let folder = copy("llama-gqa-tied");
    for (name, open) in [
        ("config.json", (|path: &Path| Config::from_file(path).map(drop)) as fn(&Path) -> treering::Result<()>),
        ("tokenizer.json", |path| treering::tokenizer::Tokenizer::from_file(path).map(drop)),
        ("treering.json", |path| treering::grow::file::load_manifest(path.parent().unwrap()).map(drop)),
    ] {
        let path = folder.path().join(name);
        // Holes take no room on the disk.
        fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let (result, largest) = largest_piece(|| open(&path));
        let error = result.unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("larger than") && largest <= 1 << 20, "{largest}: {error}");
    }
}

#[test]
fn no_name_in_an_index_leads_out_of_its_folder() {
    let folder = copy("llama-sharded");
    let index = folder.path().join("model.safetensors.index.json");
    let outside = folder.path().parent().unwrap().join("outside.safetensors");
    fs::copy(fixture("llama-gqa-tied").join("model.safetensors"), &outside).unwrap();
    let absolute = outside.to_str().unwrap().to_string();
    for name in [
        "../outside.safetensors",
        "./../outside.safetensors",
        "a/../../outside.safetensors",
        "..",
        ".",
        "",
        "/etc/passwd",
        &absolute,
        "a\\..\\b",
    ] {
        fs::write(&index, serde_json::json!({"metadata": {}, "weight_map": {"model.norm.weight": name}}).to_string()).unwrap();
        let error = BaseCheckpoint::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("not one of its own folder"), "{name}: {error}");
    }
    fs::remove_file(outside).unwrap();
}
