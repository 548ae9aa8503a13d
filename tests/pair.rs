//! The base and a fine-tuned copy of it side by side: two heads for routers, without any widening.

mod train_world;

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;
use train_world::{World, failed, number, succeeded};

const KINDS: [&str; 4] = ["full", "freeze", "lora", "llama-pro"];
const ROUTERS: &str = "preserve,adapt,bayes,bayes:share=0,confidence,cosine";

fn world() -> World {
    let world = World::new();
    for kind in KINDS {
        world.recipe(kind, "");
        succeeded(&world.train(kind, kind, &["--set", "train.steps=40", "--set", "train.batch_size=8"]));
    }
    world
}

#[test]
fn a_pair_is_the_base_and_the_fine_tuned_model_to_the_bit_and_any_router_between_them() {
    let world = world();
    let windows = ["--window", "16", "--stride", "8", "--json"];
    for kind in KINDS {
        let trace = world.path("trace.jsonl");
        let pair = world
            .json(&[&["eval", kind, "--router", ROUTERS, "--representation", "--trace", trace.to_str().unwrap()], &windows[..]].concat());
        assert!(pair["model"].as_str().unwrap().contains("a pair") && pair["beside"].as_str().unwrap().ends_with("base"), "{pair}");
        let tuned = world.json(&[&["eval", kind, "--representation"], &windows[..]].concat());
        assert!(tuned["beside"].is_null() && tuned["corpora"][0]["heads"].as_array().unwrap().len() == 1);
        let corpora = ["--corpus", "new-held-out=new-held-out.jsonl", "--corpus", "old-held-out=old-held-out.jsonl"];
        let base = world.json(&[&["eval", "base"], &corpora[..], &windows[..]].concat());
        for (index, corpus) in pair["corpora"].as_array().unwrap().iter().enumerate() {
            let (heads, routers) = (&corpus["heads"], corpus["routers"].as_array().unwrap());
            assert_eq!((&heads[0]["head"], &heads[1]["head"]), (&"preservation".into(), &"adaptation".into()));
            assert_eq!(heads[0]["nll"], base["corpora"][index]["heads"][0]["nll"], "{kind}: the preservation head is the base");
            assert_eq!(heads[1]["nll"], tuned["corpora"][index]["heads"][0]["nll"], "{kind}: the adaptation head is the fine-tuned model");
            assert_ne!(heads[0]["nll"], heads[1]["nll"]);
            assert_eq!(corpus["representation"], tuned["corpora"][index]["representation"], "{kind}");
            let of = |name: &str| number(&routers.iter().find(|r| r["router"] == name).unwrap()["nll"]);
            let (preserved, adapted) = (number(&heads[0]["nll"]), number(&heads[1]["nll"]));
            assert!((of("preserve") - preserved).abs() < 1e-6 * preserved && (of("adapt") - adapted).abs() < 1e-6 * adapted);
            let bounded = routers.iter().find(|r| r["router"] == "bayes:share=0").unwrap();
            assert!(number(&bounded["worst_document_excess"]) <= std::f64::consts::LN_2 + 1e-6, "{bounded}");
        }
        assert!(
            pair["summary"].as_array().unwrap().len() == 8
                && number(&pair["summary"][1]["learning"]) < number(&pair["summary"][0]["learning"])
        );
        let line: Value = serde_json::from_str(fs::read_to_string(&trace).unwrap().lines().next().unwrap()).unwrap();
        assert!(
            line["log_probs"].as_array().unwrap().len() == 2
                && line["decisions"].as_array().unwrap().len() == 6
                && !line["cosine"].is_null()
        );

        let ask = |model: &str, more: &[&str]| {
            world.json(&[&["generate", model, "--prompt", "w1 w6 w31", "--max-new-tokens", "8", "--json"], more].concat())
        };
        for (router, alone) in [("preserve", "base"), ("adapt", kind)] {
            assert_eq!(ask(kind, &["--router", router])["tokens"], ask(alone, &[])["tokens"], "{kind}, {router}");
        }
        let routed = ask(kind, &["--router", "bayes"]);
        assert_eq!(routed["trace"].as_array().unwrap().len(), routed["tokens"].as_array().unwrap().len());
    }
}

