use std::fs;

use treering::checkpoint::rope::{RopeScaling, inverse_frequencies};
use treering::checkpoint::{BaseCheckpoint, Dtype};

use crate::gguf_writer::{Writer, array};
use crate::huggingface::all_tensors;
use crate::{assert_error, fixture};

fn open(writer: &Writer) -> Result<BaseCheckpoint, treering::Error> {
    open_bytes(&writer.bytes())
}

fn open_bytes(bytes: &[u8]) -> Result<BaseCheckpoint, treering::Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    BaseCheckpoint::open(&path)
}

#[test]
fn tensors_are_what_the_gguf_package_decodes() {
    let base = BaseCheckpoint::open(fixture("tiny.gguf")).unwrap();
    let bytes = fs::read(fixture("tiny-gguf-expected.safetensors")).unwrap();
    let expected = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for (name, view) in expected.iter() {
        let values: Vec<f32> = view.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(base.tensor(name, view.shape()).unwrap(), values, "{name}");
    }
    // The embedding is not among the expected values, the frequency factors are no tensor of the model.
    assert_eq!(base.tensor_infos().len(), expected.len() + 1);
    let dtypes: Vec<_> = base.tensor_infos().into_iter().map(|info| info.dtype).collect();
    for dtype in ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"] {
        assert!(dtypes.iter().any(|d| d == dtype), "{dtype}");
    }
}

#[test]
fn the_configuration_is_that_of_the_metadata() {
    let base = BaseCheckpoint::open(fixture("tiny.gguf")).unwrap();
    let config = base.config();
    assert_eq!((config.hidden_size, config.intermediate_size, config.num_hidden_layers), (32, 64, 1));
    assert_eq!((config.num_attention_heads, config.num_key_value_heads, config.head_dim), (4, 2, 8));
    assert_eq!((config.rms_norm_eps, config.rope_theta, config.max_position_embeddings), (1e-5, 500000.0, 256));
    assert!(config.tie_word_embeddings && !config.attention_bias && !config.mlp_bias);
    assert_eq!((config.bos_token_id, config.eos_token_id.as_slice(), config.pad_token_id), (Some(1), &[2][..], Some(2)));
}

#[test]
fn frequency_factors_of_llama3_become_its_scaling() {
    let base = BaseCheckpoint::open(fixture("tiny.gguf")).unwrap();
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } = base.config().rope_scaling
    else {
        panic!("{:?}", base.config().rope_scaling);
    };
    assert_eq!((factor, low_freq_factor, high_freq_factor, original_max_position_embeddings), (32.0, 1.0, 4.0, 8192));
}

#[test]
fn other_frequency_factors_divide_the_frequencies() {
    let mut writer = Writer::llama_with_embedding(4);
    writer.f32_tensor("rope_freqs.weight", &[2], &[1.5, 3.0]);
    let base = open(&writer).unwrap();
    let (found, factor) = inverse_frequencies(base.config());
    assert_eq!((found, factor), (vec![1.0 / 1.5, 1.0 / 300.0], 1.0));
    let mut writer = Writer::llama_with_embedding(4);
    writer.f32_tensor("rope_freqs.weight", &[3], &[1.0; 3]);
    assert_error(&open(&writer).unwrap_err(), &["3 frequency factors"]);
}

#[test]
fn rope_scaling_is_read() {
    let mut writer = Writer::llama_with_embedding(4);
    writer.text("llama.rope.scaling.type", "linear");
    writer.f32("llama.rope.scaling.factor", 4.0);
    assert_eq!(open(&writer).unwrap().config().rope_scaling, RopeScaling::Linear { factor: 4.0 });
    let mut writer = Writer::llama_with_embedding(4);
    writer.text("llama.rope.scaling.type", "yarn");
    writer.f32("llama.rope.scaling.factor", 4.0);
    writer.u32("llama.rope.scaling.original_context_length", 16);
    let base = open(&writer).unwrap();
    let RopeScaling::Yarn(yarn) = &base.config().rope_scaling else { panic!() };
    assert_eq!((yarn.factor, yarn.original_max_position_embeddings, yarn.beta_fast, yarn.beta_slow), (4.0, 16, 32.0, 1.0));
    // Found by fuzzing: what no config.json may say would not be read back from one.
    let mut writer = Writer::llama_with_embedding(4);
    writer.text("llama.rope.scaling.type", "yarn");
    writer.f32("llama.rope.scaling.factor", 4.0);
    writer.u32("llama.rope.scaling.original_context_length", (1 << 31) + 1);
    let error = open(&writer).unwrap_err().to_string();
    assert!(error.contains("`original_max_position_embeddings` is 2147483649; a whole number from 1 to 2147483648"), "{error}");
}

