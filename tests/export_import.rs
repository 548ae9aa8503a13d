//! Widened models and adapters on their way to other tools and back: what is written, what comes back, and what is refused.

mod train_world;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use train_world::{World, failed, number, succeeded};
use treering::grow::file::{load_parameters, save_parameters};
use treering::model::Parameter;

/// Trains `one` (scale-route, routed by bayes) and `two` (scale-preserve) around it, and writes `two` for transformers as `hf`.
fn exported() -> (World, Value) {
    let world = World::new();
    world.recipe("scale-route", "");
    world.recipe("scale-preserve", "");
    let rate = ["--set", "train.learning_rate=1e-2"];
    succeeded(&world.train(
        "scale-route",
        "one",
        &[&["--set", "route.router=bayes:share=0.01", "--set", "method.r=2", "--set", "method.sink_layers=1"], &rate[..]].concat(),
    ));
    succeeded(&world.train(
        "scale-preserve",
        "two",
        &[&["--set", "model.path=one", "--set", "data.train=old-held-out.jsonl"], &rate[..]].concat(),
    ));
    let report = world.json(&["export", "two", "--out", "hf", "--verify", "--json"]);
    (world, report)
}

/// Names of the heads, and what each made of a corpus, to the last bit.
fn heads(world: &World, model: &str) -> Vec<(String, u64)> {
    let evaluation = world.json(&["eval", model, "--corpus", "new=new-held-out.jsonl", "--window", "16", "--dtype", "f32", "--json"]);
    let of = |head: &Value| (head["head"].as_str().unwrap().to_owned(), number(&head["nll"]).to_bits());
    evaluation["corpora"][0]["heads"].as_array().unwrap().iter().map(of).collect()
}

fn parsed(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn import(world: &World, more: &[&str]) -> Value {
    world.json(&[&["import"], more, &["--json"]].concat())
}

/// Changes the folder's weights as a program would that trained them.
fn change(world: &World, folder: &str, what: impl FnOnce(&mut Vec<Parameter>)) {
    let path = world.path(folder).join("model.safetensors");
    let (mut parameters, _) = load_parameters(&path, None).unwrap();
    what(&mut parameters);
    save_parameters(&path, &parameters, &[("format".to_owned(), "pt".to_owned())].into()).unwrap();
}

fn named<'a>(parameters: &'a mut [Parameter], name: &str) -> &'a mut Parameter {
    parameters.iter_mut().find(|p| p.name == name).unwrap()
}

fn copy(world: &World, from: &str, to: &str) {
    let _ = fs::remove_dir_all(world.path(to));
    fs::create_dir(world.path(to)).unwrap();
    for entry in fs::read_dir(world.path(from)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), world.path(to).join(entry.file_name())).unwrap();
    }
}

/// The different SHA-256 sums in a message.
fn sums(message: &str) -> usize {
    let words = message.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| w.len() == 64 && w.chars().all(|c| c.is_ascii_hexdigit()));
    words.collect::<std::collections::BTreeSet<_>>().len()
}

