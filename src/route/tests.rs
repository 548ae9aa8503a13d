use super::*;
use crate::ops::mixture::log_normaliser;
use proptest::prelude::*;

fn signals(largest: &[f32], cosine: f32) -> Signals<'_> {
    Signals { largest, cosine, contrast: None, read: 0 }
}

fn observe(route: &mut Route, log_probs: &[f32]) {
    route.observe(signals(&[0.0, 0.0], 0.0), log_probs);
}

fn router(text: &str) -> Router {
    text.parse().unwrap()
}

fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let normaliser = log_normaliser(logits);
    logits.iter().map(|&l| (f64::from(l) - normaliser) as f32).collect()
}

fn refused(text: &str) -> String {
    let error = parse_list(text).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    error.to_string()
}

/// A document as two heads see it: the log-probabilities of its tokens, and of their own favourites, which are at least as probable.
fn document(heads: usize) -> impl Strategy<Value = Vec<(Vec<f32>, Vec<f32>)>> {
    let token = prop::collection::vec((-30f32..0.0, 0f32..1.0), heads)
        .prop_map(|pairs| pairs.into_iter().map(|(p, share)| (p, p * share)).unzip::<f32, f32, Vec<f32>, Vec<f32>>());
    prop::collection::vec(token, 1..60)
}

/// Losses of a document: routed, and of each head.
fn losses(router: Router, document: &[(Vec<f32>, Vec<f32>)]) -> (f64, Vec<f64>) {
    let heads = document[0].0.len();
    let (mut route, mut routed, mut each) = (Route::new(router, heads), 0.0, vec![0.0; heads]);
    for (log_probs, largest) in document {
        routed -= route.decide(signals(largest, 0.3)).log_prob(log_probs);
        route.observe(signals(largest, 0.3), log_probs);
        each.iter_mut().zip(log_probs).for_each(|(sum, &p)| *sum -= f64::from(p));
    }
    (routed, each)
}

#[test]
fn every_router_reads_back_what_it_writes() {
    for name in Router::NAMES {
        assert_eq!(router(name).to_string(), name, "a default setting is not written");
        assert_eq!(router(name).name(), name);
    }
    for text in
        ["bayes:share=0.01", "bayes:share=0,prior=0.25", "bayes:prior=0.9", "cosine:threshold=-0.5", "bayes-confidence:margin=0,trust=0.75"]
    {
        assert_eq!(router(text).to_string(), text);
    }
    assert_eq!(router("bayes:prior=0.5 , share = 0.001"), Router::Bayes { share: 0.001, prior: 0.5 });
    assert_eq!(serde_json::to_string(&router("bayes:share=0")).unwrap(), "\"bayes:share=0\"");
    assert!(router("cosine").needs_cosine() && !router("bayes").needs_cosine());
}

