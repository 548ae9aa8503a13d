use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::grow::Module;
use crate::model::Block;
use crate::train::schedule::ScheduleKind;

const SHORT: &str = r#"
[model]
path = "base"
[method]
kind = "scale-preserve"
[data]
train = "corpus.jsonl"
[train]
steps = 10
"#;

const LONG: &str = r#"
[model]
path = "../models/base.gguf"
dtype = "f32"
[method]
kind = "scale-adapt"
hidden_size = 64
num_attention_heads = 3
num_key_value_heads = 1
intermediate_size = 256
init = { base_to_expansion = "random", expansion_to_expansion = "zero" }
preserved_layers = 15
modules = ["attention", "ffn"]
seed = 7
[data]
train = ["a/*.jsonl", { path = "/b", weight = 2, text_field = "body" }]
learn = "korean/wikinews.heldout.jsonl.zst"
forget = [{ name = "english", path = "speeches.txt", split = "blank-lines", max_tokens = 5000 }]
sequence_length = 256
document_mask = true
open_documents = 4
[train]
steps = 300
batch_size = 4
gradient_accumulation = 2
learning_rate = 1e-3
learning_rates = { expansion_to_base = 1e-4, expansion_norm = 5e-4 }
schedule = "wsd"
warmup_steps = 10
decay_steps = 60
learning_rate_floor = 0.1
betas = [0.9, 0.95]
epsilon = 1e-9
weight_decay = 0.0
max_gradient_norm = 0.5
seed = 3
recompute = true
checkpoint_every_steps = 50
keep_checkpoints = 0
threads = 2
[eval]
every_steps = 100
at_start = false
window = 128
stride = 64
batch_size = 2
representation = true
suites = ["kobest", "arc_easy"]
suite_data = "sets"
suite_limit = 50
few_shot = ["2", "arc_easy:5"]
bos = "none"
"#;

fn parse(text: &str) -> Result<Recipe> {
    Recipe::parse(text, Path::new("/home/r"), &[])
}

fn set(text: &str, assignments: &[&str]) -> Result<Recipe> {
    Recipe::parse(text, Path::new("/home/r"), &assignments.iter().map(ToString::to_string).collect::<Vec<_>>())
}

fn message(result: Result<Recipe>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    error.to_string()
}

#[test]
fn every_key_is_read() {
    let recipe = parse(LONG).unwrap();
    assert_eq!(recipe.model, ModelConfig { path: "/home/r/../models/base.gguf".into(), dtype: Precision::F32 });
    assert_eq!(recipe.method.init.to_string(), "random,zero");
    assert_eq!(
        (recipe.method.preserved_layers, recipe.method.modules.as_deref(), recipe.method.seed),
        (Some(15), Some(&Module::ALL[..]), 7)
    );
    let stream = &recipe.data.stream;
    assert_eq!(stream.train[0].path, "/home/r/a/*.jsonl");
    assert_eq!((stream.train[1].path.as_str(), stream.train[1].weight, stream.train[1].text_field.as_str()), ("/b", 2.0, "body"));
    assert_eq!((stream.sequence_length, stream.document_mask, stream.open_documents), (256, true, 4));
    assert_eq!(recipe.data.learn[0].name, "wikinews");
    assert_eq!((recipe.data.forget[0].name.as_str(), recipe.data.forget[0].max_tokens), ("english", Some(5000)));
    let train = &recipe.train;
    assert_eq!(
        train.schedule,
        crate::train::schedule::Schedule { kind: ScheduleKind::Wsd, steps: 300, warmup_steps: 10, decay_steps: 60, floor: 0.1 }
    );
    assert_eq!([train.learning_rates.of(Block::ExpansionToBase), train.learning_rates.of(Block::ExpansionHead)], [1e-4, 1e-3]);
    assert_eq!((train.adamw.beta2, train.adamw.epsilon, train.adamw.weight_decay), (0.95, 1e-9, 0.0));
    assert_eq!((train.batch_size, train.gradient_accumulation, train.max_gradient_norm, train.seed), (4, 2, 0.5, 3));
    assert_eq!((train.recompute, train.checkpoint_every_steps, train.keep_checkpoints, train.threads), (true, 50, 0, Some(2)));
    let suite = SuiteConfig {
        suites: vec!["kobest".into(), "arc_easy".into()],
        data: "/home/r/sets".into(),
        limit: Some(50),
        few_shot: vec!["2".into(), "arc_easy:5".into()],
        bos: crate::eval::suite::Bos::None,
    };
    let expected =
        EvalConfig { every_steps: 100, at_start: false, window: 128, stride: 64, batch_size: 2, representation: true, suite: Some(suite) };
    assert_eq!(recipe.eval, expected);
}

