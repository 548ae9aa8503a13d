//! `treering sweep` as a command: several runs of one recipe, stopped and gone on with, failed, and judged.

mod train_world;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use train_world::{World, deterministic, failed, json, succeeded};
use treering::Error;
use treering::recipe::Recipe;
use treering::study::{Ending, Variant, budget, variants};
use treering::train::metrics::METRICS_FILE;
use treering::train::session::Event;

const RATES: &[&str] = &["--rates", "1e-3,3e-3,1e-4", "--steps", "6"];

fn sweep(world: &World, recipe: &str, more: &[&str]) -> std::process::Output {
    world.treering(&[&["sweep", recipe, "--out", "out"], more].concat())
}

#[test]
fn every_rate_is_an_ordinary_run_and_the_command_said_again_trains_nothing() {
    let world = World::new();
    world.recipe("scale-preserve", "");
    let output = sweep(&world, "scale-preserve.toml", RATES);
    succeeded(&output);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("perplexity after 6 steps") && text.contains("best by learning perplexity of `adaptation`:"), "{text}");
    assert!(text.contains("use it: treering train scale-preserve.toml --set train.learning_rate="), "{text}");
    let runs = ["out/rate-1e-4", "out/rate-1e-3", "out/rate-3e-3"];
    let before: Vec<Vec<u8>> = runs.map(|run| fs::read(world.path(run).join(METRICS_FILE)).unwrap()).to_vec();

    let found = json(&sweep(&world, "scale-preserve.toml", &[RATES, &["--json"]].concat()));
    let after: Vec<Vec<u8>> = runs.map(|run| fs::read(world.path(run).join(METRICS_FILE)).unwrap()).to_vec();
    assert!(before == after, "finished runs are not trained again");
    assert_eq!(
        (&found["keys"][0], &found["steps"], &found["by"], &found["of"]),
        (&"train.learning_rate".into(), &6.into(), &"learn".into(), &"adaptation".into())
    );
    let trials = found["trials"].as_array().unwrap();
    let values: Vec<&str> = trials.iter().map(|trial| trial["value"].as_str().unwrap()).collect();
    assert_eq!(values, ["1e-4", "1e-3", "3e-3"]);
    for trial in trials {
        let names: Vec<&str> = trial["scores"].as_array().unwrap().iter().map(|score| score["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["preservation", "adaptation", "bayes"], "a router is measured with every widened model");
        assert_eq!(trial["scores"][1]["learning"], trial["criterion"]);
        // All begin alike: only the first is measured there, so the preservation head tells that the data were the same.
        assert_eq!(trial["scores"][0], trials[0]["scores"][0]);
    }
    let criterion = |index: usize| trials[index]["criterion"].as_f64().unwrap();
    let best = found["best"].as_u64().unwrap() as usize;
    assert!((0..3).all(|index| criterion(best) <= criterion(index)));
    // The highest of these rates learns most in six steps, and there the range ends.
    assert_eq!(best, 2);
    assert!(found["warnings"][0].as_str().unwrap().contains("3e-3, is the largest that was tried"), "{found}");
    let page = fs::read_to_string(world.path("out/sweep.html")).unwrap();
    assert!(page.contains("train.learning_rate swept in scale-preserve.toml") && page.contains("id=\"sweep\""));
    assert_eq!(serde_json::from_slice::<Value>(&fs::read(world.path("out/sweep.json")).unwrap()).unwrap(), found);

    let compared = json(&world.treering(&[&["compare", "--json"], &runs[..]].concat()));
    for run in compared["runs"].as_array().unwrap() {
        assert_eq!((&run["steps"], &run["planned_steps"]), (&6.into(), &6.into()));
    }
    // By another number, without training; and of another speaker.
    let forget = json(&sweep(&world, "scale-preserve.toml", &[RATES, &["--json", "--by", "forget", "--of", "bayes"]].concat()));
    assert_eq!((&forget["by"], &forget["of"]), (&"forget".into(), &"bayes".into()));

    for (more, part) in [
        (&["--rates", "1e-3,3e-3,1e-4", "--steps", "9"][..], "a run of 6 steps is here, and 9 are asked for"),
        (&["--rates", "1e-3", "--steps", "6", "--set", "train.seed=7"], "train.seed: the run has 42, the recipe 7"),
        (&["--rates", "1e-3", "--steps", "6", "--set", "data.max_held_out_tokens=40"], "measured on other held-out corpora"),
        (&["--rates", "1e-3"], "--steps N, or --minutes M"),
        (&["--steps", "6"], "--rates"),
        (&["--rates", "fast", "--steps", "6"], "found `fast`"),
        (&["--rates", "1e-3", "--steps", "0"], "at least one step"),
        (&["--rates", "1e-3", "--minutes", "-1"], "minutes above 0"),
        (&["--rates", "1e-3", "--blocks", "W12", "--steps", "6"], "`W12` is no block"),
        (&["--rates", "1e-3", "--blocks", "expansion_to_base", "--steps", "6"], "does not train this block"),
        (&["--rates", "1e-3", "--steps", "6", "--of", "base"], "--of base: expected one of preservation, adaptation, bayes"),
        (&["--rates", "1e-3", "--steps", "6", "--set", "data.learn=[]"], "nothing to choose the best by"),
        (&["--rates", "1e-3", "--steps", "6", "--set-each", "train.seed=1,2"], "cannot be used with"),
    ] {
        let output = sweep(&world, "scale-preserve.toml", more);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && error.contains(part), "{more:?}: {error}");
    }
}

