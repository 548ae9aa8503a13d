//! Every family grows, trains by every method, keeps its base and comes out as a plain model of its own.

use treering::checkpoint::{BaseCheckpoint, Config, Family};
use treering::model::{Model, Precision};
use treering::train::build;

use crate::train_world::{World, failed, json, number, succeeded};

fn worlds() -> Vec<World> {
    let of = |change: fn(&mut Config)| World::with(change);
    vec![
        of(|c| (c.family, c.sliding_window) = (Family::Mistral, Some(6))),
        of(|c| (c.family, c.sliding_window, c.full_attention_layers) = (Family::Qwen2, Some(5), vec![0])),
        of(|c| (c.family, c.tie_word_embeddings) = (Family::Qwen3, true)),
        of(|c| (c.family, c.attention_bias) = (Family::Olmo2, true)),
    ]
}

fn family(world: &World) -> Family {
    BaseCheckpoint::open(world.path("base")).unwrap().config().family
}

#[test]
fn a_widened_model_of_every_family_is_its_base_before_training_and_its_preservation_head_stays_so() {
    for world in worlds() {
        let family = family(&world);
        let grown = world.json(&[
            "grow",
            "base",
            "--out",
            "grown",
            "--hidden-size",
            "8",
            "--num-key-value-heads",
            "1",
            "--intermediate-size",
            "12",
            "--modules",
            "attention",
            "--verify",
            "--json",
        ]);
        assert_eq!(grown["verification"]["holds"], true, "{family:?}: {grown}");
        world.recipe("scale-adapt", "");
        succeeded(&world.train("scale-adapt", "run", &["--set", "train.learning_rate=2e-2"]));
        let base = world.json(&[
            "eval",
            "base",
            "--corpus",
            "new=new-held-out.jsonl",
            "--window",
            "16",
            "--stride",
            "16",
            "--dtype",
            "f32",
            "--json",
        ]);
        let run = world.json(&["eval", "run", "--corpus", "new=new-held-out.jsonl", "--window", "16", "--stride", "16", "--json"]);
        let perplexity = |value: &serde_json::Value, head: &str| {
            let heads = &value["corpora"][0]["heads"];
            let found = heads.as_array().unwrap().iter().find(|h| h["head"] == head);
            number(&found.unwrap_or_else(|| panic!("{head} is not in {value}"))["perplexity"])
        };
        assert_eq!(perplexity(&run, "preservation"), perplexity(&base, "base"), "{family:?}");
        assert!(perplexity(&run, "adaptation") < 0.95 * perplexity(&base, "base"), "{family:?} learnt nothing: {run}");
        // A ring around it, and what it stands on stays.
        world.recipe("scale-preserve", "");
        succeeded(&world.train("scale-preserve", "ring", &["--set", "model.path=run"]));
        let ring = world.json(&["eval", "ring", "--corpus", "new=new-held-out.jsonl", "--window", "16", "--stride", "16", "--json"]);
        assert_eq!(perplexity(&ring, "preservation"), perplexity(&base, "base"), "{family:?}");
        assert_eq!(perplexity(&ring, "ring-1"), perplexity(&run, "adaptation"), "{family:?}");
    }
}

#[test]
fn every_baseline_of_every_family_comes_out_as_a_plain_model_of_that_family() {
    for world in worlds() {
        let family = family(&world);
        for method in ["full", "freeze", "lora", "llama-pro"] {
            world.recipe(method, "");
            let run = format!("run-{method}");
            succeeded(&world.train(method, &run, &["--set", "train.steps=6"]));
            let out = format!("plain-{method}");
            let exported = world.json(&["export", &run, "--out", &out, "--verify", "--json"]);
            assert_eq!(exported["verification"]["holds"], true, "{family:?} {method}: {exported}");
            let config = BaseCheckpoint::open(world.path(&out)).unwrap().config().clone();
            assert_eq!(config.family, family);
            if method == "llama-pro" {
                assert_eq!(config.num_hidden_layers, 4);
                let windows = (0..4).map(|layer| config.window(layer)).collect::<Vec<_>>();
                let original = BaseCheckpoint::open(world.path("base")).unwrap().config().clone();
                let [first, second] = [0, 1].map(|layer| original.window(layer));
                assert_eq!(windows, [first, first, second, second], "{family:?}: a copy looks back as far as its original");
            }
        }
        let trained = build::open_run(&world.path("run-llama-pro"), None, None).unwrap();
        let base = Model::from_base(&BaseCheckpoint::open(world.path("base")).unwrap(), Precision::F32, false).unwrap();
        let logits = |model: &Model| model.step(&mut model.new_cache(4), &[1, 2, 3]).unwrap();
        assert_ne!(logits(&trained.model), logits(&base), "{family:?}: the copies learnt");
    }
}

#[test]
fn families_that_are_not_known_are_refused_by_the_command_by_name() {
    let world = World::new();
    let path = world.path("base/config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    for (from, to, says) in [
        ("\"llama\"", "\"mixtral\"", "\"mixtral\"; what can be read is llama, mistral, qwen2, qwen3, olmo2"),
        ("\"silu\"", "\"gelu_pytorch_tanh\"", "`hidden_act` is \"gelu_pytorch_tanh\""),
        ("\"hidden_act\"", "\"num_local_experts\": 8, \"hidden_act\"", "`num_local_experts` is 8"),
    ] {
        std::fs::write(&path, text.replace(from, to)).unwrap();
        let error = failed(&world.treering(&["inspect", "base"]), 1);
        assert!(error.contains("config.json") && error.contains(says), "{error}");
    }
    std::fs::write(&path, text).unwrap();
    json(&world.treering(&["inspect", "base", "--json"]));
}
