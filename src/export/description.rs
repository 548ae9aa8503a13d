//! The `config.json` of a widened model for `transformers`: the base's own, what each ring added, who speaks, and where all of it comes from.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::checkpoint::{Config, Dtype, Family, names};
use crate::error::{Error, Result};
use crate::files::read_limited;
use crate::grow::file::BaseReference;
use crate::grow::{Growth, Initialisation};
use crate::model::Head;
use crate::route::Router;

/// Version of the layout: 1, or 2 where a placement is [more](crate::grow::Placement::is_of_paper) than the paper's; a reader refuses what is newer.
pub const FORMAT_VERSION: u32 = 2;

/// The configuration's file.
pub const CONFIG_FILE: &str = "config.json";
/// A `config.json` larger than this is something else.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// The families whose layers the exported code computes (`Family` of `layers_treering.py`).
pub const SUPPORTED: [Family; 5] = [Family::Llama, Family::Mistral, Family::Qwen2, Family::Qwen3, Family::Olmo2];

/// Keys that a widened model has beside its base's.
const OWN_KEYS: [&str; 7] = ["base_model_type", "rings", "head", "router", "treering", "auto_map", "architectures"];

/// Where an exported model comes from: what the way back needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// The oldest that has all of this, at most [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The base.
    pub base: BaseReference,
    /// The rings, from the innermost out.
    pub rings: Vec<RingProvenance>,
}

/// Where one ring comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RingProvenance {
    /// Its hash when it was exported, as [`crate::grow::Ring`] has it.
    pub sha256: String,
    /// What W21 and W22 started from.
    pub init: Initialisation,
    /// The seed of random values.
    pub seed: u64,
}

/// Who speaks unless the reader says otherwise: a router, or else a head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speaker {
    /// The head.
    pub head: Head,
    /// The router that chooses between the heads instead.
    pub router: Option<Router>,
}

/// What a `config.json` of this kind says.
pub struct Description {
    /// The base.
    pub config: Config,
    /// What each ring added.
    pub growths: Vec<Growth>,
    /// Where it comes from.
    pub provenance: Provenance,
}

impl Description {
    /// The text of the `config.json`.
    ///
    /// # Errors
    /// [`Error::Usage`] for a base of a kind that the exported code does not compute, by name.
    pub fn to_json(&self, speaker: Speaker, dtype: Dtype) -> Result<String> {
        let family = self.config.family;
        if !SUPPORTED.contains(&family) {
            return Err(Error::usage(format!(
                "the base is a {}, and widened models of it cannot be written for transformers; those of {} can",
                family.name(),
                SUPPORTED.map(Family::name).join(", ")
            )));
        }
        let mut map = object(Value::from(self.config.clone()));
        // `rope_parameters` has both, and newer readers take these for another model's.
        map.remove("rope_theta");
        map.remove("rope_scaling");
        let dtype = match dtype {
            Dtype::F32 => "float32",
            Dtype::Bf16 => "bfloat16",
        };
        map.extend(object(json!({
            "model_type": names::WIDENED,
            "base_model_type": family.model_type(),
            "architectures": ["TreeringForCausalLM"],
            "auto_map": {
                "AutoConfig": "configuration_treering.TreeringConfig",
                "AutoModelForCausalLM": "modeling_treering.TreeringForCausalLM",
            },
            "rings": self.growths,
            "head": speaker.head,
            "router": speaker.router,
            "dtype": dtype,
            "treering": self.provenance,
        })));
        Ok(format!("{:#}\n", Value::Object(map)))
    }

    /// Reads the `config.json` of a folder; `None` where the folder has none or it is another kind of model's.
    ///
    /// # Errors
    /// [`Error::File`] naming the key that is missing, damaged or of a newer version.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(CONFIG_FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let text = read_limited(&path, MAX_CONFIG_BYTES, CONFIG_FILE)?;
        let value: Value = serde_json::from_slice(&text).map_err(|e| Error::file(&path, format!("is not JSON: {e}")))?;
        match value {
            Value::Object(map) if map.get("model_type").and_then(Value::as_str) == Some(names::WIDENED) => {
                Self::parse(map).map(Some).map_err(|message| Error::file(&path, message))
            }
            _ => Ok(None),
        }
    }

    fn parse(mut map: Map<String, Value>) -> std::result::Result<Self, String> {
        let version = map.get("treering").and_then(|value| value.get("format_version")).and_then(Value::as_u64);
        let version = version.ok_or("`treering.format_version` is missing: this folder cannot be traced to a base")?;
        if version == 0 || version > u64::from(FORMAT_VERSION) {
            return Err(format!("`treering.format_version` is {version}, but this treering reads up to {FORMAT_VERSION}: use a newer one"));
        }
        let provenance: Provenance = take(&map, "treering")?;
        let growths: Vec<Growth> = take(&map, "rings")?;
        let kind: String = take(&map, "base_model_type")?;
        if growths.is_empty() || growths.len() != provenance.rings.len() {
            return Err(format!("`rings` has {} entries and `treering.rings` {}", growths.len(), provenance.rings.len()));
        }
        OWN_KEYS.iter().for_each(|key| drop(map.remove(*key)));
        map.insert("model_type".into(), json!(kind));
        let config = Config::try_from(Value::Object(map))?;
        for (index, growth) in growths.iter().enumerate() {
            let checked = growth.validate(&config).and_then(|()| growth.placement.check_ring(&config, index));
            checked.map_err(|error| format!("`rings[{index}]`: {error}"))?;
        }
        Ok(Self { config, growths, provenance })
    }
}

fn take<T: DeserializeOwned>(map: &Map<String, Value>, key: &str) -> std::result::Result<T, String> {
    let value = map.get(key).ok_or_else(|| format!("`{key}` is missing"))?;
    serde_json::from_value(value.clone()).map_err(|error| format!("`{key}`: {error}"))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
