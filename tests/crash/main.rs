//! Runs that are killed, or whose files fail, at every single operation on their folder, at first or when they go on: each ends with the bits of a run that
//! nothing ever happened to. `faults.c` is put between the real program and the C library.
//!
//! `scripts/crash-harness.sh` runs the long form, which is ignored here.
#![cfg(target_os = "linux")]

mod disturbances;
#[path = "../train_world/mod.rs"]
mod train_world;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use train_world::{World, succeeded};
use treering::data::order::Random;
use treering::train::RunFolder;

/// What can happen to an operation, see `faults.c`.
const KINDS: [&str; 8] = ["kill", "torn", "power", "names", "eio", "short", "enospc", "erofs"];

/// A recipe of [`World::recipe`] that is tried, with what is set in it.
struct Case {
    name: &'static str,
    kind: &'static str,
    set: &'static [&'static str],
}

const CASES: [Case; 4] = [
    Case { name: "scale-preserve", kind: "scale-preserve", set: &["train.skip_spikes=3", "train.spike_window=4"] },
    Case { name: "scale-adapt", kind: "scale-adapt", set: &[] },
    Case { name: "full", kind: "full", set: &[] },
    Case { name: "ring", kind: "scale-preserve", set: &["model.path=one"] },
];

/// Everything of a run that does not tell the time, as text and bytes.
type Ending = BTreeMap<String, Vec<u8>>;

/// A run in which something is to go wrong.
struct Course<'a> {
    case: &'a Case,
    steps: u64,
    /// What a run left that was killed, where that goes on.
    from: Option<PathBuf>,
    /// What it does on its folder: names and paths.
    operations: Vec<(String, String)>,
    /// How it ends where nothing happens.
    whole: Ending,
}

impl Course<'_> {
    /// Of which run it is, in a word.
    fn when(&self) -> &'static str {
        if self.from.is_some() { "resumed" } else { "begun" }
    }

    /// The newest checkpoint that must outlast whatever happens at an operation: it has its name, and the folder of its name was synced.
    fn saved(&self, number: usize) -> Option<u64> {
        let before = &self.operations[..number - 1];
        let synced = before.iter().rposition(|(name, path)| name == "sync" && path.ends_with("/checkpoints")).unwrap_or(0);
        let named = before[..synced].iter().filter(|(name, _)| name == "rename").filter_map(|(_, path)| path.rsplit_once("/step-"));
        let found = self.from.iter().filter_map(|from| RunFolder::checkpoints(&from.join("run")).unwrap().last().map(|&(step, _)| step));
        named.filter_map(|(_, step)| step.parse().ok()).chain(found).max()
    }

    /// All that can happen to it: number of an operation, and kind.
    fn faults(&self) -> Vec<(usize, &'static str)> {
        let all = (1..=self.operations.len()).flat_map(|number| KINDS.map(|kind| (number, kind)));
        all.filter(|(number, kind)| applies(kind, &self.operations[number - 1].0)).collect()
    }
}

struct Harness {
    world: World,
    faults: PathBuf,
}

