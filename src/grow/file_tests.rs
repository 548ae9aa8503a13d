use std::fs;

use proptest::prelude::*;

use super::*;
use crate::checkpoint::Config;
use crate::grow::{Module, Placement, Sizes};
use crate::model::Block;

fn config() -> Config {
    let mut config = Config::new(11, 8, 12, 2, 2);
    config.num_key_value_heads = 1;
    config
}

fn growth() -> Growth {
    let sizes = Sizes { hidden_size: 4, num_attention_heads: 2, num_key_value_heads: 1, intermediate_size: 6 };
    Growth { sizes, placement: Placement { r: 2, sink_layers: 1, ..Placement::new(1, &[Module::Attention]) } }
}

fn expansion() -> Expansion {
    let mut counter = 0.0f32;
    let parameters: Vec<Parameter> = layout::expansion_parameters(&config(), &growth())
        .into_iter()
        .map(|e| {
            let value = (0..e.count().unwrap())
                .map(|_| {
                    counter += 0.37;
                    counter.sin()
                })
                .collect();
            Parameter { name: e.name, block: e.block, shape: e.shape, value }
        })
        .collect();
    let base = BaseReference { path: "/models/tiny".into(), sha256: "ab".repeat(32) };
    let manifest = Manifest::new(growth(), Initialisation::default(), u64::MAX, Standing { base, rings: Vec::new() }, &parameters);
    Expansion { manifest, parameters }
}

fn hash() -> String {
    "ab".repeat(32)
}

#[test]
fn an_expansion_reads_back_as_it_was_saved() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("grown");
    save(&path, &expansion()).unwrap();
    assert_eq!(load(&path, &config(), &hash()).unwrap(), expansion());
    assert_eq!(load_manifest(&path).unwrap(), expansion().manifest);
    // Nothing else may change a saved expansion, and another one may not take its place.
    assert!(save(&path, &expansion()).unwrap_err().to_string().contains("already exists"));
}

#[test]
fn the_same_expansion_makes_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = |name: &str| {
        let path = folder.path().join(name);
        save(&path, &expansion()).unwrap();
        (fs::read(path.join(EXPANSION_FILE)).unwrap(), fs::read(path.join(MANIFEST_FILE)).unwrap())
    };
    assert_eq!(bytes("a"), bytes("b"));
}

#[test]
fn the_safetensors_crate_reads_what_we_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.safetensors");
    let Expansion { parameters, .. } = expansion();
    save_parameters(&path, &parameters, &FileMetadata::from([("k".into(), "v".into())])).unwrap();
    let bytes = fs::read(&path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.len(), parameters.len());
    for p in &parameters {
        let view = tensors.tensor(&p.name).unwrap();
        let values: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        assert_eq!((view.shape(), values), (&p.shape[..], p.value.clone()));
    }
    let (listed, metadata) = list_parameters(&path).unwrap();
    assert_eq!(listed, layout::expansion_parameters(&config(), &growth()));
    assert_eq!(metadata["k"], "v");
}

#[test]
fn another_base_is_refused_by_its_hash() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("grown");
    save(&path, &expansion()).unwrap();
    let error = load(&path, &config(), &"cd".repeat(32)).unwrap_err().to_string();
    assert!(error.contains(&hash()) && error.contains(&"cd".repeat(32)) && error.contains("/models/tiny"), "{error}");
}

#[test]
fn a_tensor_that_is_missing_surplus_or_misshapen_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.safetensors");
    let expected = layout::expansion_parameters(&config(), &growth());
    let check = |change: &dyn Fn(&mut Vec<Parameter>), says: &[&str]| {
        let mut parameters = expansion().parameters;
        change(&mut parameters);
        save_parameters(&path, &parameters, &FileMetadata::new()).unwrap();
        let error = load_parameters(&path, Some(&expected)).unwrap_err().to_string();
        assert!(says.iter().all(|s| error.contains(s)), "{error}");
    };
    let extra = || Parameter { name: "other.weight".into(), block: Block::Base, shape: vec![1], value: vec![0.0] };
    check(&|p| drop(p.pop()), &["lm_head.expansion.weight", "missing"]);
    check(&|p| p.push(extra()), &["other.weight", "no place"]);
    check(&|p| p[0].shape.reverse(), &["model.embed_tokens.expansion.weight", "[4, 11]", "expected [11, 4]"]);
    check(&|p| p[3].value[1] = f32::NAN, &["NaN at position 1", "damaged"]);
    // In another order they are the same parameters.
    let mut parameters = expansion().parameters;
    parameters.reverse();
    save_parameters(&path, &parameters, &FileMetadata::new()).unwrap();
    assert_eq!(load_parameters(&path, Some(&expected)).unwrap().0, expansion().parameters);
    assert_eq!(load_parameters(&path, None).unwrap().0, parameters);
}

