//! Hugging Face directories: one or several safetensors files beside a `config.json`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::path::{Component, Path};

use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensorError};
use serde::Deserialize;

use super::encoding::Encoding;
use super::weights::{Entry, Weights};
use crate::error::{Error, IoContext, Result};
use crate::files::{OffsetFile, read_limited};

/// What the crate `safetensors` takes at most.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Larger than the index of any model.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// Bytes of weights in one file, beyond which `transformers` and [`write_model`] begin another.
pub(crate) const MAX_SHARD_BYTES: u64 = 5_000_000_000;

/// The file of a model whose weights lie in one.
pub(crate) const SINGLE: &str = "model.safetensors";
/// The file that says in which one each tensor of the others lies.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// What an index of shards says.
#[derive(Deserialize)]
pub(crate) struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Index {
    /// Reads it.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::File`] for what is none.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = read_limited(path, MAX_INDEX_BYTES, "index")?;
        serde_json::from_slice(&text).map_err(|e| Error::file(path, format_args!("is not an index of safetensors: {e}")))
    }

    /// The files that it names, each once, in order.
    pub(crate) fn shards(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }
}

/// Opens the weights of a directory.
pub(super) fn open(folder: &Path) -> Result<Weights> {
    let mut weights = Weights { files: Vec::new(), entries: BTreeMap::new() };
    let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
    if single.exists() {
        add_file(&mut weights, &single)?;
    } else if index.exists() {
        open_shards(&mut weights, folder, &index)?;
    } else {
        return Err(Error::file(
            folder,
            format_args!("has neither {SINGLE} nor {INDEX}; other formats (pytorch_model.bin) must be converted to safetensors first"),
        ));
    }
    Ok(weights)
}

fn open_shards(weights: &mut Weights, folder: &Path, path: &Path) -> Result<()> {
    let index = Index::read(path)?;
    let mut numbers = HashMap::new();
    for shard in index.shards() {
        let mut components = Path::new(shard).components();
        if !matches!((components.next(), components.next()), (Some(Component::Normal(_)), None)) || shard.contains(['/', '\\']) {
            return Err(Error::file(path, format_args!("names the file {shard:?}, which is not one of its own folder")));
        }
        let shard_path = folder.join(shard);
        if !shard_path.exists() {
            return Err(Error::file(&shard_path, format_args!("is missing, and {INDEX} names it")));
        }
        numbers.insert(shard, weights.files.len());
        add_file(weights, &shard_path)?;
    }
    for (name, shard) in &index.weight_map {
        let found = weights.entries.get(name).map(|entry| entry.file);
        if found != numbers.get(shard.as_str()).copied() {
            return Err(Error::file(folder.join(shard), format_args!("has no tensor `{name}`, and {INDEX} says it has")));
        }
    }
    Ok(())
}

/// A safetensors file that is no whole model.
pub(crate) struct TensorFile(Weights);

impl TensorFile {
    /// Reads its header; values are read when they are asked for.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::File`] where it is damaged.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut weights = Weights { files: Vec::new(), entries: BTreeMap::new() };
        add_file(&mut weights, path)?;
        Ok(Self(weights))
    }

    /// The values of a tensor as f32, row-major.
    ///
    /// # Errors
    /// [`Error::File`] where there is none, its kind cannot be decoded or a value is not finite.
    pub(crate) fn read(&self, name: &str) -> Result<Vec<f32>> {
        match self.0.entries.get(name) {
            Some(entry) => self.0.read(name, entry),
            None => Err(Error::file(&self.0.files[0].path, format_args!("has no tensor `{name}`"))),
        }
    }
}

/// Reads the header of one file; its data are read when a tensor is asked for.
fn add_file(weights: &mut Weights, path: &Path) -> Result<()> {
    let file = OffsetFile::open(path)?;
    let (metadata, data) = read_header(&file)?;
    for (name, info) in metadata.tensors() {
        if let Some(other) = weights.entries.get(&name) {
            let other = weights.files[other.file].path.display();
            return Err(Error::file(path, format_args!("has a tensor `{name}`, and so has {other}")));
        }
        let entry = Entry {
            encoding: encoding(info.dtype),
            dtype: info.dtype.to_string(),
            shape: info.shape.clone(),
            file: weights.files.len(),
            offset: data + info.data_offsets.0 as u64,
            bytes: (info.data_offsets.1 - info.data_offsets.0) as u64,
            interleaved_heads: None,
        };
        weights.entries.insert(name, entry);
    }
    weights.files.push(file);
    Ok(())
}

