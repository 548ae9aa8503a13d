//! What else can happen to a long run: its terminal or its log goes away, the clock jumps, numbers go wrong, other machines have other cores.

use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use treering::train::metrics::{self, METRICS_FILE, Record};

use super::train_world::{World, deterministic, failed, number, steps, succeeded};
use super::{CASES, Harness};

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// Waits until a run has a checkpoint.
fn wait_for_checkpoint(world: &World, out: &str) {
    while !world.path(out).join("checkpoints").is_dir() || steps(&world.path(out)).is_empty() {
        std::thread::sleep(Duration::from_millis(2));
    }
}

const LONG: [&str; 4] = ["--set", "train.steps=100000", "--set", "eval.at_start=false"];

/// What a program does when its terminal goes, as it is told before it starts.
fn on_hang_up(command: &mut Command, action: libc::sighandler_t) {
    // SAFETY: `signal` may be called between fork and exec.
    unsafe {
        command.pre_exec(move || {
            libc::signal(libc::SIGHUP, action);
            Ok(())
        });
    }
}

#[test]
fn a_terminal_that_is_closed_stops_a_run_with_everything_saved() {
    let world = World::new();
    world.recipe("scale-preserve", "");
    let mut command = world.command(&[&["train", "scale-preserve.toml", "--out", "run"], &LONG[..]].concat());
    command.stderr(Stdio::piped());
    // Also where the tests themselves were started with `nohup`.
    on_hang_up(&mut command, libc::SIG_DFL);
    let child = command.spawn().unwrap();
    wait_for_checkpoint(&world, "run");
    signal(&child, "-HUP");
    assert!(failed(&child.wait_with_output().unwrap(), 130).contains("--resume goes on"));
}

#[test]
fn a_run_that_was_told_to_outlive_its_terminal_does() {
    let world = World::new();
    world.recipe("scale-preserve", "");
    let mut command = world.command(&[&["train", "scale-preserve.toml", "--out", "run"], &LONG[..]].concat());
    command.stderr(Stdio::piped());
    // As `nohup` does before it starts a program.
    on_hang_up(&mut command, libc::SIG_IGN);
    let child = command.spawn().unwrap();
    wait_for_checkpoint(&world, "run");
    signal(&child, "-HUP");
    let before = *steps(&world.path("run")).last().unwrap();
    while *steps(&world.path("run")).last().unwrap() < before + 9 {
        std::thread::sleep(Duration::from_millis(2));
    }
    signal(&child, "-TERM");
    failed(&child.wait_with_output().unwrap(), 130);
}

/// Nobody reads its messages any more, or they go to a disk that is full: it is trained to the end all the same.
#[test]
fn a_log_that_cannot_be_written_is_no_failure() {
    let world = World::new();
    world.recipe("scale-preserve", "");
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    for (out, stderr) in [("full", full()), ("closed", writer.into())] {
        let status =
            world.command(&["train", "scale-preserve.toml", "--out", out, "--verbose"]).stderr(stderr).stdout(Stdio::null()).status();
        assert_eq!(status.unwrap().code(), Some(0), "{out}");
        assert_eq!(steps(&world.path(out)), [9, 12]);
    }
    // An error is still told by the exit code.
    let status = world.command(&["train", "missing.toml"]).stderr(full()).status().unwrap();
    assert_eq!((status.code(), status.signal()), (Some(1), None));
}

#[test]
fn a_clock_that_jumps_changes_no_number() {
    let harness = Harness::new();
    let whole = harness.whole(&CASES[1], 6).whole;
    fs::create_dir(harness.world.path("tried/clock")).unwrap();
    let output = harness.train_with(&CASES[1], 6, "tried/clock/run", &[("FAULT_CLOCK", "1")]);
    succeeded(&output);
    let run = harness.world.path("tried/clock/run");
    assert!(super::ending(&run) == whole);
    let records = metrics::read(run.join(METRICS_FILE)).unwrap();
    let times: Vec<(f64, f64)> =
        records.iter().filter_map(|r| if let Record::Train(r) = r { Some((r.unix_time, r.wall_seconds)) } else { None }).collect();
    assert!(times.windows(2).any(|pair| pair[1].0 + 1e8 < pair[0].0), "the clock did jump: {times:?}");
    assert!(times.windows(2).all(|pair| pair[0].1 < pair[1].1) && times[5].1 < 600.0, "and the seconds did not: {times:?}");
}

#[test]
fn one_two_and_four_threads_give_the_same_bits() {
    let world = World::new();
    // Larger than the smallest products, which one thread does alone.
    for (kind, dtype) in [("scale-preserve", "bf16"), ("scale-adapt", "f32"), ("scale-adapt", "bf16"), ("full", "f32"), ("lora", "bf16")] {
        world.recipe(kind, "");
        let runs: Vec<_> = [1, 2, 4]
            .map(|threads| {
                let (out, threads) = (format!("{kind}-{dtype}-{threads}"), format!("train.threads={threads}"));
                let dtype = format!("model.dtype={dtype}");
                let set = [
                    "--set",
                    &threads,
                    "--set",
                    &dtype,
                    "--set",
                    "data.sequence_length=64",
                    "--set",
                    "train.batch_size=8",
                    "--set",
                    "train.steps=4",
                ];
                succeeded(&world.train(kind, &out, &set));
                deterministic(&world.path(&out))
            })
            .into();
        assert!(runs[0] == runs[1] && runs[0] == runs[2], "{kind} {dtype}");
    }
}

