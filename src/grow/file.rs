//! Trained blocks on disk: `save_parameters` and `load_parameters` for any set of them, [`Expansion`] for a whole folder.
//!
//! A file is safetensors, every tensor F32 under its name of [`crate::checkpoint::names`]. docs/format.md describes it.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::{Deserialize, Serialize};

use crate::checkpoint::{Config, atomic};
use crate::error::{Error, IoContext, Result};
use crate::files::read_limited_text;
use crate::grow::initialisation::Initialisation;
use crate::grow::layout::{self, Expected};
use crate::grow::ring::{self, Ring, RingReference, Standing};
use crate::grow::sizes::Growth;
use crate::model::Parameter;

/// Version of the layout of expansion files; a reader refuses what is newer. Of files without rings within, version 1 says all there is to say.
pub const FORMAT_VERSION: u32 = 3;

/// The tensors of an expansion folder.
pub const EXPANSION_FILE: &str = "expansion.safetensors";

/// The description of an expansion folder, also kept inside the tensors' file under [`METADATA_KEY`].
pub const MANIFEST_FILE: &str = "treering.json";

/// The key of the safetensors metadata that holds the manifest.
pub const METADATA_KEY: &str = "treering";

/// The key of the safetensors metadata that holds the hash of the values, so that damaged ones are noticed.
pub const HASH_KEY: &str = "treering.sha256";

/// Longest header read: safetensors' own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Longest manifest read.
const MAX_MANIFEST_BYTES: u64 = 16 << 20;

/// Text beside the tensors of a file.
pub type FileMetadata = BTreeMap<String, String>;

/// The base that an expansion grew around.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseReference {
    /// Where it was when the file was written.
    pub path: PathBuf,
    /// SHA-256 of it, as [`crate::checkpoint::BaseCheckpoint::sha256`] computes it.
    pub sha256: String,
}

/// What an expansion is, beside its values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The oldest version that has all of this: 1, 2 where there are rings within, 3 where the placement is [more](crate::grow::Placement::is_of_paper) than the paper's.
    pub format_version: u32,
    /// Sizes and placement.
    pub growth: Growth,
    /// What W21 and W22 started from.
    pub init: Initialisation,
    /// The seed of random values.
    pub seed: u64,
    /// The base around which it grew.
    pub base: BaseReference,
    /// The rings within, from the innermost out; empty for a first ring.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rings: Vec<RingReference>,
    /// Number of values in the file, so that a mix-up is noticed.
    pub parameter_count: usize,
}

impl Manifest {
    /// The description of `parameters`, which stand on `standing`.
    pub fn new(growth: Growth, init: Initialisation, seed: u64, standing: Standing, parameters: &[Parameter]) -> Self {
        let Standing { base, rings } = standing;
        let parameter_count = parameters.iter().map(|p| p.value.len()).sum();
        let format_version = if growth.placement.is_of_paper() { format_version(&rings) } else { FORMAT_VERSION };
        Self { format_version, growth, init, seed, base, rings, parameter_count }
    }

    /// What it stands on.
    pub fn standing(&self) -> Standing {
        Standing { base: self.base.clone(), rings: self.rings.clone() }
    }
}

/// The oldest version of the layout that can say what stands on these rings.
pub fn format_version(rings: &[RingReference]) -> u32 {
    if rings.is_empty() { 1 } else { 2 }
}

/// An expansion as it is kept in a folder of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Expansion {
    /// What it is.
    pub manifest: Manifest,
    /// Its values, in the order of [`layout::ring_parameters`].
    pub parameters: Vec<Parameter>,
}