#[test]
fn a_widened_model_is_written_whole_with_its_code_card_and_origin() {
    let (world, report) = exported();
    assert_eq!((&report["method"], &report["step"]), (&"scale-preserve".into(), &12.into()));
    assert_eq!(report["heads"], json!(["preservation", "ring-1", "adaptation"]));
    let verification = &report["verification"];
    assert!(number(&verification["compared"]) > 1000.0 && verification["differing"] == 0 && verification["limit"] == 0.0, "{report}");

    let config = parsed(&world.path("hf/config.json"));
    assert_eq!(
        (&config["model_type"], &config["base_model_type"], &config["dtype"]),
        (&"treering".into(), &"llama".into(), &"float32".into())
    );
    assert_eq!(config["architectures"], json!(["TreeringForCausalLM"]));
    assert_eq!((&config["hidden_size"], &config["rope_parameters"]["rope_theta"]), (&24.into(), &json!(10000.0)));
    assert_eq!(config["rings"][0]["placement"], json!({"preserved_layers": 1, "modules": ["attention", "ffn"], "r": 2, "sink_layers": 1}));
    assert_eq!(config["rings"][1]["sizes"]["hidden_size"], 8);
    assert_eq!((&config["head"], &config["router"]), (&"adaptation".into(), &Value::Null));
    let listed = world.json(&["rings", "list", "two", "--json"]);
    for ring in 0..2 {
        assert_eq!(config["treering"]["rings"][ring]["sha256"], listed["rings"][ring]["sha256"]);
    }
    assert_eq!(config["treering"]["base"]["sha256"], listed["base"]["sha256"]);
    // Every class that the configuration names is in a file beside it, and every file that the code imports.
    for class in config["auto_map"].as_object().unwrap().values() {
        let (module, class) = class.as_str().unwrap().split_once('.').unwrap();
        let code = fs::read_to_string(world.path("hf").join(module).with_extension("py")).unwrap();
        assert!(code.contains(&format!("class {class}(")), "{module} has no {class}");
        let imports = code.lines().filter_map(|line| line.strip_prefix("from .")?.split_whitespace().next());
        assert!(imports.into_iter().all(|module| world.path("hf").join(module).with_extension("py").is_file()));
    }
    assert_eq!(parsed(&world.path("hf/generation_config.json"))["do_sample"], false);
    assert!(world.path("hf/tokenizer.json").is_file() && world.path("hf/tokenizer_config.json").is_file());

    let card = fs::read_to_string(world.path("hf/README.md")).unwrap();
    let folder = world.path("");
    for part in [
        "Trained by `scale-route` for 12 steps",
        "on `new.jsonl`",
        "on `old-held-out.jsonl`",
        "licence is not known",
        "library_name: transformers",
    ] {
        assert!(card.contains(part), "{part}: {card}");
    }
    assert!(!card.contains(folder.to_str().unwrap()), "a card names no folders of this machine");
    let rows: Vec<&str> = card.lines().filter(|line| line.starts_with("| `")).map(|line| line.split('`').nth(1).unwrap()).collect();
    assert_eq!(rows, ["preservation", "ring-1", "adaptation"]);

    // A run with a router speaks through it; what is asked for comes first.
    for (more, head, router) in [
        (&[][..], "adaptation", json!("bayes:share=0.01")),
        (&["--head", "preservation"], "preservation", Value::Null),
        (&["--router", "cosine:threshold=0.8"], "adaptation", json!("cosine:threshold=0.8")),
    ] {
        let _ = fs::remove_dir_all(world.path("one-hf"));
        succeeded(&world.treering(&[&["export", "one", "--out", "one-hf"], more].concat()));
        let config = parsed(&world.path("one-hf/config.json"));
        assert_eq!((&config["head"], &config["router"]), (&head.into(), &router));
    }

    // The licence of a base that says what it is goes on.
    fs::write(world.path("base/README.md"), "---\nlanguage: en\nlicense: \"apache-2.0\"\n---\n# Base\n").unwrap();
    succeeded(&world.treering(&["export", "two", "--out", "licensed"]));
    let card = fs::read_to_string(world.path("licensed/README.md")).unwrap();
    assert!(card.starts_with("---\nlicense: apache-2.0\n") && card.contains("`apache-2.0`, applies"), "{card}");
}