impl Harness {
    fn new() -> Self {
        let world = World::new();
        for kind in ["scale-preserve", "scale-adapt", "full"] {
            world.recipe(kind, "threads = 1");
        }
        succeeded(&world.train("scale-adapt", "one", &["--set", "train.steps=3"]));
        let faults = world.path("faults.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/crash/faults.c");
        // Rust programs are linked by `cc`, so it is there.
        let built = Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&faults).arg(source).arg("-ldl").status().unwrap();
        assert!(built.success());
        fs::create_dir(world.path("tried")).unwrap();
        Self { world, faults }
    }

    /// The command that begins or goes on with the run `out`.
    fn train(&self, case: &Case, steps: u64, out: &str) -> Command {
        // In full, so that an error that names it does so, too.
        let (recipe, steps) = (self.world.path(&format!("{}.toml", case.kind)), format!("train.steps={steps}"));
        let mut command = self.world.command(&["train", recipe.to_str().unwrap(), "--out", out, "--resume", "--set", &steps]);
        // Old checkpoints go, too.
        command.args(["--set", "train.checkpoint_every_steps=2", "--set", "train.keep_checkpoints=1"]);
        for set in case.set {
            command.args(["--set", set]);
        }
        command
    }

    /// The same with faults: at what is read of the base, the corpora and the recipe, too.
    fn train_with(&self, case: &Case, steps: u64, out: &str, variables: &[(&str, &str)]) -> Output {
        let root = self.world.path("").canonicalize().unwrap();
        let mut command = self.train(case, steps, out);
        command.env("LD_PRELOAD", &self.faults).env("FAULT_ROOT", root);
        command.envs(variables.iter().copied()).output().unwrap()
    }

    /// A run that nothing happens to, and every operation of it on its folder: its name and its path.
    fn whole<'a>(&self, case: &'a Case, steps: u64) -> Course<'a> {
        let out = format!("whole-{}-{steps}/run", case.name);
        fs::create_dir(self.world.path(&out).parent().unwrap()).unwrap();
        let operations = self.operations(case, steps, &out);
        Course { case, steps, from: None, operations, whole: ending(&self.world.path(&out)) }
    }

    /// The same run, killed half way between its first checkpoint and its end: what its resumption does.
    fn resumed<'a>(&self, course: &Course<'a>) -> Course<'a> {
        let &Course { case, steps, .. } = course;
        let from = self.world.path(&format!("killed-{}-{steps}", case.name));
        fs::create_dir(&from).unwrap();
        let saved = course.operations.iter().position(|(name, path)| name == "rename" && path.ends_with("/step-000002")).unwrap();
        let at = ((saved + course.operations.len()) / 2).to_string();
        let output = self.train_with(case, steps, from.join("run").to_str().unwrap(), &[("FAULT_KIND", "kill"), ("FAULT_AT", &at)]);
        assert_eq!(output.status.signal(), Some(9));
        assert_eq!(RunFolder::checkpoints(&from.join("run")).unwrap().len(), 1);
        let folder = self.world.path(&format!("resumed-{}-{steps}", case.name));
        copy(&from, &folder);
        let operations = self.operations(case, steps, folder.join("run").to_str().unwrap());
        assert_eq!(ending(&folder.join("run")), course.whole, "{}", case.name);
        Course { case, steps, from: Some(from), operations, whole: course.whole.clone() }
    }

    /// Every operation of a run to its end.
    fn operations(&self, case: &Case, steps: u64, out: &str) -> Vec<(String, String)> {
        let log = self.world.path(out).with_file_name("operations.log");
        succeeded(&self.train_with(case, steps, out, &[("FAULT_LOG", log.to_str().unwrap())]));
        let text = fs::read_to_string(&log).unwrap();
        let operations = text.lines().map(|line| {
            let mut words = line.splitn(3, ' ').skip(1).map(ToString::to_string);
            (words.next().unwrap(), words.next().unwrap_or_default())
        });
        operations.collect()
    }

    /// One fault at one operation, then `--resume`; an error says what was lost.
    fn survives(&self, course: &Course, number: usize, kind: &str) -> Result<(), String> {
        let &Course { case, steps, .. } = course;
        let when = course.when();
        let folder = self.world.path(&format!("tried/{}-{when}-{number}-{kind}", case.name));
        match &course.from {
            Some(from) => copy(from, &folder),
            None => fs::create_dir(&folder).unwrap(),
        }
        let out = folder.join("run");
        let at = number.to_string();
        let output = self.train_with(case, steps, out.to_str().unwrap(), &[("FAULT_KIND", kind), ("FAULT_AT", &at)]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        let (operation, path) = &course.operations[number - 1];
        let failed =
            |what: &str, error: &str| Err(format!("{}, {when}: {kind} at {number} ({operation} {path}): {what}: {error}", case.name));
        let dies = ["kill", "torn", "power", "names"].contains(&kind);
        match (output.status.code(), output.status.signal()) {
            (None, Some(9)) if dies => {}
            // Some failures cost nothing: what could not be tidied up, for example.
            (Some(0), None) if !dies => {}
            (Some(1), None) if !dies && kind != "short" && error.starts_with("error: /") => {}
            (code, signal) => return failed(&format!("ended with {code:?}, signal {signal:?}"), &error),
        }
        let left = RunFolder::checkpoints(&out).unwrap_or_default();
        for (step, path) in &left {
            match treering::train::checkpoint::load_state(path) {
                Ok(state) if state.step == *step => {}
                Ok(state) => return failed("a checkpoint of another step", &state.step.to_string()),
                Err(error) => return failed("a checkpoint under its name is not whole", &error.to_string()),
            }
        }
        let (saved, newest) = (course.saved(number), left.last().map(|&(step, _)| step));
        if newest < saved {
            return failed("a checkpoint that was saved is gone", &format!("{saved:?} was, {newest:?} is left"));
        }
        let output = self.train(case, steps, out.to_str().unwrap()).output().unwrap();
        if !output.status.success() {
            return failed("--resume failed", &String::from_utf8_lossy(&output.stderr));
        }
        let (whole, found) = (&course.whole, ending(&out));
        if let Some(name) = whole.keys().chain(found.keys()).find(|name| whole.get(*name) != found.get(*name)) {
            return failed("the resumed run ends differently", name);
        }
        fs::remove_dir_all(&folder).unwrap();
        Ok(())
    }

    /// Tries `faults` (number of the operation, kind) on all cores; returns what was lost.
    fn try_all(&self, course: &Course, faults: &[(usize, &str)]) -> Vec<String> {
        let (next, lost) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..jobs() {
                scope.spawn(|| {
                    while let Some(&(number, kind)) = faults.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(what) = self.survives(course, number, kind) {
                            eprintln!("{what}");
                            lost.lock().unwrap().push(what);
                        }
                    }
                });
            }
        });
        lost.into_inner().unwrap()
    }

    /// Kills a run at random moments until it comes to its end; returns how often, and how it ended.
    fn kill_at_random(&self, case: &Case, steps: u64, out: &str, random: &mut Random) -> (usize, Ending) {
        for kills in 0.. {
            let mut child = self.train(case, steps, out).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_micros(random.below(250_000 + 10_000 * kills)));
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "{out} failed after {kills} kills");
                return (kills as usize, ending(&self.world.path(out)));
            }
            child.kill().unwrap();
            if child.wait().unwrap().success() {
                return (kills as usize, ending(&self.world.path(out)));
            }
        }
        unreachable!()
    }
}