#[test]
fn query_and_key_rows_and_biases_are_put_back_in_order() {
    // Two heads of four rows: GGUF keeps rows 0 2 1 3 of each (pairs side by side).
    let mut writer = Writer::llama_with_embedding(4);
    let stored: Vec<f32> = [0, 2, 1, 3, 4, 6, 5, 7].iter().flat_map(|&row| [row as f32; 8]).collect();
    writer.f32_tensor("blk.0.attn_q.weight", &[8, 8], &stored);
    writer.f32_tensor("blk.0.attn_q.bias", &[8], &[0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
    writer.f32_tensor("blk.0.attn_v.weight", &[8, 4], &stored[..32]);
    let base = open(&writer);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    writer.write(&path);
    assert!(base.unwrap().config().attention_bias);
    let base = BaseCheckpoint::open(&path).unwrap();
    let rows = |name: &str, shape: &[usize]| -> Vec<f32> {
        base.tensor(name, shape).unwrap().chunks(shape.get(1).copied().unwrap_or(1)).map(|r| r[0]).collect()
    };
    assert_eq!(rows("model.layers.0.self_attn.q_proj.weight", &[8, 8]), [0., 1., 2., 3., 4., 5., 6., 7.]);
    assert_eq!(rows("model.layers.0.self_attn.q_proj.bias", &[8]), [0., 1., 2., 3., 4., 5., 6., 7.]);
    assert_eq!(rows("model.layers.0.self_attn.v_proj.weight", &[4, 8]), [0., 2., 1., 3.]);
}

#[test]
fn a_gguf_saved_as_a_directory_keeps_weights_configuration_and_tokens() {
    let base = BaseCheckpoint::open(fixture("tiny.gguf")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hf");
    base.save_hf(&path, Dtype::F32).unwrap();
    let saved = BaseCheckpoint::open(&path).unwrap();
    assert_eq!(saved.config(), base.config());
    assert_eq!(all_tensors(&saved), all_tensors(&base));
    let (saved, base) = (saved.tokenizer().unwrap(), base.tokenizer().unwrap());
    assert_eq!(saved.to_json().unwrap(), base.to_json().unwrap());
    assert_eq!(saved.sha256().unwrap(), base.sha256().unwrap());
    assert_eq!((saved.bos_token_id(), saved.eos_token_id()), (Some(1), Some(2)));
}

/// A model as a converter stores it whose architecture turns no rows round: metadata and tensors under that architecture's names.
fn converted(base: &BaseCheckpoint, architecture: &str) -> Writer {
    let (mut writer, c) = (Writer::default(), base.config());
    writer.text("general.architecture", architecture);
    for (key, value) in [
        ("embedding_length", c.hidden_size),
        ("feed_forward_length", c.intermediate_size),
        ("block_count", c.num_hidden_layers),
        ("attention.head_count", c.num_attention_heads),
        ("attention.head_count_kv", c.num_key_value_heads),
        ("attention.key_length", c.head_dim),
        ("context_length", c.max_position_embeddings),
    ] {
        writer.u32(&format!("{architecture}.{key}"), value as u32);
    }
    writer.f32(&format!("{architecture}.attention.layer_norm_rms_epsilon"), c.rms_norm_eps as f32);
    writer.f32(&format!("{architecture}.rope.freq_base"), c.rope_theta as f32);
    writer.u32("tokenizer.ggml.bos_token_id", 1);
    writer.u32("tokenizer.ggml.eos_token_id", 2);
    let post = architecture == "olmo2";
    for (name, (shape, values)) in all_tensors(base) {
        let stored = name
            .replace("model.layers.", "blk.")
            .replace("model.embed_tokens", "token_embd")
            .replace("model.norm", "output_norm")
            .replace("lm_head", "output")
            .replace("input_layernorm", "attn_norm")
            .replace("post_attention_layernorm", if post { "post_attention_norm" } else { "ffn_norm" })
            .replace("post_feedforward_layernorm", "post_ffw_norm")
            .replace("self_attn.o_proj", "attn_output")
            .replace("mlp.", "ffn_")
            .replace("self_attn.", "attn_")
            .replace("_proj", "");
        let dimensions: Vec<u64> = shape.iter().rev().map(|&n| n as u64).collect();
        writer.f32_tensor(&stored, &dimensions, &values);
    }
    writer
}

#[test]
fn every_architecture_with_known_names_is_the_model_of_its_directory() {
    for (name, architecture) in [("qwen2", "qwen2"), ("qwen3", "qwen3"), ("olmo2", "olmo2"), ("olmo2-bias", "olmo2")] {
        let directory = BaseCheckpoint::open(fixture(&format!("family-{name}"))).unwrap();
        let writer = converted(&directory, architecture);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        writer.write(&path);
        let base = BaseCheckpoint::open(&path).unwrap();
        assert_eq!(base.config(), directory.config(), "{name}");
        assert_eq!(all_tensors(&base), all_tensors(&directory), "{name}");
    }
    // OLMo-3 is stored under OLMo-2's name and has a window in some of its layers.
    let mut writer = converted(&BaseCheckpoint::open(fixture("family-olmo2")).unwrap(), "olmo2");
    writer.u32("olmo2.attention.sliding_window", 4096);
    assert_error(&open(&writer).unwrap_err(), &["`olmo2.attention.sliding_window` is 4096"]);
    let mut writer = converted(&BaseCheckpoint::open(fixture("family-qwen2")).unwrap(), "qwen2");
    writer.f32_tensor("blk.0.attn_q_norm.weight", &[4], &[1.0; 4]);
    assert_error(&open(&writer).unwrap_err(), &["`blk.0.attn_q_norm.weight`, which no plain Qwen2 model has"]);
}

#[test]
fn what_is_not_a_plain_llama_is_refused_by_name() {
    let change = |change: &dyn Fn(&mut Writer), message: &str| {
        let mut writer = Writer::llama_with_embedding(4);
        change(&mut writer);
        assert_error(&open(&writer).unwrap_err(), &["model.gguf", message]);
    };
    change(&|w| w.u32("llama.expert_count", 8), "8 experts");
    change(&|w| w.u32("llama.rope.dimension_count", 2), "`llama.rope.dimension_count` is 2");
    change(&|w| w.text("llama.rope.scaling.type", "longrope"), "\"longrope\"");
    change(&|w| w.f32_tensor("blk.0.attn_q_norm.weight", &[4], &[1.0; 4]), "`blk.0.attn_q_norm.weight`");
    change(&|w| w.f32_tensor("blk.00.attn_norm.weight", &[8], &[1.0; 8]), "`blk.00.attn_norm.weight`");
    change(&|w| w.tensor("output.weight", &[8, 4], 16, vec![0; 32]), "GGUF's kind 16");
    change(&|w| w.u32("llama.vocab_size", 5), "`llama.vocab_size` is 5");
    change(&|w| w.u32("general.alignment", 24), "`general.alignment` is 24");
    change(&|w| w.text("general.architecture", "llama"), "`general.architecture` twice");
    let mut writer = Writer::default();
    writer.text("general.architecture", "gemma3");
    assert_error(&open(&writer).unwrap_err(), &["\"gemma3\"; what can be read from a GGUF file is llama, qwen2, qwen3, olmo2"]);
    assert_error(&open(&Writer::llama()).unwrap_err(), &["token_embd.weight"]);
}

#[test]
fn the_hash_does_not_take_interleaved_rows_for_plain_ones() {
    let base = BaseCheckpoint::open(fixture("tiny.gguf")).unwrap();
    let again = BaseCheckpoint::open(fixture("tiny.gguf")).unwrap();
    assert_eq!(base.sha256().unwrap(), again.sha256().unwrap());
    let copy = BaseCheckpoint::from_memory(base.config().clone(), all_tensors(&base), None).unwrap();
    assert_ne!(base.sha256().unwrap(), copy.sha256().unwrap());
}

#[test]
fn lying_sizes_are_refused_before_memory_is_taken() {
    let tensor = |dimensions: &[u64], kind| {
        let mut writer = Writer::llama();
        writer.tensor("token_embd.weight", dimensions, kind, vec![0; 64]);
        writer.bytes()
    };
    let pair = |kind: u32, value: &[u8]| {
        let mut writer = Writer::llama_with_embedding(4);
        writer.raw("x", kind, value);
        writer.bytes()
    };
    let patched = |at: usize, value: u64| {
        let mut bytes = Writer::llama_with_embedding(4).bytes();
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    for (bytes, message) in [
        (tensor(&[u64::MAX, u64::MAX], 0), "cannot have the shape"),
        (tensor(&[1 << 40, 1], 0), "beyond the end"),
        (tensor(&[1 << 32, 1 << 32], 2), "cannot have the shape"),
        (tensor(&[8, 0], 0), "cannot have the shape"),
        (tensor(&[8, 4], 2), "cannot have the shape"),
        (tensor(&[1, 1, 1, 1, 1], 0), "5 dimensions"),
        (tensor(&[], 0), "0 dimensions"),
        (patched(8, u64::MAX), "tensors"),
        (patched(16, u64::MAX), "metadata pairs"),
        (patched(24, u64::MAX), "bytes long"),
        (patched(24, 60_000), "60000 bytes"),
        (pair(8, &u64::MAX.to_le_bytes()), "bytes long"),
        (pair(8, &(15u64 << 20).to_le_bytes()), "cut short"),
        (pair(9, &array(10, u64::MAX)), "an array of"),
        (pair(9, &array(8, 1 << 40)), "an array of"),
        (pair(9, &array(9, 1 << 40)), "an array of"),
        (pair(9, &[array(9, 1), array(9, 1), array(9, 1), array(9, 1), array(9, 1), array(0, 0)].concat()), "unknown kind 9"),
        (pair(13, &[0; 8]), "unknown kind 13"),
    ] {
        assert_error(&open_bytes(&bytes).unwrap_err(), &["model.gguf", message]);
    }
    // Nor is time: layers that no tensor belongs to are not counted through.
    let count = Writer::llama_with_embedding(4).bytes();
    let at = count.windows(17).position(|w| w == b"llama.block_count").unwrap() + 17 + 4;
    let mut damaged = count.clone();
    damaged[at..at + 4].copy_from_slice(&(1u32 << 30).to_le_bytes());
    assert_error(&open_bytes(&damaged).unwrap_err(), &["model.gguf", "1073741824"]);
    crate::assert_memory_was_bounded();
}

#[test]
fn only_versions_2_and_3_in_little_endian_are_read() {
    let with_version = |version: [u8; 4]| {
        let mut bytes = Writer::llama_with_embedding(4).bytes();
        bytes[4..8].copy_from_slice(&version);
        open_bytes(&bytes)
    };
    assert!(with_version([2, 0, 0, 0]).is_ok() && with_version([3, 0, 0, 0]).is_ok());
    assert_error(&with_version([1, 0, 0, 0]).unwrap_err(), &["version 1"]);
    assert_error(&with_version([0, 0, 0, 3]).unwrap_err(), &["big-endian"]);
}

#[test]
fn overlapping_tensors_are_refused() {
    let mut writer = Writer::llama_with_embedding(4);
    writer.f32_tensor("output_norm.weight", &[8], &[1.0; 8]);
    let mut bytes = writer.bytes();
    // The second tensor's offset, 128, is the last number before the padding.
    let at = bytes.windows(8).rposition(|w| w == 128u64.to_le_bytes()).unwrap();
    bytes[at..at + 8].copy_from_slice(&32u64.to_le_bytes());
    assert_error(&open_bytes(&bytes).unwrap_err(), &["overlaps"]);
    bytes[at..at + 8].copy_from_slice(&8u64.to_le_bytes());
    assert_error(&open_bytes(&bytes).unwrap_err(), &["not a multiple of 32"]);
}
