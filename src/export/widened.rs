//! A widened model as one folder that `transformers` loads with its own code: base, rings, configuration, tokenizer, model card. And read back.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde_json::{Value, json};

use super::description::{Description, FORMAT_VERSION, Provenance, RingProvenance, Speaker};
use crate::checkpoint::{BaseCheckpoint, Dtype, Folder, names};
use crate::error::{Error, Result};
use crate::grow::layout::{self, Expected};
use crate::grow::ring::Ring;
use crate::model::{Model, Parameter, Precision};
use crate::train::Foundation;
use crate::train::foundation::RingSource;

/// The Python code that computes a widened model, beside its configuration.
const CODE: [(&str, &str); 4] = [
    ("configuration_treering.py", include_str!("configuration_treering.py")),
    ("layers_treering.py", include_str!("layers_treering.py")),
    ("modeling_treering.py", include_str!("modeling_treering.py")),
    ("routing_treering.py", include_str!("routing_treering.py")),
];

/// Bytes of weights in one file, beyond which `transformers` begins another.
pub const MAX_SHARD_BYTES: u64 = crate::checkpoint::MAX_SHARD_BYTES;

/// The model card's file.
pub const CARD_FILE: &str = "README.md";

/// How a widened model is written.
pub struct Options {
    /// Who speaks unless the reader says otherwise.
    pub speaker: Speaker,
    /// How weights are written; bf16 rounds them.
    pub dtype: Dtype,
    /// Bytes of weights beyond which another file is begun.
    pub max_shard_bytes: u64,
    /// The text of the model card.
    pub card: String,
}