#[test]
fn a_list_keeps_settings_with_their_router() {
    let list = parse_list("bayes:share=0.01,prior=0.25,cosine,cosine:threshold=0.9,adapt").unwrap();
    let expected = ["bayes:share=0.01,prior=0.25", "cosine", "cosine:threshold=0.9", "adapt"];
    assert_eq!(list.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
    assert!(refused("bayes,cosine,bayes").contains("router `bayes` is named twice"));
    assert!(refused("bayes,bayes:share=0.001").contains("named twice"), "the same router in other words");
}

#[test]
fn what_is_wrong_is_named_and_the_nearest_right_thing_suggested() {
    assert!(refused("bayse").contains("`bayse` is not one of preserve, adapt, cosine"));
    assert!(refused("bayse").contains("did you mean `bayes`?"));
    assert!(refused("").contains("router `` is not one of"));
    assert!(refused("adapt,").contains("router `` is not one of"));
    assert!(refused("bayes:shore=0.1").contains("no setting `shore`; known are share, prior\n  hint: did you mean `share`?"));
    assert!(refused("adapt:share=0.1").contains("router `adapt` has no setting `share`; it has none"));
    assert!(refused("bayes:share").contains("expected KEY=VALUE, found `share`, for example bayes:share=0.001"));
    assert!(refused("bayes:").contains("expected KEY=VALUE, found ``"));
    assert!(refused("bayes:share=much").contains("share must be a number, not `much`"));
    assert!(refused("bayes:share=0.1,share=0.2").contains("share is given twice"));
    for share in ["1", "-0.1", "nan", "inf"] {
        assert!(refused(&format!("bayes:share={share}")).contains("share must be at least 0 and below 1"), "{share}");
    }
    for prior in ["0", "1", "-1", "nan"] {
        assert!(refused(&format!("bayes:prior={prior}")).contains("prior must be above 0 and below 1"), "{prior}");
    }
    for margin in ["-1", "nan", "inf"] {
        assert!(refused(&format!("bayes-confidence:margin={margin}")).contains("margin must be 0 or more"), "{margin}");
    }
    assert!(refused("bayes-confidence:trust=1").contains("trust must be above 0 and below 1"));
    assert!(refused("cosine:threshold=1.5").contains("threshold must be a cosine, from -1 to 1, not 1.5"));
}

#[test]
fn fixed_cosine_and_confidence_do_as_they_say() {
    let speaker =
        |text: &str, largest: [f32; 2], cosine: f32| Route::new(router(text), 2).decide(signals(&largest, cosine)).speaker(&largest);
    assert_eq!(speaker("preserve", [-3.0, -1.0], 0.0), 0);
    assert_eq!(speaker("adapt", [-1.0, -3.0], 1.0), 1);
    assert_eq!((speaker("cosine", [0.0, 0.0], 0.5), speaker("cosine", [0.0, 0.0], 0.499)), (0, 1));
    assert_eq!((speaker("cosine:threshold=0.9", [0.0, 0.0], 0.8), speaker("cosine:threshold=0.7", [0.0, 0.0], 0.8)), (1, 0));
    assert_eq!((speaker("confidence", [-1.0, -0.9], 0.0), speaker("confidence", [-1.0, -1.0], 0.0)), (1, 0));
    assert_eq!(speaker("cosine", [0.0, 0.0], f32::NAN), 1, "what cannot be compared goes to the head that learnt");
}

#[test]
fn among_more_heads_all_start_alike_and_where_something_was_learnt_the_surest_learner_speaks() {
    let route = |text: &str| Route::new(router(text), 4);
    let weights = |text: &str| (0..4).map(|head| route(text).decide(signals(&[0.0; 4], 0.0)).weight(head)).collect::<Vec<f64>>();
    assert!(weights("bayes").iter().all(|w| (w - 0.25).abs() < 1e-15));
    let ninth = weights("bayes:prior=0.1");
    assert!((ninth[0] - 0.75).abs() < 1e-12 && ninth[1..].iter().all(|w| (w - 0.25 / 3.0).abs() < 1e-12), "{ninth:?}");
    let speaker = |text: &str, largest: [f32; 4], cosine: f32| route(text).decide(signals(&largest, cosine)).speaker(&largest);
    assert_eq!(speaker("confidence", [-2.0, -0.5, -0.4, -0.6], 0.0), 2);
    assert_eq!(speaker("cosine", [-0.1, -3.0, -2.0, -4.0], 0.4), 2, "the preservation head has no say where the ends disagree");
    assert_eq!(speaker("cosine", [-9.0, -3.0, -2.0, -4.0], 0.6), 0);
    assert_eq!((speaker("preserve", [-1.0; 4], 0.0), speaker("adapt", [-1.0; 4], 1.0)), (0, 3));
}

#[test]
fn evidence_moves_bayes_as_the_rule_of_bayes_says_and_the_share_brings_it_back() {
    let weight = |route: &Route| route.decide(signals(&[0.0, 0.0], 0.0)).weight(1);
    let mut route = Route::new(router("bayes:share=0,prior=0.2"), 2);
    assert!((weight(&route) - 0.2).abs() < 1e-15);
    observe(&mut route, &[0.1f32.ln(), 0.4f32.ln()]);
    assert!((weight(&route) - 0.5).abs() < 1e-7);
    observe(&mut route, &[0.1f32.ln(), 0.3f32.ln()]);
    assert!((weight(&route) - 0.75).abs() < 1e-7);
    route.restart();
    assert!((weight(&route) - 0.2).abs() < 1e-15);

    let mut route = Route::new(router("bayes:share=0.1"), 2);
    (0..1000).for_each(|_| observe(&mut route, &[-50.0, -0.01]));
    assert!((weight(&route) - 0.95).abs() < 1e-9, "it never forgets that the other head may be right");
    observe(&mut route, &[-0.01, -50.0]);
    assert!((weight(&route) - 0.05).abs() < 1e-9, "and changes its mind at once");
}

#[test]
fn evidence_about_questions_does_not_silence_a_head_that_is_sure_of_the_answer() {
    let text = "bayes-confidence:share=0.001,trust=0.9,margin=1";
    let (mut bayes, mut both) = (Route::new(router("bayes:share=0.001"), 2), Route::new(router(text), 2));
    // A question: the second head is bad at it, and not sure of itself.
    let question = ([-0.2f32, -3.0], [-0.2f32, -0.9]);
    for _ in 0..10 {
        bayes.observe(signals(&question.1, 0.0), &question.0);
        both.observe(signals(&question.1, 0.0), &question.0);
    }
    let answer = signals(&[-2.0, -0.1], 0.0);
    assert!(bayes.decide(answer).weight(1) < 0.01);
    let sure = both.decide(answer).weight(1);
    assert!(sure > 0.4, "{sure}");
    assert!(both.decide(signals(&question.1, 0.0)).weight(1) < 0.01, "where it is not sure, it stays silent");
    // Once it was sure and wrong, it is trusted less.
    both.observe(answer, &[-1.0, -6.0]);
    assert!(both.decide(answer).weight(1) < 0.1 * sure);
    both.restart();
    assert!((both.decide(answer).weight(1) - 0.7).abs() < 1e-9, "half of it is the prior, half the trust");
}

#[test]
fn tokens_that_say_nothing_change_nothing_and_no_weight_is_ever_lost() {
    let mut route = Route::new(router("bayes:share=0"), 2);
    observe(&mut route, &[-1.0, -3.0]);
    let before = route.decide(signals(&[0.0, 0.0], 0.0));
    for nothing in [[f32::NEG_INFINITY; 2], [f32::NAN, -1.0], [-1.0, f32::NAN]] {
        observe(&mut route, &nothing);
        assert_eq!(route.decide(signals(&[0.0, 0.0], 0.0)), before);
    }
    // A head that thought the token impossible is out where heads do not take turns, and back where they do.
    observe(&mut route, &[f32::NEG_INFINITY, -1.0]);
    assert_eq!(route.decide(signals(&[0.0, 0.0], 0.0)).weight(1), 1.0);
    let mut route = Route::new(router("bayes:share=0.1"), 2);
    observe(&mut route, &[f32::NEG_INFINITY, -1.0]);
    assert!((route.decide(signals(&[0.0, 0.0], 0.0)).weight(0) - 0.05).abs() < 1e-12);
}

fn normalisers(logits: &[Vec<f32>]) -> Vec<f64> {
    logits.iter().map(|row| log_normaliser(row)).collect()
}

#[test]
fn a_mixture_of_logits_is_one_of_probabilities() {
    let logits = vec![vec![1.0, 2.0, -1.0, 0.5], vec![0.0, -2.0, 3.0, 700.0]];
    let mut route = Route::new(router("bayes:share=0,prior=0.25"), 2);
    let mixed = route.decide(signals(&[0.0, 0.0], 0.0)).mix(&logits, &normalisers(&logits));
    let each: Vec<Vec<f32>> = logits.iter().map(|row| log_softmax(row)).collect();
    for (token, &log_prob) in mixed.iter().enumerate() {
        let expected = (0.75 * f64::from(each[0][token]).exp() + 0.25 * f64::from(each[1][token]).exp()).ln();
        assert!((f64::from(log_prob) - expected).abs() < 1e-5, "{token}: {log_prob} {expected}");
    }
    // One head alone is that head, bit for bit.
    assert_eq!(Route::new(Router::Preserve, 2).decide(signals(&[0.0, 0.0], 0.0)).mix(&logits, &normalisers(&logits)), logits[0]);
    observe(&mut route, &[f32::NEG_INFINITY, -1.0]);
    assert_eq!(route.decide(signals(&[0.0, 0.0], 0.0)).mix(&logits, &normalisers(&logits)), logits[1]);
}

/// A gate whose answers have nothing to do with the text.
fn wild_gate() -> std::sync::Arc<Gate> {
    let example = |i: usize, new: bool| {
        let log_probs = if new != i.is_multiple_of(3) { [-0.1, -5.0] } else { [-5.0, -0.1] };
        Example { features: std::array::from_fn(|f| ((i * 31 + f * 17) % 13) as f64), log_probs, trained: true }
    };
    let side = |new| (0..40).map(|i| example(i, new)).collect::<Vec<_>>();
    std::sync::Arc::new(Gate::train(&side(true), &side(false), 1).unwrap())
}

#[test]
fn a_gate_is_followed_until_the_heads_alone_do_better() {
    let gate = wild_gate();
    let mut route = Route::new(router("gate:share=0"), 2).with(&Aids { gate: Some(gate), ..Aids::default() });
    let contrast = crate::ops::contrast::Contrast { cosine: 0.3, ..Default::default() };
    let seen = |largest| Signals { largest, cosine: 0.0, contrast: Some(contrast), read: 0 };
    let start = seen(&[-1.0, -1.0]);
    let weight = route.decide(start).weight(1);
    // A tenth of the weight is the heads' own, in equal parts.
    let own = (weight - 0.05) / 0.9;
    assert!((0.0..=1.0).contains(&own), "{weight}");
    assert!((Route::new(router("gate:share=0"), 2).decide(start).weight(1) - 0.5).abs() < 1e-12, "without a gate both are alike");
    for _ in 0..50 {
        route.observe(start, &[-0.5, -9.0]);
    }
    assert!(route.decide(start).weight(0) > 0.5, "whatever the gate says");
    route.restart();
    assert_eq!(route.decide(start).weight(1), weight);
}

/// What a head was taught that read this document.
fn taught(tokens: &[u32]) -> Option<std::sync::Arc<Recall>> {
    let mut builder = recall::Builder::new(recall::RecallSettings { ngram: 2, ..Default::default() }).unwrap();
    builder.add(tokens);
    Some(std::sync::Arc::new(builder.finish()))
}

#[test]
fn the_head_that_was_taught_what_a_text_is_about_speaks_and_the_base_where_none_was() {
    let twice = [1, 2, 3, 4, 5, 6, 7, 8];
    let aids = Aids { gate: None, recalls: vec![taught(&twice), taught(&[20, 21, 22, 23, 24, 25]), taught(&twice)] };
    let of = |router_text: &str, text: &[u32], aids: &Aids| {
        let mut route = Route::new(router(router_text), 4).with(aids);
        let mut heads = Vec::new();
        for &read in text {
            // Whoever is surest has no say here.
            let signals = Signals { read, ..signals(&[-9.0, -9.0, -9.0, -0.1], 0.9) };
            heads.push((0..4).position(|head| route.decide(signals).weight(head) == 1.0).unwrap());
            route.observe(signals, &[-1.0, -2.0, -3.0, -4.0]);
        }
        heads
    };
    // Two sequences known, none unknown: 1.9 / 2.9; three: 2.71 / 3.71; four: 3.44 / 4.44.
    assert_eq!(of("recall", &twice, &aids), [0, 0, 0, 0, 3, 3, 3, 3], "of equals the newest");
    assert_eq!(of("recall:threshold=0.6", &[20, 21, 22, 23], &aids), [0, 0, 2, 2]);
    assert_eq!(of("recall", &[8, 7, 6, 5, 4, 3], &aids), [0; 6], "the same tokens in another order");
    assert_eq!(of("recall", &[20, 21, 22, 23, 24, 90, 91, 92], &aids), [0, 0, 0, 0, 2, 0, 0, 0], "until it is about something else");
    let older = Aids { recalls: vec![aids.recalls[0].clone(), None, None], gate: None };
    assert_eq!(of("recall", &twice, &older)[7], 1);
    assert_eq!(of("recall", &twice, &Aids::default()), [0; 8]);
    let mut route = Route::new(router("recall"), 4).with(&aids);
    twice.iter().for_each(|&read| route.observe(Signals { read, ..signals(&[0.0; 4], 0.0) }, &[-1.0; 4]));
    route.restart();
    assert_eq!(route.decide(Signals { read: 9, ..signals(&[0.0; 4], 0.0) }).weight(0), 1.0, "a new document");
}

proptest! {
    /// A gate that knows nothing costs no more than its prior says, against every head and whatever the text.
    #[test]
    fn the_gate_costs_at_most_what_its_prior_leaves_the_heads(document in document(3), prior in 0.05f64..0.95, heads in 2usize..=3) {
        let gate = wild_gate();
        let mut route = Route::new(Router::Gate { share: 0.0, prior }, heads).with(&Aids { gate: Some(gate), ..Aids::default() });
        let (mut routed, mut each) = (0.0, vec![0.0; heads]);
        for (log_probs, largest) in &document {
            let contrast = crate::ops::contrast::Contrast { cosine: log_probs[0] / 30.0, divergence: -largest[1], ..Default::default() };
            let signals = Signals { largest: &largest[..heads], cosine: 0.1, contrast: Some(contrast), read: 0 };
            let decision = route.decide(signals);
            let sum: f64 = (0..heads).map(|head| decision.weight(head)).sum();
            prop_assert!((sum - 1.0).abs() < 1e-9);
            routed -= decision.log_prob(&log_probs[..heads]);
            route.observe(signals, &log_probs[..heads]);
            each.iter_mut().zip(log_probs).for_each(|(sum, &p)| *sum -= f64::from(p));
        }
        let best = each.iter().copied().fold(f64::INFINITY, f64::min);
        prop_assert!(routed <= best + (heads as f64 / (1.0 - prior)).ln() + 1e-9, "{routed} {each:?}");
    }

    /// The guarantee, for any text and any two heads: never worse than the better of the two by more than the price of its prior.
    #[test]
    fn bayes_without_a_share_loses_at_most_the_prior_of_the_better_head(document in document(2), prior in 0.01f64..0.99) {
        let (routed, each) = losses(Router::Bayes { share: 0.0, prior }, &document);
        prop_assert!(routed <= (each[0] - (1.0 - prior).ln()).min(each[1] - prior.ln()) + 1e-9, "{routed} {each:?}");
        let (routed, each) = losses(router("bayes:share=0"), &document);
        prop_assert!(routed <= each[0].min(each[1]) + std::f64::consts::LN_2 + 1e-9, "{routed} {each:?}");
    }

    /// Asking how sure the heads are costs at most ln 2 more, and is never much worse than trusting whoever is surer.
    #[test]
    fn bayes_confidence_is_bounded_by_bayes_and_by_every_rule_about_who_is_sure(
        document in document(2), margin in 0f64..3.0, trust in 0.1f64..0.95, rule in prop::collection::vec(0usize..2, 3),
    ) {
        let (routed, each) = losses(Router::BayesConfidence { share: 0.0, prior: 0.5, margin, trust }, &document);
        prop_assert!(routed <= each[0].min(each[1]) + 2.0 * std::f64::consts::LN_2 + 1e-9, "{routed} {each:?}");
        let mut by_rule = std::f64::consts::LN_2 - 0.5f64.ln() - 2.0 * trust.min(1.0 - trust).ln();
        for (log_probs, largest) in &document {
            let lead = f64::from(largest[1]) - f64::from(largest[0]);
            let situation = if lead > margin { 2 } else { usize::from(-lead > margin) };
            by_rule -= f64::from(log_probs[rule[situation]]);
        }
        prop_assert!(routed <= by_rule + 1e-9, "{routed} {by_rule}");
    }

    /// The same for more heads than two, which start alike.
    #[test]
    fn with_more_heads_the_bound_is_the_logarithm_of_their_number(document in document(4)) {
        let best = |each: &[f64]| each.iter().copied().fold(f64::INFINITY, f64::min);
        let (routed, each) = losses(router("bayes:share=0"), &document);
        prop_assert!(routed <= best(&each) + 4f64.ln() + 1e-9);
        let (routed, each) = losses(router("bayes-confidence:share=0"), &document);
        prop_assert!(routed <= best(&each) + 4f64.ln() + std::f64::consts::LN_2 + 1e-9);
    }

    /// The fixed-share bound against every sequence of heads, with any number of changes.
    #[test]
    fn bayes_with_a_share_is_bounded_against_every_sequence_of_heads(
        document in document(2), share in 1e-4f64..0.9, prior in 0.05f64..0.95, turns in prop::collection::vec(0usize..2, 60),
    ) {
        let (routed, _) = losses(Router::Bayes { share, prior }, &document);
        let priors = [1.0 - prior, prior];
        let mut bound = -priors[turns[0]].ln();
        for (at, (log_probs, _)) in document.iter().enumerate() {
            bound -= f64::from(log_probs[turns[at]]);
            if at > 0 {
                let stay = if turns[at] == turns[at - 1] { 1.0 - share } else { 0.0 };
                bound -= (stay + share * priors[turns[at]]).ln();
            }
        }
        prop_assert!(routed <= bound + 1e-9, "{routed} {bound}");
    }

    #[test]
    fn weights_are_finite_sum_to_one_and_make_a_distribution(document in document(2), which in 0usize..Router::NAMES.len()) {
        let mut route = Route::new(router(Router::NAMES[which]), 2);
        for (log_probs, largest) in &document {
            let decision = route.decide(signals(largest, largest[0] / 30.0));
            let weights = [decision.weight(0), decision.weight(1)];
            prop_assert!(weights.iter().all(|w| (0.0..=1.0).contains(w)) && (weights[0] + weights[1] - 1.0).abs() < 1e-9, "{weights:?}");
            let speaker = decision.speaker(largest);
            let part = |head: usize| weights[head] * f64::from(largest[head]).exp();
            prop_assert!(part(speaker) >= part(1 - speaker) - 1e-12);
            // A token's own log-probability lies between the heads'.
            let p = decision.log_prob(log_probs);
            let (low, high) = (log_probs[0].min(log_probs[1]), log_probs[0].max(log_probs[1]));
            prop_assert!(p.is_finite() && p >= f64::from(low) - 1e-9 && p <= f64::from(high) + 1e-9);
            // And a vocabulary's worth of probabilities sums to one.
            let logits = vec![log_probs.iter().chain(largest).copied().collect::<Vec<f32>>(), largest.iter().chain(log_probs).copied().collect()];
            let sum: f64 = log_softmax(&decision.mix(&logits, &normalisers(&logits))).iter().map(|&p| f64::from(p).exp()).sum();
            prop_assert!((sum - 1.0).abs() < 1e-5, "{sum}");
            route.observe(signals(largest, largest[0] / 30.0), log_probs);
        }
    }

    /// What a router decides depends on the tokens before, never on the one it is about.
    #[test]
    fn decisions_do_not_depend_on_what_comes_after(document in document(2), cut in 0usize..60, which in 0usize..Router::NAMES.len()) {
        let cut = cut.min(document.len() - 1);
        let until = |document: &[(Vec<f32>, Vec<f32>)]| {
            let mut route = Route::new(router(Router::NAMES[which]), 2);
            document[..cut].iter().for_each(|(log_probs, largest)| route.observe(signals(largest, 0.2), log_probs));
            route.decide(signals(&document[cut].1, 0.2))
        };
        let mut changed = document.clone();
        changed[cut..].iter_mut().for_each(|(log_probs, _)| log_probs.reverse());
        prop_assert_eq!(until(&document), until(&changed));
    }

    #[test]
    fn parsing_never_panics(text in "[a-z:=,0-9.\\-]{0,40}") {
        let _ = parse_list(&text);
    }
}
