//! The methods that widening is compared with, as commands: trained, stopped and resumed, measured, exported, and refused where they do not fit.

mod train_world;

use std::fs;

use train_world::{World, deterministic, failed, json, succeeded};
use treering::Error;
use treering::checkpoint::BaseCheckpoint;
use treering::train::session::{Event, Start};

const METHODS: [&str; 3] = ["lora", "freeze", "llama-pro"];

#[test]
fn resumed_equals_uninterrupted_bit_for_bit_recomputed_or_not() {
    let world = World::new();
    for kind in METHODS {
        world.recipe(kind, "");
        let (whole, cut) = (format!("{kind}-whole"), format!("{kind}-cut"));
        world.train_here(kind, &whole, &[], Start::New, &mut |_| false).unwrap();
        for step in [2, 7] {
            let stopped = world.train_here(kind, &cut, &[], Start::Resume, &mut |event| matches!(event, Event::Step(r) if r.step == step));
            assert!(matches!(stopped, Err(Error::Interrupted(_))), "{stopped:?}");
        }
        world.train_here(kind, &cut, &["train.recompute=true"], Start::Resume, &mut |_| false).unwrap();
        assert!(deterministic(&world.path(&whole)) == deterministic(&world.path(&cut)), "{kind}");
    }
    // The seed moves the adapters' first values and their dropout.
    let other = world.train_here("lora", "other", &["method.seed=5"], Start::New, &mut |_| false);
    other.unwrap();
    assert!(deterministic(&world.path("lora-whole")).1 != deterministic(&world.path("other")).1);
}

#[test]
fn every_baseline_learns_is_measured_and_exports_what_it_computes() {
    let world = World::new();
    for kind in METHODS {
        world.recipe(kind, "");
        let summary = json(&world.train(kind, kind, &["--json", "--set", "train.steps=120", "--set", "train.batch_size=8"]));
        let perplexity = |which: &str| summary[which]["learn/new-held-out/base/perplexity"].as_f64().unwrap();
        let (before, after) = (perplexity("first_evaluation"), perplexity("last_evaluation"));
        assert!(after < 0.8 * before, "{kind}: {before} {after}");

        let plan = json(&world.treering(&["plan", &format!("{kind}.toml"), "--no-speed", "--json"]));
        assert_eq!((&plan["method"], &plan["trained_parameters"]), (&kind.into(), &summary["trained_parameters"]), "{plan}");

        let export = json(&world.treering(&["export", kind, "--out", &format!("{kind}-hf"), "--verify", "--json"]));
        assert_eq!((&export["verification"]["holds"], &export["step"]), (&true.into(), &120.into()), "{export}");
        let layers = BaseCheckpoint::open(world.path(&format!("{kind}-hf"))).unwrap().config().num_hidden_layers;
        assert_eq!(layers, if kind == "llama-pro" { 4 } else { 2 });
        let measure = |model: &str, more: &[&str]| {
            let arguments = [&["eval", model, "--corpus", "new=new-held-out.jsonl", "--window", "16", "--json"], more].concat();
            json(&world.treering(&arguments))["corpora"][0]["heads"][0]["perplexity"].as_f64().unwrap()
        };
        let (ours, exported) = (measure(kind, &["--stride", "8"]), measure(&format!("{kind}-hf"), &["--stride", "8"]));
        assert!((ours - exported).abs() < 1e-5 * ours, "{kind}: {ours} {exported}");
        succeeded(&world.treering(&["generate", kind, "--prompt", "w1 w6", "--max-new-tokens", "4"]));
        succeeded(&world.treering(&["inspect", kind]));
        succeeded(&world.treering(&["plan", &format!("{kind}.toml"), "--no-speed"]));

        if kind == "lora" {
            json(&world.treering(&["export", kind, "--to", "peft", "--out", "adapter", "--verify", "--json"]));
            assert_eq!(measure("adapter", &["--stride", "8"]), ours);
            json(&world.treering(&["export", "adapter", "--out", "merged", "--verify", "--json"]));
            let read = |folder: &str| fs::read(world.path(folder).join("model.safetensors")).unwrap();
            assert!(read("merged") == read("lora-hf"));
        }
    }
}

#[test]
fn what_cannot_be_exported_is_refused_with_a_way_out() {
    let world = World::new();
    for kind in ["scale-preserve", "freeze", "lora"] {
        world.recipe(kind, "");
        succeeded(&world.train(kind, kind, &["--set", "train.steps=3"]));
    }
    let refused = |arguments: &[&str], code: i32, part: &str| {
        let error = failed(&world.treering(&[&["export"], arguments].concat()), code);
        assert!(error.contains(part), "{error}");
    };
    refused(&["scale-preserve", "--to", "peft", "--out", "x"], 2, "is widened (by scale-preserve) and has no adapters");
    refused(&["freeze", "--to", "peft", "--out", "x"], 2, "has no adapters (its method is freeze)");
    refused(&["lora", "--to", "peft", "--dtype", "bf16", "--out", "x"], 2, "adapters are written in f32");
    refused(&["lora", "--out", "base"], 1, "already exists");
    refused(&["nowhere", "--out", "x"], 2, "nothing is here");
    refused(&["base", "--step", "3", "--out", "x"], 2, "is no run");
    succeeded(&world.treering(&["export", "lora", "--to", "peft", "--out", "adapter"]));
    fs::rename(world.path("base"), world.path("moved")).unwrap();
    refused(&["adapter", "--out", "x"], 2, "--base says where");
    fs::rename(world.path("moved"), world.path("base")).unwrap();
    world.change_base();
    refused(&["adapter", "--out", "x"], 1, "for another model");
    refused(&["freeze", "--out", "x"], 1, "the base was changed or is another one");
    assert!(!world.path("x").exists());
}

#[test]
fn recipes_that_do_not_fit_are_refused_by_key() {
    let world = World::new();
    for kind in METHODS {
        world.recipe(kind, "");
    }
    for (kind, set, part) in [
        ("lora", "method.r=0", "method.r: 0 is out of range"),
        ("lora", "method.target_modules=['q_prj']", "did you mean `q_proj`?"),
        ("lora", "method.target_modules=[]", "\"all-linear\" names them all"),
        ("lora", "method.lora_dropout=1.0", "method.lora_dropout: 1 is not at least 0 and below 1"),
        ("lora", "method.lora_aplha=4", "did you mean `lora_alpha`?"),
        ("lora", "method.groups=2", "method.groups: the method `lora` has no such key; `llama-pro` has"),
        ("lora", "train.learning_rates.base=1e-3", "nothing of this block is trained"),
        ("lora", "method.modules_to_save=['norm']", "method.modules_to_save: "),
        ("freeze", "method.modules_to_save=['lm_head']", "the method `freeze` has no such key; `lora` has"),
        ("freeze", "method.frozen_layers=3", "method.frozen_layers: 3 is more than the base's 2 layers"),
        ("freeze", "method.hidden_size=8", "adds nothing to the base's width"),
        ("llama-pro", "method.groups=3", "method.groups: 3 does not divide the base's 2 layers"),
    ] {
        let error = failed(&world.train(kind, "x", &["--set", set]), 2);
        assert!(error.contains(part), "{error}");
    }
}