#[test]
fn the_resolved_recipe_reads_back_equal_from_any_folder() {
    for text in [SHORT, LONG] {
        let recipe = parse(text).unwrap();
        let resolved = recipe.resolved_toml();
        assert_eq!(Recipe::parse(&resolved, Path::new("/elsewhere"), &[]).unwrap(), recipe, "{resolved}");
    }
}

#[test]
fn the_resolved_recipe_has_every_key_that_a_recipe_can_have() {
    fn keys(table: &toml::Table, prefix: &str) -> Vec<String> {
        table
            .iter()
            .flat_map(|(key, value)| match value {
                toml::Value::Table(inner) => keys(inner, &format!("{prefix}{key}.")),
                _ => vec![format!("{prefix}{key}")],
            })
            .collect()
    }
    let given = keys(&LONG.parse().unwrap(), "");
    let written = keys(&parse(LONG).unwrap().resolved_toml().parse().unwrap(), "");
    assert_eq!(given.len(), written.len());
    assert!(given.iter().all(|key| written.contains(key)), "{given:?} {written:?}");
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    for (key, near) in [
        ("train.step", "steps"),
        ("train.warmup", "warmup_steps"),
        ("train.learning_ratess", "learning_rates"),
        ("method.hiden_size", "hidden_size"),
        ("eval.every", "every_steps"),
        ("trian.steps", "train"),
        ("train.learning_rates.w12", "known keys are base, "),
    ] {
        let text = message(set(SHORT, &[&format!("{key}=1")]));
        assert!(text.contains("unknown key `") && text.contains(near), "{key}: {text}");
    }
    let text = message(set(SHORT, &["train.sequence_length=5"]));
    assert!(text.contains("`train.sequence_length`") && text.contains("belongs to [data]"), "{text}");
}

#[test]
fn values_out_of_range_or_of_the_wrong_kind_are_refused_by_key() {
    for (assignment, part) in [
        ("train.steps=0", "train.steps: 0 is out of range"),
        ("train.steps=-1", "train.steps: -1 is out of range"),
        ("train.steps=1.5", "train.steps: expected a whole number, found 1.5"),
        ("train.steps=many", "found the string \"many\""),
        ("train.learning_rate=nan", "train.learning_rate: NaN is not"),
        ("train.learning_rate=-1", "train.learning_rate: -1 is not"),
        ("train.betas=[0.9]", "train.betas: expected a list of two numbers"),
        ("train.betas=[0.9, 1.0]", "train.betas: 1 is not"),
        ("train.schedule=cosin", "did you mean `cosine`?"),
        ("train.warmup_steps=11", "warmup_steps: 11 is more than the 10 steps"),
        ("train.learning_rates.base=1e-3", "does not train this block"),
        ("train.learning_rate_floor=0.1", "no floor"),
        ("model.dtype=f16", "`f16` is not one of f32, bf16"),
        (
            "method.kind=loar",
            "`loar` is not one of scale-preserve, scale-adapt, scale-route, full, freeze, lora, llama-pro\n  hint: did you mean `lora`?",
        ),
        ("method.preserved_layers=3", "trains it nowhere"),
        ("method.sink_layers=1", "trains it nowhere"),
        ("method.init=eye", "`svd,zero`"),
        ("data.train=[]", "data.train: is missing"),
        ("data.train=[3]", "expected paths or tables"),
        ("data.train={path='x', weight=0}", "data.train[0].weight: 0 is not a weight above 0"),
        ("data.learn=['a/x.txt', 'b/x.txt']", "two held-out corpora are named `x`"),
        ("eval.stride=1000", "more than the window"),
        ("model=3", "model: expected a table, found 3"),
    ] {
        let text = message(set(SHORT, &[assignment]));
        assert!(text.contains(part), "{assignment}: {text}");
    }
}