/// Runs that are tried at a time.
fn jobs() -> usize {
    let asked = std::env::var("TREERING_JOBS").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Copies a folder with all in it.
fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// Whether a kind of fault makes a difference at an operation.
fn applies(kind: &str, operation: &str) -> bool {
    match kind {
        "short" => operation == "write" || operation == "read",
        // On other operations it is `kill` at the next.
        "torn" => operation == "write" || operation == "rename",
        _ => true,
    }
}

/// Reads how a run ended: metrics line by line without what tells the time, names and bytes of its checkpoints.
fn ending(run: &Path) -> Ending {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let timeless = |line: &str| {
        let ends = ["\"tokens_per_second\"", "\"resources\"", "\"unix_time\""].iter().filter_map(|key| line.find(key)).min();
        line[..ends.unwrap_or(line.len())].to_string() + "\n"
    };
    let mut ending = Ending::from([("metrics.jsonl".to_string(), text.lines().map(timeless).collect::<String>().into_bytes())]);
    for entry in fs::read_dir(run.join("checkpoints")).unwrap() {
        let path = entry.unwrap().path();
        for name in ["trained.safetensors", "optimizer.safetensors", "state.json"] {
            let mut bytes = fs::read(path.join(name)).unwrap_or_default();
            if name == "state.json" {
                let mut state: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
                state["wall_seconds"] = 0.into();
                bytes = state.to_string().into_bytes();
            }
            ending.insert(format!("{}/{name}", path.file_name().unwrap().to_string_lossy()), bytes);
        }
    }
    // Whatever else lies there is not to be left behind.
    for entry in fs::read_dir(run).unwrap() {
        ending.entry(entry.unwrap().file_name().to_string_lossy().into_owned()).or_default();
    }
    ending
}

#[test]
fn a_fault_at_any_file_operation_costs_nothing_but_time() {
    let harness = Harness::new();
    let whole = harness.whole(&CASES[0], 4);
    let resumed = harness.resumed(&whole);
    for course in [whole, resumed] {
        let count = course.operations.len();
        assert!(count > 100 && course.operations.iter().any(|(name, _)| name == "read"), "{:?}", course.operations);
        // Each operation once, with each kind in turn, is too long for every day: every seventh, and the kinds shifted against them.
        let faults: Vec<(usize, &str)> = (1..=count)
            .step_by(7)
            .enumerate()
            .filter_map(|(index, number)| {
                let kinds = (0..KINDS.len()).map(|shift| KINDS[(index + shift) % KINDS.len()]);
                kinds.into_iter().find(|kind| applies(kind, &course.operations[number - 1].0)).map(|kind| (number, kind))
            })
            .collect();
        let lost = harness.try_all(&course, &faults);
        assert!(lost.is_empty(), "{} of {} were lost: {lost:#?}", lost.len(), faults.len());
    }
}

/// The cases that `TREERING_CASES` names, or all.
fn cases() -> Vec<&'static Case> {
    let asked = std::env::var("TREERING_CASES").unwrap_or_default();
    CASES.iter().filter(|case| asked.is_empty() || asked.split(',').any(|name| name == case.name)).collect()
}

