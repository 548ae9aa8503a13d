//! `hf://` names against a Hub on this machine: what is fetched, what is kept, what is refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::fixture;
use crate::server::{Fault, Server};
use crate::train_world::{World, failed, json, succeeded};

struct Client {
    home: TempDir,
    endpoint: String,
}

impl Client {
    fn of(server: &Server) -> Self {
        Self { home: tempfile::tempdir().unwrap(), endpoint: server.endpoint() }
    }

    fn with<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        for name in [
            "HF_TOKEN",
            "HF_HUB_OFFLINE",
            "HF_HUB_CACHE",
            "HF_TOKEN_PATH",
            "HUGGING_FACE_HUB_TOKEN",
            "http_proxy",
            "HTTP_PROXY",
            "ALL_PROXY",
        ] {
            command.env_remove(name);
        }
        command.env("HF_HOME", self.home.path()).env("HF_ENDPOINT", &self.endpoint)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_treering"));
        self.with(&mut command).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn offline(&self, arguments: &[&str]) -> Output {
        self.command(arguments).env("HF_HUB_OFFLINE", "1").output().unwrap()
    }

    fn folder(&self, repository: &str) -> PathBuf {
        self.home.path().join("hub").join(repository)
    }
}

fn text(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
}

#[test]
fn a_model_is_fetched_once_into_the_shared_cache_and_read_offline_from_then_on() {
    let server = Server::start();
    let commit = server.commit_folder("models/org/tiny", 7, &fixture("family-olmo2"));
    let client = Client::of(&server);
    let first = json(&client.run(&["inspect", "hf://org/tiny", "--hash", "--json"]));
    let here = fixture("family-olmo2");
    let expected = json(&client.run(&["inspect", here.to_str().unwrap(), "--hash", "--json"]));
    assert_eq!((&first["sha256"], &first["config"]), (&expected["sha256"], &expected["config"]));
    let folder = client.folder("models--org--tiny");
    assert_eq!(fs::read_to_string(folder.join("refs/main")).unwrap(), commit);
    let snapshot = folder.join("snapshots").join(&commit);
    let shard = fs::read_link(snapshot.join("model-00001-of-00003.safetensors")).unwrap();
    assert!(shard.starts_with("../../blobs") && shard.file_name().unwrap().len() == 64, "{shard:?}");
    // Not needed, so not fetched.
    assert!(!snapshot.join("expected.json").exists());

    // A plan needs the configuration alone.
    let planner = Client::of(&server);
    let plan = json(&planner.run(&["plan", "hf://org/tiny", "--no-speed", "--json"]));
    assert_eq!(plan["frozen_parameters"], first["parameter_count"]);
    let fetched = fs::read_dir(planner.folder("models--org--tiny").join("snapshots").join(&commit)).unwrap();
    assert_eq!(fetched.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>(), ["config.json"]);
    server.requests();
    for name in [format!("hf://org/tiny@{commit}"), "hf://org/tiny".into()] {
        assert_eq!(json(&client.offline(&["inspect", &name, "--hash", "--json"])), first);
    }
    assert_eq!(json(&client.run(&["inspect", &format!("hf://org/tiny@{commit}"), "--hash", "--json"])), first);
    assert!(server.requests().is_empty(), "everything was here");
    // The Hub is asked what `main` is, and no file comes again; one that nobody answers for is the one that is here.
    assert_eq!(json(&client.run(&["inspect", "hf://org/tiny", "--hash", "--json"])), first);
    assert!(server.requests().iter().all(|request| request.path.starts_with("/api/")));
    let gone = Client { endpoint: "http://127.0.0.1:9".into(), ..client };
    assert_eq!(json(&gone.run(&["inspect", "hf://org/tiny", "--hash", "--json"])), first);
}