#[test]
fn what_a_method_does_not_use_is_refused() {
    let full = SHORT.replace("scale-preserve", "full");
    assert!(parse(&full).is_ok());
    assert!(message(set(&full, &["method.hidden_size=8"])).contains("adds nothing"));
    assert!(message(set(&full, &["method.modules=['ffn']"])).contains("scale-adapt"));
    assert!(message(set(&full, &["train.learning_rates.expansion_head=1e-3"])).contains("does not train"));
    assert!(message(set(SHORT, &["method.r=4"])).contains("`scale-preserve` has no such key"));
    assert!(message(set(SHORT, &["train.learning_rates.lora_B=1e-3"])).contains("does not train"));
    let adapt = SHORT.replace("scale-preserve", "scale-adapt");
    let rate = "train.learning_rates.lora_B=1e-3";
    assert!(message(set(&adapt, &[rate])).contains("method.r = 16 adds it"));
    assert!(message(set(&adapt, &[rate, "method.r=0"])).contains("nothing of this block is trained"));
    assert!(set(&adapt, &[rate, "method.r=4"]).is_ok());
}

#[test]
fn what_goes_beyond_the_paper_s_placement_is_written_out() {
    let config = Config::new(512, 64, 176, 4, 8);
    let routed = MethodKind::ScaleRoute.default_rank();
    for (kind, given, r, sink_layers) in [
        ("scale-adapt", &[][..], 0, Some(0)),
        ("scale-route", &[], routed, None),
        ("scale-route", &["method.r=4"], 4, None),
        ("scale-route", &["method.preserved_layers=4"], 0, None),
        ("scale-route", &["method.r=0", "method.sink_layers=0"], 0, Some(0)),
        ("scale-adapt", &["method.r=4", "method.sink_layers=2"], 4, Some(2)),
    ] {
        let recipe = set(&SHORT.replace("scale-preserve", kind), given).unwrap().resolve(&config).unwrap();
        let placement = recipe.growth(&config).unwrap().unwrap().placement;
        assert_eq!((placement.r, recipe.method.sink_layers), (r, sink_layers), "{kind}, {given:?}");
        assert_eq!((placement.sink_layers, recipe.measures_sink()), (sink_layers.unwrap_or(0), sink_layers.is_none()));
        if r > 0 {
            let rates = &recipe.train.learning_rates;
            let like = if kind == "scale-route" { Block::BaseToExpansion } else { Block::ExpansionToBase };
            assert_eq!([Block::LoraA, Block::LoraB].map(|block| rates.of(block)), [rates.of(like); 2]);
        }
        assert_eq!(Recipe::parse(&recipe.resolved_toml(), Path::new("/x"), &[]).unwrap(), recipe);

        // What is left open is as the run has it, and what is not is not.
        let mut growth = recipe.growth(&config).unwrap().unwrap();
        growth.placement.sink_layers = 3;
        let run = recipe.clone().settled(Some(growth.placement.sink_layers));
        assert_eq!(run.method.sink_layers, Some(sink_layers.unwrap_or(3)));
        run.check_resumable(&recipe, 1).unwrap();
        assert_eq!(recipe.clone().settled(run.method.sink_layers), run);
        let other = Recipe { method: MethodConfig { sink_layers: Some(1), ..recipe.method.clone() }, ..recipe };
        assert!(run.check_resumable(&other, 1).unwrap_err().to_string().contains("method.sink_layers"));
    }
    let adapt = SHORT.replace("scale-preserve", "scale-adapt");
    let rate = "train.learning_rates.lora_A=1e-3";
    let nowhere = set(&SHORT.replace("scale-preserve", "scale-route"), &["method.preserved_layers=4", rate]).unwrap().resolve(&config);
    assert!(nowhere.unwrap_err().to_string().contains("nothing of this block is trained"));
    for (given, says) in [
        (&["method.r=4", "method.preserved_layers=4"][..], "method.r = 4, but expansion_to_base is trained nowhere"),
        (&["method.sink_layers=1", "method.preserved_layers=4"], "method.sink_layers = 1, but expansion_to_base is trained nowhere"),
        (&["method.sink_layers=5"], "method.sink_layers = 5 but the base has 4 layers"),
    ] {
        let error = set(&adapt, given).unwrap().resolve(&config).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn the_baselines_have_the_paper_s_rates_and_their_own_keys() {
    let lora = "r = 4\nlora_alpha = 9\nlora_dropout = 0.1\ntarget_modules = [\"v_proj\", \"q_proj\"]\nuse_rslora = true\nseed = 3\n";
    let config = Config::new(512, 64, 176, 8, 8);
    for (kind, keys, rate) in
        [("lora", lora, 1e-5), ("freeze", "frozen_layers = 2\nfrozen_embedding = false\n", 1e-5), ("llama-pro", "groups = 4\n", 2e-4)]
    {
        for keys in [keys, ""] {
            let recipe = parse(&SHORT.replace("kind = \"scale-preserve\"\n", &format!("kind = \"{kind}\"\n{keys}"))).unwrap();
            assert_eq!(recipe.train.learning_rates.learning_rate, rate, "{kind}");
            let resolved = recipe.resolve(&config).unwrap();
            let text = resolved.resolved_toml();
            assert_eq!(Recipe::parse(&text, Path::new("/x"), &[]).unwrap(), resolved, "{text}");
            assert!(keys.lines().all(|line| text.contains(line.split(' ').next().unwrap())), "{text}");
            match resolved.method(&config).unwrap().baseline().unwrap() {
                Baseline::Lora(lora) if keys.is_empty() => assert_eq!(*lora, Lora::new(42)),
                Baseline::Lora(lora) => {
                    assert_eq!((lora.r, lora.scaling(), lora.lora_dropout, lora.seed), (4, 4.5, 0.1, 3));
                    assert_eq!(lora.target_modules.iter().map(|p| p.name()).collect::<Vec<_>>(), ["q_proj", "v_proj"]);
                }
                Baseline::Freeze(freeze) => assert_eq!(
                    *freeze,
                    if keys.is_empty() { Freeze::new(&config) } else { Freeze { frozen_layers: 2, frozen_embedding: false } }
                ),
                Baseline::LlamaPro(pro) => assert_eq!(pro.groups, if keys.is_empty() { 2 } else { 4 }),
                Baseline::Full => panic!("{kind} is not full fine-tuning"),
            }
        }
    }
    let misplaced = message(set(SHORT, &["method.r=4"]));
    assert!(misplaced.contains("method.r: the method `scale-preserve` has no such key; `lora` has"), "{misplaced}");
}

#[test]
fn missing_keys_are_named_with_an_example() {
    for (line, key) in [("path = \"base\"", "model.path"), ("kind = \"scale-preserve\"", "method.kind"), ("steps = 10", "train.steps")] {
        let text = message(parse(&SHORT.replace(line, "")));
        assert!(text.contains(&format!("{key}: is missing; for example")), "{text}");
    }
}

#[test]
fn set_reads_toml_values_and_falls_back_to_strings() {
    let recipe = set(
        SHORT,
        &[
            "train.steps = 20",
            "train.schedule=cosine",
            "train.learning_rates.expansion_head=1e-5",
            "model.path=a=b",
            "data.learn=['x', {name='y', path='z'}]",
        ],
    )
    .unwrap();
    assert_eq!((recipe.train.schedule.steps, recipe.train.schedule.kind), (20, ScheduleKind::Cosine));
    assert_eq!(recipe.train.learning_rates.of(Block::ExpansionHead), 1e-5);
    assert_eq!(recipe.model.path, Path::new("/home/r/a=b"));
    assert_eq!(recipe.data.learn[1].name, "y");
    for assignment in ["train.steps", "=1", "train..steps=1", "train.steps.x=1"] {
        assert!(message(set(SHORT, &[assignment])).contains("--set"), "{assignment}");
    }
    assert!(message(set(SHORT, &["train.steps=1\nseed = 2"])).contains("train.steps: expected a whole number"));
}

#[test]
fn a_syntax_error_has_its_line() {
    assert!(message(parse("[model]\npath = \"x\"\ndtype = \n")).contains("line 3"));
}

#[test]
fn a_run_may_go_on_only_under_what_gave_the_same_numbers_so_far() {
    let started = parse(LONG).unwrap();
    let go_on = |assignments: &[&str]| started.check_resumable(&set(LONG, assignments).unwrap(), 100);
    go_on(&["eval.every_steps=7", "train.keep_checkpoints=1", "train.threads=1", "data.learn=[]", "model.path=moved"]).unwrap();
    go_on(&["train.steps=1000"]).unwrap();
    // What is read is compared by content, elsewhere, and what is finished reads nothing.
    let moved = ["data.train=['/moved/*.jsonl', {path='moved', weight=2, text_field='body'}]"];
    go_on(&moved).unwrap();
    let text = started.check_finished(&set(LONG, &moved).unwrap(), 100).unwrap_err().to_string();
    assert!(text.contains("data.train: the run has") && text.contains("/home/r/a/*.jsonl"), "{text}");
    assert!(go_on(&["data.train=['a/*.jsonl', {path='/b', weight=3, text_field='body'}]"]).unwrap_err().to_string().contains("data.train"));
    for (assignment, part) in [
        ("train.learning_rate=1e-4", "train.learning_rate: the run has 0.001, the recipe 0.0001"),
        ("train.seed=4", "train.seed"),
        ("data.sequence_length=128", "data.sequence_length"),
        ("method.hidden_size=32", "method.hidden_size"),
        ("model.dtype=bf16", "model.dtype"),
        ("train.schedule=cosine", "other learning rates for the 100 steps"),
    ] {
        let text = go_on(&[assignment]).unwrap_err().to_string();
        assert!(text.contains(part) && text.contains("--out"), "{assignment}: {text}");
    }
    assert_eq!(started.fingerprint(), set(LONG, &["eval.every_steps=7"]).unwrap().fingerprint());
    assert_ne!(started.fingerprint(), set(LONG, &["train.seed=4"]).unwrap().fingerprint());
}

#[test]
fn sizes_are_filled_in_from_the_base_and_checked_against_it() {
    let config = Config::new(512, 64, 176, 4, 8);
    let resolved = parse(SHORT).unwrap().resolve(&config).unwrap();
    assert!(resolved.method.hidden_size.is_some() && resolved.method.intermediate_size.is_some());
    assert_eq!(resolved.clone().resolve(&config).unwrap(), resolved);
    assert!(resolved.growth(&config).unwrap().unwrap().placement.is_preserve(&config));
    let adapting = |kind| parse(&SHORT.replace("scale-preserve", kind)).unwrap().resolve(&config).unwrap();
    let placed = |recipe: &Recipe| (recipe.method.preserved_layers, recipe.method.modules.clone());
    let adapt = adapting("scale-adapt");
    assert_eq!(placed(&adapt), (Some(2), Some(vec![Module::Attention])));
    let route = adapting("scale-route");
    assert_eq!(placed(&route), (Some(0), Some(Module::ALL.to_vec())));
    // What was filled in is read again as it is.
    assert_eq!(route.clone().resolve(&config).unwrap(), route);
    assert!(set(&SHORT.replace("scale-preserve", "scale-route"), &["method.modules=[]"]).unwrap().resolve(&config).is_err());
    let error = set(SHORT, &["method.hidden_size=65"]).unwrap().resolve(&config).unwrap_err().to_string();
    assert!(error.contains("method.hidden_size = 65"), "{error}");
}

#[test]
fn w12_learns_more_slowly_than_the_rest_unless_told_otherwise() {
    let rate = |kind: &str, sets: &[&str]| {
        let recipe = set(&SHORT.replace("scale-preserve", kind), sets).unwrap();
        let written = parse(&recipe.resolved_toml()).unwrap();
        assert_eq!(written.train.learning_rates, recipe.train.learning_rates);
        recipe.train.learning_rates.of(Block::ExpansionToBase)
    };
    let near = |found: f64, expected: f64| (found / expected - 1.0).abs() < 1e-12;
    assert!(near(rate("scale-adapt", &[]), 1e-4) && near(rate("scale-adapt", &["train.learning_rate=2e-3"]), 2e-4));
    assert!(near(rate("scale-route", &[]), 3e-4) && near(rate("scale-route", &["train.learning_rate=2e-3"]), 6e-4));
    assert_eq!(rate("scale-route", &["train.learning_rates.expansion_to_base=1e-5"]), 1e-5);
}

#[test]
fn windows_longer_than_the_context_are_refused() {
    let config = Config { max_position_embeddings: 64, ..Config::new(512, 64, 176, 4, 8) };
    let error = |assignment| set(SHORT, &["data.sequence_length=64", assignment]).unwrap().resolve(&config).unwrap_err().to_string();
    assert!(error("data.sequence_length=65").contains("data.sequence_length: 65"));
    assert!(error("eval.window=65").contains("eval.window: 65"));
}

#[test]
fn a_recipe_file_names_itself_in_errors_and_is_the_root_of_its_paths() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.toml");
    std::fs::write(&path, SHORT).unwrap();
    assert_eq!(Recipe::load(&path, &[]).unwrap().model.path, folder.path().join("base"));
    std::fs::write(&path, SHORT.replace("steps", "stepz")).unwrap();
    let error = Recipe::load(&path, &[]).unwrap_err().to_string();
    assert!(error.starts_with(&path.display().to_string()), "{error}");
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(Recipe::load(&path, &[]).unwrap_err().to_string().contains("UTF-8"));
    std::fs::write(&path, vec![b'#'; MAX_BYTES as usize + 1]).unwrap();
    assert!(Recipe::load(&path, &[]).unwrap_err().to_string().contains("no recipe"));
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "(\\[(model|method|data|train|eval|x)\\]\n|(path|kind|steps|train|betas|seed|window|init|modules|learning_rates) = (-?[0-9]{1,20}|[0-9]e[0-9]{1,3}|nan|true|\"[a-z,]{0,9}\"|\\[[0-9, ]{0,6}\\]|\\{ ?\\}|1979-05-27)\n|\\PC{0,8}\n){0,12}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_assignment_makes_the_parser_panic(assignment in "\\PC{0,40}", value in "(train|data|method)\\.[a-z_]{0,12}=\\PC{0,12}") {
        let _ = set(SHORT, &[&assignment]);
        let _ = set(LONG, &[&value]);
    }

    #[test]
    fn mutated_recipes_either_read_back_equal_or_are_refused(at in 0..LONG.len(), with in "[ -~]{0,3}", skip in 0..4usize) {
        let mut text = LONG.to_string();
        text.replace_range(at..(at + skip).min(LONG.len()), &with);
        if let Ok(recipe) = parse(&text) {
            prop_assert_eq!(Recipe::parse(&recipe.resolved_toml(), Path::new("/x"), &[]).unwrap(), recipe);
        }
    }
}

