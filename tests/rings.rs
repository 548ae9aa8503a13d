//! Rings around rings, as a user makes them: trained, resumed, evaluated, asked, moved and taken apart.

mod train_world;

use std::fs;
use std::path::Path;

use serde_json::Value;
use train_world::{World, deterministic, failed, number, succeeded};
use treering::Error;
use treering::train::session::{Event, Start};

/// Trains `one` (scale-adapt), `two` on it and `three` on that.
fn grown(dtype: &str) -> World {
    let world = World::new();
    world.recipe("scale-adapt", "");
    world.recipe("scale-preserve", "");
    let dtype = format!("model.dtype={dtype}");
    for (kind, out, on) in [("scale-adapt", "one", "base"), ("scale-preserve", "two", "one"), ("scale-preserve", "three", "two")] {
        let path = format!("model.path={on}");
        // Each learns something else, enough to tell them apart.
        let data = if out == "two" { "data.train=old-held-out.jsonl" } else { "data.train=new.jsonl" };
        succeeded(&world.train(kind, out, &["--set", &dtype, "--set", &path, "--set", data, "--set", "train.learning_rate=1e-2"]));
    }
    world
}

/// Names of the heads, and what each made of both corpora, to the last bit.
fn heads(world: &World, model: &str, more: &[&str]) -> Vec<(String, [u64; 2])> {
    let corpora = ["--corpus", "new=new-held-out.jsonl", "--corpus", "old=old-held-out.jsonl", "--window", "16", "--json"];
    let evaluation = world.json(&[&["eval", model], &corpora[..], more].concat());
    let bits = |corpus: usize, head: usize| number(&evaluation["corpora"][corpus]["heads"][head]["nll"]).to_bits();
    let of = |(index, head): (usize, &Value)| (head["head"].as_str().unwrap().to_owned(), [bits(0, index), bits(1, index)]);
    evaluation["corpora"][0]["heads"].as_array().unwrap().iter().enumerate().map(of).collect()
}

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-r").args([from, to]).status().unwrap();
    assert!(copied.success());
}

/// The different SHA-256 sums in a message.
fn sums(message: &str) -> usize {
    let words = message.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| w.len() == 64 && w.chars().all(|c| c.is_ascii_hexdigit()));
    words.collect::<std::collections::BTreeSet<_>>().len()
}

#[test]
fn what_earlier_heads_say_is_kept_bit_for_bit_and_any_ring_can_be_dropped_or_taken_out() {
    for dtype in ["f32", "bf16"] {
        let world = grown(dtype);
        let (one, two, three) = (heads(&world, "one", &[]), heads(&world, "two", &[]), heads(&world, "three", &[]));
        let names = |heads: &[(String, [u64; 2])]| heads.iter().map(|h| h.0.clone()).collect::<Vec<_>>().join(" ");
        assert_eq!(names(&one), "preservation adaptation");
        assert_eq!(names(&two), "preservation ring-1 adaptation");
        assert_eq!(names(&three), "preservation ring-1 ring-2 adaptation");
        let said = |heads: &[(String, [u64; 2])]| heads.iter().map(|h| h.1).collect::<Vec<_>>();
        assert_eq!(said(&two)[..2], said(&one)[..]);
        assert_eq!(said(&three)[..3], said(&two)[..]);
        assert!((0..3).all(|head| three[head].1 != three[head + 1].1), "every ring learnt something");
        assert_eq!(said(&one)[0], said(&heads(&world, "base", &["--dtype", dtype]))[0]);

        for (ring, model) in [("1", &one), ("2", &two), ("3", &three)] {
            let out = format!("ring-{ring}");
            let report = world.json(&["rings", "export", "three", "--ring", ring, "--out", &out, "--json"]);
            let rings = report["manifest"]["rings"].as_array().map_or(0, Vec::len);
            assert_eq!((report["ring"].to_string(), rings + 1), (ring.to_owned(), ring.parse().unwrap()));
            assert_eq!(report["manifest"]["format_version"], if rings == 0 { 1 } else { 2 });
            assert_eq!(fs::read_dir(world.path(&out)).unwrap().count(), 2, "one file and what it is");
            assert_eq!(&heads(&world, &out, &["--dtype", dtype]), model, "a model with fewer rings is the one it was");
        }
        let list = world.json(&["rings", "list", "ring-3", "--json"]);
        let runs = world.json(&["rings", "list", "three", "--json"]);
        let column = |list: &Value, key: &str| list["rings"].as_array().unwrap().iter().map(|ring| ring[key].clone()).collect::<Vec<_>>();
        assert_eq!(column(&list, "sha256"), column(&runs, "sha256"), "in whatever file a ring is");
        assert_eq!(column(&list, "head"), ["ring-1", "ring-2", "adaptation"]);
        // A run may stand on rings that were taken out as well as on runs.
        let set = ["--set", "model.path=ring-3", "--set", "train.steps=3", "--set", &format!("model.dtype={dtype}")];
        succeeded(&world.train("scale-preserve", "four", &set));
        assert_eq!(said(&heads(&world, "four", &[]))[..4], said(&three)[..]);
    }
}