#[test]
fn the_token_comes_from_the_environment_or_its_file_and_is_shown_to_the_hub_alone() {
    let server = Server::start();
    server.commit_folder("models/org/gated", 1, &fixture("family-qwen2"));
    server.require_token("hf_secret");
    let client = Client::of(&server);
    text(&failed(&client.run(&["inspect", "hf://org/gated"]), 1), &["hf://org/gated", "401", "no token is in use", "HF_TOKEN"]);
    let wrong = client.command(&["inspect", "hf://org/gated"]).env("HF_TOKEN", "hf_other").output().unwrap();
    text(&failed(&wrong, 1), &["401", "the token in use was not accepted"]);
    let broken = client.command(&["inspect", "hf://org/gated"]).env("HF_TOKEN", "two words").output().unwrap();
    text(&failed(&broken, 2), &["not one word"]);
    server.requests();
    succeeded(&client.command(&["inspect", "hf://org/gated"]).env("HF_TOKEN", "hf_secret").output().unwrap());
    let requests = server.requests();
    let (stored, own): (Vec<_>, Vec<_>) = requests.iter().partition(|request| request.path.starts_with("/cdn/"));
    assert!(stored.iter().any(|r| !r.headers.contains_key("range")), "the weights came from the other host");
    assert!(stored.iter().all(|request| !request.headers.contains_key("authorization")), "the token was shown to another host");
    assert!(own.iter().all(|request| request.headers["authorization"] == "Bearer hf_secret"));

    let other = Client::of(&server);
    fs::write(other.home.path().join("token"), "hf_secret\n").unwrap();
    succeeded(&other.run(&["inspect", "hf://org/gated"]));
}

#[test]
fn what_cannot_be_had_is_refused_with_what_to_do() {
    let server = Server::start();
    let config = fs::read(fixture("family-qwen2/config.json")).unwrap();
    let files = |files: &[(&str, &[u8])]| files.iter().map(|(name, bytes)| (name.to_string(), bytes.to_vec())).collect::<Vec<_>>();
    server.commit("models/org/gguf", 1, files(&[("a.gguf", b"GGUF"), ("README.md", b"#")]));
    server.commit("models/org/bin", 2, files(&[("config.json", &config), ("pytorch_model.bin", b"x")]));
    server.commit("models/org/lost", 3, files(&[("config.json", &config), ("model.safetensors", b"LOST")]));
    server.commit("models/org/outside", 4, files(&[("../../evil", b"x"), ("config.json", &config)]));
    server.commit("datasets/org/texts", 5, files(&[("README.md", b"#"), ("a/x.jsonl", b"{}")]));
    let client = Client::of(&server);
    for (name, code, parts) in [
        ("hf://org/none", 1, &["hf://org/none", "has no model \"org/none\" with a revision \"main\" (404)"][..]),
        ("hf://org/gguf@v9", 1, &["with a revision \"v9\""]),
        ("hf://org/gguf", 1, &["1 GGUF files and no config.json", "hf://org/gguf/a.gguf"]),
        ("hf://org/gguf/sub", 1, &["has no `sub`"]),
        ("hf://org/bin", 1, &["neither model.safetensors", "pytorch_model.bin"]),
        ("hf://org/lost", 1, &["model.safetensors", "lists this file and does not have it (404)"]),
        ("hf://org/outside", 1, &["\"../../evil\"", "outside"]),
        ("hf://org", 2, &["hf://OWNER/NAME"]),
    ] {
        text(&failed(&client.run(&["inspect", name]), code), parts);
    }
    assert!(!client.home.path().join("evil").exists());
    let named = client.run(&["inspect", "hf://org/gguf/a.gguf"]);
    assert!(failed(&named, 1).contains(".gguf"), "the file is fetched, and is no model");
    let nobody = Client { endpoint: "http://127.0.0.1:9".into(), home: tempfile::tempdir().unwrap() };
    text(&failed(&nobody.run(&["inspect", "hf://org/gguf"]), 1), &["http://127.0.0.1:9 cannot be reached", "HF_HUB_OFFLINE=1"]);
    text(&failed(&nobody.offline(&["inspect", "hf://org/gguf"]), 1), &["revision \"main\" is not in the cache", "without HF_HUB_OFFLINE"]);
    let odd = Client { endpoint: "ftp://x".into(), home: tempfile::tempdir().unwrap() };
    text(&failed(&odd.run(&["inspect", "hf://org/gguf"]), 2), &["HF_ENDPOINT", "ftp://x"]);
}

