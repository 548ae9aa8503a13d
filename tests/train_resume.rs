//! Stop and go on: a resumed run equals one that never stopped, however it was stopped.

mod damage;
mod train_world;

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use damage::{Damage, every_way, put};
use train_world::{World, deterministic, failed, steps, succeeded};
use treering::Error;
use treering::train::session::{Event, Start};
use treering::train::{RunFolder, checkpoint};

const METHODS: [&str; 3] = ["scale-preserve", "scale-adapt", "full"];

fn never(_: &Event) -> bool {
    false
}

#[test]
fn resumed_equals_uninterrupted_bit_for_bit() {
    let world = World::new();
    for kind in METHODS {
        world.recipe(kind, "");
        let (whole, cut) = (format!("{kind}-whole"), format!("{kind}-cut"));
        world.train_here(kind, &whole, &[], Start::New, &mut never).unwrap();
        // Stopped in the first measurement, in the middle, in a measurement, and at a step that has a checkpoint anyway.
        type StopAt = fn(&Event) -> bool;
        let stops: [(u64, StopAt); 4] = [
            (0, |event| matches!(event, Event::Measuring(..))),
            (2, |event| matches!(event, Event::Step(record) if record.step == 2)),
            (4, |event| matches!(event, Event::Measuring(..))),
            (9, |event| matches!(event, Event::Step(record) if record.step == 9)),
        ];
        for (step, stop_at) in stops {
            let stopped = world.train_here(kind, &cut, &[], Start::Resume, &mut { stop_at });
            assert!(matches!(&stopped, Err(Error::Interrupted(text)) if text.starts_with(&format!("step {step} of 12"))), "{stopped:?}");
            assert_eq!(steps(&world.path(&cut)).last(), Some(&step));
        }
        let outcome = world.train_here(kind, &cut, &[], Start::Resume, &mut never).unwrap();
        assert_eq!(outcome.steps, 12);
        assert!(deterministic(&world.path(&whole)) == deterministic(&world.path(&cut)), "{kind}");
    }
}

#[test]
fn a_run_stopped_while_its_model_is_built_leaves_a_folder_that_can_be_begun() {
    let world = World::new();
    world.recipe("scale-preserve", "");
    let stopped = world.train_here("scale-preserve", "run", &[], Start::New, &mut |event| matches!(event, Event::Building(..)));
    assert!(matches!(&stopped, Err(Error::Interrupted(text)) if text.contains("no step was made")), "{stopped:?}");
    assert!(steps(&world.path("run")).is_empty());
    world.train_here("scale-preserve", "run", &[], Start::New, &mut never).unwrap();
    world.train_here("scale-preserve", "whole", &[], Start::New, &mut never).unwrap();
    assert!(deterministic(&world.path("whole")) == deterministic(&world.path("run")));
}

#[test]
fn a_finished_run_resumes_to_itself() {
    let world = World::new();
    world.recipe("scale-preserve", "");
    let outcome = world.train_here("scale-preserve", "run", &[], Start::New, &mut never).unwrap();
    let before = deterministic(&world.path("run"));
    let again = world.train_here("scale-preserve", "run", &[], Start::Resume, &mut never).unwrap();
    assert_eq!((again.checkpoint, again.loss), (outcome.checkpoint, None));
    assert!(before == deterministic(&world.path("run")));
}

#[test]
fn a_longer_run_goes_on_from_a_shorter_one_under_a_constant_schedule() {
    let world = World::new();
    world.recipe("scale-adapt", "");
    let constant = ["train.schedule=constant", "eval.every_steps=0", "eval.at_start=false", "data.learn=[]", "data.forget=[]"];
    let longer = [&constant[..], &["train.steps=20"]].concat();
    world.train_here("scale-adapt", "whole", &longer, Start::New, &mut never).unwrap();
    world.train_here("scale-adapt", "grown", &constant, Start::New, &mut never).unwrap();
    world.train_here("scale-adapt", "grown", &longer, Start::Resume, &mut never).unwrap();
    assert!(deterministic(&world.path("whole")) == deterministic(&world.path("grown")));
}