/// The header of a safetensors file, checked against the file's length, and where its data begin.
fn read_header(file: &OffsetFile) -> Result<(Metadata, u64)> {
    let wrong = |message: String| Error::file(&file.path, message);
    if file.len < 8 {
        return Err(wrong(format!("is {} bytes long; a safetensors file begins with an 8-byte header length", file.len)));
    }
    let mut length = [0; 8];
    file.read_exact_at(0, &mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES || length > file.len - 8 {
        return Err(wrong(format!(
            "says its header is {length} bytes long, and the file is {}: it is cut short, or not a safetensors file",
            file.len
        )));
    }
    let mut header = vec![0; length as usize];
    file.read_exact_at(8, &mut header)?;
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| wrong(format!("has a damaged safetensors header: {e}")))?;
    let data = 8 + length;
    let expected = data + metadata.data_len() as u64;
    if expected != file.len {
        return Err(wrong(format!("is {} bytes long; its header says {expected}", file.len)));
    }
    Ok((metadata, data))
}

fn encoding(dtype: Dtype) -> Option<Encoding> {
    match dtype {
        Dtype::F32 => Some(Encoding::F32),
        Dtype::F16 => Some(Encoding::F16),
        Dtype::BF16 => Some(Encoding::Bf16),
        _ => None,
    }
}

/// Writes a model's weights into a folder: one file, or where they are more than `max_shard_bytes` several and their index, as `transformers` does.
pub(super) fn write_model(
    folder: &Path,
    tensors: &[(String, Vec<usize>)],
    half: bool,
    max_shard_bytes: u64,
    mut values: impl FnMut(&str, &[usize]) -> Result<Vec<f32>>,
) -> Result<()> {
    let bytes = |(_, shape): &(String, Vec<usize>)| shape.iter().product::<usize>() as u64 * if half { 2 } else { 4 };
    type Named = (String, Vec<usize>);
    let mut shards: Vec<(u64, &[Named])> = Vec::new();
    let (mut start, mut size) = (0, 0);
    for (index, tensor) in tensors.iter().enumerate() {
        if index > start && size + bytes(tensor) > max_shard_bytes {
            shards.push((size, &tensors[start..index]));
            (start, size) = (index, 0);
        }
        size += bytes(tensor);
    }
    shards.push((size, &tensors[start..]));
    let count = shards.len();
    let name = |number: usize| if count == 1 { SINGLE.to_owned() } else { format!("model-{number:05}-of-{count:05}.safetensors") };
    let mut weight_map = BTreeMap::new();
    for (index, (_, tensors)) in shards.iter().enumerate() {
        let file = name(index + 1);
        let path = folder.join(&file);
        let mut writer = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(&path).at(&path)?);
        write(&mut writer, &path, tensors, half, &mut values)?;
        writer.flush().at(&path)?;
        weight_map.extend(tensors.iter().map(|(tensor, _)| (tensor.clone(), file.clone())));
    }
    if count > 1 {
        let total: u64 = shards.iter().map(|(size, _)| size).sum();
        let index = serde_json::json!({"metadata": {"total_size": total}, "weight_map": weight_map});
        let path = folder.join(INDEX);
        std::fs::write(&path, format!("{index:#}\n")).at(&path)?;
    }
    Ok(())
}

/// Writes a safetensors file tensor by tensor: `values` is asked for each in turn, so that only one is in memory.
pub(super) fn write(
    writer: &mut impl Write,
    path: &Path,
    tensors: &[(String, Vec<usize>)],
    half: bool,
    mut values: impl FnMut(&str, &[usize]) -> Result<Vec<f32>>,
) -> Result<()> {
    let failed = |error: SafeTensorError| Error::file(path, format_args!("the header cannot be made: {error}"));
    let (dtype, width) = if half { (Dtype::BF16, 2) } else { (Dtype::F32, 4) };
    let mut offset = 0;
    let mut infos = Vec::with_capacity(tensors.len());
    for (name, shape) in tensors {
        let end = offset + shape.iter().product::<usize>() * width;
        infos.push((name.clone(), TensorInfo { dtype, shape: shape.clone(), data_offsets: (offset, end) }));
        offset = end;
    }
    // Without this entry `transformers` refuses the file.
    let format = HashMap::from([("format".to_string(), "pt".to_string())]);
    let metadata = Metadata::new(Some(format), infos).map_err(failed)?;
    let mut header = serde_json::to_vec(&metadata).map_err(|e| failed(e.into()))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    writer.write_all(&(header.len() as u64).to_le_bytes()).at(path)?;
    writer.write_all(&header).at(path)?;
    let mut bytes = Vec::new();
    for (name, shape) in tensors {
        for part in values(name, shape)?.chunks(1 << 18) {
            bytes.clear();
            if half {
                bytes.extend(part.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()));
            } else {
                bytes.extend(part.iter().flat_map(|v| v.to_le_bytes()));
            }
            writer.write_all(&bytes).at(path)?;
        }
    }
    Ok(())
}
