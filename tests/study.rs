//! `treering study` as a command, on a small generated model: every study that comes with the program, and one of a file.

mod train_world;

use std::fs;

use serde_json::Value;
use train_world::{World, failed, json, succeeded};
use treering::train::metrics::METRICS_FILE;

fn study(world: &World, name: &str, more: &[&str]) -> std::process::Output {
    world.treering(&[&["study", name, "--recipe", "scale-preserve.toml", "--out", name.split('.').next().unwrap()], more].concat())
}

#[test]
fn every_study_runs_on_a_small_model_and_judges_its_claims_by_the_results() {
    let world = World::new();
    world.recipe("scale-preserve", "");
    for name in ["fig4", "fig5", "fig6", "fig7", "fig9"] {
        let found = json(&study(&world, name, &["--steps", "4", "--json"]));
        assert_eq!((&found["study"], &found["steps"]), (&name.into(), &4.into()));
        for variant in found["variants"].as_array().unwrap() {
            let run = variant["name"].as_str().unwrap();
            assert_eq!(variant["ending"], "finished", "{name} {run}");
            assert!(variant["forgetting"].as_f64().unwrap() > 1.0 && variant["learning"].as_f64().unwrap() > 1.0, "{name} {run}");
            assert!(world.path(&format!("{name}/{run}/{METRICS_FILE}")).exists());
        }
        for claim in found["claims"].as_array().unwrap() {
            assert!(claim["agrees"].is_boolean(), "{name}: {claim}");
            assert!(!claim["paper"].as_str().unwrap().is_empty() && !claim["here"].as_str().unwrap().is_empty(), "{claim}");
        }
        for (file, part) in [
            ("study.html", "What came out"),
            ("study.md", "## Every head and router"),
            ("study.svg", "<svg "),
            ("study.json", "\"claims\""),
        ] {
            assert!(fs::read_to_string(world.path(name).join(file)).unwrap().contains(part), "{name} {file}");
        }
        let exact = found["claims"].as_array().unwrap().iter().filter(|c| c["says"].as_str().unwrap().contains("at all"));
        exact.for_each(|claim| assert_eq!(claim["agrees"], true, "what is proved holds everywhere: {claim}"));
        match name {
            "fig7" => {
                let fit = &found["fit"];
                assert!((0.0..=1.0).contains(&fit["r_squared"].as_f64().unwrap()) && fit["points"] == 6, "{fit}");
                assert!(fs::read_to_string(world.path("fig7/study.svg")).unwrap().contains("straight line, R² "));
            }
            "fig9" => {
                let of = |name: &str| found["variants"].as_array().unwrap().iter().find(|v| v["name"] == name).unwrap().clone();
                assert_eq!(
                    (&of("route")["speaker"], &of("full")["speaker"], &of("adapt")["speaker"]),
                    (&"bayes".into(), &"base".into(), &"adaptation".into())
                );
                assert_eq!(of("full")["paper"]["forgetting"], 12.5);
                let compared = world.treering(&["compare", "fig9/full", "fig9/route", "fig9/lora"]);
                succeeded(&compared);
            }
            _ => {}
        }
    }
    // Said again, it trains nothing and says the same.
    let before = fs::read(world.path("fig5/svd-zero").join(METRICS_FILE)).unwrap();
    let output = study(&world, "fig5", &["--steps", "4"]);
    succeeded(&output);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(fs::read(world.path("fig5/svd-zero").join(METRICS_FILE)).unwrap() == before);
    assert!(text.contains("paper: svd,zero 7.98 < zero,svd 8.03 < random,zero 8.06 < zero,random 8.17; here: svd,zero "), "{text}");
    assert!(text.contains("; agrees") && text.contains("note: One run each"), "{text}");
    assert!(failed(&study(&world, "fig5", &["--steps", "5"]), 2).contains("a run of 4 steps is here, and 5 are asked for"));
}