#[test]
fn a_download_that_breaks_off_goes_on_and_one_that_is_wrong_is_thrown_away() {
    let server = Server::start();
    server.commit_folder("models/org/tiny", 1, &fixture("family-qwen3"));
    let client = Client::of(&server);
    let inspect = ["inspect", "hf://org/tiny", "--hash", "--json"];
    // Broken off, busy, broken off again: the rest is asked for each time.
    server.fault("model.safetensors", Fault::Break(1000), 2);
    let found = json(&client.run(&inspect));
    let expected = json(&client.run(&["inspect", fixture("family-qwen3").to_str().unwrap(), "--hash", "--json"]));
    assert_eq!(found["sha256"], expected["sha256"]);
    let ranges: Vec<String> =
        server.requests().iter().filter_map(|r| r.headers.get("range").cloned()).filter(|r| r != "bytes=0-0").collect();
    assert!(ranges.contains(&"bytes=1000-".into()) && ranges.contains(&"bytes=2000-".into()), "{ranges:?}");

    for (fault, says) in [
        (Fault::Break(10), "bytes"),
        (Fault::Wrong, "what came has the SHA-256"),
        (Fault::Long, "more than the"),
        (Fault::Busy, "status 503"),
        // Found by fuzzing: the client panics over it.
        (Fault::Astray, "answers with something that is no HTTP"),
    ] {
        let client = Client::of(&server);
        server.fault("model.safetensors", fault, 100);
        let error = failed(&client.run(&inspect), 1);
        text(&error, &["hf://org/tiny", "model.safetensors", says]);
        let blobs = client.folder("models--org--tiny").join("blobs");
        let whole = |path: &Path| path.extension().is_none() && path.file_name().unwrap().len() == 64;
        assert!(!fs::read_dir(&blobs).unwrap().any(|entry| whole(&entry.unwrap().path())), "nothing wrong is kept");
        server.fault("model.safetensors", fault, 0);
        assert_eq!(json(&client.run(&inspect))["sha256"], expected["sha256"], "and then it comes");
    }
}

#[test]
fn a_run_writes_commits_down_and_goes_on_with_them_when_the_branch_has_moved() {
    let (server, world) = (Server::start(), World::new());
    let first = server.commit_folder("models/org/base", 1, &world.path("base"));
    let corpora = || {
        let file = |name: &str| fs::read(world.path(name)).unwrap();
        [("data/new.jsonl".to_string(), file("new.jsonl")), ("held/new.jsonl".into(), file("new-held-out.jsonl"))]
    };
    let texts = server.commit("datasets/org/texts", 2, corpora());
    let client = Client::of(&server);
    world.recipe("scale-preserve", "");
    let set = [
        "--set",
        "train.schedule=constant",
        "--set",
        "model.path=hf://org/base",
        "--set",
        "data.train=[\"hf://datasets/org/texts/data/*.jsonl\"]",
        "--set",
        "data.learn=[{name=\"new\", path=\"hf://datasets/org/texts@main/held\"}]",
    ];
    let train = |more: &[&str]| {
        let mut command = world.command(&[&["train", "scale-preserve.toml", "--out", "run"][..], &set, more].concat());
        client.with(&mut command).output().unwrap()
    };
    succeeded(&train(&["--set", "train.steps=6"]));
    let recipe = fs::read_to_string(world.path("run/recipe.toml")).unwrap();
    text(
        &recipe,
        &[&format!("hf://org/base@{first}"), &format!("hf://datasets/org/texts@{texts}/data/*.jsonl"), &format!("@{texts}/held")],
    );
    let environment: Value = serde_json::from_slice(&fs::read(world.path("run/environment.json")).unwrap()).unwrap();
    assert_eq!(environment[0]["hub"]["hf://org/base"], first);
    assert_eq!(environment[0]["hub"]["hf://datasets/org/texts@main"], texts);

    // The branch moves to another model and other texts: the run goes on with what it was started with, also on a machine that has nothing yet.
    world.change_base();
    server.commit_folder("models/org/base", 3, &world.path("base"));
    server.commit("datasets/org/texts", 4, [("data/new.jsonl".to_string(), b"{\"text\": \"w1 w2\"}\n".to_vec())]);
    let fresh = Client::of(&server);
    let mut command = world.command(&[&["train", "scale-preserve.toml", "--out", "run", "--resume"][..], &set].concat());
    succeeded(&fresh.with(&mut command).output().unwrap());
    assert_eq!(crate::train_world::steps(&world.path("run")).last(), Some(&12));
    assert!(fresh.folder("models--org--base").join("snapshots").join(&first).exists());

    // What stands on it finds its base by the name with its commit; a new run takes what the branch is now.
    server.requests();
    let mut command = world.command(&["eval", "run", "--corpus", "x=new-held-out.jsonl", "--json"]);
    let evaluated = client.with(&mut command).env("HF_HUB_OFFLINE", "1").output().unwrap();
    succeeded(&evaluated);
    assert!(server.requests().is_empty());
    let mut command = world.command(&["inspect", "hf://org/base", "--hash", "--json"]);
    let now = json(&client.with(&mut command).output().unwrap());
    let here = world.json(&["inspect", "base", "--hash", "--json"]);
    assert_eq!(now["sha256"], here["sha256"]);
}