#[test]
fn an_exported_model_and_an_adapter_are_paired_with_the_base_that_is_named() {
    let world = world();
    succeeded(&world.treering(&["export", "full", "--out", "hf"]));
    succeeded(&world.treering(&["export", "lora", "--to", "peft", "--out", "adapter"]));
    let corpus = ["--corpus", "a=new-held-out.jsonl", "--window", "16", "--router", "bayes", "--json"];
    for model in ["hf", "adapter"] {
        let found = world.json(&[&["eval", model, "--base", "base"], &corpus[..]].concat());
        assert_eq!(found["corpora"][0]["heads"].as_array().unwrap().len(), 2, "{model}");
    }
    let refused = |arguments: &[&str], code: i32, part: &str| {
        let error = failed(&world.treering(arguments), code);
        assert!(error.contains(part), "{error}");
    };
    refused(
        &[&["eval", "hf"], &corpus[..]].concat(),
        2,
        "router `bayes`: hf has one head, and a router chooses between two\n  hint: --base MODEL",
    );
    refused(&["generate", "base", "--prompt", "w1", "--router", "confidence"], 2, "router `confidence`: base has one head");
    refused(&[&["eval", "hf", "--base", "nowhere"], &corpus[..]].concat(), 1, "nowhere");
}

#[test]
fn a_recipe_with_a_router_is_measured_and_asked_as_a_pair_and_trains_the_same() {
    let world = World::new();
    for kind in KINDS {
        world.recipe(kind, "");
        let (routed, alone) = (format!("{kind}-routed"), format!("{kind}-alone"));
        let steps = ["--set", "train.steps=6", "--set", "train.checkpoint_every_steps=3"];
        succeeded(&world.train(kind, &alone, &steps));
        let router = ["--set", "route.router=[\"bayes\", \"confidence\"]"];
        succeeded(&world.train(kind, &routed, &[&steps[..], &router].concat()));
        let trained = |run: &str| fs::read(world.path(run).join("checkpoints/step-000006/trained.safetensors")).unwrap();
        assert!(trained(&routed) == trained(&alone), "{kind}: what is trained does not depend on routers");

        let (pair, single) = (world.last_evaluation(&routed), world.last_evaluation(&alone));
        let of = |values: &BTreeMap<String, f64>, name: &str| values[&format!("learn/new-held-out/{name}/perplexity")];
        assert_eq!(of(&pair, "adaptation"), of(&single, "base"), "{kind}");
        assert!(of(&pair, "preservation") != of(&pair, "adaptation") && of(&pair, "bayes") > 1.0 && of(&pair, "confidence") > 1.0);

        // The run's first router speaks without being named, and `eval` measures all of them.
        let ask = |run: &str, more: &[&str]| {
            world.json(&[&["generate", run, "--prompt", "w1 w6 w31", "--max-new-tokens", "8", "--json"], more].concat())
        };
        let spoken = ask(&routed, &[]);
        assert!(spoken["trace"].as_array().is_some_and(|trace| !trace.is_empty()), "{spoken}");
        assert_eq!(spoken["tokens"], ask(&alone, &["--router", "bayes"])["tokens"], "{kind}");
        assert_eq!(ask(&routed, &["--head", "preservation"])["tokens"], ask("base", &[])["tokens"], "{kind}");
        let found = world.json(&["eval", &routed, "--window", "16", "--stride", "8", "--json"]);
        assert!(found["beside"].as_str().unwrap().ends_with("base"), "{found}");
        assert_eq!(found["corpora"][0]["routers"].as_array().unwrap().len(), 2, "{found}");
        // What is exported is the fine-tuned model.
        for run in [&routed, &alone] {
            succeeded(&world.treering(&["export", run, "--out", &format!("{run}-hf"), "--verify"]));
        }
        let written = |run: &str| fs::read(world.path(&format!("{run}-hf")).join("model.safetensors")).unwrap();
        assert!(written(&routed) == written(&alone), "{kind}");
    }
    // One who asks what is made after a run is told so, whatever the method.
    let error = failed(&world.train("full", "x", &["--set", "route.router=gate"]), 2);
    assert!(error.contains("asks what is made after a run"), "{error}");
}