#[test]
fn the_rate_of_w12_is_swept_apart_from_the_others() {
    let world = World::new();
    world.recipe("scale-adapt", "learning_rates = { expansion_norm = 5e-4 }");
    let found =
        json(&sweep(&world, "scale-adapt.toml", &["--rates", "1e-4,1e-2", "--blocks", "expansion_to_base", "--steps", "4", "--json"]));
    assert_eq!(found["trials"][1]["set"][0], "train.learning_rates.expansion_to_base=1e-2");
    for (run, rate) in [("1e-4", 1e-4), ("1e-2", 1e-2)] {
        let recipe = Recipe::load(world.path(&format!("out/rate-expansion_to_base-{run}/recipe.toml")), &[]).unwrap();
        let rates = &recipe.train.learning_rates;
        assert_eq!(rates.of(treering::model::Block::ExpansionToBase), rate);
        assert_eq!((rates.learning_rate, rates.of(treering::model::Block::ExpansionNorm)), (3e-3, 5e-4));
    }
    // Sweeping all of them leaves alone what the recipe says of one, and says so.
    let output = sweep(&world, "scale-adapt.toml", &["--rates", "1e-3", "--steps", "2"]);
    succeeded(&output);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("they kept it: expansion_norm at 5e-4") && text.contains("1e-3 is the only value that was tried"), "{text}");
}

#[test]
fn a_run_that_is_not_finite_is_noted_and_the_others_go_on() {
    let world = World::new();
    world.recipe("full", "");
    world.broken_base("broken");
    // Another key than a rate; the broken base's loss is no number.
    let each = ["--set-each", "model.path=broken,base", "--steps", "3", "--json", "--set", "eval.at_start=false"];
    for _ in 0..2 {
        let found = json(&sweep(&world, "full.toml", &each));
        assert!(found["trials"][0]["ending"]["failed"].as_str().unwrap().starts_with("step 1: the loss is"), "{found}");
        assert_eq!((&found["trials"][1]["ending"], &found["best"]), (&"finished".into(), &1.into()));
        assert!(found["warnings"][0].as_str().unwrap().contains("broken failed"), "{found}");
        assert!(world.path("out/path-broken/failed.json").exists());
    }
    let text = sweep(&world, "full.toml", &["--set-each", "model.path=broken", "--steps", "3", "--set", "eval.at_start=false"]);
    succeeded(&text);
    assert!(String::from_utf8(text.stdout).unwrap().contains("none is best"));
}

#[test]
fn minutes_become_steps_once() {
    let world = World::new();
    world.recipe("full", "");
    // The estimate is of matrix products, and those of this model are too small to run at full speed; one step is the least.
    let arguments = ["--rates", "1e-3,3e-3", "--minutes", "1e-6", "--json"];
    let steps = json(&sweep(&world, "full.toml", &arguments))["steps"].clone();
    assert!(steps.as_u64().unwrap() >= 1);
    assert_eq!(json(&sweep(&world, "full.toml", &["--rates", "1e-3,3e-3", "--minutes", "1", "--json"]))["steps"], steps);
}

#[test]
fn a_stop_between_and_within_runs_ends_with_the_same_bits() {
    let world = World::new();
    world.recipe("scale-preserve", "");
    let variants: Vec<Variant> = ["1e-3", "3e-3"]
        .map(|rate| {
            let mut recipe = Recipe::load(world.path("scale-preserve.toml"), &[format!("train.learning_rate={rate}")]).unwrap();
            budget::scale(&mut recipe, 8).unwrap();
            Variant { name: format!("rate-{rate}"), recipe }
        })
        .to_vec();
    let all = |out: &str, stop_at: &mut dyn FnMut(usize, &Event) -> bool| {
        let stop = AtomicBool::new(false);
        variants::run_all(&variants, &|_| true, &world.path(out), &stop, &mut |index, event| {
            if stop_at(index, &event) {
                stop.store(true, Ordering::Relaxed);
            }
        })
    };
    let finished = vec![Ending::Finished, Ending::Finished];
    assert_eq!(all("whole", &mut |_, _| false).unwrap(), finished);
    for (run, step) in [(0, 3), (0, 8), (1, 2)] {
        let stopped = all("cut", &mut |index, event| index == run && matches!(event, Event::Step(record) if record.step == step));
        match stopped {
            Err(Error::Interrupted(message)) => {
                assert!(message.contains("the same command goes on") && message.contains(&format!("{run} of 2")))
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(all("cut", &mut |_, _| false).unwrap(), finished);
    for variant in &variants {
        assert!(deterministic(&world.path("whole").join(&variant.name)) == deterministic(&world.path("cut").join(&variant.name)));
    }
    let other = failed(&sweep(&world, "nowhere.toml", RATES), 1);
    assert!(other.contains("nowhere.toml"));
}
