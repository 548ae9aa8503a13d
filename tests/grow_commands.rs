//! `inspect`, `plan` and `grow` as a user calls them, on a small base made here.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;
use treering::checkpoint::{BaseCheckpoint, Config, Dtype};
use treering::grow::{file, layout};

/// A folder with a model in it: two layers, 4 query heads on 2 key/value heads, no tokenizer.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let mut config = Config::new(50, 16, 12, 2, 4);
        config.num_key_value_heads = 2;
        let mut state = 1u32;
        let mut value = || {
            // Any values do, if they are spread out.
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        let tensors: HashMap<_, _> = layout::base_parameters(&config)
            .into_iter()
            .map(|e| {
                let values = (0..e.count().unwrap()).map(|_| value()).collect();
                (e.name, (e.shape, values))
            })
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let base = BaseCheckpoint::from_memory(config, tensors, None).unwrap();
        base.save_hf(&folder.path().join("base"), Dtype::Bf16).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_treering")).args(arguments).current_dir(self.folder.path()).output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The exit code and the message of a command that must fail, and that nothing went to stdout.
    fn failure(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        assert!(output.stdout.is_empty(), "{arguments:?}");
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }
}

const SIZES: [&str; 8] = ["--hidden-size", "8", "--num-attention-heads", "2", "--num-key-value-heads", "1", "--intermediate-size", "6"];

