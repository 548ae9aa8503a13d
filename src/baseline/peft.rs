//! Adapters on disk as the library `peft` keeps them: `adapter_config.json` and `adapter_model.safetensors` in a folder.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Baseline, Lora, Whole};
use crate::checkpoint::names::{self, Projection};
use crate::checkpoint::{BaseCheckpoint, TensorFile, atomic};
use crate::error::{Error, IoContext, Result};
use crate::files::read_limited;
use crate::grow::file::{FileMetadata, list_parameters, save_parameters};
use crate::model::Parameter;

/// The description of an adapter.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// Its tensors.
pub const MODEL_FILE: &str = "adapter_model.safetensors";

/// What `peft` puts before the name of a module of the base.
const PREFIX: &str = "base_model.model.";
/// The key of the tensors' metadata under which the base's hash is kept; `peft` passes it over.
const BASE_KEY: &str = "treering.base_sha256";
/// The key of the description that says whether an output projection that is the embedding stays it where that is trained.
const TIED_KEY: &str = "ensure_weight_tying";
/// What to do with an adapter that is not computed here.
const HINT: &str = "\n  hint: merge the adapter with peft (merge_and_unload) and use the result";
/// An adapter_config.json larger than this is something else.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Keys of an adapter_config.json that change what an adapter computes in ways that are not kept here, and the values under which they do not.
const REFUSED: [(&str, &[&str]); 19] = [
    ("use_dora", &["false"]),
    ("use_qalora", &["false"]),
    ("fan_in_fan_out", &["false"]),
    ("lora_bias", &["false"]),
    ("bias", &["\"none\""]),
    ("layers_to_transform", &["[]"]),
    ("exclude_modules", &["[]"]),
    ("rank_pattern", &["{}"]),
    ("alpha_pattern", &["{}"]),
    ("trainable_token_indices", &["[]", "{}"]),
    ("target_parameters", &["[]"]),
    ("layer_replication", &["[]"]),
    ("alora_invocation_tokens", &["[]"]),
    ("megatron_config", &["{}"]),
    ("use_bdlora", &["false", "{}"]),
    ("arrow_config", &["{}"]),
    ("kasa_config", &["{}"]),
    ("monteclora_config", &["{}"]),
    // The others change the base's weights when the adapter is put on it.
    ("init_lora_weights", &["true", "false", "\"gaussian\"", "\"orthogonal\"", "\"eva\""]),
];

/// Whether an adapter is in this folder.
pub fn is_adapter(folder: &Path) -> bool {
    folder.join(CONFIG_FILE).is_file()
}

/// Writes adapters, and what was trained whole beside them, to a new folder, whole or not at all. `parameters` are those of [`Lora`] on `base`, which
/// is named as `base_path`.
///
/// # Errors
/// [`Error::Io`] where the folder is there already or cannot be written, and whatever reading the base returns.
pub fn save(folder: &Path, lora: &Lora, base: &BaseCheckpoint, base_path: &Path, parameters: &[Parameter]) -> Result<()> {
    let whole = &lora.modules_to_save;
    let alpha = if lora.lora_alpha.fract() == 0.0 { json!(lora.lora_alpha as i64) } else { json!(lora.lora_alpha) };
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_path.to_string_lossy(),
        "inference_mode": true,
        "r": lora.r,
        "lora_alpha": alpha,
        "lora_dropout": lora.lora_dropout,
        "target_modules": lora.target_modules.iter().map(|p| p.name()).collect::<Vec<_>>(),
        "use_rslora": lora.use_rslora,
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "modules_to_save": if whole.is_empty() { Value::Null } else { json!(whole) },
        // What `peft` needs to be told to keep an output projection that is the embedding so.
        TIED_KEY: base.config().tie_word_embeddings && !whole.is_empty(),
        "layers_to_transform": null,
        "use_dora": false,
    });
    let tensors: Vec<Parameter> = parameters.iter().map(|p| Parameter { name: format!("{PREFIX}{}", p.name), ..p.clone() }).collect();
    let metadata = FileMetadata::from([("format".into(), "pt".into()), (BASE_KEY.into(), base.sha256()?)]);
    atomic::write_dir(folder, |folder| {
        save_parameters(folder.join(MODEL_FILE), &tensors, &metadata)?;
        let path = folder.join(CONFIG_FILE);
        fs::write(&path, format!("{config:#}\n")).at(&path)
    })
}