/// Writes parameters and metadata to one safetensors file, atomically. The bytes depend on nothing but the arguments.
///
/// # Errors
/// [`Error::Io`], and [`Error::File`] for two parameters of one name or a shape that does not fit its values.
pub fn save_parameters(path: impl AsRef<Path>, parameters: &[Parameter], metadata: &FileMetadata) -> Result<()> {
    let path = path.as_ref();
    let mut tensors = serde_json::Map::new();
    if !metadata.is_empty() {
        tensors.insert("__metadata__".into(), serde_json::json!(metadata));
    }
    let mut start = 0usize;
    for Parameter { name, shape, value, .. } in parameters {
        if shape.iter().product::<usize>() != value.len() {
            return Err(Error::file(path, format!("`{name}` has {} values for shape {shape:?}; nothing was written", value.len())));
        }
        let end = start + value.len() * size_of::<f32>();
        let info = TensorInfo { dtype: Dtype::F32, shape: shape.clone(), data_offsets: (start, end) };
        if tensors.insert(name.clone(), serde_json::json!(info)).is_some() {
            return Err(Error::file(path, format!("two parameters are named `{name}`; nothing was written")));
        }
        start = end;
    }
    let mut header = serde_json::Value::Object(tensors).to_string().into_bytes();
    // The tensors start at a multiple of eight bytes, so that readers may map them.
    header.resize(header.len().next_multiple_of(8), b' ');
    if header.len() as u64 > MAX_HEADER_BYTES {
        return Err(Error::file(
            path,
            format!("a header of {} bytes is longer than safetensors allows; nothing was written", header.len()),
        ));
    }
    atomic::write_file(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes()).at(path)?;
        out.write_all(&header).at(path)?;
        let mut bytes = Vec::new();
        for values in parameters.iter().flat_map(|p| p.value.chunks(1 << 16)) {
            bytes.clear();
            bytes.extend(values.iter().flat_map(|x| x.to_le_bytes()));
            out.write_all(&bytes).at(path)?;
        }
        Ok(())
    })
}

/// Reads a file of [`save_parameters`]. With `expected`, the file must hold exactly those, and they come in that order;
/// without, all come in the order of the file.
///
/// # Errors
/// [`Error::Io`], and [`Error::File`] naming the tensor that is missing, surplus, misshapen, not F32 or not finite, or what is wrong with the header.
pub fn load_parameters(path: impl AsRef<Path>, expected: Option<&[Expected]>) -> Result<(Vec<Parameter>, FileMetadata)> {
    let path = path.as_ref();
    let mut reader = Reader::open(path)?;
    if let Some(expected) = expected {
        check_names(path, &reader.tensors, expected)?;
    }
    let mut parameters = Vec::with_capacity(reader.tensors.len());
    for (name, info) in std::mem::take(&mut reader.tensors) {
        parameters.push(reader.parameter(name, info)?);
    }
    if let Some(expected) = expected {
        let order: HashMap<&str, usize> = expected.iter().enumerate().map(|(i, e)| (e.name.as_str(), i)).collect();
        parameters.sort_by_key(|p| order.get(p.name.as_str()).copied());
    }
    Ok((parameters, reader.metadata))
}

/// What a file of [`save_parameters`] holds, by its header alone: names, blocks and shapes in the order of the file, and the metadata.
///
/// # Errors
/// As [`load_parameters`] for the header.
pub fn list_parameters(path: impl AsRef<Path>) -> Result<(Vec<Expected>, FileMetadata)> {
    let reader = Reader::open(path.as_ref())?;
    let expected = reader.tensors.into_iter().map(|(name, info)| Expected { block: layout::block_of(&name), name, shape: info.shape });
    Ok((expected.collect(), reader.metadata))
}

/// A file whose header was checked against its length.
struct Reader<'a> {
    path: &'a Path,
    file: BufReader<File>,
    metadata: FileMetadata,
    /// In the order of the data, without gaps.
    tensors: Vec<(String, TensorInfo)>,
}