#[test]
#[ignore = "takes long; scripts/crash-harness.sh runs it"]
fn every_fault_at_every_file_operation() {
    let harness = Harness::new();
    let (mut points, mut lost, mut operation_count) = (0, Vec::new(), 0);
    for case in cases() {
        let whole = harness.whole(case, 4);
        let resumed = harness.resumed(&whole);
        for course in [whole, resumed] {
            let (when, faults) = (course.when(), course.faults());
            lost.extend(harness.try_all(&course, &faults));
            operation_count += course.operations.len();
            points += faults.len();
            eprintln!("{}, {when}: {} operations, {} faults, {} lost so far", case.name, course.operations.len(), faults.len(), lost.len());
        }
    }
    println!("\n{}", serde_json::json!({"fault_points": points, "survived": points - lost.len(), "operations": operation_count}));
    assert!(lost.is_empty(), "{lost:#?}");
}

/// `TREERING_KILLS` of them (500), by turns in every case.
#[test]
#[ignore = "takes long; scripts/crash-harness.sh runs it"]
fn kills_at_random_moments() {
    let harness = Harness::new();
    let kills_wanted: usize = std::env::var("TREERING_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(500);
    let cases: Vec<(&Case, Ending)> = cases().into_iter().map(|case| (case, harness.whole(case, 60).whole)).collect();
    let (runs, kills, identical, lost) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs() {
            scope.spawn(|| {
                while kills.load(Ordering::Relaxed) < kills_wanted {
                    let run = runs.fetch_add(1, Ordering::Relaxed);
                    let (case, whole) = &cases[run % cases.len()];
                    let mut random = Random::new(std::process::id().into(), run as u64);
                    let (number, found) = harness.kill_at_random(case, 60, &format!("killed-{run}/run"), &mut random);
                    kills.fetch_add(number, Ordering::Relaxed);
                    if &found == whole {
                        identical.fetch_add(number, Ordering::Relaxed);
                        fs::remove_dir_all(harness.world.path(&format!("killed-{run}"))).unwrap();
                    } else {
                        lost.lock().unwrap().push(format!("{}: after {number} kills the run ends differently", case.name));
                    }
                    eprintln!("{} kills, the last {number} in one run of {}", kills.load(Ordering::Relaxed), case.name);
                }
            });
        }
    });
    let (runs, kills, identical) = (runs.into_inner(), kills.into_inner(), identical.into_inner());
    println!("\n{}", serde_json::json!({"kills": kills, "resumed_identical": identical, "killed_runs": runs}));
    let lost = lost.into_inner().unwrap();
    assert!(lost.is_empty(), "{lost:#?}");
}