#[test]
fn rings_come_back_bit_for_bit_from_one_file_or_many_and_with_their_base() {
    let (world, _) = exported();
    let said = heads(&world, "two");
    assert_eq!(said.len(), 3);
    let report = import(&world, &["hf", "--out", "back"]);
    assert_eq!((&report["kind"], &report["rounded"]), (&"widened".into(), &false.into()));
    assert!(report["rings"].as_array().unwrap().iter().all(|ring| ring["unchanged"] == true && ring["sha256"] == ring["exported_sha256"]));
    for (ring, folder) in [("1", "back/ring-1"), ("2", "back")] {
        let out = format!("ring-{ring}");
        succeeded(&world.treering(&["rings", "export", "two", "--ring", ring, "--out", &out]));
        let read = |folder: &str| load_parameters(world.path(folder).join("expansion.safetensors"), None).unwrap().0;
        assert_eq!(read(&out), read(folder), "every tensor of ring {ring}");
    }
    // A ring around the base alone is the same file to the byte.
    for file in ["expansion.safetensors", "treering.json"] {
        assert_eq!(fs::read(world.path("ring-1").join(file)).unwrap(), fs::read(world.path("back/ring-1").join(file)).unwrap());
    }
    assert_eq!(heads(&world, "back"), said);

    succeeded(&world.treering(&["export", "two", "--out", "shards", "--max-shard-size", "9000", "--verify"]));
    assert!(world.path("shards/model.safetensors.index.json").is_file() && !world.path("shards/model.safetensors").exists());
    let report = import(&world, &["shards", "--out", "of-shards"]);
    assert!(report["rings"].as_array().unwrap().iter().all(|ring| ring["unchanged"] == true));

    // Without the original, also where everything is moved together; and a ring grows on what came back.
    fs::rename(world.path("base"), world.path("elsewhere")).unwrap();
    let error = failed(&world.treering(&["import", "hf", "--out", "x"]), 2);
    assert!(error.contains("is not here") && error.contains("--base") && error.contains("--with-base"), "{error}");
    import(&world, &["hf", "--base", "elsewhere", "--out", "on-moved"]);
    import(&world, &["hf", "--with-base", "--out", "whole"]);
    fs::rename(world.path("whole"), world.path("moved")).unwrap();
    assert_eq!(heads(&world, "on-moved"), said);
    assert_eq!(heads(&world, "moved"), said);
    let sizes = ["--hidden-size", "4", "--num-key-value-heads", "1", "--intermediate-size", "6"];
    succeeded(&world.treering(&[&["grow", "moved", "--out", "third", "--verify"], &sizes[..]].concat()));
    assert_eq!(heads(&world, "third")[..2], said[..2]);
    // What was imported is exported again, to the same weights.
    succeeded(&world.treering(&["export", "moved", "--out", "again", "--verify"]));
    assert_eq!(fs::read(world.path("again/model.safetensors")).unwrap(), fs::read(world.path("hf/model.safetensors")).unwrap());
    // A folder without its values: nothing is left behind.
    assert!(!world.path("x").exists());
}