#[test]
fn variants_are_chosen_overridden_one_by_one_and_left_open_where_they_are_missing() {
    let world = World::new();
    world.recipe("scale-preserve", "");
    let only = ["--steps", "3", "--only", "full,adapt", "--set", "full:train.learning_rate=5e-4", "--set", "train.seed=9"];
    let found = json(&study(&world, "fig9", &[&only[..], &["--json"]].concat()));
    let endings: Vec<&Value> = found["variants"].as_array().unwrap().iter().map(|v| &v["ending"]).collect();
    assert_eq!(endings, ["finished", "left_out", "left_out", "left_out", "left_out", "finished", "left_out"]);
    let claim =
        |part: &str| found["claims"].as_array().unwrap().iter().find(|c| c["says"].as_str().unwrap().contains(part)).unwrap().clone();
    assert!(claim("Every SCALE").get("agrees").unwrap().is_null() && claim("Adapt learns as much")["agrees"].is_boolean());
    let recipe = |run: &str| fs::read_to_string(world.path(&format!("fig9/{run}/recipe.toml"))).unwrap();
    assert!(recipe("full").contains("learning_rate = 0.0005") && recipe("full").contains("seed = 9"));
    assert!(recipe("adapt").contains("learning_rate = 0.0003"));
    // Later the others are added.
    let more = json(&study(
        &world,
        "fig9",
        &["--steps", "3", "--only", "lora", "--set", "full:train.learning_rate=5e-4", "--set", "train.seed=9", "--json"],
    ));
    assert_eq!(more["variants"][1]["ending"], "finished");
    let plan = study(&world, "fig9", &["--dry-run", "--steps", "30"]);
    succeeded(&plan);
    let plan = String::from_utf8(plan.stdout).unwrap();
    assert!(plan.contains("llama-pro") && plan.contains("at 1,000 tokens/s"), "{plan}");

    let listed = world.treering(&["study", "--list"]);
    succeeded(&listed);
    assert!(String::from_utf8(listed.stdout).unwrap().contains("svd-zero, zero-svd, random-zero, zero-random"));
    for (name, more, code, part) in [
        ("fig8", &[][..], 2, "studies that come with the program: fig4, fig5"),
        ("fig9", &["--only", "rings"], 2, "no variant of fig9 has this name; there are full, lora"),
        ("fig9", &["--set", "rings:train.seed=1"], 2, "`rings` is no variant"),
        ("fig9", &["--set", "train.sede=1"], 2, "variant full: "),
        ("fig9", &["--steps", "0"], 2, "at least one step"),
        ("fig9", &["--model", "nowhere"], 1, "nowhere"),
    ] {
        let error = failed(&study(&world, name, more), code);
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_study_is_a_file_that_anybody_writes() {
    let world = World::new();
    world.recipe("scale-preserve", "");
    let text = |rest: &str| {
        format!(
            "title = \"Seeds\"\nsource = \"ours\"\nrecipe = \"scale-preserve.toml\"\nplot = {{ x = \"learning\", y = \"forgetting\" }}\n\
             [[variant]]\nname = \"one\"\nset = [\"train.seed=1\"]\n[[variant]]\nname = \"two\"\nset = [\"train.seed=2\", \"method.hidden_size={{hidden_size/3}}\"]\n{rest}"
        )
    };
    fs::write(
        world.path("seeds.toml"),
        text("[[claim]]\nsays = \"Seeds do not matter.\"\nalike = [\"one\", \"two\"]\nwithin = 10.0\npaper = \"nothing\"\n"),
    )
    .unwrap();
    let found = json(&world.treering(&["study", "seeds.toml", "--steps", "3", "--json"]));
    assert_eq!((&found["study"], &found["claims"][0]["agrees"]), (&"seeds".into(), &true.into()));
    assert!(fs::read_to_string(world.path("runs/study-seeds/two/recipe.toml")).unwrap().contains("hidden_size = 8"));
    for (rest, part) in [
        ("[[claim]]\nsays = \"x\"\n", "claim `x`: expected one of order, alike, equals and linear"),
        ("[[claim]]\nsays = \"x\"\norder = [[\"one\"], [\"three\"]]\n", "`three` is no variant; there are one, two"),
        ("[[variant]]\nname = \"one\"\n", "two variants are named `one`"),
        ("[[variant]]\nname = \"a/b\"\n", "variant `a/b`: a name has letters"),
        ("[[variants]]\nname = \"c\"\n", "variants"),
    ] {
        fs::write(world.path("wrong.toml"), text(rest)).unwrap();
        let error = failed(&world.treering(&["study", "wrong.toml"]), 2);
        assert!(error.contains(part), "{error}");
    }
    fs::write(world.path("wrong.toml"), text("[[variant]]\nname = \"c\"\nset = [\"method.hidden_size={hiden_size}\"]\n")).unwrap();
    assert!(failed(&world.treering(&["study", "wrong.toml"]), 2).contains("nothing that is known of the base"));
}
