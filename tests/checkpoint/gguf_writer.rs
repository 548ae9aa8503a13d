//! A writer of small GGUF files, true or lying.

use std::path::Path;

#[derive(Default)]
pub struct Writer {
    pairs: Vec<u8>,
    pair_count: u64,
    tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl Writer {
    /// A Llama of one layer, 8 wide, with two heads and no tensor.
    pub fn llama() -> Self {
        let mut writer = Self::default();
        writer.text("general.architecture", "llama");
        for (key, value) in [
            ("embedding_length", 8),
            ("feed_forward_length", 8),
            ("block_count", 1),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
            ("context_length", 64),
        ] {
            writer.u32(&format!("llama.{key}"), value);
        }
        writer.f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
        writer
    }

    /// With an embedding of `rows` tokens too: enough to be opened.
    pub fn llama_with_embedding(rows: usize) -> Self {
        let mut writer = Self::llama();
        writer.tensor("token_embd.weight", &[8, rows as u64], 0, vec![0; rows * 32]);
        writer
    }

    pub fn raw(&mut self, key: &str, kind: u32, value: &[u8]) {
        string(&mut self.pairs, key);
        self.pairs.extend(kind.to_le_bytes());
        self.pairs.extend(value);
        self.pair_count += 1;
    }

    pub fn u32(&mut self, key: &str, value: u32) {
        self.raw(key, 4, &value.to_le_bytes());
    }

    pub fn f32(&mut self, key: &str, value: f32) {
        self.raw(key, 6, &value.to_le_bytes());
    }

    pub fn bool(&mut self, key: &str, value: bool) {
        self.raw(key, 7, &[u8::from(value)]);
    }

    pub fn text(&mut self, key: &str, value: &str) {
        let mut bytes = Vec::new();
        string(&mut bytes, value);
        self.raw(key, 8, &bytes);
    }

    pub fn texts(&mut self, key: &str, values: &[String]) {
        let mut bytes = array(8, values.len() as u64);
        values.iter().for_each(|value| string(&mut bytes, value));
        self.raw(key, 9, &bytes);
    }

    pub fn i32s(&mut self, key: &str, values: &[i32]) {
        let mut bytes = array(5, values.len() as u64);
        bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        self.raw(key, 9, &bytes);
    }

    pub fn f32s(&mut self, key: &str, values: &[f32]) {
        let mut bytes = array(6, values.len() as u64);
        bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        self.raw(key, 9, &bytes);
    }

    /// `dimensions` in GGUF's order: the one that lies together first.
    pub fn tensor(&mut self, name: &str, dimensions: &[u64], kind: u32, data: Vec<u8>) {
        self.tensors.push((name.into(), dimensions.to_vec(), kind, data));
    }

    pub fn f32_tensor(&mut self, name: &str, dimensions: &[u64], values: &[f32]) {
        self.tensor(name, dimensions, 0, values.iter().flat_map(|v| v.to_le_bytes()).collect());
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend(self.pair_count.to_le_bytes());
        out.extend(&self.pairs);
        let mut data = Vec::new();
        for (name, dimensions, kind, bytes) in &self.tensors {
            string(&mut out, name);
            out.extend((dimensions.len() as u32).to_le_bytes());
            out.extend(dimensions.iter().flat_map(|d| d.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend((data.len() as u64).to_le_bytes());
            data.extend(bytes);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        out
    }

    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.bytes()).unwrap();
    }
}

/// The beginning of an array of so many values.
pub fn array(kind: u32, count: u64) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend(count.to_le_bytes());
    bytes
}