#[test]
fn a_weight_that_overflows_is_named_at_its_step_and_what_was_good_is_kept() {
    let world = World::new();
    world.recipe("full", "checkpoint_every_steps = 1\nkeep_checkpoints = 0\nweight_decay = 10.0");
    // The rate is small for ten steps, and then large enough to drive weights out of f32 by decay alone: each update multiplies them by 1 - 10 · 10.
    let set = [
        "data.learn=[]",
        "data.forget=[]",
        "train.learning_rate=10.0",
        "train.schedule=constant",
        "train.warmup_steps=0",
        "train.steps=100",
    ];
    let set: Vec<&str> = set.iter().flat_map(|set| ["--set", set]).collect();
    let text = fs::read_to_string(world.path("full.toml")).unwrap().replacen("checkpoint_every_steps = 3\n", "", 1);
    fs::write(world.path("full.toml"), text).unwrap();
    let error = failed(&world.train("full", "run", &set), 1);
    assert!(error.contains("not finite") && error.contains("`model.") || error.contains("the loss is"), "{error}");
    let last = *steps(&world.path("run")).last().unwrap();
    assert!(error.contains(&format!("step {}:", last + 1)) && error.contains(&format!("step-{last:06}")), "{error}");
    // The last checkpoint has nothing that is not finite in it, or it could not be read.
    let opened = treering::train::build::open_run(&world.path("run"), None, None).unwrap();
    assert!(opened.model.parameters().iter().all(|p| p.value.iter().all(|v| v.is_finite())));
}

/// A few lines of other text among many of one kind make steps that stand out.
#[test]
fn spikes_are_skipped_counted_and_resumed_bit_for_bit() {
    let world = World::new();
    world.recipe("scale-preserve", "");
    let set: Vec<&str> =
        ["train.steps=40", "train.skip_spikes=1.5", "train.spike_window=8", "train.schedule=constant", "train.keep_checkpoints=0"]
            .iter()
            .flat_map(|set| ["--set", set])
            .collect();
    let summary = world.json(&[&["train", "scale-preserve.toml", "--out", "whole", "--json"], &set[..]].concat());
    let records = metrics::read(world.path("whole").join(METRICS_FILE)).unwrap();
    let skipped: Vec<u64> =
        records.iter().filter_map(|r| if let Record::Train(r) = r { r.skipped.then_some(r.step) } else { None }).collect();
    assert!(!skipped.is_empty() && skipped.len() < 20 && skipped[0] > 4, "{skipped:?}");
    assert_eq!(number(&summary["skipped_steps"]) as usize, skipped.len());
    // A skipped step changes no weight: take one that ends in a checkpoint, with the checkpoint before it.
    let weights = |step: u64| fs::read(world.path(&format!("whole/checkpoints/step-{step:06}/trained.safetensors"))).ok();
    assert_eq!((weights(39).is_some(), weights(36) == weights(39)), (true, (37..=39).all(|step| skipped.contains(&step))));
    // Once more, stopped in between: also within a window.
    for step in ["9", "21", "36"] {
        let copied = Command::new("cp").arg("-r").args([world.path("whole"), world.path(&format!("from-{step}"))]).status().unwrap();
        assert!(copied.success());
        succeeded(&world.train("scale-preserve", &format!("from-{step}"), &[&["--resume-from", step], &set[..]].concat()));
        assert!(deterministic(&world.path("whole")) == deterministic(&world.path(&format!("from-{step}"))), "from {step}");
    }
    let text = String::from_utf8(world.treering(&["compare", "whole"]).stdout).unwrap();
    assert!(text.contains(&format!("skipped {} of its 40 steps", skipped.len())), "{text}");
    // With other rules it is another run.
    assert!(failed(&world.train("scale-preserve", "whole", &["--resume", "--set", "train.steps=40"]), 2).contains("train.skip_spikes"));
}

