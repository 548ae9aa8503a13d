//! What a plan says a step costs against the multiplications that the step carries out: docs/method.md § 10.
//!
//! One test, because the counters are the whole process's.

use std::collections::HashMap;

use treering::baseline::{Baseline, Freeze, LlamaPro, Lora, Method, Whole};
use treering::checkpoint::{BaseCheckpoint, Config};
use treering::data::batch::Batch;
use treering::data::order::Random;
use treering::grow::plan::{Flops, Plan, Request};
use treering::grow::{Growth, Module, Placement, Sizes, layout};
use treering::model::{Gradients, Model, Parameter, Precision};
use treering::ops::count::MultiplyAdds;

const WINDOWS: usize = 2;
/// More than a tile of attention holds, and no multiple of one.
const LENGTH: usize = 150;
const LAYERS: usize = 4;
const VOCAB: usize = 300;

fn config() -> Config {
    let mut config = Config::new(VOCAB, 48, 80, LAYERS, 4);
    config.num_key_value_heads = 2;
    config.tie_word_embeddings = true;
    config
}

fn values(random: &mut Random, shape: &[usize]) -> Vec<f32> {
    let norm = shape.len() == 1;
    (0..shape.iter().product()).map(|_| if norm { 1.0 } else { random.below(1000) as f32 / 5000.0 - 0.1 }).collect()
}

fn base() -> BaseCheckpoint {
    let mut random = Random::new(1, 0);
    let tensors: HashMap<_, _> = layout::base_parameters(&config())
        .into_iter()
        .map(|expected| {
            let value = values(&mut random, &expected.shape);
            (expected.name, (expected.shape, value))
        })
        .collect();
    BaseCheckpoint::from_memory(config(), tensors, None).unwrap()
}

fn growth(preserved_layers: usize, modules: &[Module]) -> Growth {
    let sizes = Sizes { hidden_size: 16, num_attention_heads: 2, num_key_value_heads: 1, intermediate_size: 20 };
    Growth { sizes, placement: Placement::new(preserved_layers, modules) }
}

fn low_rank(preserved_layers: usize, modules: &[Module]) -> Growth {
    let mut growth = growth(preserved_layers, modules);
    growth.placement.r = 4;
    growth
}

fn widen(model: &mut Model, growth: &Growth) {
    let inner: Vec<Sizes> = model.growths().map(|growth| growth.sizes).collect();
    let mut random = Random::new(2, inner.len() as u64);
    let parameters = layout::ring_parameters(&config(), &inner, growth)
        .into_iter()
        .map(|expected| {
            let value = values(&mut random, &expected.shape);
            Parameter { name: expected.name, block: expected.block, shape: expected.shape, value }
        })
        .collect();
    model.widen(growth.clone(), parameters).unwrap();
}

fn model(rings: &[Growth], method: &Method, precision: Precision) -> Model {
    let base = base();
    let mut model = match method.baseline() {
        Some(baseline) => Model::from_baseline(&base, precision, baseline).unwrap(),
        None => Model::from_base(&base, precision, false).unwrap(),
    };
    for growth in rings {
        widen(&mut model, growth);
        model.freeze();
    }
    if let Some(growth) = method.growth() {
        widen(&mut model, growth);
    }
    model
}

fn batch() -> Batch {
    let mut random = Random::new(3, 0);
    let mut tokens = || (0..WINDOWS * LENGTH).map(|_| random.below(VOCAB as u64) as u32).collect::<Vec<u32>>();
    Batch { batch_size: WINDOWS, sequence_length: LENGTH, tokens: tokens(), targets: tokens(), document_starts: None }
}

fn plan(rings: &[Growth], method: &Method, precision: Precision, recompute: bool) -> Flops {
    let config = config();
    let (batch_size, sequence_length) = (WINDOWS, LENGTH);
    Plan::new(&Request { config: &config, rings, method, name: None, precision, batch_size, sequence_length, recompute, pair: false })
        .unwrap()
        .flops_per_token
}

