//! `eval`, `generate`, `compare` and `quickstart` as commands: a quickstart in its smallest form makes everything the others are tried on.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn treering(arguments: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_treering")).args(arguments).current_dir(folder).output().expect("the command starts")
}

fn succeed(arguments: &[&str], folder: &Path) -> String {
    let output = treering(arguments, folder);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("stdout is UTF-8")
}

fn json(arguments: &[&str], folder: &Path) -> Value {
    serde_json::from_str(&succeed(arguments, folder)).expect("one JSON object")
}

fn fail(arguments: &[&str], folder: &Path, code: i32) -> String {
    let output = treering(arguments, folder);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    String::from_utf8(output.stderr).expect("stderr is UTF-8")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// One test, because making the models takes longest.
#[test]
fn a_small_quickstart_can_be_evaluated_generated_from_and_compared() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let size = ["--people", "4", "--base-steps", "20", "--steps", "6"];
    let results = json(&[&["quickstart", "--out", "qs", "--json"], &size[..]].concat(), at);
    let rows = results["rows"].as_array().unwrap();
    let heads: Vec<(&str, &str)> = rows.iter().map(|r| (r["method"].as_str().unwrap(), r["head"].as_str().unwrap())).collect();
    assert_eq!(
        heads,
        [("scale-preserve", "preservation"), ("scale-preserve", "adaptation"), ("scale-preserve", "bayes"), ("full", "base")]
    );
    for row in rows {
        let shares = row["shares"].as_array().unwrap();
        assert_eq!(shares[0]["old_people"], results["base"]["old_people"], "before the first step every head is the base: {row}");
        assert_eq!(shares.last().unwrap()["step"], 6);
    }
    // The preservation head never moves.
    let first = &rows[0]["shares"][0];
    assert!(
        rows[0]["shares"]
            .as_array()
            .unwrap()
            .iter()
            .all(|s| s["old_people"] == first["old_people"] && s["new_people"] == first["new_people"])
    );
    let svg = std::fs::read_to_string(at.join("qs/quickstart.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("scale-preserve, adaptation head: old"));
    assert!(at.join("qs/quickstart.html").exists());
    assert!(fail(&["quickstart", "--out", "qs"], at, 2).contains("something is here already"));

    evaluation(at);
    generation(at);
    comparison(at);
}

fn evaluation(at: &Path) {
    let corpus = "old=qs/corpora/old.questions.jsonl";
    let base = json(&["eval", "qs/base", "--corpus", corpus, "--json"], at);
    let of_base = &base["corpora"][0];
    assert_eq!((of_base["name"].as_str(), of_base["documents"].as_u64()), (Some("old"), Some(24)));
    assert_eq!(base["window"], 256, "the model's context is shorter than 512");
    assert_eq!(number(&of_base["scored_tokens"]), number(&of_base["tokens"]) - 24.0, "a first token has no context");
    let head = &of_base["heads"][0];
    let mean = number(&head["nll"]) / number(&of_base["scored_tokens"]);
    assert!((number(&head["perplexity"]) - mean.exp()).abs() < 1e-9 * mean.exp());
    let bits = number(&head["nll"]) / 2f64.ln() / number(&of_base["bytes"]);
    assert!((number(&head["bits_per_byte"]) - bits).abs() < 1e-12);

    // The preservation head is the base, bit for bit, and the adaptation head is not.
    let run = json(
        &["eval", "qs/runs/scale-preserve", "--corpus", corpus, "--window", "256", "--stride", "128", "--representation", "--json"],
        at,
    );
    assert_eq!(run["step"], 6);
    let heads = &run["corpora"][0]["heads"];
    assert_eq!(heads[0]["nll"], head["nll"]);
    assert_ne!(heads[1]["nll"], head["nll"]);
    assert_eq!(run["corpora"][0]["representation"]["cosine"], 1.0, "Preserve does not touch the base stream");

    // Full training moves the representation; the run knows its base.
    let full = json(&["eval", "qs/runs/full", "--corpus", corpus, "--representation", "--json"], at);
    let cosine = number(&full["corpora"][0]["representation"]["cosine"]);
    assert!((0.1..0.999_999).contains(&cosine), "{cosine}");

    // Windows of which every one fits a whole document change nothing but the order of sums; corpora default to the run's own.
    let own = json(&["eval", "qs/runs/full", "--json"], at);
    let names: Vec<&str> = own["corpora"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["new_people", "old_people"]);
    let wide = json(&["eval", "qs/runs/full", "--corpus", corpus, "--window", "200", "--batch-size", "3", "--json"], at);
    let (a, b) = (number(&full["corpora"][0]["heads"][0]["nll"]), number(&wide["corpora"][0]["heads"][0]["nll"]));
    assert!((a - b).abs() < 1e-9 * a, "{a} {b}");

    assert!(succeed(&["eval", "qs/base", "--corpus", corpus, "--max-tokens", "50"], at).contains("perplexity"));
    assert!(fail(&["eval", "qs/base"], at, 2).contains("--corpus NAME=PATH"));
    assert!(fail(&["eval", "qs/base", "--corpus", "nameless"], at, 2).contains("expected NAME=PATH"));
    assert!(fail(&["eval", "qs/base", "--corpus", corpus, "--window", "257"], at, 2).contains("context of 256"));
    assert!(fail(&["eval", "qs/base", "--corpus", corpus, "--window", "8", "--stride", "9"], at, 2).contains("must not exceed"));
    assert!(fail(&["eval", "qs/base", "--corpus", corpus, "--representation"], at, 2).contains("--base"));
    assert!(fail(&["eval", "qs/base", "--corpus", corpus, "--step", "3"], at, 2).contains("is no run"));
    assert!(fail(&["eval", "qs/runs/full", "--step", "3"], at, 2).contains("step"));
    assert!(fail(&["eval", "nowhere", "--corpus", corpus], at, 2).contains("nothing is here"));
    assert!(fail(&["eval", "qs/base", "--corpus", "a=qs/corpora/nowhere.jsonl"], at, 1).contains("nowhere.jsonl"));
}

fn generation(at: &Path) {
    let prompt = ["--prompt", "What is the birth city of", "--max-new-tokens", "12"];
    let ask = |more: &[&str]| json(&[&["generate"], more, &prompt[..], &["--json"]].concat(), at);
    let base = ask(&["qs/base"]);
    assert_eq!(base["head"], "base");
    assert!(base["tokens"].as_array().unwrap().len() <= 12);

    let preserved = ask(&["qs/runs/scale-preserve", "--head", "preservation"]);
    assert_eq!(preserved["tokens"], base["tokens"], "the preservation head speaks as the base does");
    assert_eq!(ask(&["qs/runs/scale-preserve"])["head"], "adaptation");

    let sampled =
        |seed: &str| ask(&["qs/base", "--temperature", "1.5", "--top-k", "50", "--top-p", "0.95", "--min-p", "0.001", "--seed", seed]);
    assert_eq!(sampled("1")["tokens"], sampled("1")["tokens"]);
    assert_ne!(sampled("1")["tokens"], sampled("2")["tokens"]);

    let streamed = succeed(&[&["generate", "qs/base"], &prompt[..]].concat(), at);
    assert_eq!(streamed.strip_suffix('\n').unwrap(), base["text"].as_str().unwrap());

    let long = "word ".repeat(400);
    assert!(fail(&["generate", "qs/base", "--prompt", &long], at, 2).contains("the model's context 256"));
    assert!(fail(&["generate", "qs/base", "--prompt", ""], at, 2).contains("the prompt is empty"));
    assert!(fail(&["generate", "qs/base", "--prompt", "a", "--head", "adaptation"], at, 2).contains("no adaptation head, only base"));
    assert!(fail(&["generate", "qs/base", "--prompt", "a", "--temperature", "-1"], at, 2).contains("temperature"));
    assert!(fail(&["generate", "qs/base", "--prompt", "a", "--chat"], at, 2).contains("not made for chat"));
}

fn comparison(at: &Path) {
    let runs = ["qs/runs/scale-preserve", "qs/runs/full"];
    let compared = json(&[&["compare"], &runs[..], &["--json", "--out", "report"]].concat(), at);
    let methods: Vec<&str> = compared["runs"].as_array().unwrap().iter().map(|r| r["method"].as_str().unwrap()).collect();
    assert_eq!(methods, ["scale-preserve", "full"]);
    for run in compared["runs"].as_array().unwrap() {
        assert!(number(&run["trained_parameters"]) > 0.0 && number(&run["tokens_per_second"]) > 0.0);
        let evaluations = run["evaluations"].as_array().unwrap();
        assert_eq!((evaluations[0]["step"].as_u64(), evaluations.last().unwrap()["step"].as_u64()), (Some(0), Some(6)));
    }
    for (name, begins) in [
        ("comparison.html", "<!DOCTYPE html>"),
        ("comparison.svg", "<svg "),
        ("comparison.md", "| run "),
        ("comparison.csv", "run,method,model,step,"),
        ("comparison.json", "{\"runs\":["),
    ] {
        let text = std::fs::read_to_string(at.join("report").join(name)).unwrap();
        assert!(text.starts_with(begins), "{name}: {text:.100}");
    }
    // What the trainer notes at each measurement reaches the page, and the quickstart has written the same one.
    let full = &compared["runs"][1];
    let blocks = full["trained_parameters_by_block"].as_object().unwrap();
    assert_eq!(blocks.values().map(number).sum::<f64>(), number(&full["trained_parameters"]));
    assert!(!cfg!(target_os = "linux") || number(&full["peak_memory_bytes"]) > 1e6);
    let page = std::fs::read_to_string(at.join("report/comparison.html")).unwrap();
    assert_eq!(page, std::fs::read_to_string(at.join("qs/quickstart.html")).unwrap());
    assert!(page.contains("Questions about old people") && page.contains("<section id=\"memory\">\n<h2>Peak memory"));

    let text = succeed(&[&["compare"], &runs[..], &["--out", "a.html", "--out", "pages/b.csv"]].concat(), at);
    assert!(text.contains("written: a.html\nwritten: pages/b.csv"), "{text}");
    assert_eq!(std::fs::read_to_string(at.join("a.html")).unwrap(), page);
    assert_eq!(std::fs::read_to_string(at.join("pages/b.csv")).unwrap(), succeed(&[&["compare"], &runs[..], &["--csv"]].concat(), at));
    assert!(fail(&[&["compare"], &runs[..], &["--out", "report.pdf"]].concat(), at, 2).contains("report.pdf: expected a file ending in"));
    assert!(!at.join("report.pdf").exists());
    let table = succeed(&[&["compare"], &runs[..], &["--markdown"]].concat(), at);
    assert!(table.starts_with("| run") && table.contains("| scale-preserve "));
    assert!(fail(&["compare", "qs/base"], at, 2).contains("no run is here"));
}
