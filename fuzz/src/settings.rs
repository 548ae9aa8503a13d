//! What a user writes: recipes, studies, routers; and what routers ask beside the heads.

use std::fmt::{Debug, Display};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::OnceLock;

use treering::biography::{Loss, Size};
use treering::data::CorpusConfig;
use treering::eval::suite::Selection;
use treering::export::card::license_of_readme;
use treering::grow::{Initialisation, Module};
use treering::model::Head;
use treering::recipe::Recipe;
use treering::report::comparison::Comparison;
use treering::report::page;
use treering::route::{self, GATE_FILE, Gate, Recall, recall};
use treering::study::file::{Options, Study};
use treering::study::result::StudyResult;
use treering::study::{Ending, Sweep};
use treering::train::metrics::METRICS_FILE;

use super::models::{base_of_sixteen, config_of_sixteen};
use super::{RECIPE, folder, folder_of, write};

/// A recipe; one that is read must be written back to an equal one.
pub fn recipe(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(recipe) = Recipe::parse(text, Path::new("/r"), &[]) else { return };
    recipe_written_back(&recipe);
    let _ = recipe.eval.suite.as_ref().map(|suite| suite.selection());
    if let Ok(resolved) = recipe.resolve(&config_of_sixteen()) {
        for steps in [0, 3, resolved.train.schedule.steps] {
            assert!(resolved.check_resumable(&resolved, steps).is_ok(), "{}", resolved.resolved_toml());
        }
    }
}

fn recipe_written_back(recipe: &Recipe) {
    let written = recipe.resolved_toml();
    match Recipe::parse(&written, Path::new("/r"), &[]) {
        Ok(again) => assert_eq!(&again, recipe, "{written}"),
        Err(error) => panic!("{error}\n{written}"),
    }
}

/// The file of a study, which is then put on a base of ours; and what it comes to where its runs have ended in one way or another.
pub fn study(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(study) = Study::parse(text, "fuzzed", None) else { return };
    static RECIPE_PATH: OnceLock<PathBuf> = OnceLock::new();
    let recipe = RECIPE_PATH.get_or_init(|| write("study.toml", RECIPE.as_bytes()));
    let options = Options { recipe: Some(recipe.clone()), model: Some(base_of_sixteen().into()), set: Vec::new(), steps: Some(3) };
    let Ok(variants) = study.recipes(&options) else { return };
    let endings: Vec<Ending> = (0..variants.len())
        .map(|index| match index % 8 {
            5 => Ending::Failed("the loss is not finite".into()),
            6 => Ending::LeftOut,
            _ => Ending::Finished,
        })
        .collect();
    let runs = endings.iter().filter(|ending| **ending != Ending::LeftOut).take(32).enumerate().map(|(index, _)| measured(index % 3));
    let Ok(comparison) = Comparison::read(runs) else { return };
    let result = StudyResult::new(&study, &variants, &endings, &comparison);
    let _ = (result.to_text(), result.to_markdown(&comparison));
    let _ = page::render_with(&comparison, Some(&result.preface(&study)));
    let _ = serde_json::to_string(&result).expect("a result can be written");
}

/// A run of ours with numbers of its own at its end.
fn measured(which: usize) -> PathBuf {
    static RUNS: OnceLock<[PathBuf; 3]> = OnceLock::new();
    let runs = RUNS.get_or_init(|| {
        [(31.5, 4.25), (20.0, 9.0), (1e300, 1.0)].map(|(old, new)| {
            let at = |step: u64| {
                let heads = ["preservation", "adaptation", "bayes"].map(|head| {
                    format!("\"forget/o/{head}/perplexity\":{old},\"learn/n/{head}/perplexity\":{}", new / (step as f64 + 1.0))
                });
                let values =
                    format!("{},\"forget/o/representation/cosine\":0.5,\"parameters/expansion_to_base/norm\":2.5", heads.join(","));
                format!("{{\"kind\":\"eval\",\"step\":{step},\"values\":{{{values}}},\"unix_time\":{step}.0}}\n")
            };
            let records = at(0) + &at(3);
            folder_of(&format!("measured-{new}"), &[("recipe.toml", RECIPE.as_bytes()), (METRICS_FILE, records.as_bytes())])
        })
    });
    runs[which].clone()
}

/// What is named on a command line: routers, heads, modules and initialisations, which must be written back to the same; sweeps, tasks and their examples,
/// corpora; a change of a recipe; and a README's licence.
pub fn router(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(routers) = route::parse_list(text) {
        let names: Vec<String> = routers.iter().map(ToString::to_string).collect();
        assert_eq!(route::parse_list(&names.join(",")).ok(), Some(routers), "{names:?}");
    }
    written_back::<Head>(text);
    written_back::<Module>(text);
    written_back::<Initialisation>(text);
    let _ = (text.parse::<Size>(), text.parse::<Loss>());
    let _ = (Selection::new([text], []), Selection::new(["kobest", "mmlu"], [text]));
    // Not the whole machine's files.
    if !text.starts_with('/') && !text.contains("..") {
        let _ = CorpusConfig::new(text).files(corpora());
    }
    let _ = Sweep::rates(text, &[]);
    if let Some(license) = license_of_readme(text) {
        assert_eq!(license_of_readme(&format!("---\nlicense: {license}\n---\n")), Some(license), "{text:?}");
    }
    if let Ok(sweep) = Sweep::each(text) {
        assert_eq!(sweep.folders().len(), sweep.values.len());
    }
    if let Ok(changed) = Recipe::parse(RECIPE, Path::new("/r"), &[text.to_owned()]) {
        recipe_written_back(&changed);
    }
}

/// A folder of corpora of ours, in folders.
fn corpora() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| folder_of("corpora", &[("a.jsonl", b""), ("b/c.txt.gz", b""), ("b/d/e.parquet", b""), (".f.txt", b"")]))
}

fn written_back<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    if let Ok(found) = text.parse::<T>() {
        assert_eq!(found.to_string().parse().ok(), Some(found), "{text}");
    }
}

/// What a router asks beside the heads: a gate where the first byte is a brace, else a recall. What is read is written back to the same.
pub fn aids(data: &[u8]) {
    let folder = folder();
    if data.first() == Some(&b'{') {
        write(GATE_FILE, data);
        if let Ok(Some(gate)) = Gate::load(folder) {
            gate.save(folder).expect("room");
            let again = Gate::load(folder).expect("a gate of ours").expect("it was saved");
            for value in [0.0, -1.5, 1e300, f64::NAN, f64::INFINITY] {
                let odds = gate.log_odds(&[value; 14]);
                assert!(!odds.is_nan());
                assert_eq!(again.log_odds(&[value; 14]).to_bits(), odds.to_bits());
            }
        }
    } else {
        write(recall::FILE, data);
        if let Ok(Some(found)) = Recall::load(folder) {
            found.save(folder).expect("room");
            assert_eq!(Recall::load(folder).ok().flatten(), Some(found));
        }
    }
}