/// Products agree exactly; tiles of attention compute more than is seen, but not by much.
fn agrees(what: &str, counted: MultiplyAdds, products: u64, attention: u64) {
    let tokens = (WINDOWS * LENGTH) as u64;
    assert_eq!(2 * counted.products, tokens * products, "{what}: operations in products, counted and planned");
    let share = 2.0 * counted.attention as f64 / (tokens * attention) as f64;
    assert!((1.0..1.7).contains(&share), "{what}: {share} times the planned operations in attention");
}

#[test]
fn a_step_carries_out_the_operations_that_its_plan_counts_whatever_the_method() {
    let both = [Module::Attention, Module::Ffn];
    let expansion = |preserved_layers, modules: &[Module]| Method::Expansion(growth(preserved_layers, modules));
    let lora = Lora { r: 4, ..Lora::new(0) };
    let whole = Lora { modules_to_save: vec![Whole::EmbedTokens], ..lora.clone() };
    let methods: Vec<(&str, Vec<Growth>, Method)> = vec![
        ("full", vec![], Method::Baseline(Baseline::Full)),
        ("freeze", vec![], Method::Baseline(Baseline::Freeze(Freeze { frozen_layers: 1, frozen_embedding: true }))),
        ("lora, embedding whole", vec![], Method::Baseline(Baseline::Lora(whole))),
        ("lora", vec![], Method::Baseline(Baseline::Lora(lora))),
        ("llama-pro", vec![], Method::Baseline(Baseline::LlamaPro(LlamaPro { groups: 2 }))),
        ("scale-preserve", vec![], expansion(LAYERS, &[])),
        ("scale-adapt, upper half, attention", vec![], expansion(LAYERS / 2, &[Module::Attention])),
        ("scale-adapt, upper half, feed-forward", vec![], expansion(LAYERS / 2, &[Module::Ffn])),
        ("scale-adapt, everywhere", vec![], expansion(0, &both)),
        ("low-rank parts, everywhere", vec![], Method::Expansion(low_rank(0, &both))),
        ("low-rank parts, upper half, attention", vec![], Method::Expansion(low_rank(LAYERS / 2, &[Module::Attention]))),
        ("a ring around one that preserves", vec![growth(LAYERS, &[])], expansion(LAYERS, &[])),
        ("a ring around one that adapts", vec![growth(0, &both)], expansion(LAYERS, &[])),
    ];
    for (name, rings, method) in &methods {
        for (precision, recompute) in [(Precision::F32, false), (Precision::F32, true), (Precision::Bf16, false)] {
            let what = format!("{name}, {precision:?}, recompute {recompute}");
            let model = model(rings, method, precision);
            let flops = plan(rings, method, precision, recompute);
            let mut gradients = Gradients::zeros(model.parameters());
            let before = MultiplyAdds::so_far();
            model.loss_and_gradients(&batch(), &mut gradients, 1.0, recompute).unwrap();
            let parts = [flops.forward, flops.backward, flops.recomputed];
            let products = parts.iter().map(|work| work.layers + work.head).sum();
            agrees(&what, MultiplyAdds::since(before), products, parts.iter().map(|work| work.attention).sum());
        }
    }

    // Both heads in one pass: what the adaptation head takes, and the base's own layers once more from the fork up, with its head.
    let of_base = plan(&[], &Method::Baseline(Baseline::Full), Precision::F32, false).forward;
    for (preserved_layers, modules) in [(LAYERS, &[][..]), (LAYERS / 2, &both[..1]), (0, &both[..])] {
        let method = expansion(preserved_layers, modules);
        let (model, flops) = (model(&[], &method, Precision::F32), plan(&[], &method, Precision::F32, false).forward);
        let forked = (LAYERS - model.fork_layer()) as u64;
        // Where nothing forks, the second head adds to the logits of the first, and costs nothing more.
        let again = if forked > 0 { of_base.head } else { 0 };
        let before = MultiplyAdds::so_far();
        model.score(&batch(), false).unwrap();
        let layers = |work: u64| work / LAYERS as u64 * forked;
        let products = flops.layers + flops.head + layers(of_base.layers) + again;
        agrees(
            &format!("both heads, {forked} layers forked"),
            MultiplyAdds::since(before),
            products,
            flops.attention + layers(of_base.attention),
        );
    }
}