#[test]
fn spikes_and_bad_records_are_read_written_back_and_left_out_where_they_are_off() {
    let read = |set: &[&str]| {
        let set: Vec<String> = set.iter().map(ToString::to_string).collect();
        Recipe::parse(SHORT, Path::new("/r"), &set)
    };
    let plain = read(&[]).unwrap();
    assert!(plain.train.skip_spikes.is_none() && !plain.resolved_toml().contains("spike") && !plain.resolved_toml().contains("skip"));
    // Off is off, said or not: the fingerprint of older runs is the same.
    assert_eq!(read(&["train.skip_spikes=0", "data.skip_bad_records=false"]).unwrap().fingerprint(), plain.fingerprint());
    let on = read(&[
        "train.skip_spikes=6",
        "data.skip_bad_records=true",
        "data.learn=[\"a.jsonl\", {path=\"b.jsonl\", skip_bad_records=false}]",
    ])
    .unwrap();
    let spikes = on.train.skip_spikes.unwrap();
    assert_eq!((spikes.sigma, spikes.window), (6.0, 128));
    assert!(on.data.stream.train[0].skip_bad_records && on.data.learn[0].skip_bad_records && !on.data.learn[1].skip_bad_records);
    assert_eq!(Recipe::parse(&on.resolved_toml(), Path::new("/r"), &[]).unwrap(), on);
    for (set, part) in [
        ("train.skip_spikes=-1", "train.skip_spikes: -1"),
        ("train.spike_window=64", "train.spike_window: is used with skip_spikes only"),
        ("train.skip_bad_records=true", "`skip_bad_records` belongs to [data]"),
        ("data.skip_spikes=6", "`skip_spikes` belongs to [train]"),
    ] {
        let error = read(&[set]).unwrap_err().to_string();
        assert!(error.contains(part), "{set}: {error}");
    }
    let error = read(&["train.skip_spikes=6", "train.spike_window=3"]).unwrap_err().to_string();
    assert!(error.contains("allowed are 4 to 65536"), "{error}");
}