#[test]
fn what_was_trained_elsewhere_comes_back_and_what_must_not_change_is_checked() {
    let (world, _) = exported();
    let refused = |folder: &str, parts: &[&str]| {
        let error = failed(&world.treering(&["import", folder, "--out", "x"]), 1);
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        assert!(!world.path("x").exists());
        error
    };

    // As transformers leaves a folder after training: further keys, the newest ring changed.
    let newest = "model.layers.1.mlp.up_proj.ring_2.base_to_expansion.weight";
    copy(&world, "hf", "trained");
    let mut config = parsed(&world.path("trained/config.json"));
    for (key, value) in
        [("transformers_version", json!("9.0")), ("sliding_window", Value::Null), ("use_cache", json!(true)), ("layer_types", Value::Null)]
    {
        config[key] = value;
    }
    fs::write(world.path("trained/config.json"), config.to_string()).unwrap();
    change(&world, "trained", |parameters| named(parameters, newest).value.iter_mut().for_each(|v| *v += 0.25));
    let report = import(&world, &["trained", "--out", "back"]);
    assert_eq!((&report["rings"][0]["unchanged"], &report["rings"][1]["unchanged"]), (&true.into(), &false.into()));
    let (before, after) = (heads(&world, "two"), heads(&world, "back"));
    assert!(before[..2] == after[..2] && before[2] != after[2], "{before:?} {after:?}");
    let (back, _) = load_parameters(world.path("back/expansion.safetensors"), None).unwrap();
    let (hf, _) = load_parameters(world.path("trained/model.safetensors"), None).unwrap();
    let values = |parameters: &[Parameter], name: &str| parameters.iter().find(|p| p.name == name).unwrap().value.clone();
    assert_eq!(values(&back, "model.layers.1.mlp.up_proj.base_to_expansion.weight"), values(&hf, newest));

    // An inner ring or the base that was trained.
    copy(&world, "hf", "inner");
    change(&world, "inner", |parameters| named(parameters, "lm_head.ring_1.expansion.weight").value[3] += 1.0);
    assert_eq!(sums(&refused("inner", &["ring 1 was changed since it was exported"])), 2);
    copy(&world, "hf", "base-trained");
    change(&world, "base-trained", |parameters| named(parameters, "model.layers.0.mlp.up_proj.weight").value[3] += 1.0);
    refused("base-trained", &["`model.layers.0.mlp.up_proj.weight` was changed", "--with-base"]);

    // Other tensors than the model has.
    copy(&world, "hf", "surplus");
    change(&world, "surplus", |parameters| {
        let mut more = parameters[0].clone();
        more.name = "score.weight".into();
        parameters.push(more);
    });
    refused("surplus", &["`score.weight`", "no place"]);
    copy(&world, "hf", "missing");
    change(&world, "missing", |parameters| parameters.retain(|p| p.name != newest));
    refused("missing", &[newest]);
    copy(&world, "hf", "base-missing");
    change(&world, "base-missing", |parameters| parameters.retain(|p| p.name != "model.norm.weight"));
    refused("base-missing", &["`model.norm.weight`"]);

    // Configurations that are damaged, newer, or of another kind.
    for (key, value, part) in [
        ("treering", json!({"format_version": 9}), "reads up to 2"),
        ("treering", Value::Null, "`treering.format_version` is missing"),
        ("rings", json!([]), "`rings` has 0 entries"),
        ("rings", json!("two"), "`rings`"),
        ("base_model_type", json!("mamba"), "mamba"),
        ("hidden_size", json!(23), "was expected"),
    ] {
        copy(&world, "hf", "damaged");
        let mut config = parsed(&world.path("hf/config.json"));
        config[key] = value;
        fs::write(world.path("damaged/config.json"), config.to_string()).unwrap();
        refused("damaged", &[part]);
    }
    // One that claims more than there is, before it is listed.
    copy(&world, "hf", "damaged");
    let mut config = parsed(&world.path("hf/config.json"));
    config["num_hidden_layers"] = json!(60_000);
    let rings = config["rings"].as_array_mut().unwrap();
    rings.iter_mut().for_each(|ring| ring["placement"] = json!({"modules": [], "preserved_layers": 60_000}));
    fs::write(world.path("damaged/config.json"), config.to_string()).unwrap();
    refused("damaged", &["60000 layers and 2 rings, and its files hold"]);

    // Rounded to bf16: every ring is another then, and the base still is the one.
    succeeded(&world.treering(&["export", "two", "--out", "half", "--dtype", "bf16"]));
    let report = import(&world, &["half", "--out", "rounded"]);
    assert!(report["rounded"] == true && report["rings"].as_array().unwrap().iter().all(|ring| ring["unchanged"] == false));
    let preserved = |heads: Vec<(String, u64)>| heads[0].clone();
    assert_eq!(preserved(heads(&world, "rounded")), preserved(before));

    // Another base in its place.
    fs::rename(world.path("base"), world.path("kept")).unwrap();
    fs::create_dir(world.path("base")).unwrap();
    world.change_base();
    assert_eq!(sums(&refused("hf", &["it is another model", "--base"])), 2);
}

