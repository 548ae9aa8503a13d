//! What `treering train` does, prints and refuses.

mod train_world;

use std::fs;

use train_world::{World, deterministic, failed, steps, succeeded};
use treering::train::build::open_run;
use treering::train::metrics::{self, EVENTS_FILE, METRICS_FILE, Record};

const METHODS: [&str; 3] = ["scale-preserve", "scale-adapt", "full"];

/// A perplexity of the first and of the last measurement.
fn perplexities(world: &World, run: &str, name: &str) -> (f64, f64) {
    let records = metrics::read(world.path(run).join(METRICS_FILE)).unwrap();
    let values: Vec<f64> = records
        .iter()
        .filter_map(|record| match record {
            Record::Eval(record) => Some(record.values[name].unwrap()),
            Record::Train(_) => None,
        })
        .collect();
    (values[0], values[values.len() - 1])
}

#[test]
fn every_method_learns_and_only_full_changes_the_base() {
    let world = World::new();
    for kind in METHODS {
        world.recipe(kind, "");
        succeeded(&world.train(kind, kind, &["--set", "train.steps=120", "--set", "train.batch_size=8", "--set", "eval.every_steps=60"]));
        let adapted = if kind == "full" { "base" } else { "adaptation" };
        let (before, after) = perplexities(&world, kind, &format!("learn/new-held-out/{adapted}/perplexity"));
        assert!(after < 0.8 * before, "{kind}: {before} {after}");
        if kind == "full" {
            let (before, after) = perplexities(&world, kind, "forget/old-held-out/base/perplexity");
            assert_ne!(before.to_bits(), after.to_bits());
        } else {
            for corpus in ["learn/new-held-out", "forget/old-held-out"] {
                let (before, after) = perplexities(&world, kind, &format!("{corpus}/preservation/perplexity"));
                assert_eq!(before.to_bits(), after.to_bits(), "{kind} {corpus}");
            }
        }
        if kind == "scale-adapt" {
            let (before, after) = perplexities(&world, kind, "weights/expansion_to_base/mean_norm");
            assert!(before == 0.0 && after > 0.0, "{before} {after}");
        }
        let cosine = perplexities(&world, kind, "forget/old-held-out/representation/cosine");
        assert_eq!(cosine == (1.0, 1.0), kind == "scale-preserve", "{kind}: {cosine:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run_on_any_number_of_threads_and_another_seed_another() {
    let world = World::new();
    world.recipe("scale-adapt", "");
    for (out, set) in [("a", "train.threads=1"), ("b", "train.threads=2"), ("c", "train.seed=5")] {
        succeeded(&world.train("scale-adapt", out, &["--set", set]));
    }
    let run = |out| deterministic(&world.path(out));
    assert!(run("a") == run("b"));
    assert!(run("a").1 != run("c").1);
}

#[test]
fn accumulated_gradients_are_those_of_one_large_batch() {
    let world = World::new();
    world.recipe("full", "");
    let losses = |out: &str, batch_size: &str, accumulation: &str| -> Vec<f64> {
        let (batch_size, accumulation) = (format!("train.batch_size={batch_size}"), format!("train.gradient_accumulation={accumulation}"));
        succeeded(&world.train("full", out, &["--set", &batch_size, "--set", &accumulation]));
        let records = metrics::read(world.path(out).join(METRICS_FILE)).unwrap();
        records.iter().filter_map(|r| if let Record::Train(r) = r { Some(r.loss) } else { None }).collect()
    };
    let (one, four) = (losses("one", "4", "1"), losses("four", "1", "4"));
    assert_eq!(one.len(), 12);
    assert!(one.iter().zip(&four).all(|(a, b)| (a - b).abs() < 1e-3 * a), "{one:?} {four:?}");
    assert!((one[0] - four[0]).abs() < 1e-6);
}

#[test]
fn a_run_folder_has_everything_that_tells_what_was_run() {
    let world = World::new();
    world.recipe("scale-preserve", "");
    let output = world.train("scale-preserve", "runs/a", &["--json"]);
    succeeded(&output);
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for key in [
        "run",
        "method",
        "steps",
        "tokens",
        "wall_seconds",
        "tokens_per_second",
        "trained_parameters",
        "loss",
        "checkpoint",
        "first_evaluation",
        "last_evaluation",
    ] {
        assert!(!summary[key].is_null(), "{key}: {summary}");
    }
    assert_eq!((&summary["steps"], &summary["tokens"]), (&12.into(), &(12 * 2 * 2 * 16).into()));
    let run = world.path("runs/a");
    let environment: serde_json::Value = serde_json::from_slice(&fs::read(run.join("environment.json")).unwrap()).unwrap();
    assert_eq!(environment[0]["version"], env!("CARGO_PKG_VERSION"));
    let recipe = fs::read_to_string(run.join("recipe.toml")).unwrap();
    assert!(recipe.contains("hidden_size = 8") && recipe.contains("weight_decay = 0.01"), "{recipe}");
    assert!(fs::metadata(run.join(EVENTS_FILE)).unwrap().len() > 500);
    assert!(world.path("runs/token-cache").is_dir());
    let opened = open_run(&run, None, None).unwrap();
    assert_eq!((opened.step, opened.model.heads().len()), (12, 2));
    assert_eq!(
        opened.model.parameters().iter().map(|p| p.value.len()).sum::<usize>() as u64,
        summary["trained_parameters"].as_u64().unwrap()
    );
}

#[test]
fn checkpoints_are_readable_by_sha256sum_and_hold_only_trained_blocks() {
    let world = World::new();
    world.recipe("scale-preserve", "");
    succeeded(&world.train("scale-preserve", "run", &[]));
    let checkpoint = world.path("run/checkpoints/step-000012");
    let bytes = fs::read(checkpoint.join("trained.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert!(tensors.names().iter().all(|name| name.contains("expansion")), "{:?}", tensors.names());
    let sums = std::process::Command::new("sha256sum").args(["--check", "--quiet", "SHA256SUMS"]).current_dir(&checkpoint).status();
    // Where the tool is there, it agrees.
    assert!(sums.map_or(true, |status| status.success()));
}

#[test]
fn a_loss_that_is_not_finite_is_an_error_that_keeps_what_was_good() {
    let world = World::new();
    world.recipe("scale-preserve", "");
    world.break_base();
    let error = failed(&world.train("scale-preserve", "run", &["--set", "data.learn=[]", "--set", "data.forget=[]"]), 1);
    assert!(error.contains("step 1: the loss is NaN") || error.contains("step 1: the loss is inf"), "{error}");
    assert!(error.contains("train.learning_rate") && error.contains("no checkpoint"), "{error}");
    assert!(steps(&world.path("run")).is_empty());
}

#[test]
fn mistakes_end_with_their_exit_code_and_leave_no_run() {
    let world = World::new();
    world.recipe("scale-preserve", "");
    for (set, code, part) in [
        ("train.step=1", 2, "did you mean `steps`?"),
        ("data.sequence_length=65", 2, "max_position_embeddings"),
        ("method.num_attention_heads=3", 2, "group"),
        ("model.path=nowhere", 1, "nowhere"),
        ("data.train=none.jsonl", 1, "none.jsonl"),
        ("data.train=[]", 2, "data.train"),
    ] {
        let error = failed(&world.train("scale-preserve", "run", &["--set", set]), code);
        assert!(error.contains(part), "{set}: {error}");
        assert!(!world.path("run").exists(), "{set}");
    }
    fs::write(world.path("new.jsonl"), "").unwrap();
    assert!(failed(&world.train("scale-preserve", "run", &[]), 2).contains("new.jsonl"));
    assert!(failed(&world.treering(&["train", "missing.toml"]), 1).contains("missing.toml"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let world = World::new();
    world.recipe("scale-preserve", "");
    let mut child = world.command(&["train", "scale-preserve.toml"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}
