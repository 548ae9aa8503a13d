//! `treering biography` as a command, with a handful of people: the data set, the stages, what is asked and what is refused.

mod train_world;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use train_world::{World, deterministic, failed, json, number, succeeded};
use treering::checkpoint::BaseCheckpoint;
use treering::data::biography::{Attribute, People};
use treering::data::reader::read_documents;
use treering::data::{CorpusConfig, Encode, Encoder, IGNORE, StreamConfig, TrainSource, TrainStream};

/// Stages of a few steps, with measurements and checkpoints between them.
const SHORT: [&str; 18] = [
    "--size",
    "quickstart",
    "--people",
    "4",
    "--new-people",
    "2",
    "--set",
    "train.steps=4",
    "--set",
    "train.warmup_steps=1",
    "--set",
    "eval.every_steps=2",
    "--set",
    "train.checkpoint_every_steps=1",
    "--set",
    "train.batch_size=4",
    "--loss",
    "all",
];

fn run<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["biography", "run", "--out", out], &SHORT[..], more].concat()
}

#[test]
fn a_data_set_is_the_same_again_and_its_two_formats_hold_the_same_rows() {
    let world = World::new();
    let generate = |out: &str, more: &[&str]| world.treering(&[&["biography", "generate", "--people", "300", "--out", out], more].concat());
    let (one, two) = (json(&generate("one", &["--json"])), json(&generate("two", &["--json"])));
    assert_eq!(one, two);
    assert_ne!(one["files"], json(&generate("other", &["--seed", "7", "--json"]))["files"]);
    let rows: Vec<(String, u64)> =
        one["files"].as_array().unwrap().iter().map(|f| (f["name"].as_str().unwrap().to_owned(), f["rows"].as_u64().unwrap())).collect();
    let expected = [("people", 300), ("biographies", 1500), ("questions", 1800)];
    let expected: Vec<(String, u64)> =
        expected.iter().flat_map(|(name, n)| ["jsonl", "parquet"].map(|format| (format!("{name}.{format}"), *n))).collect();
    assert_eq!(rows, expected);
    let lines = |name: &str| -> Vec<Value> {
        fs::read_to_string(world.path("one").join(name)).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    for (table, field) in
        [("people", "name"), ("biographies", "text"), ("questions", "text"), ("questions", "answer"), ("people", "company_city")]
    {
        let mut texts = Vec::new();
        let file = world.path("one").join(format!("{table}.parquet"));
        let corpus = CorpusConfig { text_field: field.into(), ..CorpusConfig::new(file.to_string_lossy()) };
        read_documents(
            &file,
            &corpus,
            1 << 20,
            &Arc::default(),
            &mut |document| {
                texts.push(document.text);
                Ok(())
            },
            None,
        )
        .unwrap();
        assert_eq!(
            texts,
            lines(&format!("{table}.jsonl")).iter().map(|l| l[field].as_str().unwrap().to_owned()).collect::<Vec<_>>(),
            "{table} {field}"
        );
    }
    // The same people as the library computes, one biography after another.
    let people = People::generate(300, 42).unwrap();
    let found = lines("people.jsonl");
    for index in [0, 7, 299] {
        let person = people.person(index).unwrap();
        assert_eq!(found[index as usize]["name"], person.name);
        Attribute::ALL.iter().for_each(|a| assert_eq!(found[index as usize][a.as_str()], person.value(*a)));
    }
    let texts: Vec<String> = people.texts(0..300, 5, 42).unwrap().collect();
    assert_eq!(lines("biographies.jsonl").iter().map(|l| l["text"].as_str().unwrap().to_owned()).collect::<Vec<_>>(), texts);
    statistics(&found, &texts);
    assert!(failed(&generate("one", &[]), 2).contains("a data set is here already"));
    assert!(failed(&generate("x", &["--format", "csv"]), 2).contains("`csv` is neither `jsonl` nor `parquet`"));
    let many = world.treering(&["biography", "generate", "--people", "160000001", "--out", "x"]);
    assert!(failed(&many, 2).contains("too few for 160000001 people"));
    assert!(!world.path("x").exists());
}

/// Names are unique, a company is in one city, values and sentence forms are spread as evenly as chance spreads them.
fn statistics(people: &[Value], texts: &[String]) {
    let of = |name: &'static str| people.iter().map(move |p| p[name].as_str().unwrap());
    assert_eq!(of("name").collect::<BTreeSet<_>>().len(), people.len());
    let cities: BTreeMap<&str, BTreeSet<&str>> = of("company").zip(of("company_city")).fold(BTreeMap::new(), |mut map, (company, city)| {
        map.entry(company).or_default().insert(city);
        map
    });
    assert!(cities.len() > 150 && cities.values().all(|cities| cities.len() == 1));
    // 300 draws of 100 majors: each 3 times on average, 12 or more with a probability of 1 in 10,000.
    let mut majors: BTreeMap<&str, usize> = BTreeMap::new();
    of("major").for_each(|major| *majors.entry(major).or_default() += 1);
    assert!(majors.len() > 85 && majors.values().all(|&n| n < 12), "{majors:?}");
    // What stands between name and value tells the form. Of 1,500 sentences each of 50 forms has 30 on average, with a deviation of 5.4.
    let mut forms: BTreeMap<String, usize> = BTreeMap::new();
    for (person, biographies) in people.iter().zip(texts.chunks(5)) {
        let (name, major) = (person["name"].as_str().unwrap(), person["major"].as_str().unwrap());
        for text in biographies {
            // Another value may hold the major's name, so the sentence is the one that ends a form with it.
            let sentence = text.split(name).skip(1).find(|sentence| sentence.contains(major)).unwrap();
            *forms.entry(sentence.trim().replace(major, "V")).or_default() += 1;
        }
    }
    let common: Vec<usize> = forms.into_values().filter(|&n| n >= 10).collect();
    assert_eq!(common.len(), 50);
    assert!(common.iter().all(|&n| n < 60), "{common:?}");
}

#[test]
fn every_method_learns_two_tasks_and_what_is_finished_is_not_trained_again() {
    let world = World::new();
    let arguments = run("b", &["--tasks", "2", "--json"]);
    let found = world.json(&arguments);
    let methods = ["full", "llama-pro", "lora", "freeze", "scale-preserve", "scale-adapt", "scale-route"];
    for method in methods {
        let speakers = found["accuracy"][method].as_object().unwrap();
        let widens = method.starts_with("scale");
        let expected: &[&str] = if widens {
            &["adaptation", "bayes", "bayes-confidence", "confidence", "cosine", "gate", "preservation", "recall", "ring-1"]
        } else {
            &["base"]
        };
        expected.iter().for_each(|name| assert!(speakers.contains_key(*name), "{method} {name}"));
        for (speaker, accuracy) in speakers {
            let tasks: Vec<&str> = accuracy.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(tasks, ["task-0", "task-1", "task-2"], "{method} {speaker}");
            let detail = &found["answers"][method][speaker]["task-1"];
            assert_eq!(detail["attributes"].as_object().unwrap().len(), 6);
            let mean = detail["attributes"].as_object().unwrap().values().map(|a| number(&a["first_token_accuracy"])).sum::<f64>() / 6.0;
            assert!((number(&detail["first_token_accuracy"]) - mean).abs() < 1e-12);
        }
        let matrix = found["continual"][method][if widens { "preservation" } else { "base" }]["matrix"].as_array().unwrap();
        assert_eq!(matrix.iter().map(|row| row.as_array().unwrap().len()).collect::<Vec<_>>(), [1, 2, 3], "{method}");
    }
    // Whoever is asked, the preservation head says what Task 0 left.
    for method in ["scale-preserve", "scale-adapt", "scale-route"] {
        let matrix = &found["continual"][method]["preservation"]["matrix"];
        assert!(matrix[0][0] == matrix[1][0] && matrix[1][0] == matrix[2][0], "{matrix}");
        assert_eq!(found["continual"][method]["preservation"]["forgetting"], 0.0);
    }
    let out = world.path("b");
    for (file, part) in [("biography.html", "Figure 1: old people"), ("biography.md", "| scale-route"), ("results.json", "\"continual\"")] {
        assert!(fs::read_to_string(out.join(file)).unwrap().contains(part), "{file}");
    }
    // The base was trained once; the same command finds everything finished, and a run of it is a run like any other.
    let before = fs::read(out.join("runs/task-0/metrics.jsonl")).unwrap();
    // But for answers of routers that are gone: what they ask is made once more, to the same.
    let answers = out.join("runs/scale-adapt-task-1/router-answers.json");
    let kept = fs::read(&answers).unwrap();
    fs::remove_file(&answers).unwrap();
    let again = world.json(&arguments);
    assert_eq!(again["accuracy"], found["accuracy"]);
    assert_eq!(fs::read(&answers).unwrap(), kept);
    fs::write(&answers, "{}").unwrap();
    assert!(failed(&world.treering(&arguments), 1).contains("router-answers.json: no answers of routers"));
    fs::write(&answers, &kept).unwrap();
    assert_eq!(fs::read(out.join("runs/task-0/metrics.jsonl")).unwrap(), before);
    let rings = world.json(&["rings", "list", "b/runs/scale-route-task-2", "--json"]);
    assert_eq!(rings["rings"].as_array().unwrap().len(), 2);
    let fewer = world.json(&run("b", &["--method", "full", "--json"]));
    assert_eq!(fewer["accuracy"]["full"]["base"].as_object().unwrap().len(), 2, "after Task 1 alone");
    assert!(failed(&world.treering(&run("b", &["--seed", "7"])), 2).contains("with seed 42, and 7 is asked for"));
    let other = failed(&world.treering(&run("b", &["--method", "full", "--set", "full:train.learning_rate=1e-2"])), 2);
    assert!(other.contains("full-task-1: the run was started with another recipe") && other.contains("learning_rate"), "{other}");
}

#[cfg(unix)]
#[test]
fn a_benchmark_that_is_killed_again_and_again_ends_with_the_same_bits() {
    let world = World::new();
    let methods = ["--method", "full,scale-route", "--tasks", "2"];
    succeeded(&world.treering(&run("whole", &methods)));
    let kills = world.kill_until_finished(&run("killed", &methods));
    for stage in ["pretrain", "task-0", "full-task-1", "full-task-2", "scale-route-task-1", "scale-route-task-2"] {
        let of = |out: &str| deterministic(&world.path(out).join("runs").join(stage));
        assert!(of("whole") == of("killed"), "{stage} after {kills} kills");
    }
    assert!(kills > 0);
}

#[test]
fn what_cannot_be_run_is_refused_before_anything_is_made() {
    let world = World::new();
    let refuse = |more: &[&str]| {
        let error = failed(&world.treering(&[&["biography", "run", "--out", "no"], more].concat()), 2);
        assert!(!world.path("no").exists(), "{error}");
        error
    };
    assert!(refuse(&["--attributes", "birth_date,mayor"]).contains("`mayor` is no attribute of a person"));
    assert!(refuse(&["--attributes", "mayor"]).contains("did you mean `major`?"));
    assert!(refuse(&["--people", "0"]).contains("there is nobody whom pre-training knows"));
    assert!(refuse(&["--new-people", "0"]).contains("there is nobody of a new task"));
    assert!(refuse(&["--tasks", "0"]).contains("there are 1 to 100 after Task 0"));
    assert!(refuse(&["--size", "smal"]).contains("did you mean `small`?"));
    assert!(refuse(&["--method", "scale"]).contains("`scale` is no method"));
    assert!(refuse(&["--loss", "none"]).contains("neither `answer` nor `all`"));
    succeeded(&world.treering(&["biography", "generate", "--people", "50", "--out", "data", "--format", "jsonl"]));
    assert!(
        refuse(&["--data", "data"])
            .contains("size mini needs 800 for pre-training and 400 for each of 1 tasks, 1200 in all, and there are 50")
    );
    assert!(
        failed(&world.treering(&["biography", "run", "--out", "no", "--set", "fool:train.steps=1"]), 2).contains("there is no stage fool")
    );
    // A tokenizer of words that knows no name.
    let base = BaseCheckpoint::open(world.path("base")).unwrap();
    fs::create_dir(world.path("words")).unwrap();
    base.tokenizer().unwrap().save(world.path("words")).unwrap();
    let error = failed(&world.treering(&["biography", "run", "--out", "words-run", "--tokenizer", "words/tokenizer.json"]), 1);
    assert!(error.contains("words/tokenizer.json: the tokenizer cannot write \"") && error.contains("<unk>"), "{error}");
}

#[test]
fn a_plan_is_made_of_sizes_alone() {
    let world = World::new();
    let plan = |more: &[&str]| world.json(&[&["biography", "plan", "--no-speed", "--json"], more].concat());
    let paper = plan(&["--size", "paper", "--method", "full,scale-route", "--tasks", "2"]);
    let stages = paper["stages"].as_array().unwrap();
    let names: Vec<&str> = stages.iter().map(|s| s["stage"].as_str().unwrap()).collect();
    assert_eq!(names, ["pretrain", "task-0", "full-task-1", "scale-route-task-1", "full-task-2", "scale-route-task-2"]);
    // 80,000 steps of 96 × 512 tokens, 62,500 of 48 × 32.
    assert_eq!((stages[0]["tokens"].as_u64(), stages[1]["tokens"].as_u64()), (Some(3_932_160_000), Some(96_000_000)));
    assert_eq!(stages[5]["method"], "scale-preserve", "a ring further out");
    assert!(stages[5]["frozen_parameters"].as_u64() > stages[3]["frozen_parameters"].as_u64());
    assert!(!world.path("runs").exists());
    let text = String::from_utf8(world.treering(&["biography", "plan", "--size", "mini"]).stdout).unwrap();
    assert!(text.contains("scale-route-task-1") && text.contains("GFLOP/s measured here"), "{text}");
}

#[test]
fn windows_of_one_document_count_answers_alone_and_ask_each_once_a_pass() {
    let world = World::new();
    let found = world.json(&run("b", &["--method", "full", "--attributes", "major,birth_date", "--json"]));
    let asked: Vec<&String> = found["answers"]["full"]["base"]["task-1"]["attributes"].as_object().unwrap().keys().collect();
    assert_eq!(asked, ["birth_date", "major"]);
    let encoder = Encoder::new(BaseCheckpoint::open(world.path("b/models/untrained")).unwrap().tokenizer().unwrap()).unwrap();
    let end = encoder.end_of_text().unwrap();
    let path = world.path("b/corpora/task-1.questions.jsonl");
    let stream = |length: usize, template: Option<&str>, text: &Path| {
        let config = StreamConfig {
            packing: false,
            response_template: template.map(Into::into),
            ..StreamConfig::new(vec![TrainSource::new(text.to_string_lossy())], length)
        };
        TrainStream::new(&config, Path::new(""), &world.path("cache"), &encoder, 1, &mut |_| Ok(()))
    };
    let texts: Vec<String> = fs::read_to_string(&path)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(texts.len(), 4, "two questions about each of two people");
    let mut seen = BTreeSet::new();
    let mut rows = stream(48, Some("Answer:"), &path).unwrap();
    let batch = rows.next_batch(texts.len()).unwrap();
    for (tokens, targets) in batch.tokens.chunks(48).zip(batch.targets.chunks(48)) {
        let first = targets.iter().position(|&t| t != IGNORE).unwrap();
        let last = targets.iter().rposition(|&t| t != IGNORE).unwrap();
        let tokenizer = BaseCheckpoint::open(world.path("b/models/untrained")).unwrap().tokenizer().unwrap();
        let (prompt, answer) = (tokenizer.decode(&tokens[..=first]).unwrap(), tokenizer.decode(&targets[first..last]).unwrap());
        assert!(prompt.ends_with("?\nAnswer:") && answer.starts_with(' '), "{prompt:?} {answer:?}");
        assert_eq!(targets[last], end, "an answer has an end");
        assert!(tokens[last + 1..].iter().all(|&t| t == 0) && targets[first..=last].iter().all(|&t| t != IGNORE));
        seen.insert(format!("{prompt}{answer}"));
    }
    assert_eq!(seen, texts.iter().cloned().collect());
    // Without a template all tokens but the first count.
    let all = stream(48, None, &path).unwrap().next_batch(1).unwrap();
    assert_ne!(all.targets[0], IGNORE);
    // A position is a state like any other.
    let (mut one, mut two) = (stream(48, None, &path).unwrap(), stream(48, None, &path).unwrap());
    one.next_batch(5).unwrap();
    two.restore(&one.state()).unwrap();
    assert_eq!(one.next_batch(20).unwrap(), two.next_batch(20).unwrap());
    let error = |length, template| stream(length, template, &path).err().unwrap().to_string();
    assert!(error(8, None).contains("and windows have 8") && error(8, None).contains("hint: sequence_length = "));
    assert!(error(48, Some("Reply:")).contains("has no tokens of \"Reply:\""));
    let packed = StreamConfig { response_template: Some("x".into()), ..StreamConfig::new(vec![TrainSource::new("a")], 8) };
    assert!(packed.validate().unwrap_err().to_string().contains("hint: packing = false"));
}