impl<'a> Reader<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let file = File::open(path).at(path)?;
        let length = file.metadata().at(path)?.len();
        let mut file = BufReader::with_capacity(1 << 20, file);
        let truncated =
            |what: &str| Error::file(path, format!("the file ends within {what} ({length} bytes): it is truncated or no safetensors file"));
        if length < 8 {
            return Err(truncated("the header's length"));
        }
        let mut word = [0; 8];
        file.read_exact(&mut word).at(path)?;
        let header_bytes = u64::from_le_bytes(word);
        if header_bytes > MAX_HEADER_BYTES {
            return Err(Error::file(path, format!("a header of {header_bytes} bytes: this is no safetensors file")));
        }
        if header_bytes > length - 8 {
            return Err(truncated("the header"));
        }
        let mut header = vec![0; header_bytes as usize];
        file.read_exact(&mut header).at(path)?;
        let header: Metadata =
            serde_json::from_slice(&header).map_err(|error| Error::file(path, format!("the safetensors header does not hold: {error}")))?;
        let mut tensors: Vec<(String, TensorInfo)> = header.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        tensors.sort_by_key(|(_, info)| info.data_offsets);
        // Offsets start at 0 and have no gaps: `Metadata` refused everything else.
        let data_bytes = tensors.last().map_or(0, |(_, info)| info.data_offsets.1) as u64;
        let found = length - 8 - header_bytes;
        if found != data_bytes {
            return Err(Error::file(
                path,
                format!("the header announces {data_bytes} bytes of tensors, the file has {found}: it is truncated or damaged"),
            ));
        }
        let metadata = header.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
        Ok(Self { path, file, metadata, tensors })
    }

    /// Reads the next tensor of the file.
    fn parameter(&mut self, name: String, info: TensorInfo) -> Result<Parameter> {
        if info.dtype != Dtype::F32 {
            return Err(Error::file(self.path, format!("`{name}` is {:?}; trained blocks are kept in F32", info.dtype)));
        }
        // No larger than the file, as `open` has checked.
        let count = (info.data_offsets.1 - info.data_offsets.0) / size_of::<f32>();
        let mut value = Vec::with_capacity(count);
        let mut bytes = vec![0; count.min(1 << 16) * size_of::<f32>()];
        while value.len() < count {
            let next = (count - value.len()).min(1 << 16) * size_of::<f32>();
            self.file.read_exact(&mut bytes[..next]).at(self.path)?;
            value.extend(bytes[..next].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)));
        }
        if let Some(at) = value.iter().position(|x| !x.is_finite()) {
            return Err(Error::file(self.path, format!("`{name}` holds {} at position {at}: the file is damaged", value[at])));
        }
        Ok(Parameter { block: layout::block_of(&name), name, shape: info.shape, value })
    }
}

fn check_names(path: &Path, tensors: &[(String, TensorInfo)], expected: &[Expected]) -> Result<()> {
    let found: HashMap<&str, &TensorInfo> = tensors.iter().map(|(name, info)| (name.as_str(), info)).collect();
    for Expected { name, shape, .. } in expected {
        let Some(info) = found.get(name.as_str()) else {
            return Err(Error::file(path, format!("`{name}` {shape:?} is missing: the file belongs to another model or other sizes")));
        };
        if &info.shape != shape {
            return Err(Error::file(
                path,
                format!("`{name}` has shape {:?}, expected {shape:?}: the file belongs to another model or other sizes", info.shape),
            ));
        }
    }
    if found.len() > expected.len() {
        let known: std::collections::HashSet<&str> = expected.iter().map(|e| e.name.as_str()).collect();
        if let Some((name, info)) = tensors.iter().find(|(name, _)| !known.contains(name.as_str())) {
            return Err(Error::file(
                path,
                format!("`{name}` {:?} has no place in this model: the file belongs to another model or method", info.shape),
            ));
        }
    }
    Ok(())
}

/// Writes an expansion to a new folder, atomically: [`EXPANSION_FILE`] and [`MANIFEST_FILE`].
///
/// # Errors
/// [`Error::Io`], also where the folder is there already and not empty.
pub fn save(folder: impl AsRef<Path>, expansion: &Expansion) -> Result<()> {
    atomic::write_dir(folder, |folder| write_into(folder, expansion))
}