#[test]
fn what_cannot_be_saved_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.safetensors");
    let one = |shape: Vec<usize>| Parameter { name: "a".into(), block: Block::Base, shape, value: vec![1.0, 2.0] };
    for (parameters, says) in [(vec![one(vec![3])], "2 values for shape [3]"), (vec![one(vec![2]), one(vec![2])], "two parameters")] {
        let error = save_parameters(&path, &parameters, &FileMetadata::new()).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

/// Every prefix and every cut in the middle is refused in words, and no header makes the reader allocate more than the file holds.
#[test]
fn truncated_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.safetensors");
    save_parameters(&path, &expansion().parameters[..3], &FileMetadata::new()).unwrap();
    let bytes = fs::read(&path).unwrap();
    for length in (0..bytes.len()).step_by(7).chain([1, 7, 8, 9, bytes.len() - 1]) {
        fs::write(&path, &bytes[..length]).unwrap();
        assert!(matches!(load_parameters(&path, None), Err(Error::File { .. })), "{length}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    fs::write(&path, &longer).unwrap();
    assert!(load_parameters(&path, None).unwrap_err().to_string().contains("announces"));
    for header in [u64::MAX, 1 << 40, MAX_HEADER_BYTES, bytes.len() as u64] {
        let mut huge = bytes.clone();
        huge[..8].copy_from_slice(&header.to_le_bytes());
        fs::write(&path, &huge).unwrap();
        assert!(matches!(load_parameters(&path, None), Err(Error::File { .. })), "{header}");
    }
}

#[test]
fn headers_that_lie_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.safetensors");
    for header in [
        r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551615]}}"#,
        r#"{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
        r#"[]"#,
        "",
        "\u{0}\u{0}",
    ] {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([0; 4]);
        fs::write(&path, &bytes).unwrap();
        assert!(matches!(load_parameters(&path, None), Err(Error::File { .. })), "{header}");
    }
}

/// A flipped bit of a value gives another value that is as good as the first, so nothing but the hash tells.
#[test]
fn a_bit_that_flipped_anywhere_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("grown");
    save(&path, &expansion()).unwrap();
    let file = path.join(EXPANSION_FILE);
    let good = fs::read(&file).unwrap();
    let header = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    for at in (0..header).step_by(3).chain(header..good.len()) {
        let mut flipped = good.clone();
        flipped[at] ^= 1 << (at % 8);
        fs::write(&file, &flipped).unwrap();
        match load(&path, &config(), &hash()) {
            Err(error) => {
                assert!(matches!(&error, Error::File { .. }) && (at < header || error.to_string().contains("damaged")), "{error}")
            }
            // Blanks, or the name of another key of the metadata.
            Ok(read) => assert!(at < header && read == expansion(), "a flip at {at} of {header} went unnoticed"),
        }
    }
}

#[test]
fn manifests_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("grown");
    save(&path, &expansion()).unwrap();
    let manifest_path = path.join(MANIFEST_FILE);
    let good = fs::read_to_string(&manifest_path).unwrap();
    for (from, to, says) in [
        ("\"format_version\": 3", "\"format_version\": 4", "use a newer one"),
        ("\"format_version\": 3", "\"format_version\": 0", "format version 0"),
        ("\"seed\"", "\"sead\"", "sead"),
        ("\"hidden_size\": 4", "\"hidden_size\": 40", "any size from 1 to 8"),
        ("\"hidden_size\": 4", "\"hidden_size\": 3", "expected [11, 3]"),
        ("\"expansion_to_expansion\": \"zero\"", "\"expansion_to_expansion\": \"random\"", "another expansion"),
        ("{", "", "no description"),
    ] {
        assert!(good.contains(from), "{from}");
        fs::write(&manifest_path, good.replacen(from, to, 1)).unwrap();
        let error = load(&path, &config(), &hash()).unwrap_err();
        assert!(error.to_string().contains(says) && matches!(error, Error::File { .. }), "{error}");
    }
    fs::remove_file(&manifest_path).unwrap();
    assert!(matches!(load(&path, &config(), &hash()), Err(Error::Io { .. })));
}

proptest! {
    /// Any parameters come back with their bits, zero-sized ones included.
    #[test]
    fn parameters_read_back_bit_for_bit(shapes in prop::collection::vec(prop::collection::vec(0usize..5, 0..3), 0..6), seed: u32) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.safetensors");
        let parameters: Vec<Parameter> = shapes
            .into_iter()
            .enumerate()
            .map(|(i, shape)| {
                let value = (0..shape.iter().product::<usize>())
                    .map(|j| f32::from_bits((seed.wrapping_mul(j as u32 + 1).wrapping_add(i as u32)) & 0xBF7F_FFFF))
                    .collect();
                Parameter { name: format!("layers.{i}.weight"), block: Block::Base, shape, value }
            })
            .collect();
        save_parameters(&path, &parameters, &FileMetadata::new()).unwrap();
        let (mut read, _) = load_parameters(&path, None).unwrap();
        read.sort_by(|a, b| a.name.cmp(&b.name));
        prop_assert_eq!(read.len(), parameters.len());
        for (a, b) in read.iter().zip(&parameters) {
            prop_assert_eq!((&a.name, &a.shape), (&b.name, &b.shape));
            prop_assert!(a.value.iter().zip(&b.value).all(|(x, y)| x.to_bits() == y.to_bits()));
        }
    }
}