#[cfg(unix)]
#[test]
fn a_run_killed_at_any_moment_again_and_again_equals_uninterrupted() {
    let world = World::new();
    world.recipe("scale-adapt", "");
    // Long enough to be killed in many places, with a checkpoint and a removal every other step.
    let set = ["--set", "train.steps=60", "--set", "train.checkpoint_every_steps=2", "--resume"];
    succeeded(&world.train("scale-adapt", "whole", &set));
    let kills = world.kill_until_finished(&[&["train", "scale-adapt.toml", "--out", "killed"], &set[..]].concat());
    assert!(kills > 0);
    assert!(deterministic(&world.path("whole")) == deterministic(&world.path("killed")), "after {kills} kills");
    let left: Vec<_> = fs::read_dir(world.path("killed/checkpoints")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

/// A limit on the size of files stands for a disk that fills up: the write that crosses it fails, wherever that is.
#[cfg(unix)]
#[test]
fn a_full_disk_is_an_error_that_names_the_file_and_the_run_goes_on_when_there_is_room() {
    let world = World::new();
    world.recipe("scale-adapt", "");
    succeeded(&world.train("scale-adapt", "whole", &[]));
    let mut named = std::collections::BTreeSet::new();
    for blocks in [0, 1, 2, 4, 8, 16, 24, 32, 48, 64, 96] {
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" train scale-adapt.toml --out full --resume");
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_treering")]).current_dir(world.path(""));
        let output = command.output().unwrap();
        if output.status.success() {
            break;
        }
        let error = failed(&output, 1);
        assert!(error.to_lowercase().contains("file too large"), "{error}");
        named.extend(error.split([' ', ':']).filter(|word| word.contains("full/")).map(ToString::to_string));
        // What stands is whole: each checkpoint can be read.
        for (step, path) in RunFolder::checkpoints(&world.path("full")).unwrap_or_default() {
            assert_eq!(treering::train::checkpoint::load_state(&path).unwrap().step, step);
        }
    }
    assert!(named.len() > 2, "not several places were reached: {named:?}");
    succeeded(&world.train("scale-adapt", "full", &["--resume"]));
    assert!(deterministic(&world.path("whole")) == deterministic(&world.path("full")));
}

#[cfg(unix)]
#[test]
fn an_interrupted_command_saves_and_exits_with_130() {
    let world = World::new();
    world.recipe("scale-preserve", "");
    for (signal, out) in [("-INT", "interrupted"), ("-TERM", "terminated")] {
        let arguments = ["train", "scale-preserve.toml", "--out", out, "--set", "train.steps=100000", "--set", "eval.at_start=false"];
        let child = world.command(&arguments).stderr(Stdio::piped()).spawn().unwrap();
        while !world.path(out).join("checkpoints").is_dir() || steps(&world.path(out)).is_empty() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let killed = std::process::Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        let error = failed(&child.wait_with_output().unwrap(), 130);
        assert!(error.contains("is saved in") && error.contains("--resume"), "{error}");
        let last = *steps(&world.path(out)).last().unwrap();
        assert!(error.contains(&format!("step {last} of 100000")), "{error}");
    }
}

#[test]
fn a_damaged_checkpoint_is_named_and_never_passed_over() {
    let world = World::new();
    world.recipe("scale-preserve", "");
    world.train_here("scale-preserve", "run", &[], Start::New, &mut never).unwrap();
    let whole = deterministic(&world.path("run"));
    assert_eq!(steps(&world.path("run")), [9, 12]);
    for name in ["trained.safetensors", "optimizer.safetensors", "state.json"] {
        let path = world.path(&format!("run/checkpoints/step-000012/{name}"));
        let good = fs::read(&path).unwrap();
        let mut flipped = good.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        let truncated = &good[..good.len() - 1];
        for bad in [flipped.as_slice(), truncated, b""] {
            fs::write(&path, bad).unwrap();
            let error = failed(&world.train("scale-preserve", "run", &["--resume"]), 1);
            assert!(
                error.contains(name)
                    && error.contains("damaged")
                    && error.contains("--resume-from STEP goes back")
                    && error.contains("are 9"),
                "{error}"
            );
        }
        fs::remove_file(&path).unwrap();
        assert!(failed(&world.train("scale-preserve", "run", &["--resume"]), 1).contains(name));
        fs::write(&path, good).unwrap();
    }
    // Every region of every file: what isn't as it was saved is named. The sums themselves may gain a line that says nothing.
    let folder = world.path("run/checkpoints/step-000012");
    let saved = checkpoint::load_state(&folder).unwrap();
    for (name, dense) in
        [("trained.safetensors", 600), ("optimizer.safetensors", 600), ("state.json", usize::MAX), ("SHA256SUMS", usize::MAX)]
    {
        let path = folder.join(name);
        let good = fs::read(&path).unwrap();
        for (damage, bytes) in every_way(&good, dense, 97) {
            put(&path, bytes);
            match checkpoint::load_state(&folder) {
                Err(error) => assert!(error.to_string().contains("step-000012/"), "{name}, {damage:?}: {error}"),
                Ok(state) => assert!(name == "SHA256SUMS" && state == saved && !matches!(damage, Damage::Flipped(_)), "{name}, {damage:?}"),
            }
        }
        fs::write(&path, good).unwrap();
    }
    // Found by fuzzing: one that is taken for another step's, and said to be trained to its end or further.
    let [right, wrong] = ["run/checkpoints/step-000012", "run/checkpoints/step-000013"].map(|path| world.path(path));
    fs::rename(&right, &wrong).unwrap();
    assert!(failed(&world.train("scale-preserve", "run", &["--resume"]), 1).contains("is of step 12, and its folder of step 13"));
    fs::rename(&wrong, &right).unwrap();
    fs::remove_file(world.path("run/checkpoints/step-000012/SHA256SUMS")).unwrap();
    assert!(failed(&world.train("scale-preserve", "run", &["--resume"]), 1).contains("SHA256SUMS"));
    // An older one is gone back to only when asked for, and the newer one is kept under another name.
    assert!(failed(&world.train("scale-preserve", "run", &["--resume-from", "3"]), 2).contains("steps with one: 9, 12"));
    let output = world.train("scale-preserve", "run", &["--resume-from", "9", "--verbose"]);
    succeeded(&output);
    assert!(String::from_utf8_lossy(&output.stderr).contains("step-000012.set-aside"));
    assert!(world.path("run/checkpoints/step-000012.set-aside").exists());
    assert!(whole == deterministic(&world.path("run")));
}

#[test]
fn what_a_killed_run_left_half_written_is_ignored_and_removed() {
    let world = World::new();
    world.recipe("full", "");
    world.train_here("full", "run", &[], Start::New, &mut |event| matches!(event, Event::Step(record) if record.step == 5)).unwrap_err();
    let stray = world.path("run/checkpoints/.step-000011.tmp-99-0");
    fs::create_dir(&stray).unwrap();
    fs::write(stray.join("trained.safetensors"), b"half").unwrap();
    assert_eq!(steps(&world.path("run")), [3, 5]);
    world.train_here("full", "run", &[], Start::Resume, &mut never).unwrap();
    assert!(!stray.exists());
}

#[test]
fn the_newest_checkpoints_are_kept() {
    let world = World::new();
    world.recipe("scale-preserve", "");
    for (keep, expected) in [("0", &[3, 6, 9, 12][..]), ("1", &[12]), ("3", &[6, 9, 12])] {
        let out = format!("keep-{keep}");
        world.train_here("scale-preserve", &out, &[&format!("train.keep_checkpoints={keep}")], Start::New, &mut never).unwrap();
        assert_eq!(steps(&world.path(&out)), expected);
    }
    // As after a kill between the last checkpoint and the removals: there is nothing to train, and yet they go.
    world.train_here("scale-preserve", "keep-0", &["train.keep_checkpoints=2"], Start::Resume, &mut never).unwrap();
    assert_eq!(steps(&world.path("keep-0")), [9, 12]);
}

#[test]
fn a_changed_base_or_recipe_or_corpus_is_refused() {
    let world = World::new();
    world.recipe("scale-preserve", "");
    world.train_here("scale-preserve", "run", &[], Start::New, &mut |event| matches!(event, Event::Step(_))).unwrap_err();
    let error = failed(&world.train("scale-preserve", "run", &["--resume", "--set", "train.learning_rate=1e-5"]), 2);
    assert!(error.contains("train.learning_rate: the run has 0.003, the recipe "), "{error}");
    assert!(failed(&world.train("scale-preserve", "run", &[]), 2).contains("--resume goes on with it"));
    let corpus = fs::read(world.path("new.jsonl")).unwrap();
    fs::write(world.path("new.jsonl"), b"{\"text\": \"w1 w2 w3\"}\n").unwrap();
    assert!(failed(&world.train("scale-preserve", "run", &["--resume"]), 1).contains("the corpus or the tokenizer changed"));
    fs::write(world.path("new.jsonl"), corpus).unwrap();
    world.change_base();
    let error = failed(&world.train("scale-preserve", "run", &["--resume"]), 1);
    assert!(error.contains("state.json") && error.contains("SHA-256"), "{error}");
}

#[test]
fn a_run_goes_on_where_its_corpora_have_moved_to() {
    let world = World::new();
    world.recipe("scale-preserve", "");
    world.train_here("scale-preserve", "whole", &[], Start::New, &mut never).unwrap();
    world.train_here("scale-preserve", "cut", &[], Start::New, &mut |event| matches!(event, Event::Step(_))).unwrap_err();
    fs::create_dir(world.path("elsewhere")).unwrap();
    fs::rename(world.path("new.jsonl"), world.path("elsewhere/newer.jsonl")).unwrap();
    assert!(failed(&world.train("scale-preserve", "cut", &["--resume"]), 1).contains("new.jsonl"));
    succeeded(&world.train("scale-preserve", "cut", &["--resume", "--set", "data.train=elsewhere/newer.jsonl"]));
    assert!(deterministic(&world.path("whole")) == deterministic(&world.path("cut")));
    // From here on the run's own recipe names the new place.
    assert!(fs::read_to_string(world.path("cut/recipe.toml")).unwrap().contains("elsewhere/newer.jsonl"));
}

#[test]
fn two_processes_never_train_in_one_folder() {
    let world = World::new();
    world.recipe("scale-preserve", "");
    let held = RunFolder::open(world.path("run")).unwrap();
    assert!(failed(&world.train("scale-preserve", "run", &[]), 2).contains("another treering is training"));
    drop(held);
    succeeded(&world.train("scale-preserve", "run", &[]));
}
