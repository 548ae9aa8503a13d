//! The keys of `[method]` that only `lora`, `freeze` and `llama-pro` have.

use toml::Table;

use super::section::Section;
use super::{MOST, MethodConfig, MethodKind};
use crate::baseline::{Lora, MAX_RANK, Whole};
use crate::checkpoint::names::Projection;
use crate::error::{Error, Result};

/// `target_modules` that `peft` spells in one word: every linear module of a layer.
const ALL_LINEAR: &str = "all-linear";

/// Keys, and the one method that has them; `r` is also a key of the methods that train W12.
const KEYS: [(&str, MethodKind); 9] = [
    ("r", MethodKind::Lora),
    ("lora_alpha", MethodKind::Lora),
    ("lora_dropout", MethodKind::Lora),
    ("target_modules", MethodKind::Lora),
    ("use_rslora", MethodKind::Lora),
    ("modules_to_save", MethodKind::Lora),
    ("frozen_layers", MethodKind::Freeze),
    ("frozen_embedding", MethodKind::Freeze),
    ("groups", MethodKind::LlamaPro),
];

/// Refuses keys of another of these methods by name: they would be read and never used.
pub(super) fn refuse_keys_of_others(section: &Section, kind: MethodKind) -> Result<()> {
    let others = |key: &str, owner| owner != kind && !(key == "r" && kind.adapts());
    match KEYS.into_iter().find(|&(key, owner)| others(key, owner) && section.has(key)) {
        Some((key, owner)) => Err(section.error(key, format!("the method `{}` has no such key; `{}` has", kind.as_str(), owner.as_str()))),
        None => Ok(()),
    }
}

/// Takes the keys of `kind` into `method`.
pub(super) fn read(section: &mut Section, kind: MethodKind, method: &mut MethodConfig) -> Result<()> {
    match kind {
        MethodKind::Lora => method.lora = Some(read_lora(section, method.seed)?),
        MethodKind::Freeze => {
            method.frozen_layers = section.count("frozen_layers", 0..=MOST)?;
            method.frozen_embedding = section.boolean("frozen_embedding")?.unwrap_or(true);
        }
        MethodKind::LlamaPro => method.groups = section.count("groups", 1..=MOST)?,
        MethodKind::ScaleAdapt | MethodKind::ScaleRoute => method.r = section.count("r", 0..=MAX_RANK as u64)?,
        _ => {}
    }
    Ok(())
}

fn read_lora(section: &mut Section, seed: u64) -> Result<Lora> {
    let names = Projection::ALL.map(|projection| (projection.name(), projection));
    let default = Lora::new(seed);
    let all = section.text_is("target_modules", ALL_LINEAR);
    let modules = if all {
        section.take("target_modules").map(|_| Projection::ALL.to_vec())
    } else {
        section.choice_list("target_modules", &names)?
    };
    let mut target_modules = modules.unwrap_or(default.target_modules);
    if target_modules.is_empty() {
        return Err(section
            .error("target_modules", format!("no module is named, so nothing would be trained\n  hint: \"{ALL_LINEAR}\" names them all")));
    }
    // One order for one meaning, so that runs and files compare equal.
    target_modules.sort_unstable();
    let names = Whole::ALL.map(|module| (module.name(), module));
    let mut modules_to_save = section.choice_list("modules_to_save", &names)?.unwrap_or(default.modules_to_save);
    modules_to_save.sort_unstable();
    Ok(Lora {
        r: section.count("r", 1..=MAX_RANK as u64)?.unwrap_or(default.r),
        lora_alpha: section.number("lora_alpha", |a| a > 0.0, "a number above 0")?.unwrap_or(default.lora_alpha),
        lora_dropout: section
            .number("lora_dropout", |p| (0.0..1.0).contains(&p), "at least 0 and below 1")?
            .unwrap_or(default.lora_dropout),
        target_modules,
        use_rslora: section.boolean("use_rslora")?.unwrap_or(default.use_rslora),
        modules_to_save,
        seed,
    })
}

/// Writes the keys of [`read`].
pub(super) fn write(method: &MethodConfig, table: &mut Table) {
    if let Some(lora) = &method.lora {
        let put = &mut |key: &str, value: toml::Value| drop(table.insert(key.to_string(), value));
        put("r", (lora.r as i64).into());
        put("lora_alpha", lora.lora_alpha.into());
        put("lora_dropout", lora.lora_dropout.into());
        put("target_modules", lora.target_modules.iter().map(|p| p.name().to_string()).collect::<Vec<_>>().into());
        put("use_rslora", lora.use_rslora.into());
        put("modules_to_save", lora.modules_to_save.iter().map(|m| m.name().to_string()).collect::<Vec<_>>().into());
    }
    if method.kind == MethodKind::Freeze {
        if let Some(layers) = method.frozen_layers {
            table.insert("frozen_layers".into(), (layers as i64).into());
        }
        table.insert("frozen_embedding".into(), method.frozen_embedding.into());
    }
    if let Some(groups) = method.groups {
        table.insert("groups".into(), (groups as i64).into());
    }
}

/// The paper's rate of a method that is not full fine-tuning and does not widen.
///
/// # Paper
/// Section 4: LLaMA Pro 2e-4, LoRA and Freeze 1e-5.
pub(super) fn learning_rate(kind: MethodKind) -> Option<f64> {
    match kind {
        MethodKind::LlamaPro => Some(2e-4),
        MethodKind::Lora | MethodKind::Freeze => Some(1e-5),
        _ => None,
    }
}

/// Adds `method.` to what a baseline says about its own keys.
pub(super) fn named(error: Error) -> Error {
    match error {
        Error::Usage(message) => Error::Usage(format!("method.{message}")),
        other => other,
    }
}
