//! Routers on a trained model: as methods of a recipe, in `eval`, and in `generate`.

mod train_world;

use std::collections::BTreeMap;
use std::f64::consts::LN_2;
use std::fs;
use std::path::Path;

use serde_json::Value;
use train_world::{World, deterministic, failed, number, succeeded};

const ROUTERS: &str =
    "preserve,adapt,cosine,cosine:threshold=0.99,confidence,bayes,bayes:share=0,bayes-confidence,bayes:share=0.1,prior=0.25";

/// A world with the run `run`: `scale-route`, trained long enough for its heads to differ.
fn world() -> World {
    let world = World::new();
    world.recipe("scale-route", "");
    let rate = ["--set", "train.learning_rates.expansion_to_base=3e-4"];
    let set = ["--set", "train.steps=60", "--set", "train.batch_size=8", "--set", "eval.every_steps=60"];
    succeeded(&world.train("scale-route", "run", &[&set[..], &rate].concat()));
    world
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn scale_route_trains_as_scale_adapt_does_and_measures_its_routers_at_every_evaluation() {
    let world = World::new();
    for kind in ["scale-adapt", "scale-route"] {
        world.recipe(kind, "");
    }
    // Their defaults of it differ.
    let rate = ["--set", "train.learning_rates={ expansion_to_base = 6e-4, lora_A = 6e-4, lora_B = 6e-4 }"];
    let rate = [&rate[..], &["--set", "method.r=2", "--set", "method.sink_layers=1"]].concat();
    succeeded(&world.train("scale-adapt", "adapt", &rate));
    let routers = r#"route.router=["bayes:share=0", "bayes:share=0.01,prior=0.25", "cosine"]"#;
    succeeded(&world.train("scale-route", "route", &[&["--set", routers], &rate[..]].concat()));
    let ((_, adapt, moments), (_, route, moments_too)) = (deterministic(&world.path("adapt")), deterministic(&world.path("route")));
    assert!(adapt == route && moments == moments_too, "a router changes nothing that is trained");

    let values = world.last_evaluation("route");
    for corpus in ["learn/new-held-out", "forget/old-held-out"] {
        let of = |name: &str| values[&format!("{corpus}/{name}/perplexity")];
        assert!(of("bayes:share=0") < 1.03 * of("preservation").min(of("adaptation")), "{corpus}");
        assert!(of("bayes:share=0.01,prior=0.25") > 0.0 && of("cosine") > 0.0);
        assert!((0.0..=1.0).contains(&values[&format!("{corpus}/cosine/adaptation_share")]));
    }
    assert!(!world.last_evaluation("adapt").keys().any(|name| name.contains("bayes")));
    let recipe = fs::read_to_string(world.path("route/recipe.toml")).unwrap();
    assert!(recipe.contains(r#"router = ["bayes:share=0", "bayes:share=0.01,prior=0.25", "cosine"]"#), "{recipe}");

    // Other routers may be measured on the way; what is trained must stay the same.
    succeeded(&world.train("scale-route", "route", &[&["--resume", "--set", "route.router=confidence"], &rate[..]].concat()));
    // Where W12 is trained by default is one thing, whether a recipe or the command line is asked.
    let flops = |arguments: &[&str]| world.json(&[&["plan", "--no-speed", "--json"], arguments].concat())["flops_per_token"].clone();
    let bare = fs::read_to_string(world.path("scale-route.toml")).unwrap().replace("preserved_layers = 1\n", "");
    fs::write(world.path("bare.toml"), bare.replace("modules = [\"attention\", \"ffn\"]\n", "")).unwrap();
    let sizes = ["hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size"].map(|key| {
        let size = bare.lines().find_map(|line| line.strip_prefix(&format!("{key} = "))).unwrap();
        format!("--{}={size}", key.replace('_', "-"))
    });
    let shape = ["base", "--method", "scale-route", "--dtype", "f32", "--batch-size", "2", "--sequence-length", "16"];
    let asked = [&shape[..], &sizes.each_ref().map(String::as_str)].concat();
    assert_eq!(flops(&asked), flops(&["bare.toml"]));
    for other in [["--preserved-layers", "1"], ["--r", "4"]] {
        assert_ne!(flops(&asked), flops(&[&asked[..], &other].concat()));
    }

    // The default, where nothing is said.
    world.recipe("scale-route", "");
    succeeded(&world.train("scale-route", "default", &["--set", "train.steps=2"]));
    assert!(
        world.last_evaluation("default").keys().any(|name| name.starts_with("forget/old-held-out/") && name.ends_with("/adaptation_share"))
    );

    let refused = |kind: &str, set: &str| {
        world.recipe(kind, "");
        failed(&world.train(kind, "refused", &["--set", set]), 2)
    };
    assert!(refused("scale-route", "route.router=bayse").contains("did you mean `bayes`?"));
    assert!(
        refused("scale-route", "route.router=bayes:share=2").contains("route.router: router `bayes`: share must be at least 0 and below 1")
    );
    assert!(refused("scale-route", "route.router=[]").contains("`scale-route` needs a router"));
    assert!(refused("scale-route", "route.router=[1]").contains("expected routers such as"));
    assert!(refused("scale-route", "route.routers=bayes").contains("did you mean `router`?"));
    assert!(refused("scale-route", "eval.router=bayes").contains("`router` belongs to [route]"));
}

#[test]
fn routers_keep_their_promises_on_every_document_in_one_pass() {
    let world = world();
    let trace = world.path("trace.jsonl");
    let arguments = ["eval", "run", "--router", ROUTERS, "--window", "16", "--stride", "8", "--json", "--trace", trace.to_str().unwrap()];
    let evaluation = world.json(&arguments);
    let tokens = lines(&trace);
    let routers: Vec<&str> =
        evaluation["corpora"][0]["routers"].as_array().unwrap().iter().map(|r| r["router"].as_str().unwrap()).collect();
    let written = ["preserve", "adapt", "cosine", "cosine:threshold=0.99", "confidence"];
    assert_eq!(routers[..5], written);
    assert_eq!(routers.last(), Some(&"bayes:share=0.1,prior=0.25"));

    // Each document's losses, of both heads and then of every router.
    let mut documents: BTreeMap<(String, u64), (usize, Vec<f64>)> = BTreeMap::new();
    for token in &tokens {
        let key = (token["corpus"].as_str().unwrap().to_owned(), token["document"].as_u64().unwrap());
        let heads: Vec<f64> = token["log_probs"].as_array().unwrap().iter().map(number).collect();
        let decisions = token["decisions"].as_array().unwrap();
        assert_eq!(decisions.len(), routers.len());
        for decision in decisions {
            let (weight, log_prob) = (number(&decision["adaptation_weight"]), number(&decision["log_prob"]));
            assert!((0.0..=1.0).contains(&weight), "{decision}");
            // The head speaks whose favourite is the more probable in the mixture.
            let part = |head: usize, weight: f64| weight * number(&token["largest"][head]).exp();
            let (preserved, adapted) = (part(0, 1.0 - weight), part(1, weight));
            assert!((preserved - adapted).abs() < 1e-6 || (decision["head"] == "adaptation") == (adapted > preserved), "{token}");
            let mixture = (1.0 - weight) * heads[0].exp() + weight * heads[1].exp();
            assert!((log_prob - mixture.ln()).abs() < 1e-6, "{token}");
        }
        assert!(token["largest"].as_array().unwrap().iter().zip(&heads).all(|(l, p)| number(l) >= *p - 1e-6));
        assert!((-1.0..=1.0).contains(&number(&token["cosine"])));
        let (count, losses) = documents.entry(key).or_insert_with(|| (0, vec![0.0; 2 + routers.len()]));
        *count += 1;
        let all = heads.iter().copied().chain(decisions.iter().map(|d| number(&d["log_prob"])));
        losses.iter_mut().zip(all).for_each(|(sum, p)| *sum -= p);
    }
    assert_eq!(documents.len(), 8);
    assert!(documents.values().any(|(count, _)| *count > 16), "no document is longer than a window, so nothing is tested about windows");
    let index = |router: &str| 2 + routers.iter().position(|r| *r == router).unwrap();
    for ((corpus, document), (count, losses)) in &documents {
        let best = losses[0].min(losses[1]);
        assert!(losses[index("bayes:share=0")] <= best + LN_2 + 1e-6, "{corpus} {document}: {losses:?}");
        // With a share, staying costs a little at every token.
        let stay = |share: f64, prior: f64| -((1.0 - share + share * prior).ln()) * (*count as f64 - 1.0);
        assert!(losses[index("bayes")] <= best + LN_2 + stay(1e-3, 0.5) + 1e-6, "{corpus} {document}");
        let bound = (losses[0] - 0.75f64.ln() + stay(0.1, 0.75)).min(losses[1] - 0.25f64.ln() + stay(0.1, 0.25));
        assert!(losses[index("bayes-confidence")] <= best + 2.0 * LN_2 + stay(1e-3, 0.5) * 2.0 + 1e-6, "{corpus} {document}");
        assert!(losses[index("bayes:share=0.1,prior=0.25")] <= bound + 1e-6, "{corpus} {document}");
    }

    // The totals are the sums of what was traced, and fixed routers are their heads.
    for corpus in evaluation["corpora"].as_array().unwrap() {
        let name = corpus["name"].as_str().unwrap();
        let of_corpus = || documents.iter().filter(|((c, _), _)| c == name).map(|(_, (_, losses))| losses);
        for (at, result) in corpus["heads"].as_array().unwrap().iter().chain(corpus["routers"].as_array().unwrap()).enumerate() {
            let sum: f64 = of_corpus().map(|losses| losses[at]).sum();
            assert!((number(&result["nll"]) - sum).abs() < 1e-6 * sum, "{result}");
            let perplexity = (number(&result["nll"]) / number(&corpus["scored_tokens"])).exp();
            assert!((number(&result["perplexity"]) - perplexity).abs() < 1e-9 * perplexity);
        }
        for (head, router, share) in [(0, 0, 0.0), (1, 1, 1.0)] {
            let (head, router) = (&corpus["heads"][head], &corpus["routers"][router]);
            assert!((number(&head["nll"]) - number(&router["nll"])).abs() < 1e-9 * number(&head["nll"]));
            assert_eq!((number(&router["adaptation_share"]), &router["accuracy"]), (share, &head["accuracy"]));
        }
        assert!(number(&corpus["routers"][6]["worst_document_excess"]) <= LN_2 + 1e-6);
    }
    let summary = evaluation["summary"].as_array().unwrap();
    assert_eq!(summary.len(), 2 + routers.len());
    assert_eq!((summary[0]["name"].as_str(), number(&summary[0]["forgetting_excess"])), (Some("preservation"), 0.0));
    assert_eq!((summary[1]["name"].as_str(), number(&summary[1]["learning_excess"])), (Some("adaptation"), 0.0));

    // The same heads without routers, and the routers of the run where none are named.
    let plain = world.json(&["eval", "run", "--window", "16", "--stride", "8", "--json"]);
    assert_eq!(plain["corpora"][0]["heads"], evaluation["corpora"][0]["heads"]);
    assert_eq!(plain["corpora"][0]["routers"].as_array().unwrap().len(), 1);
    let text = world.treering(&["eval", "run", "--router", "bayes,cosine"]);
    succeeded(&text);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("adaptation spoke") && text.contains("over preservation"), "{text}");
}

/// A line of the held-out corpus as words.
fn words(world: &World) -> Vec<String> {
    let corpus = fs::read_to_string(world.path("new-held-out.jsonl")).unwrap();
    let first: Value = serde_json::from_str(corpus.lines().next().unwrap()).unwrap();
    first["text"].as_str().unwrap().split(' ').map(str::to_owned).collect()
}

#[test]
fn decisions_know_the_past_only_and_a_prompt_is_evidence_for_generation() {
    let world = world();
    let words = words(&world);
    let write = |name: &str, words: &[String]| {
        fs::write(world.path(name), serde_json::json!({ "text": words.join(" ") }).to_string() + "\n").unwrap();
    };
    let other: Vec<String> = words[..12].iter().cloned().chain(words[..8].iter().rev().cloned()).collect();
    write("one.jsonl", &words[..20]);
    write("other.jsonl", &other);
    let decisions = |corpus: &str| -> Vec<(u64, Vec<f64>)> {
        let trace = world.path(&format!("{corpus}.trace"));
        let arguments = ["--corpus", &format!("a={corpus}.jsonl"), "--router", ROUTERS, "--trace", trace.to_str().unwrap()];
        succeeded(&world.treering(&[&["eval", "run", "--window", "32"], &arguments[..]].concat()));
        let weights = |token: &Value| token["decisions"].as_array().unwrap().iter().map(|d| number(&d["adaptation_weight"])).collect();
        lines(&trace).iter().map(|token| (token["position"].as_u64().unwrap(), weights(token))).collect()
    };
    let (one, other) = (decisions("one"), decisions("other"));
    // Token 12 is the first that differs, and what was decided about it does not depend on it.
    assert_eq!((one[11].0, one.len()), (12, 19));
    assert_eq!(one[..12], other[..12]);
    assert_ne!(one[12..], other[12..]);

    let prompt = words[..12].join(" ");
    for (index, router) in ["bayes", "bayes:share=0", "bayes-confidence"].into_iter().enumerate() {
        let made = world.json(&["generate", "run", "--router", router, "--prompt", &prompt, "--max-new-tokens", "6", "--json"]);
        let (first, expected) = (number(&made["trace"][0]["adaptation_weight"]), one[11].1[5 + index]);
        assert!((first - expected).abs() < 1e-3, "{router}: {first} {expected}");
        assert_eq!(made["trace"].as_array().unwrap().len(), made["tokens"].as_array().unwrap().len());
        let text: String = made["trace"].as_array().unwrap().iter().map(|t| t["text"].as_str().unwrap()).collect();
        assert_eq!(made["text"], text);
        assert_eq!((made["router"].as_str(), &made["head"]), (Some(router), &Value::Null));
    }
}

#[test]
fn generation_routes_and_shows_who_spoke() {
    let world = world();
    let prompt = words(&world)[..6].join(" ");
    let ask = |more: &[&str]| world.json(&[&["generate", "run", "--prompt", &prompt, "--max-new-tokens", "8", "--json"], more].concat());
    for (router, head) in [("preserve", "preservation"), ("adapt", "adaptation")] {
        let (routed, fixed) = (ask(&["--router", router]), ask(&["--head", head]));
        assert_eq!(routed["tokens"], fixed["tokens"]);
        assert!(routed["trace"].as_array().unwrap().iter().all(|t| t["head"] == head));
        assert!(fixed["trace"].is_null() && fixed["head"] == head && fixed["router"].is_null());
    }
    // A run that was made to be routed is routed, unless a head is asked for.
    assert!(ask(&[])["router"].is_string());
    for router in ["cosine", "confidence", "bayes", "bayes-confidence"] {
        let sampled = |seed: &str| ask(&["--router", router, "--temperature", "1.2", "--seed", seed])["tokens"].clone();
        assert_eq!(sampled("3"), sampled("3"));
    }
    let streamed = world.treering(&["generate", "run", "--prompt", &prompt, "--max-new-tokens", "8", "--router", "adapt", "--trace"]);
    succeeded(&streamed);
    let (text, note) = (String::from_utf8(streamed.stdout).unwrap(), String::from_utf8(streamed.stderr).unwrap());
    assert_eq!(text, format!("«{}»\n", ask(&["--head", "adaptation"])["text"].as_str().unwrap()));
    assert!(note.contains("router adapt: adaptation head 100 %"), "{note}");

    let refused = |arguments: &[&str]| failed(&world.treering(arguments), 2);
    let one_head = "base has one head, and a router chooses between two";
    let corpus = ["--corpus", "a=new.jsonl"];
    assert!(refused(&["generate", "base", "--prompt", "w1", "--router", "bayes"]).contains(one_head));
    assert!(refused(&[&["eval", "base", "--router", "bayes"], &corpus[..]].concat()).contains(one_head));
    assert!(refused(&["generate", "run", "--prompt", "w1", "--router", "confident"]).contains("did you mean `confidence`?"));
    assert!(refused(&["eval", "run", "--router", "cosine:threshold=2"]).contains("threshold must be a cosine, from -1 to 1, not 2"));
    assert!(refused(&["eval", "run", "--router", "bayes,bayes"]).contains("named twice"));
    assert!(refused(&["generate", "run", "--prompt", "w1", "--head", "adaptation", "--trace"]).contains("--router"));
    assert!(refused(&["generate", "run", "--prompt", "w1", "--router", "bayes", "--head", "adaptation"]).contains("cannot be used with"));
}

#[test]
fn a_gate_is_trained_beside_the_checkpoint_and_asked_from_then_on() {
    let world = world();
    let refused = |arguments: &[&str]| failed(&world.treering(arguments), 2);
    assert!(refused(&["eval", "run", "--router", "gate"]).contains("no gate was trained for this model\n  hint: `treering gate RUN`"));
    assert!(refused(&["generate", "run", "--router", "gate", "--prompt", "w1"]).contains("no gate was trained"));
    assert!(refused(&["gate", "base"]).contains("has one head"));
    assert!(refused(&["gate", "run", "--samples", "2"]).contains("at least 10 samples and 1 new token, and is to have 2 (--samples)"));
    world.recipe("scale-route", "");
    let set = ["--set", "route.router=gate"];
    assert!(
        failed(&world.train("scale-route", "refused", &set), 2)
            .contains("`gate` asks what is made after a run\n  hint: `treering gate RUN`")
    );

    let small = ["gate", "run", "--samples", "60", "--sample-tokens", "16", "--new-tokens", "1500", "--json"];
    let trained = world.json(&small);
    let path = trained["gate"].as_str().unwrap();
    assert!(path.contains("checkpoints/step-000060/gate.json") && world.path(path).exists(), "{path}");
    let loss = |text: &str, of: &str| number(&trained[text][of]);
    for text in ["new_text", "own_text"] {
        let better = loss(text, "before").min(loss(text, "newest"));
        assert!(loss(text, "gate") < better + 0.1, "{trained}");
    }
    assert!(loss("new_text", "newest") < loss("new_text", "before") && loss("own_text", "before") < loss("own_text", "newest"));
    let before = fs::read(world.path(path)).unwrap();
    world.json(&small);
    assert!(fs::read(world.path(path)).unwrap() == before, "the same seed trains the same gate");

    // Nobody names it: it is asked all the same.
    let evaluation = world.json(&["eval", "run", "--json"]);
    for corpus in evaluation["corpora"].as_array().unwrap() {
        let gate = corpus["routers"].as_array().unwrap().iter().find(|r| r["router"] == "gate").unwrap();
        let best = corpus["heads"].as_array().unwrap().iter().map(|head| number(&head["perplexity"])).fold(f64::INFINITY, f64::min);
        // Documents of some forty tokens: the guarantee alone would allow 8 %, and what a share costs.
        assert!(number(&gate["perplexity"]) < 1.05 * best, "{corpus}");
        let longest = number(&corpus["tokens"]);
        assert!(number(&gate["worst_document_excess"]) <= 20f64.ln() + longest * 1e-3, "{gate}");
    }
    let said = world.json(&["generate", "run", "--prompt", "w1 w6 w31", "--max-new-tokens", "8", "--json"]);
    assert_eq!((&said["router"], said["trace"].as_array().unwrap().len()), (&Value::from("gate"), 8));
    let preserved = world.json(&["generate", "run", "--head", "preservation", "--prompt", "w1 w6 w31", "--max-new-tokens", "8", "--json"]);
    let of_base = world.json(&["generate", "base", "--prompt", "w1 w6 w31", "--max-new-tokens", "8", "--json"]);
    assert_eq!(preserved["tokens"], of_base["tokens"]);
    fs::write(world.path(path), "{}").unwrap();
    assert!(failed(&world.treering(&["eval", "run"]), 1).contains("`treering gate` trains another"));
}

#[test]
fn what_was_taught_is_kept_beside_the_checkpoint_and_everything_else_is_the_bases() {
    let world = world();
    let refused = |arguments: &[&str]| failed(&world.treering(arguments), 2);
    let missing = refused(&["eval", "run", "--router", "recall"]);
    assert!(missing.contains("what the head `adaptation` was taught was not kept\n  hint: `treering recall RUN`"), "{missing}");
    assert!(refused(&["recall", "base"]).contains("is a plain model"));
    assert!(refused(&["recall", "run", "--ngram", "65"]).contains("1 to 64 tokens, not 65"));
    assert!(refused(&["recall", "run", "--common", "0"]).contains("every sequence would be common"));
    assert!(refused(&["export", "run", "--to", "hf", "--router", "recall", "--out", "x"]).contains("does not carry"));
    world.recipe("scale-route", "");
    let set = ["--set", "route.router=recall"];
    assert!(
        failed(&world.train("scale-route", "refused", &set), 2)
            .contains("`recall` asks what is made after a run\n  hint: `treering recall RUN`")
    );

    // The synthetic corpus has few words, so only longer sequences tell documents apart.
    let kept = world.json(&["recall", "run", "--ngram", "6", "--json"]);
    let path = world.path(kept["recall"].as_str().unwrap());
    assert!(path.ends_with("checkpoints/step-000060/recall.safetensors") && path.exists(), "{kept}");
    let bytes = fs::read(&path).unwrap();
    world.json(&["recall", "run", "--ngram", "6", "--json"]);
    assert!(fs::read(&path).unwrap() == bytes, "the same bytes again");
    assert!(number(&kept["documents"]) > 0.0 && number(&kept["tokens"]) > 0.0 && number(&kept["rare"]) > 0.0, "{kept}");

    // Measured without being named; of the training text it says what the adaptation head says, of other text what the base does.
    let text = fs::read_to_string(world.path("new.jsonl")).unwrap();
    let document: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let said = |text: &str, more: &[&str]| {
        world.json(&[&["generate", "run", "--prompt", text, "--max-new-tokens", "1", "--json"], more].concat())["tokens"].clone()
    };
    let known: Vec<&str> = document["text"].as_str().unwrap().split(' ').take(16).collect();
    let unknown: Vec<&str> = known.iter().rev().copied().collect();
    assert_eq!(said(&known.join(" "), &["--router", "recall"]), said(&known.join(" "), &["--head", "adaptation"]));
    assert_eq!(said(&unknown.join(" "), &["--router", "recall"]), said(&unknown.join(" "), &["--head", "preservation"]));
    let evaluation = world.json(&["eval", "run", "--json"]);
    for corpus in evaluation["corpora"].as_array().unwrap() {
        assert!(corpus["routers"].as_array().unwrap().iter().any(|r| r["router"] == "recall"), "{corpus}");
    }
    fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
    assert!(failed(&world.treering(&["eval", "run"]), 1).contains("`treering recall` makes another"));
}

#[test]
fn a_run_of_before_there_were_low_rank_parts_and_sinks_has_none() {
    let world = World::new();
    world.recipe("scale-route", "");
    let none = ["--set", "method.r=0", "--set", "method.sink_layers=0"];
    succeeded(&world.train("scale-route", "old", &none));
    let recipe = world.path("old/recipe.toml");
    let now = fs::read_to_string(&recipe).unwrap();
    let new = |line: &&str| line.starts_with("r = ") || line.starts_with("sink_layers = ");
    assert_eq!(now.lines().filter(new).collect::<Vec<_>>(), ["r = 0", "sink_layers = 0"]);
    let asked = ["eval", "old", "--router", "bayes", "--json"];
    let measured = world.json(&asked);
    // As it would have been written then.
    fs::write(&recipe, now.lines().filter(|line| !new(line)).collect::<Vec<_>>().join("\n")).unwrap();
    assert_eq!(world.json(&asked)["results"], measured["results"]);
    succeeded(&world.train("scale-route", "old", &[&["--resume"], &none[..]].concat()));
    let refused = failed(&world.train("scale-route", "old", &["--resume"]), 2);
    assert!(refused.contains("method.r: the run has 0, the recipe 16") && !refused.contains("sink"), "{refused}");
}