#[test]
fn a_widened_model_goes_to_the_hub_and_comes_back_onto_a_base_that_is_there() {
    let (server, world) = (Server::start(), World::new());
    let commit = server.commit_folder("models/org/base", 1, &world.path("base"));
    let client = Client::of(&server);
    let run = |more: &[&str]| {
        let mut command = world.command(more);
        let output = client.with(&mut command).output().unwrap();
        succeeded(&output);
        output
    };
    let sizes = ["--hidden-size", "4", "--num-key-value-heads", "1", "--intermediate-size", "6"];
    run(&[&["grow", "hf://org/base", "--out", "ring"], &sizes[..]].concat());
    run(&["export", "ring", "--out", "hf"]);
    server.commit_folder("models/org/grown", 2, &world.path("hf"));
    let report = json(&run(&["import", "hf://org/grown", "--base", "hf://org/base", "--out", "back", "--json"]));
    assert_eq!(report["rings"][0]["unchanged"], true, "{report}");
    let read = |folder: &str| fs::read(world.path(folder).join("expansion.safetensors")).unwrap();
    assert!(read("ring") == read("back"), "the same file to the byte");
    // It knows its base by name and commit, and finds it again in the cache alone.
    let manifest: Value = serde_json::from_slice(&fs::read(world.path("back/treering.json")).unwrap()).unwrap();
    let base = manifest["base"]["path"].as_str().unwrap();
    assert_eq!(base, format!("hf://org/base@{commit}"), "{manifest}");
    let mut command = world.command(&["eval", "back", "--corpus", "x=new-held-out.jsonl", "--json"]);
    let evaluated = json(&client.with(&mut command).env("HF_HUB_OFFLINE", "1").output().unwrap());
    let mut command = world.command(&["eval", "ring", "--corpus", "x=new-held-out.jsonl", "--json"]);
    let expected = json(&client.with(&mut command).env("HF_HUB_OFFLINE", "1").output().unwrap());
    assert_eq!(evaluated["corpora"][0]["heads"], expected["corpora"][0]["heads"]);
    // Another base by that name is none.
    world.change_base();
    server.commit_folder("models/org/other", 3, &world.path("base"));
    let mut command = world.command(&["import", "hf://org/grown", "--base", "hf://org/other", "--out", "x"]);
    let refused = client.with(&mut command).output().unwrap();
    text(&failed(&refused, 1), &["SHA-256"]);
}