/// A line of the metrics that was damaged on the disk is found when the run goes on, and named.
#[test]
fn a_damaged_line_of_the_metrics_is_named_and_a_torn_last_one_is_not() {
    let world = World::new();
    world.recipe("scale-preserve", "");
    succeeded(&world.train("scale-preserve", "run", &[]));
    let (path, whole) = (world.path("run").join(METRICS_FILE), deterministic(&world.path("run")));
    let good = fs::read(&path).unwrap();
    let mut torn = good.clone();
    torn.extend_from_slice(b"{\"kind\":\"train\",\"step\":13,\"lo");
    fs::write(&path, &torn).unwrap();
    succeeded(&world.train("scale-preserve", "run", &["--resume"]));
    assert_eq!(fs::read(&path).unwrap(), good, "not a byte of what stays is changed");
    assert!(whole == deterministic(&world.path("run")));
    let second = good.iter().position(|&b| b == b'\n').unwrap() + 1;
    let mut damaged = good.clone();
    damaged[second + 1] = 0;
    fs::write(&path, &damaged).unwrap();
    let error = failed(&world.train("scale-preserve", "run", &["--resume"]), 1);
    assert!(error.contains("metrics.jsonl: line 2 is damaged"), "{error}");
    fs::write(&path, &good).unwrap();
    succeeded(&world.train("scale-preserve", "run", &["--resume"]));
}

/// `TREERING_STEPS` steps (20,000): the memory of the last quarter is that of the second, and the logs grow by the same number of bytes a step.
#[test]
#[ignore = "takes minutes; scripts/long-run.sh runs it"]
fn memory_stays_flat_and_logs_bounded_over_many_steps() {
    let steps: u64 = std::env::var("TREERING_STEPS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let world = World::new();
    world.recipe("scale-adapt", "threads = 1");
    let set = [
        format!("train.steps={steps}"),
        format!("eval.every_steps={}", steps / 20),
        "train.batch_size=1".into(),
        "data.sequence_length=8".into(),
    ];
    let set: Vec<&str> = set.iter().flat_map(|set| ["--set", set]).collect();
    let text =
        fs::read_to_string(world.path("scale-adapt.toml")).unwrap().replace("checkpoint_every_steps = 3", "checkpoint_every_steps = 500");
    fs::write(world.path("scale-adapt.toml"), text).unwrap();
    let mut child = world
        .command(&[&["train", "scale-adapt.toml", "--out", "runs/long", "--verbose"], &set[..]].concat())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut samples: Vec<u64> = Vec::new();
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let kib = text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        // The process has no memory any more when it is about to end.
        samples.extend(kib.map(|kib| kib * 1024));
        std::thread::sleep(Duration::from_millis(50));
    }
    let output = child.wait_with_output().unwrap();
    succeeded(&output);
    let run = world.path("runs/long");
    let size = |name: &str| fs::metadata(run.join(name)).unwrap().len();
    let (lines, events) = (size(METRICS_FILE), size(metrics::EVENTS_FILE));
    let quarter = samples.len() / 4;
    let mean = |samples: &[u64]| samples.iter().sum::<u64>() / samples.len().max(1) as u64;
    // The first quarter holds the start.
    let (second, last) = (mean(&samples[quarter..2 * quarter]), mean(&samples[3 * quarter..]));
    let files = fs::read_dir(&run).unwrap().count() + fs::read_dir(run.join("checkpoints")).unwrap().count();
    println!(
        "\n{}",
        serde_json::json!({
            "steps": steps, "samples": samples.len(), "memory_bytes_second_quarter": second, "memory_bytes_last_quarter": last,
            "growth_bytes": last as i64 - second as i64, "largest_bytes": samples.iter().max(),
            "metrics_bytes_per_step": lines as f64 / steps as f64, "tensorboard_bytes_per_step": events as f64 / steps as f64,
            "messages_bytes": output.stderr.len(), "files": files,
        })
    );
    assert!(samples.len() >= 40, "{} samples are too few; more steps are needed", samples.len());
    assert!(last < second + (1 << 20), "{second} bytes in the second quarter, {last} in the last");
    assert!(lines < 1000 * steps && events < 1000 * steps && output.stderr.len() < 1 << 20 && files == 8, "{lines} {events} {files}");
}

#[test]
fn the_doctor_says_what_the_machine_has_and_that_it_counts_right() {
    let world = World::new();
    let report = world.json(&["doctor", "--json"]);
    assert_eq!(
        (&report["format_version"], &report["holds"], &report["version"]),
        (&1.into(), &true.into(), &env!("CARGO_PKG_VERSION").into())
    );
    let machine = &report["machine"];
    assert!(number(&machine["cores"]) >= 1.0 && number(&machine["memory_bytes"]) > 1e8 && machine["gpus"].is_array(), "{machine}");
    let sets = machine["instructions"].as_array().unwrap();
    assert!(sets.contains(&"portable".into()) && sets.contains(&machine["instructions_in_use"]), "{machine}");
    let checks = report["checks"].as_array().unwrap();
    // Products of every set that may be used, every other kernel against the portable one, and threads against one.
    for (against, part) in [("f64", "matrix product, bf16, packed weights"), ("one thread", "training step, bf16")] {
        assert!(checks.iter().any(|check| check["against"] == against && check["name"] == part), "{part}");
    }
    for check in checks {
        assert!(number(&check["deviation"]) <= number(&check["limit"]), "{check}");
    }
    let text = String::from_utf8(world.treering(&["doctor"]).stdout).unwrap();
    assert!(text.contains("none is used") && text.contains(&format!("{0} of {0} hold", checks.len())), "{text}");
}