#[test]
fn what_needs_no_import_or_cannot_be_exported_is_refused_with_a_way_out() {
    let (world, _) = exported();
    let refused = |arguments: &[&str], code: i32, part: &str| {
        let error = failed(&world.treering(arguments), code);
        assert!(error.contains(part), "{error}");
    };
    // Folders for transformers are not read as they are.
    refused(&["eval", "hf", "--corpus", "a=new.jsonl"], 1, "treering import FOLDER --out RINGS");
    refused(&["generate", "hf", "--prompt", "w1"], 1, "treering import FOLDER --out RINGS");
    refused(&["grow", "hf", "--out", "x"], 1, "treering import FOLDER --out RINGS");
    refused(&["train", "scale-preserve.toml", "--set", "model.path=hf", "--out", "x"], 1, "treering import FOLDER --out RINGS");
    for (path, what) in [("base", "is a plain model"), ("one", "is a run")] {
        refused(&["import", path, "--out", "x"], 2, what);
    }
    succeeded(&world.treering(&["import", "hf", "--out", "back"]));
    refused(&["import", "back", "--out", "x"], 2, "is an expansion");
    refused(&["import", "nowhere", "--out", "x"], 2, "nothing is here");
    refused(&["import", "hf", "--out", "back"], 1, "already exists");
    refused(&["import", "hf", "--with-base", "--base", "base", "--out", "x"], 2, "cannot be used with");
    refused(&["export", "two", "--to", "peft", "--out", "x"], 2, "has no adapters");
    refused(&["export", "two", "--head", "ring-2", "--out", "x"], 2, "the heads of two are preservation, ring-1, adaptation");
    refused(&["export", "two", "--router", "nobody", "--out", "x"], 2, "router `nobody` is not one of");
    refused(&["export", "base", "--head", "base", "--out", "x"], 2, "base has one head");
    refused(&["export", "two", "--verify", "--dtype", "bf16", "--out", "x"], 2, "rounded to bf16");
    refused(&["export", "two", "--out", "hf"], 1, "already exists");
    assert!(!world.path("x").exists());
}

#[test]
fn an_adapter_that_peft_made_is_tied_to_its_base() {
    let world = World::new();
    world.recipe("lora", "");
    succeeded(&world.train("lora", "lora", &["--set", "train.learning_rate=1e-2"]));
    succeeded(&world.treering(&["export", "lora", "--to", "peft", "--out", "theirs"]));
    // As peft writes it: no hash, and a name of the base that means nothing here.
    let path = world.path("theirs/adapter_model.safetensors");
    let (parameters, _) = load_parameters(&path, None).unwrap();
    save_parameters(&path, &parameters, &[("format".to_owned(), "pt".to_owned())].into()).unwrap();
    let config_path = world.path("theirs/adapter_config.json");
    let mut config = parsed(&config_path);
    config["base_model_name_or_path"] = json!("somebody/model");
    fs::write(&config_path, config.to_string()).unwrap();

    let error = failed(&world.treering(&["import", "theirs", "--out", "x"]), 2);
    assert!(error.contains("somebody/model") && error.contains("--base"), "{error}");
    assert!(failed(&world.treering(&["import", "theirs", "--with-base", "--out", "x"]), 2).contains("holds no base"));
    let report = import(&world, &["theirs", "--base", "base", "--out", "ours"]);
    assert_eq!((&report["kind"], &report["r"], &report["lora_alpha"]), (&"adapter".into(), &4.into(), &json!(16.0)));
    assert_eq!(report["target_modules"].as_array().unwrap().len(), 7);
    assert_eq!(heads(&world, "ours"), heads(&world, "lora"));
    let pair = world.json(&["eval", "ours", "--corpus", "a=new-held-out.jsonl", "--window", "16", "--router", "bayes", "--json"]);
    assert_eq!(pair["corpora"][0]["heads"].as_array().unwrap().len(), 2);
    succeeded(&world.treering(&["generate", "ours", "--prompt", "w1", "--max-new-tokens", "3"]));
    succeeded(&world.treering(&["export", "ours", "--out", "merged", "--verify"]));

    world.change_base();
    let error = failed(&world.treering(&["eval", "ours", "--corpus", "a=new-held-out.jsonl"]), 1);
    assert!(error.contains("for another model") && sums(&error) == 2, "{error}");
}