#[test]
fn routers_choose_among_all_heads_in_eval_and_generate() {
    let world = grown("f32");
    let routers = "preserve,adapt,cosine,confidence,bayes,bayes:share=0,bayes-confidence:share=0";
    let trace = world.path("trace.jsonl");
    let evaluation = world.json(&["eval", "three", "--router", routers, "--json", "--trace", trace.to_str().unwrap()]);
    let mut spoke = std::collections::BTreeSet::new();
    for line in fs::read_to_string(&trace).unwrap().lines() {
        let token: Value = serde_json::from_str(line).unwrap();
        assert_eq!((token["log_probs"].as_array().unwrap().len(), token["largest"].as_array().unwrap().len()), (4, 4));
        spoke.extend(token["decisions"].as_array().unwrap().iter().map(|d| d["head"].as_str().unwrap().to_owned()));
    }
    assert_eq!(spoke.into_iter().collect::<Vec<_>>(), ["adaptation", "preservation", "ring-1", "ring-2"]);
    for corpus in evaluation["corpora"].as_array().unwrap() {
        let router = |name: &str| corpus["routers"].as_array().unwrap().iter().find(|r| r["router"] == name).unwrap().clone();
        let excess = |name: &str| number(&router(name)["worst_document_excess"]);
        assert!(excess("bayes:share=0") <= 4f64.ln() + 1e-9, "{}", excess("bayes:share=0"));
        assert!(excess("bayes-confidence:share=0") <= 4f64.ln() + 2f64.ln() + 1e-9);
        assert_eq!(router("preserve")["nll"], corpus["heads"][0]["nll"]);
        let shares: Vec<f64> = router("bayes")["head_shares"].as_array().unwrap().iter().map(number).collect();
        assert!(shares.len() == 4 && (shares.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{shares:?}");
        assert_eq!(shares[3], number(&router("bayes")["adaptation_share"]));
        assert_eq!(router("adapt")["nll"], corpus["heads"][3]["nll"]);
    }

    let ask = |model: &str, more: &[&str]| {
        world.json(&[&["generate", model, "--prompt", "w1 w6 w31 w12", "--max-new-tokens", "8", "--json"], more].concat())
    };
    for (head, model, alone) in [
        ("preservation", "base", "base"),
        ("ring-1", "one", "adaptation"),
        ("ring-2", "two", "adaptation"),
        ("adaptation", "three", "adaptation"),
    ] {
        assert_eq!(ask("three", &["--head", head])["tokens"], ask(model, &["--head", alone])["tokens"], "{head}");
    }
    for router in routers.split(",") {
        let made = ask("three", &["--router", router, "--temperature", "1.0"]);
        assert_eq!(made["trace"].as_array().unwrap().len(), made["tokens"].as_array().unwrap().len(), "{router}");
    }
    // What each ring was taught lies with it, also when it is taken out.
    let missing = |model: &str| failed(&world.treering(&["eval", model, "--router", "recall"]), 2);
    assert!(missing("three").contains("the head `ring-1` was taught was not kept"));
    for ring in ["one", "two"] {
        world.json(&["recall", ring, "--json"]);
    }
    assert!(missing("three").contains("the head `adaptation` was taught was not kept"));
    world.json(&["recall", "three", "--json"]);
    let asked = |model: &str| {
        world.json(&["eval", model, "--router", "recall", "--json", "--learn", "new=new.jsonl"])["corpora"][0]["routers"].clone()
    };
    world.json(&["rings", "export", "three", "--ring", "2", "--out", "taken", "--json"]);
    assert!(world.path("taken/recall.safetensors").exists());
    // A run is measured in its recipe's windows, an expansion in the default ones: who speaks depends on the text alone.
    let whole = asked("two");
    assert!(whole[0]["head_shares"].as_array().unwrap().len() == 3, "{whole}");
    assert_eq!(asked("taken")[0]["head_shares"], whole[0]["head_shares"]);
    let shown =
        world.treering(&["generate", "three", "--prompt", "w1 w6 w31 w12", "--max-new-tokens", "8", "--router", "bayes", "--trace"]);
    succeeded(&shown);
    assert!(
        failed(&world.treering(&["generate", "one", "--prompt", "w1", "--head", "ring-1"]), 2)
            .contains("no ring-1 head, only preservation and")
    );
    assert!(failed(&world.treering(&["generate", "one", "--prompt", "w1", "--head", "ring-0"]), 2).contains("ring-0"));
    assert!(failed(&world.treering(&["eval", "base", "--router", "bayes", "--corpus", "a=new.jsonl"]), 2).contains("one head"));
    assert!(failed(&world.treering(&["rings", "list", "base"]), 2).contains("plain model without rings"));
    assert!(failed(&world.treering(&["rings", "export", "two", "--ring", "3", "--out", "x"]), 2).contains("has 2 rings"));
}

#[test]
fn a_ring_stopped_or_killed_at_any_moment_and_resumed_equals_uninterrupted() {
    let world = World::new();
    world.recipe("scale-adapt", "");
    world.recipe("scale-preserve", "");
    succeeded(&world.train("scale-adapt", "one", &[]));
    let set = ["model.path=one"];
    let mut never = |_: &Event| false;
    world.train_here("scale-preserve", "whole", &set, Start::New, &mut never).unwrap();
    for step in [2, 7] {
        let mut at = |event: &Event| matches!(event, Event::Step(record) if record.step == step);
        let stopped = world.train_here("scale-preserve", "cut", &set, Start::Resume, &mut at);
        assert!(matches!(stopped, Err(Error::Interrupted(_))), "{stopped:?}");
    }
    world.train_here("scale-preserve", "cut", &set, Start::Resume, &mut never).unwrap();
    assert!(deterministic(&world.path("whole")) == deterministic(&world.path("cut")));

    let arguments = |out: &'static str| {
        [
            "train",
            "scale-preserve.toml",
            "--out",
            out,
            "--set",
            "model.path=one",
            "--set",
            "train.steps=60",
            "--set",
            "train.checkpoint_every_steps=2",
            "--resume",
        ]
    };
    succeeded(&world.treering(&arguments("long")));
    let kills = world.kill_until_finished(&arguments("killed"));
    assert!(deterministic(&world.path("long")) == deterministic(&world.path("killed")), "after {kills} kills");
}

#[test]
fn a_changed_base_or_ring_is_refused_with_both_hashes_and_a_moved_one_can_be_named() {
    let world = grown("f32");
    let corpus = ["--corpus", "a=new-held-out.jsonl"];
    let (expected, eval) = (heads(&world, "three", &[]), |more: &[&str]| world.treering(&[&["eval", "three"], &corpus[..], more].concat()));
    succeeded(&world.treering(&["rings", "export", "two", "--out", "exported-two"]));

    // Moved: the ring and the base may be anywhere, as long as they are the same.
    fs::rename(world.path("one"), world.path("elsewhere")).unwrap();
    let error = failed(&eval(&[]), 1);
    assert!(error.contains("ring 1 is not here any more") && error.contains("--ring-path"), "{error}");
    assert_eq!(heads(&world, "three", &["--ring-path", "elsewhere"]), expected);
    assert_eq!(heads(&world, "three", &["--ring-path", "elsewhere", "--ring-path", "exported-two"]).len(), 4);
    assert!(failed(&eval(&["--ring-path", "elsewhere", "--ring-path", "two", "--ring-path", "three"]), 2).contains("3 rings were named"));
    assert!(failed(&eval(&["--ring-path", "base"]), 1).contains("plain model, where ring 1 was"));

    // Another ring in its place.
    succeeded(&world.train("scale-adapt", "one", &["--set", "train.seed=5"]));
    let set = ["--set", "model.path=two", "--set", "data.train=new.jsonl", "--set", "train.learning_rate=1e-2", "--resume"];
    for error in [failed(&eval(&[]), 1), failed(&world.train("scale-preserve", "three", &set), 1)] {
        assert!(error.contains("stands on a ring 1 with SHA-256") && sums(&error) == 2, "{error}");
    }
    let resumed = ["--set", "model.path=one", "--set", "data.train=old-held-out.jsonl", "--set", "train.learning_rate=1e-2", "--resume"];
    let error = failed(&world.train("scale-preserve", "two", &resumed), 1);
    assert!(error.contains("state.json") && error.contains("stands on a ring 1 with SHA-256") && sums(&error) == 2, "{error}");
    let error = failed(&world.treering(&[&["eval", "exported-two"], &corpus[..]].concat()), 1);
    assert!(error.contains("SHA-256") && sums(&error) == 2, "{error}");
    fs::remove_dir_all(world.path("one")).unwrap();
    fs::rename(world.path("elsewhere"), world.path("one")).unwrap();
    assert_eq!(heads(&world, "three", &[]), expected);

    // Another base.
    copy(&world.path("base"), &world.path("kept"));
    world.change_base();
    for model in ["three", "exported-two"] {
        let error = failed(&world.treering(&[&["eval", model], &corpus[..]].concat()), 1);
        assert!(error.contains("base") && sums(&error) == 2, "{error}");
    }
    assert_eq!(heads(&world, "three", &["--base", "kept"]), expected);
}

#[test]
fn grow_and_plan_go_on_from_what_was_grown() {
    let world = World::new();
    world.recipe("scale-adapt", "");
    world.recipe("scale-preserve", "");
    world.recipe("full", "");
    succeeded(&world.train("scale-adapt", "one", &[]));
    succeeded(&world.train("full", "full", &["--set", "train.steps=3"]));
    let sizes = ["--hidden-size", "4", "--num-key-value-heads", "1", "--intermediate-size", "6"];
    for (model, out, rings) in [("one", "grown-2", 2), ("grown-2", "grown-3", 3)] {
        for (init, out) in [("svd,zero", out.to_owned()), ("random,svd", format!("{out}-random"))] {
            let report = world.json(&[&["grow", model, "--out", &out, "--init", init, "--verify", "--json"], &sizes[..]].concat());
            let heads = report["verification"]["heads"].as_array().unwrap();
            assert_eq!((heads.len(), &report["verification"]["holds"]), (rings + 1, &true.into()));
            for kind in ["logits", "log_probs", "hidden"] {
                assert!(heads.iter().all(|head| number(&head[kind]["compared"]) > 0.0 && head[kind]["differing"] == 0), "{report}");
            }
            assert_eq!(report["manifest"]["rings"].as_array().unwrap().len(), rings - 1);
        }
    }
    let described = world.json(&["inspect", "grown-3", "--json"]);
    assert_eq!(described["manifest"]["rings"].as_array().unwrap().len(), 2);
    assert!(String::from_utf8(world.treering(&["inspect", "grown-3"]).stdout).unwrap().contains("one/checkpoints/step-000012"));

    let plan = |model: &str| world.json(&[&["plan", model, "--no-speed", "--json"], &sizes[..]].concat());
    let (base, two, three) = (plan("base"), plan("one"), plan("grown-2"));
    assert_eq!((base["rings"].is_null(), two["rings"].as_array().unwrap().len(), three["rings"].as_array().unwrap().len()), (true, 1, 2));
    assert_eq!(number(&three["frozen_parameters"]), number(&two["frozen_parameters"]) + number(&two["trained_parameters"]));
    assert_eq!(two["trained_parameters"], described_count(&world, "grown-2"));
    assert_eq!(three["trained_parameters"], described_count(&world, "grown-3"));
    assert!(number(&three["flops_per_token"]["total"]) > number(&two["flops_per_token"]["total"]));
    let recipe = world.json(&["plan", "scale-preserve.toml", "--set", "model.path=grown-2", "--no-speed", "--json"]);
    assert_eq!(recipe["rings"].as_array().unwrap().len(), 2);

    let refused = |arguments: &[&str]| failed(&world.treering(arguments), 2);
    let adapts = "ring 2 cannot train expansion_to_base";
    assert!(refused(&["grow", "one", "--out", "x", "--modules", "ffn"]).contains(adapts));
    assert!(refused(&["plan", "scale-adapt.toml", "--set", "model.path=one"]).contains(adapts));
    assert!(refused(&["train", "scale-adapt.toml", "--set", "model.path=one", "--out", "x"]).contains(adapts));
    assert!(refused(&["train", "full.toml", "--set", "model.path=one", "--out", "x"]).contains("only scale-preserve can be trained on it"));
    assert!(refused(&["grow", "full", "--out", "x"]).contains("trained by `full` and is no ring"));
    assert!(refused(&["eval", "base", "--ring-path", "one", "--corpus", "a=new.jsonl"]).contains("stands on none"));
    assert!(!world.path("x").exists());

    // A run that is still to go on would take its checkpoint away again.
    let mut at = |event: &Event| matches!(event, Event::Step(record) if record.step == 5);
    world.train_here("scale-adapt", "half", &[], Start::New, &mut at).unwrap_err();
    for arguments in [&["grow", "half", "--out", "x"][..], &["train", "scale-preserve.toml", "--set", "model.path=half", "--out", "x"]] {
        let error = refused(arguments);
        assert!(error.contains("is at step 5 of 12") && error.contains("rings export"), "{error}");
    }
    succeeded(&world.treering(&["rings", "export", "half", "--out", "half-ring"]));
    succeeded(&world.train("scale-preserve", "on-half", &["--set", "model.path=half-ring"]));
    assert_eq!(
        heads(&world, "on-half", &[])[..2].iter().map(|h| h.1).collect::<Vec<_>>(),
        heads(&world, "half", &[]).iter().map(|h| h.1).collect::<Vec<_>>()
    );
}

fn described_count(world: &World, expansion: &str) -> Value {
    world.json(&["inspect", expansion, "--json"])["manifest"]["parameter_count"].clone()
}
