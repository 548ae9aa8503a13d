//! What was grown around a base, or trained beside it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::OnceLock;

use treering::baseline;
use treering::checkpoint::{BaseCheckpoint, Dtype};
use treering::export::card::card;
use treering::export::description::Speaker;
use treering::export::import::{Ground, import};
use treering::export::widened::{self, Widened};
use treering::grow::{Growth, Initialisation, Placement, Ring, Sizes, file as expansion_file, initialise, layout};
use treering::model::Head;
use treering::train::Foundation;

use super::models::{base_of_sixteen, config_of_sixteen};
use super::{folder_of, free, two_of};

/// A ring of ours around the base of sixteen.
fn ring() -> &'static Ring {
    static RING: OnceLock<Ring> = OnceLock::new();
    RING.get_or_init(|| {
        let base = BaseCheckpoint::open(base_of_sixteen()).expect("a base of ours");
        let sizes = Sizes { hidden_size: 2, num_attention_heads: 2, num_key_value_heads: 1, intermediate_size: 2 };
        let growth = Growth { sizes, placement: Placement::preserve(base.config()) };
        let parameters = initialise(&base, &growth, Initialisation::default(), 1, &|_, _| Ok(())).expect("a ring of ours");
        Ring::new("ring".into(), growth, parameters)
    })
}

/// An expansion: a manifest, a zero byte, and the tensors; around the base alone, or around a ring. What is read is written back to the same.
pub fn expansion(data: &[u8]) {
    let (manifest, tensors) = two_of(data);
    let inner = folder_of("expansion", &[(expansion_file::MANIFEST_FILE, manifest), (expansion_file::EXPANSION_FILE, tensors)]);
    let Ok(manifest) = expansion_file::load_manifest(&inner) else { return };
    let config = config_of_sixteen();
    if manifest.growth.validate(&config).is_ok() {
        let _ = layout::expansion_parameters(&config, &manifest.growth);
    }
    let within = if manifest.rings.is_empty() { &[] } else { std::slice::from_ref(ring()) };
    let read = |folder: &Path| expansion_file::load_ring(folder, &config, &manifest.base.sha256, within);
    if let Ok(found) = read(&inner) {
        let again = free("expansion-again");
        expansion_file::save(&again, &found).expect("room for an expansion");
        let again = read(&again).expect("an expansion of ours");
        assert_eq!(again.manifest, found.manifest);
        let hash =
            |expansion: expansion_file::Expansion| Ring::new("".into(), expansion.manifest.growth, expansion.parameters).reference.sha256;
        assert_eq!(hash(again), hash(found));
    }
}

/// A PEFT adapter: `adapter_config.json`, a zero byte, and the tensors.
pub fn adapter(data: &[u8]) {
    static BASE: OnceLock<BaseCheckpoint> = OnceLock::new();
    let base = BASE.get_or_init(|| BaseCheckpoint::from_memory(config_of_sixteen(), HashMap::new(), None).expect("a base of ours"));
    let (config, tensors) = two_of(data);
    let inner = folder_of("adapter", &[("adapter_config.json", config), ("adapter_model.safetensors", tensors)]);
    let _ = baseline::peft::load(&inner, base);
}

/// A widened model as `transformers` keeps it: `config.json`, a zero byte, and the tensors. What can be taken back, on its own base or on ours, is exported
/// again, with the same rings.
pub fn widened(data: &[u8]) {
    let (config, tensors) = two_of(data);
    let inner = folder_of("widened", &[("config.json", config), ("model.safetensors", tensors)]);
    let Ok(Some(found)) = Widened::open(&inner) else { return };
    let base = BaseCheckpoint::open(base_of_sixteen()).expect("a base of ours");
    for ground in [Ground::Own, Ground::Base(&base)] {
        let taken = free("taken");
        if import(&inner, &found, &ground, &taken).is_ok() {
            let foundation = Foundation::open(&taken).expect("what was taken back");
            assert_eq!(hashes(&foundation.rings), hashes(&found.rings));
            export(&foundation);
        }
    }
    let _ = found.model();
}

fn export(foundation: &Foundation) {
    let speaker = Speaker { head: Head::Preservation, router: None };
    let out = free("exported");
    let Ok(card) = card(&out, foundation, speaker, None) else { return };
    // Some files of tensors.
    let options = widened::Options { speaker, dtype: Dtype::F32, max_shard_bytes: 512, card };
    if widened::save(&out, foundation, &options).is_ok() {
        let again = Widened::open(&out).expect("what was exported").expect("a widened model");
        assert_eq!(hashes(&again.rings), hashes(&foundation.rings));
    }
}

fn hashes(rings: &[Ring]) -> Vec<&str> {
    rings.iter().map(|ring| ring.reference.sha256.as_str()).collect()
}