/// What an adapter's description says.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    /// What it is.
    pub lora: Lora,
    /// The base it was made for, as it names it.
    pub base: Option<String>,
    /// Whether an output projection that is the embedding stays it where that is trained.
    pub ensure_weight_tying: bool,
}

/// Reads an adapter's description.
///
/// # Errors
/// [`Error::Io`], and [`Error::File`] naming the key that is missing, damaged, or asks for what is not computed here.
pub fn load_config(folder: &Path) -> Result<AdapterConfig> {
    let path = folder.join(CONFIG_FILE);
    let text = read_limited(&path, MAX_CONFIG_BYTES, CONFIG_FILE)?;
    let value: Value = serde_json::from_slice(&text).map_err(|e| Error::file(&path, format!("is not JSON: {e}")))?;
    let Value::Object(map) = value else { return Err(Error::file(&path, "a JSON object was expected")) };
    let lora = parse(&map).map_err(|message| Error::file(&path, message))?;
    let base = map.get("base_model_name_or_path").and_then(Value::as_str).map(Into::into);
    let ensure_weight_tying = map.get(TIED_KEY).and_then(Value::as_bool).unwrap_or(false);
    Ok(AdapterConfig { lora, base, ensure_weight_tying })
}

fn parse(map: &Map<String, Value>) -> std::result::Result<Lora, String> {
    let given = |key: &str| map.get(key).filter(|value| !value.is_null());
    match given("peft_type").and_then(Value::as_str) {
        Some("LORA") => {}
        other => return Err(format!("`peft_type` is {}; only \"LORA\" can be read", other.unwrap_or("missing"))),
    }
    for (key, harmless) in REFUSED {
        if let Some(value) = given(key).map(Value::to_string).filter(|value| !harmless.contains(&value.as_str())) {
            return Err(format!("`{key}` is {value}, which treering does not compute{HINT}"));
        }
    }
    let r = given("r").and_then(Value::as_u64).filter(|r| (1..=super::MAX_RANK as u64).contains(r));
    let r = r.ok_or_else(|| format!("`r` is {}; a rank from 1 to {} was expected", shown(map.get("r")), super::MAX_RANK))?;
    let number = |key: &str, default: f64, allowed: fn(f64) -> bool| match given(key) {
        None => Ok(default),
        Some(value) => {
            value.as_f64().filter(|&v| v.is_finite() && allowed(v)).ok_or_else(|| format!("`{key}` is {value}, which is out of range"))
        }
    };
    Ok(Lora {
        r: r as usize,
        // What `peft` takes where nothing is said.
        lora_alpha: number("lora_alpha", 8.0, |alpha| alpha > 0.0)?,
        lora_dropout: number("lora_dropout", 0.0, |p| (0.0..1.0).contains(&p))?,
        target_modules: target_modules(map.get("target_modules"))?,
        use_rslora: given("use_rslora").and_then(Value::as_bool).unwrap_or(false),
        modules_to_save: modules_to_save(given("modules_to_save"))?,
        seed: 0,
    })
}

fn target_modules(value: Option<&Value>) -> std::result::Result<Vec<Projection>, String> {
    let known = || Projection::ALL.map(Projection::name).join(", ");
    let list = match value {
        Some(Value::String(text)) if text == "all-linear" => return Ok(Projection::ALL.to_vec()),
        Some(Value::Array(list)) if !list.is_empty() => list,
        other => return Err(format!("`target_modules` is {}; a list of modules out of {} was expected", shown(other), known())),
    };
    chosen(list, Projection::from_name, |item| {
        format!("`target_modules` names {item}, for which treering has no adapters; it has them for {}", known())
    })
}

fn modules_to_save(value: Option<&Value>) -> std::result::Result<Vec<Whole>, String> {
    let known = || Whole::ALL.map(Whole::name).join(", ");
    let list = match value {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        other => return Err(format!("`modules_to_save` is {}; a list of modules out of {} was expected", shown(other), known())),
    };
    // `peft` itself adds names with their path.
    let find = |name: &str| Whole::ALL.into_iter().find(|module| name.rsplit('.').next() == Some(module.name()));
    chosen(list, find, |item| {
        format!("`modules_to_save` names {item}, which treering does not train whole beside adapters; it does {}{HINT}", known())
    })
}

