//! Multiple-choice tasks: lm-evaluation-harness' numbers, every head and router, stopping and going on, and measurements during training.

mod train_world;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use train_world::{World, failed, json, number, succeeded};
use treering::checkpoint::BaseCheckpoint;
use treering::eval::suite::{Bos, Metric, Samples, Selection, Settings, Suite};
use treering::model::{Model, Precision};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/suite").join(name)
}

/// Made by scripts/make-suite-golden.py with lm_eval and transformers.
#[test]
fn log_likelihoods_and_metrics_are_those_of_lm_evaluation_harness() {
    let base = BaseCheckpoint::open(fixture("model")).unwrap();
    let (model, tokenizer) = (Model::from_base(&base, Precision::F32, false).unwrap(), base.tokenizer().unwrap());
    let golden: Vec<Value> = serde_json::from_str(&fs::read_to_string(fixture("golden.json")).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut truncated = 0;
    for case in &golden {
        let (task, shots) = (case["task"].as_str().unwrap(), case["few_shot"].to_string());
        let suite = Suite::open(&fixture("data"), Selection::new([task], [shots.as_str()]).unwrap(), None).unwrap();
        let bos = if case["bos"] == "none" { Bos::None } else { Bos::Tokenizer };
        let mut seen = Vec::new();
        for batch_tokens in [1, 100_000] {
            let settings = Settings { routers: &[], bos, batch_tokens };
            let path = folder.path().join("samples.jsonl");
            let mut samples = Samples::create(&path, &suite.header(&model, settings, "tiny").unwrap()).unwrap();
            let result = suite.evaluate(&model, &tokenizer, settings, Some(&mut samples), &mut |_| Ok(())).unwrap();
            let text = fs::read_to_string(&path).unwrap();
            let lines: Vec<Value> = text.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect();
            let expected = case["log_likelihoods"].as_array().unwrap();
            assert_eq!(lines.len(), expected.len(), "{task}");
            for (line, expected) in lines.iter().zip(expected) {
                let found = line["results"][0]["log_likelihoods"].as_array().unwrap();
                assert_eq!(found.len(), expected.as_array().unwrap().len());
                for (found, expected) in found.iter().zip(expected.as_array().unwrap()) {
                    assert!((number(found) - number(expected)).abs() < 2e-4, "{task}, {shots} shots: {line} instead of {expected}");
                }
            }
            for (metric, value) in &result.tasks[0].results[0].metrics {
                let expected = |name: &str| case["metrics"].get(name).map(number);
                assert!((value.value - expected(metric.as_str()).unwrap()).abs() < 1e-6, "{task} {metric:?}");
                if let (Some(ours), Some(theirs)) = (value.stderr, expected(&format!("{}_stderr", metric.as_str()))) {
                    assert!((ours - theirs).abs() < 1e-6, "{task} {metric:?}: {ours} instead of {theirs}");
                }
            }
            assert_eq!(result.tasks[0].results[0].metrics.contains_key(&Metric::AccNorm), case["metrics"].get("acc_norm").is_some());
            truncated += result.tasks[0].truncated_items;
            seen.push(lines);
        }
        assert_eq!(seen[0], seen[1], "{task}: an item depends on its batch");
    }
    assert!(golden.len() > 20 && truncated > 0, "some prompts are to be longer than the context");
}

/// Questions in the words of the world's model.
fn sets(world: &World) {
    let arc = |n: usize| {
        format!(
            "{{\"id\": \"{n}\", \"question\": {{\"stem\": \"w{n} w{} w{}\", \"choices\": [{{\"text\": \"w{} w1\", \"label\": \"A\"}}, \
             {{\"text\": \"w{}\", \"label\": \"B\"}}, {{\"text\": \"w9\", \"label\": \"C\"}}]}}, \"answerKey\": \"{}\"}}\n",
            n * 5 % 48,
            n * 7 % 48,
            n * 3 % 48,
            n * 11 % 48,
            ["A", "B", "C"][n % 3]
        )
    };
    let sets = world.path("sets");
    fs::create_dir_all(sets.join("test")).unwrap();
    fs::write(sets.join("ARC-Easy-Test.jsonl"), (0..20).map(arc).collect::<String>()).unwrap();
    fs::write(sets.join("ARC-Easy-Train.jsonl"), (20..25).map(arc).collect::<String>()).unwrap();
    let winogrande = |n: usize| {
        format!("{{\"sentence\": \"w{n} _ w2 w3\", \"option1\": \"w4\", \"option2\": \"w{n}\", \"answer\": \"{}\"}}\n", 1 + n % 2)
    };
    fs::write(sets.join("winogrande_dev.jsonl"), (0..8).map(winogrande).collect::<String>()).unwrap();
}

/// Everything but the times.
fn timeless(mut suite: Value) -> Value {
    for task in suite["tasks"].as_array_mut().unwrap() {
        for key in ["seconds", "measured_items"] {
            task.as_object_mut().unwrap().remove(key);
        }
    }
    suite
}

#[test]
fn heads_and_routers_are_asked_and_a_run_that_was_stopped_goes_on_to_the_same_results() {
    let world = World::new();
    sets(&world);
    world.recipe("scale-adapt", "");
    let set = [
        "--set",
        "eval.suites=[\"arc_easy\"]",
        "--set",
        "eval.suite_data=\"sets\"",
        "--set",
        "eval.suite_limit=6",
        "--set",
        "eval.few_shot=\"arc_easy:1\"",
    ];
    succeeded(&world.train("scale-adapt", "run", &set));

    // During training: by name in the metrics, item by item in files, and in comparisons.
    let (records, _, _) = train_world::deterministic(&world.path("run"));
    let measured: Vec<_> = records
        .iter()
        .filter_map(|record| match record {
            treering::train::metrics::Record::Eval(eval) => Some(eval),
            treering::train::metrics::Record::Train(_) => None,
        })
        .collect();
    assert_eq!(measured.len(), 4);
    let first = &measured[0].values;
    assert_eq!(first["suite/arc_easy/preservation/acc"], first["suite/arc_easy/adaptation/acc"], "before training the heads are one");
    assert!(
        measured.iter().all(|eval| eval.values["suite/arc_easy/preservation/acc_norm"] == first["suite/arc_easy/preservation/acc_norm"])
    );
    let samples = fs::read_to_string(world.path("run/suites/step-000012.jsonl")).unwrap();
    assert_eq!(samples.lines().count(), 7);
    let comparison = world.json(&["compare", "run", "--json"]);
    let suites = &comparison["runs"][0]["evaluations"][3]["suites"];
    assert_eq!(suites["arc_easy/adaptation"].as_f64(), measured[3].values["suite/arc_easy/adaptation/acc_norm"]);
    succeeded(&world.treering(&["compare", "run", "--out", "page.html"]));
    assert!(fs::read_to_string(world.path("page.html")).unwrap().contains("arc easy"));

    // A run that is killed again and again while it measures ends with the same numbers.
    #[cfg(unix)]
    {
        let arguments = [&["train", "scale-adapt.toml", "--out", "killed", "--resume"], &set[..]].concat();
        world.kill_until_finished(&arguments);
        assert_eq!(train_world::deterministic(&world.path("killed")), train_world::deterministic(&world.path("run")));
        assert_eq!(fs::read_to_string(world.path("killed/suites/step-000012.jsonl")).unwrap(), samples);
    }

    // By hand: a router that gives all to one head says what that head says, and `bayes` lies between them for a word alone.
    let eval = |more: &[&str]| {
        let fixed = [
            "eval",
            "run",
            "--suite",
            "arc_easy,winogrande",
            "--few-shot",
            "1",
            "--router",
            "preserve,adapt,bayes,cosine",
            "--json",
            "--suite-data",
            "sets",
        ];
        world.treering(&[&fixed, more].concat())
    };
    let whole = json(&eval(&["--samples", "s.jsonl", "--batch-tokens", "50"]))["suite"].clone();
    let of = |task: usize, speaker: usize| &whole["tasks"][task]["results"][speaker];
    let heads: Vec<&str> = (0..6).map(|speaker| of(0, speaker)["head"].as_str().unwrap()).collect();
    assert_eq!(heads, ["preservation", "adaptation", "preserve", "adapt", "bayes", "cosine"]);
    let text = fs::read_to_string(world.path("s.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 28);
    for line in &lines {
        let of = |speaker: usize| line["results"][speaker]["log_likelihoods"].as_array().unwrap().iter().map(number).collect::<Vec<f64>>();
        assert_eq!((of(0), of(1)), (of(2), of(3)));
        if line["task"] == "arc_easy" {
            // The last two choices are one token: a mixture of the two heads.
            for choice in 1..3 {
                let (low, high) = (of(0)[choice].min(of(1)[choice]), of(0)[choice].max(of(1)[choice]));
                assert!((low - 1e-4..=high + 1e-4).contains(&of(4)[choice]), "{line}");
            }
        }
    }
    assert_eq!(
        (whole["tasks"][0]["few_shot_split"].as_str(), whole["tasks"][1]["few_shot_split"].as_str()),
        (Some("train"), Some("validation"))
    );

    // Half of the items, and half a line: what is there is not asked again.
    let half: usize = text.split_inclusive('\n').take(12).map(str::len).sum();
    fs::write(world.path("s.jsonl"), &text[..half + 40]).unwrap();
    let resumed = json(&eval(&["--samples", "s.jsonl", "--resume"]))["suite"].clone();
    assert_eq!(resumed["tasks"][0]["measured_items"], 9);
    assert_eq!(timeless(resumed), timeless(whole));
    assert_eq!(fs::read_to_string(world.path("s.jsonl")).unwrap(), text);
    // Of another checkpoint, or with other routers, it is something else.
    let other = failed(
        &world.treering(&["eval", "run", "--step", "9", "--suite", "arc_easy", "--suite-data", "sets", "--samples", "s.jsonl", "--resume"]),
        1,
    );
    assert!(other.contains("is about something else"), "{other}");
    // The run's own folder of data, and no corpora beside the tasks.
    let own = world.json(&["eval", "run", "--suite", "arc_easy", "--limit", "2", "--json"]);
    assert_eq!((own["corpora"].as_array().unwrap().len(), own["suite"]["tasks"][0]["items"].as_u64()), (0, Some(2)));
}

#[test]
fn what_cannot_be_asked_is_refused_before_anything_is_opened() {
    let world = World::new();
    sets(&world);
    let refused = |arguments: &[&str], code: i32| failed(&world.treering(&[&["eval", "base"], arguments].concat()), code);
    assert!(refused(&["--suite", "arc_esy", "--suite-data", "sets"], 2).contains("did you mean `arc_easy`?"));
    assert!(refused(&["--suite", "arc_easy"], 2).contains("--suite-data DIR"));
    assert!(refused(&["--suite", "hellaswag", "--suite-data", "sets"], 2).contains("hellaswag_val.jsonl"));
    assert!(refused(&["--suite", "arc_easy", "--suite-data", "sets", "--few-shot", "6"], 2).contains("the train split has 5 items"));
    assert!(refused(&["--suite", "arc_easy", "--suite-data", "nowhere"], 2).contains("no folder of evaluation sets"));
    assert!(refused(&["--suite", "arc_easy", "--suite-data", "sets", "--router", "bayes"], 2).contains("--base"));
    fs::write(world.path("sets/ARC-Easy-Test.jsonl"), "{}\n").unwrap();
    assert!(refused(&["--suite", "arc_easy", "--suite-data", "sets"], 1).contains("ARC-Easy-Test.jsonl: line 1"));
    // In a recipe by the key's name.
    world.recipe("full", "");
    let recipe = |set: &[&str]| failed(&world.train("full", "run", set), 2);
    assert!(
        recipe(&["--set", "eval.suites=[\"arc_esy\"]", "--set", "eval.suite_data=\"sets\""])
            .contains("eval.suites: no task is called `arc_esy`")
    );
    assert!(recipe(&["--set", "eval.suites=[\"arc_easy\"]"]).contains("eval.suite_data: is missing"));
    assert!(recipe(&["--set", "eval.suite_limit=3"]).contains("eval.suite_limit: has a meaning only together with `suites`"));
    assert!(recipe(&["--set", "eval.suite=3"]).contains("did you mean"));
}