/// Writes a folder for `AutoModelForCausalLM.from_pretrained(…, trust_remote_code=True)`, whole or not at all. Tensors have the names that they have
/// in files of their own, those of a ring with its number before the block ([`names::of_ring`]).
///
/// # Errors
/// [`Error::Io`] where `folder` is there already or cannot be written, [`Error::Usage`] where a ring is not where it was or the base is of a kind that
/// the Python code does not compute, and whatever reading the base returns.
pub fn save(folder: &Path, foundation: &Foundation, options: &Options) -> Result<()> {
    let Foundation { base, rings } = foundation;
    let description = describe(foundation)?;
    let expected = expected(&description);
    let tensors: Vec<(String, Vec<usize>)> = expected.iter().flatten().map(|(name, e)| (name.clone(), e.shape.clone())).collect();
    let mut values: HashMap<&str, &Parameter> = HashMap::new();
    for (ring, names) in rings.iter().zip(&expected[1..]) {
        let own: HashMap<&str, &Parameter> = ring.parameters.iter().map(|p| (p.name.as_str(), p)).collect();
        for (name, e) in names {
            let parameter = own.get(e.name.as_str()).copied().filter(|p| p.shape == e.shape);
            let parameter = parameter.ok_or_else(|| Error::usage(format!("the ring lacks the tensor `{}` {:?}", e.name, e.shape)))?;
            values.insert(name, parameter);
        }
    }
    let mut files: Vec<(&'static str, String)> = CODE.iter().map(|(name, text)| (*name, (*text).to_owned())).collect();
    files.push(("generation_config.json", generation_config(base)?));
    files.push((CARD_FILE, options.card.clone()));
    let config = description.to_json(options.speaker, options.dtype)?;
    let Options { dtype, max_shard_bytes, .. } = *options;
    let contents = Folder { config, dtype, max_shard_bytes, tensors: &tensors, files };
    base.save_folder(folder, contents, |name, shape| match values.get(name) {
        Some(parameter) => Ok(parameter.value.clone()),
        None => base.tensor(name, shape),
    })
}

/// What a folder of `foundation` says of it.
fn describe(foundation: &Foundation) -> Result<Description> {
    let standing = foundation.standing()?;
    let mut provenance = Vec::with_capacity(foundation.rings.len());
    for ring in &foundation.rings {
        let gone = || Error::usage(format!("{}: is no ring any more", ring.reference.path.display()));
        let source = RingSource::at(&ring.reference.path, None)?.ok_or_else(gone)?;
        let manifest = source.manifest(standing.clone(), ring);
        provenance.push(RingProvenance { sha256: ring.reference.sha256.clone(), init: manifest.init, seed: manifest.seed });
    }
    let of_paper = foundation.rings.iter().all(|ring| ring.growth.placement.is_of_paper());
    let format_version = if of_paper { 1 } else { FORMAT_VERSION };
    Ok(Description {
        config: foundation.base.config().clone(),
        growths: foundation.rings.iter().map(|ring| ring.growth.clone()).collect(),
        provenance: Provenance { format_version, base: standing.base, rings: provenance },
    })
}

/// Every tensor by its name in the folder: the base's, then those of each ring.
fn expected(description: &Description) -> Vec<Vec<(String, Expected)>> {
    let config = &description.config;
    let mut all = vec![layout::base_parameters(config).into_iter().map(|e| (e.name.clone(), e)).collect()];
    let mut inner = Vec::new();
    for (index, growth) in description.growths.iter().enumerate() {
        let ring = layout::ring_parameters(config, &inner, growth).into_iter();
        all.push(ring.map(|e| (names::of_ring(&e.name, index + 1), e)).collect());
        inner.push(growth.sizes);
    }
    all
}

/// How text is generated unless a caller says otherwise: greedily, as `treering generate` does, until a token that ends a text.
fn generation_config(base: &BaseCheckpoint) -> Result<String> {
    let config = base.config();
    // A base in memory may have no tokenizer; its own tokens are all there is then.
    let mut ends = config.eos_token_id.clone();
    let tokenizer = base.tokenizer().ok();
    ends.extend(tokenizer.iter().filter_map(|tokenizer| tokenizer.eos_token_id()).filter(|token| !config.eos_token_id.contains(token)));
    let begin = tokenizer.and_then(|tokenizer| tokenizer.bos_token_id()).or(config.bos_token_id);
    let padding = config.pad_token_id.or(ends.first().copied());
    let ends = if ends.is_empty() { Value::Null } else { json!(ends) };
    let value = json!({"bos_token_id": begin, "eos_token_id": ends, "pad_token_id": padding, "do_sample": false});
    Ok(format!("{value:#}\n"))
}

/// A folder of [`save`], read.
pub struct Widened {
    /// The base as the folder has it.
    pub base: BaseCheckpoint,
    /// The rings as the folder has them.
    pub rings: Vec<Ring>,
    /// Where they come from.
    pub provenance: Provenance,
}

impl Widened {
    /// Reads a folder; `None` where it holds no widened model. The base's tensors are read when they are asked for, the rings' now.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::File`] naming the key or tensor that is missing, surplus, misshapen or cannot be read.
    pub fn open(folder: &Path) -> Result<Option<Self>> {
        let Some(description) = Description::read(folder)? else { return Ok(None) };
        let all = BaseCheckpoint::open_as(folder, description.config.clone(), |_| true)?;
        // Before they are listed: a ring has a tensor in every layer, and what has more of them than there are tensors is not what it says.
        let (layers, rings, tensors) = (description.config.num_hidden_layers, description.growths.len(), all.tensor_infos().len());
        if layers.saturating_mul(rings + 1) > tensors {
            return Err(Error::file(
                folder,
                format!(
                    "its config.json says that it has {layers} layers and {rings} rings, and its files hold {tensors} tensors: too few"
                ),
            ));
        }
        let expected = expected(&description);
        let Description { config, growths, provenance } = description;
        let known: HashSet<&str> = expected.iter().flatten().map(|(name, _)| name.as_str()).collect();
        if let Some(info) = all.tensor_infos().into_iter().find(|info| !known.contains(info.name.as_str())) {
            return Err(Error::file(
                folder,
                format!(
                    "has a tensor `{}` {:?}, which this widened model has no place for: it was changed into another one",
                    info.name, info.shape
                ),
            ));
        }
        let mut rings = Vec::with_capacity(growths.len());
        for (growth, names) in growths.into_iter().zip(&expected[1..]) {
            let read = |(name, e): &(String, Expected)| {
                let value = all.tensor(name, &e.shape)?;
                Ok(Parameter { name: e.name.clone(), block: e.block, shape: e.shape.clone(), value })
            };
            let parameters = names.iter().map(read).collect::<Result<Vec<Parameter>>>()?;
            rings.push(Ring::new(folder.to_path_buf(), growth, parameters));
        }
        let base = BaseCheckpoint::open_as(folder, config, |name| !names::is_of_a_ring(name))?;
        for (name, e) in &expected[0] {
            if !base.has_tensor(name) {
                return Err(Error::file(folder, format!("has no tensor `{name}` (expected, of shape {:?})", e.shape)));
            }
        }
        Ok(Some(Self { base, rings, provenance }))
    }

    /// The model, frozen, in f32.
    ///
    /// # Errors
    /// Whatever reading the base's tensors returns.
    pub fn model(self) -> Result<Model> {
        Foundation { base: self.base, rings: self.rings }.model(Precision::F32)
    }
}