fn with<'a>(start: &[&'a str], rest: &[&'a str]) -> Vec<&'a str> {
    start.iter().chain(rest).copied().collect()
}

#[test]
fn grow_writes_an_expansion_that_holds_and_reads_back() {
    let place = Place::new();
    for (out, more) in
        [("preserve", &[][..]), ("adapt", &["--modules", "attention,ffn", "--preserved-layers", "1", "--init", "random,svd"][..])]
    {
        let report = place.json(&with(&with(&["grow", "base", "--out", out, "--verify", "--json"], &SIZES), more));
        assert_eq!(report["verification"]["holds"], true);
        let heads = report["verification"]["heads"].as_array().unwrap();
        assert_eq!(heads.iter().map(|h| h["head"].as_str().unwrap()).collect::<Vec<_>>(), ["preservation", "adaptation"]);
        for head in heads {
            for kind in ["logits", "log_probs", "hidden"] {
                assert!(head[kind]["compared"].as_u64().unwrap() > 0);
                assert_eq!(head[kind]["differing"], 0);
            }
        }
        let base = BaseCheckpoint::open(place.path("base")).unwrap();
        let expansion = file::load(place.path(out), base.config(), &base.sha256().unwrap()).unwrap();
        let blocks: u64 = report["blocks"].as_array().unwrap().iter().map(|b| b["trained"].as_u64().unwrap()).sum();
        assert_eq!(expansion.manifest.parameter_count as u64, blocks);
        assert_eq!(report["manifest"]["parameter_count"], blocks);
        // Nothing but the expansion's own two files was left in the new folder.
        assert_eq!(std::fs::read_dir(place.path(out)).unwrap().count(), 2);
    }
}

#[test]
fn the_same_command_writes_the_same_bytes() {
    let place = Place::new();
    let grow = |out: &str, seed: &str| {
        place.json(&with(&["grow", "base", "--out", out, "--init", "random,random", "--seed", seed, "--json"], &SIZES));
        std::fs::read(place.path(out).join(file::EXPANSION_FILE)).unwrap()
    };
    let one = grow("one", "1");
    assert_eq!(one, grow("two", "1"));
    assert_ne!(one, grow("three", "2"));
}

#[test]
fn grow_refuses_what_cannot_be_and_writes_nothing() {
    let place = Place::new();
    for (arguments, code, says) in [
        (&["--num-attention-heads", "3", "--num-key-value-heads", "1"][..], 2, "2 and 1"),
        (&["--hidden-size", "17"][..], 2, "from 1 to 16"),
        (&["--hidden-size", "0"][..], 2, "the nearest is 1"),
        (&["--intermediate-size", "18446744073709551615"][..], 2, "from 1 to 12"),
        (&["--preserved-layers", "3", "--modules", "ffn"][..], 2, "2 layers"),
        (&["--modules", "mlp"][..], 2, "neither `attention` nor `ffn`"),
        (&["--init", "svd"][..], 2, "svd,zero"),
        (&["--dtype", "f32"][..], 2, "--verify"),
    ] {
        let (found, message) = place.failure(&with(&["grow", "base", "--out", "grown"], arguments));
        assert_eq!(found, code, "{message}");
        assert!(message.contains(says), "{message}");
        assert!(!place.path("grown").exists());
    }
    let (code, message) = place.failure(&["grow", "nowhere", "--out", "grown"]);
    assert_eq!(code, 1);
    assert!(message.contains("nowhere"), "{message}");
}

#[test]
fn grow_never_writes_over_what_is_there() {
    let place = Place::new();
    std::fs::create_dir(place.path("grown")).unwrap();
    std::fs::write(place.path("grown/precious"), "1").unwrap();
    let (code, message) = place.failure(&["grow", "base", "--out", "grown"]);
    assert_eq!(code, 2);
    assert!(message.contains("is there already"), "{message}");
    assert_eq!(std::fs::read_dir(place.path("grown")).unwrap().count(), 1);
}

#[test]
fn inspect_describes_models_and_expansions() {
    let place = Place::new();
    let model = place.json(&["inspect", "base", "--json"]);
    assert_eq!((&model["kind"], &model["config"]["num_key_value_heads"]), (&"model".into(), &2.into()));
    assert_eq!(model["dtypes"][0]["dtype"], "BF16");
    assert_eq!(model["dtypes"][0]["parameters"], model["parameter_count"]);
    assert_eq!((&model["tokenizer"], &model["sha256"]), (&Value::Null, &Value::Null));
    let hash = place.json(&["inspect", "base", "--hash", "--json"])["sha256"].clone();
    assert_eq!(hash.as_str().unwrap().len(), 64);

    let grown = place.json(&with(&["grow", "base", "--out", "grown", "--json"], &SIZES));
    let expansion = place.json(&["inspect", "grown", "--json"]);
    assert_eq!((&expansion["kind"], &expansion["manifest"]), (&"expansion".into(), &grown["manifest"]));
    assert_eq!(expansion["manifest"]["base"]["sha256"], hash);
    let text = String::from_utf8(place.run(&["inspect", "grown"]).stdout).unwrap();
    assert!(text.contains("base_to_expansion") && text.contains("hidden 8, heads 2 on 1"), "{text}");
}

#[test]
fn inspect_says_what_is_wrong_with_a_damaged_expansion() {
    let place = Place::new();
    place.json(&with(&["grow", "base", "--out", "grown", "--json"], &SIZES));
    let path = place.path("grown").join(file::EXPANSION_FILE);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
    let (code, message) = place.failure(&["inspect", "grown"]);
    assert_eq!(code, 1);
    assert!(message.contains("truncated") && message.contains("expansion.safetensors"), "{message}");
}

#[test]
fn plan_needs_no_more_than_a_configuration() {
    let place = Place::new();
    let alone = place.path("alone.json");
    std::fs::copy(place.path("base/config.json"), &alone).unwrap();
    let plan = |path: &str, more: &[&str]| place.json(&with(&["plan", path, "--no-speed", "--json"], more));
    let preserve = plan("alone.json", &SIZES);
    assert_eq!((&preserve["method"], &preserve["growth"]["sizes"]["hidden_size"]), (&"scale-preserve".into(), &8.into()));
    let mut from_weights = plan("base", &SIZES);
    from_weights["model"] = preserve["model"].clone();
    assert_eq!(from_weights, preserve);
    let total = |p: &Value| p["flops_per_token"]["total"].as_u64().unwrap();
    let adapt = plan("base", &with(&SIZES, &["--method", "scale-adapt"]));
    let full = plan("base", &["--method", "full"]);
    assert_eq!((&adapt["method"], &full["method"], &full["growth"]), (&"scale-adapt".into(), &"full".into(), &Value::Null));
    assert!(total(&preserve) < total(&adapt));
    assert_eq!(full["trained_parameters"], place.json(&["inspect", "base", "--json"])["parameter_count"]);
    let memory = preserve["memory_bytes"].as_object().unwrap();
    let sum: u64 = memory.iter().filter(|(key, _)| *key != "peak").map(|(_, n)| n.as_u64().unwrap()).sum();
    assert_eq!(memory["peak"], sum);
}

#[test]
fn plan_estimates_this_machine() {
    let place = Place::new();
    let plan = place.json(&["plan", "base", "--json"]);
    let speed = |key: &str| plan["speed"][key].as_f64().unwrap();
    let expected = speed("gflops") * 1e9 * speed("efficiency") / plan["flops_per_token"]["total"].as_f64().unwrap();
    assert!((speed("tokens_per_second") / expected - 1.0).abs() < 1e-9);
}

#[test]
fn plan_refuses_flags_that_contradict_each_other() {
    let place = Place::new();
    for (arguments, says) in [
        (&["base", "--method", "full", "--hidden-size", "8"][..], "adds nothing to the base's width"),
        (&["base", "--method", "scale-preserve", "--modules", "ffn"][..], "nowhere"),
        (&["base", "--method", "loar"][..], "`loar` is not one of"),
        (&["base", "--set", "train.steps=1"][..], "changes a recipe"),
        (&["base", "--batch-size", "0"][..], "at least 1"),
        (&["recipe.toml", "--dtype", "f32"][..], "--set KEY=VALUE"),
    ] {
        let (code, message) = place.failure(&with(&["plan"], arguments));
        assert_eq!(code, 2, "{message}");
        assert!(message.contains(says), "{message}");
    }
}

#[test]
fn plan_takes_everything_from_a_recipe() {
    let place = Place::new();
    let recipe = r#"
        [model]
        path = "base"
        dtype = "f32"
        [method]
        kind = "scale-adapt"
        hidden_size = 8
        num_attention_heads = 2
        num_key_value_heads = 1
        intermediate_size = 6
        preserved_layers = 1
        modules = ["ffn"]
        [data]
        train = ["corpus.txt"]
        sequence_length = 32
        [train]
        steps = 10
        batch_size = 2
        learning_rate = 1e-3
        recompute = true
    "#;
    std::fs::write(place.path("recipe.toml"), recipe).unwrap();
    let plan = place.json(&["plan", "recipe.toml", "--set", "train.batch_size=3", "--no-speed", "--json"]);
    let found = ["method", "dtype", "batch_size", "sequence_length", "recompute"].map(|key| plan[key].clone());
    assert_eq!(found, [Value::from("scale-adapt"), "f32".into(), 3.into(), 32.into(), true.into()]);
    let flags = with(&SIZES, &["--modules", "ffn", "--preserved-layers", "1", "--dtype", "f32", "--batch-size", "3"]);
    let flags = with(&flags, &["--sequence-length", "32", "--recompute", "--no-speed", "--json"]);
    let mut same = place.json(&with(&["plan", "base"], &flags));
    same["model"] = plan["model"].clone();
    assert_eq!(plan, same);
    assert!(Path::new(plan["model"].as_str().unwrap()).is_absolute());
    let of = |set: &[&str]| place.json(&with(&["plan", "recipe.toml", "--no-speed", "--json"], set));
    let route = of(&["--set", "method.kind=scale-route"]);
    assert_eq!((&route["method"], &route["pair"]), (&"scale-route".into(), &Value::Null));
    // A router over a plain model keeps its base beside it.
    let of_full = recipe.replace("\"scale-adapt\"", "\"full\"");
    let widening = ["hidden_size", "intermediate_size", "num_", "preserved_layers", "modules"];
    let kept = of_full.lines().filter(|line| !widening.iter().any(|key| line.trim().starts_with(key)));
    std::fs::write(place.path("recipe.toml"), kept.collect::<Vec<_>>().join("\n")).unwrap();
    let (alone, pair) = (of(&[]), of(&["--set", "route.router=bayes"]));
    let frozen = |plan: &Value| plan["memory_bytes"]["frozen_weights"].as_u64().unwrap();
    assert_eq!(frozen(&pair), frozen(&alone) + 4 * alone["trained_parameters"].as_u64().unwrap(), "in f32");
    assert_eq!((&pair["method"], &pair["pair"]), (&"full".into(), &true.into()));
}