/// The modules of a list, in their order and each once; `unknown` is the message about an item that is none.
fn chosen<M: Ord>(
    list: &[Value],
    find: impl Fn(&str) -> Option<M>,
    unknown: impl Fn(&Value) -> String,
) -> std::result::Result<Vec<M>, String> {
    let module = |item: &Value| find(item.as_str().unwrap_or_default()).ok_or_else(|| unknown(item));
    let mut modules = list.iter().map(module).collect::<std::result::Result<Vec<M>, String>>()?;
    modules.sort_unstable();
    modules.dedup();
    Ok(modules)
}

fn shown(value: Option<&Value>) -> String {
    value.map_or("missing".into(), |value| value.to_string().chars().take(60).collect())
}

/// Reads an adapter for `base`: what it is, and its values in the order of [`super::Baseline::parameters`].
///
/// # Errors
/// As [`load_config`], and [`Error::File`] where the adapter was made for another base, or lacks a tensor or has one too many.
pub fn load(folder: &Path, base: &BaseCheckpoint) -> Result<(Lora, Vec<Parameter>)> {
    let AdapterConfig { lora, ensure_weight_tying, .. } = load_config(folder)?;
    let in_config = |message: String| Error::file(folder.join(CONFIG_FILE), message);
    let tied = base.config().tie_word_embeddings && !lora.modules_to_save.is_empty();
    if tied && !ensure_weight_tying {
        return Err(in_config(format!(
            "`modules_to_save` is set without `{TIED_KEY}`, so that embed_tokens and lm_head, which are one in {}, were trained apart; that is not kept here{HINT}",
            base.path().display()
        )));
    }
    lora.validate(base.config()).map_err(|error| in_config(error.to_string()))?;
    let path = folder.join(MODEL_FILE);
    let (found, metadata) = list_parameters(&path)?;
    if let Some(made_for) = metadata.get(BASE_KEY)
        && *made_for != base.sha256()?
    {
        let base_path = base.path().display();
        return Err(Error::file(
            &path,
            format!(
                "the adapter was trained on a base with SHA-256 {made_for}, but {base_path} has {}: it is for another model",
                base.sha256()?
            ),
        ));
    }
    let expected = Baseline::Lora(lora.clone()).parameters(base.config());
    let mut shapes: HashMap<&str, &[usize]> = found.iter().map(|e| (e.name.as_str(), e.shape.as_slice())).collect();
    let tensors = TensorFile::open(&path)?;
    let mut parameters = Vec::with_capacity(expected.len());
    for e in expected {
        let name = format!("{PREFIX}{}", e.name);
        let mismatch = |what: String| {
            Error::file(
                &path,
                format!("{what}: the adapter is for another model than {}, or not as {CONFIG_FILE} says", base.path().display()),
            )
        };
        match shapes.remove(name.as_str()) {
            None => return Err(mismatch(format!("`{name}` {:?} is missing", e.shape))),
            Some(shape) if shape != e.shape => {
                return Err(mismatch(format!("`{name}` has shape {shape:?}, expected {:?}", e.shape)));
            }
            Some(_) => {}
        }
        parameters.push(Parameter { value: tensors.read(&name)?, name: e.name, block: e.block, shape: e.shape });
    }
    // `peft` keeps what is tied twice.
    let second = format!("{PREFIX}{}", names::weight(names::LM_HEAD));
    if tied && shapes.remove(second.as_str()).is_some() {
        let first = parameters.iter().find(|p| p.name == names::weight(names::EMBED_TOKENS));
        let second_value = tensors.read(&second)?;
        if first.is_none_or(|first| second_value != first.value) {
            return Err(Error::file(&path, format!("`{second}` is not the embedding, to which {CONFIG_FILE} ties it")));
        }
    }
    match shapes.keys().min() {
        Some(name) => Err(Error::file(
            &path,
            format!("`{name}` has no place in this adapter: the base has no such module, or {CONFIG_FILE} does not name it"),
        )),
        None => Ok((lora, parameters)),
    }
}