/// Writes the two files of an expansion into a folder that is being made.
pub(crate) fn write_into(folder: &Path, Expansion { manifest, parameters }: &Expansion) -> Result<()> {
    let path = folder.join(MANIFEST_FILE);
    let json = |error| Error::file(&path, format!("the manifest cannot be written as JSON: {error}"));
    let metadata = FileMetadata::from([
        ("format".into(), "pt".into()),
        (METADATA_KEY.into(), serde_json::to_string(manifest).map_err(json)?),
        (HASH_KEY.into(), ring::sha256(parameters)),
    ]);
    save_parameters(folder.join(EXPANSION_FILE), parameters, &metadata)?;
    let text = serde_json::to_string_pretty(manifest).map_err(json)? + "\n";
    atomic::write_file(&path, |out| out.write_all(text.as_bytes()).at(&path))
}

/// Reads the manifest of an expansion folder.
///
/// # Errors
/// [`Error::Io`] where it is not there, [`Error::File`] where it is damaged or of a newer version.
pub fn load_manifest(folder: impl AsRef<Path>) -> Result<Manifest> {
    let path = folder.as_ref().join(MANIFEST_FILE);
    let text = read_limited_text(&path, MAX_MANIFEST_BYTES, "description of an expansion")?;
    parse_manifest(&path, &text)
}

fn parse_manifest(path: &Path, text: &str) -> Result<Manifest> {
    #[derive(Deserialize)]
    struct Version {
        format_version: u32,
    }
    let damaged = |error| Error::file(path, format!("this is no description of an expansion: {error}"));
    // The version first: the keys of a newer one are nothing to complain about.
    let Version { format_version } = serde_json::from_str(text).map_err(damaged)?;
    if format_version == 0 || format_version > FORMAT_VERSION {
        return Err(Error::file(
            path,
            format!("format version {format_version}, but this treering reads up to {FORMAT_VERSION}: use a newer one"),
        ));
    }
    serde_json::from_str(text).map_err(damaged)
}

/// Reads an expansion folder for a base with this configuration and hash.
///
/// # Errors
/// [`Error::Io`], and [`Error::File`] where the folder belongs to another base, its two files to different expansions, or a tensor does not fit.
pub fn load(folder: impl AsRef<Path>, config: &Config, base_sha256: &str) -> Result<Expansion> {
    load_ring(folder, config, base_sha256, &[])
}

/// As [`load`], of the ring around `inner`.
///
/// # Errors
/// As [`load`], and [`Error::File`] where it stands on other rings.
pub fn load_ring(folder: impl AsRef<Path>, config: &Config, base_sha256: &str, inner: &[Ring]) -> Result<Expansion> {
    let folder = folder.as_ref();
    let manifest = load_manifest(folder)?;
    let manifest_path = folder.join(MANIFEST_FILE);
    if manifest.base.sha256 != base_sha256 {
        return Err(Error::file(
            manifest_path,
            format!(
                "the expansion grew around a base with SHA-256 {}, this one has {base_sha256}: use the base it was made from (then at {})",
                manifest.base.sha256,
                manifest.base.path.display()
            ),
        ));
    }
    ring::check_inner(&manifest_path, &manifest.rings, inner)?;
    let check = || manifest.growth.validate(config).and_then(|()| manifest.growth.placement.check_ring(config, inner.len()));
    check().map_err(|error| Error::file(&manifest_path, error))?;
    let path = folder.join(EXPANSION_FILE);
    let expected = layout::ring_parameters(config, &ring::sizes(inner), &manifest.growth);
    let (parameters, metadata) = load_parameters(&path, Some(&expected))?;
    let inner = metadata
        .get(METADATA_KEY)
        .ok_or_else(|| Error::file(&path, format!("the metadata lacks `{METADATA_KEY}`: this is no expansion")))?;
    if parse_manifest(&path, inner)? != manifest {
        return Err(Error::file(&path, format!("describes another expansion than {MANIFEST_FILE} beside it: the files were mixed up")));
    }
    // Files of earlier versions have none.
    if let Some(expected) = metadata.get(HASH_KEY) {
        let found = ring::sha256(&parameters);
        if *expected != found {
            let message = format!("the file is damaged: the hash of its values is {found}, and `{HASH_KEY}` in its header {expected}");
            return Err(Error::file(&path, message));
        }
    }
    Ok(Expansion { manifest, parameters })
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
