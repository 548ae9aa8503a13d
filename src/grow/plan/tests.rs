use super::*;
use crate::baseline::{Freeze, LlamaPro, Lora, Whole};
use crate::checkpoint::Family;
use crate::grow::{Module, Placement, Sizes, sizes};

/// SmolLM2-135M.
fn smol() -> Config {
    Config { tie_word_embeddings: true, ..sizes::tests::smol() }
}

fn growth(preserved_layers: usize, modules: &[Module]) -> Growth {
    let sizes = Sizes { hidden_size: 64, num_attention_heads: 3, num_key_value_heads: 1, intermediate_size: 256 };
    Growth { sizes, placement: Placement::new(preserved_layers, modules) }
}

fn method(growth: Option<&Growth>) -> Method {
    growth.map_or(Method::Baseline(Baseline::Full), |growth| Method::Expansion(growth.clone()))
}

fn plan(growth: Option<&Growth>, precision: Precision, recompute: bool) -> Plan {
    plan_of(&method(growth), precision, recompute)
}

/// 4 × 256 tokens of a plain base, in bf16.
fn request<'a>(config: &'a Config, method: &'a Method) -> Request<'a> {
    let precision = Precision::Bf16;
    Request { config, rings: &[], method, name: None, precision, batch_size: 4, sequence_length: 256, recompute: false, pair: false }
}

fn plan_of(method: &Method, precision: Precision, recompute: bool) -> Plan {
    Plan::new(&Request { precision, recompute, ..request(&smol(), method) }).unwrap()
}

fn trained(plan: &Plan, block: Block) -> u64 {
    plan.blocks.iter().find(|b| b.block == block).map_or(0, |b| b.trained)
}

/// N, the base's matrices without the embedding.
const N: u64 = 30 * (2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536);

#[test]
fn the_cost_of_preserve_is_that_of_the_table() {
    let plan = plan(Some(&growth(30, &[])), Precision::Bf16, false);
    let (e21, e22) = (trained(&plan, Block::BaseToExpansion), trained(&plan, Block::ExpansionToExpansion));
    assert_eq!(plan.method, "scale-preserve");
    assert_eq!(plan.flops_per_token.table, 2 * N + 4 * e21 + 6 * e22);
    assert_eq!(plan.flops_per_token.table, plan.flops_per_token.forward.layers + plan.flops_per_token.backward.layers);
    assert_eq!(plan.flops_per_token.table_full, 6 * N);
}

#[test]
fn the_cost_of_full_is_six_for_each_parameter() {
    let plan = plan(None, Precision::F32, false);
    assert_eq!((plan.method, plan.flops_per_token.table), ("full", 6 * N));
    assert_eq!((plan.frozen_parameters, plan.trained_parameters), (0, 134_515_008));
    assert_eq!(plan.flops_per_token.forward.head, 2 * 49_152 * 576);
    assert_eq!(plan.flops_per_token.backward.head, 4 * 49_152 * 576);
}

#[test]
fn the_cost_of_adapt_adds_the_base_above_the_lowest_w12() {
    let preserve = plan(Some(&growth(30, &[])), Precision::Bf16, false);
    let layer = N / 30;
    let (attention, ffn) = (2 * 576 * 576 + 2 * 576 * 192, 3 * 576 * 1536);
    assert_eq!(attention + ffn, layer);
    // In the first layer that trains W12 only what comes after it hands a gradient down.
    for (modules, first) in
        [(&[Module::Attention][..], 576 * 576 + ffn), (&[Module::Ffn][..], 576 * 1536), (&Module::ALL[..], 576 * 576 + ffn)]
    {
        let adapt = plan(Some(&growth(15, modules)), Precision::Bf16, false);
        let e12 = trained(&adapt, Block::ExpansionToBase);
        assert_eq!(adapt.method, "scale-adapt");
        assert_eq!(adapt.flops_per_token.table, preserve.flops_per_token.table + 6 * e12 + 2 * (14 * layer + first));
        assert!(adapt.flops_per_token.total > adapt.flops_per_token.table);
    }
}

#[test]
fn blocks_add_up_to_what_an_expansion_holds() {
    let growth = growth(10, &Module::ALL);
    let plan = plan(Some(&growth), Precision::Bf16, false);
    assert_eq!(plan.trained_parameters, layout::parameter_count(&smol(), &growth).unwrap() as u64);
    assert_eq!(plan.frozen_parameters, 134_515_008);
    assert_eq!(trained(&plan, Block::ExpansionEmbedding), 49_152 * 64);
    assert_eq!(trained(&plan, Block::ExpansionNorm), 61 * 64);
}

#[test]
fn the_costs_of_the_baselines_are_those_of_the_table() {
    let of = |baseline: Baseline| plan_of(&Method::Baseline(baseline), Precision::Bf16, false);
    let layer = N / 30;
    let norms = 2 * 576;

    let freeze = of(Baseline::Freeze(Freeze::new(&smol())));
    assert_eq!((freeze.method, freeze.flops_per_token.table), ("freeze", 2 * N + 4 * 27 * layer));
    assert_eq!(freeze.trained_parameters, 27 * (layer + norms) + 576);
    assert_eq!(freeze.frozen_parameters + freeze.trained_parameters, 134_515_008);
    // Tied to the frozen embedding, the head is frozen; a gradient flows through it all the same.
    assert_eq!(freeze.flops_per_token.backward.head, 2 * 49_152 * 576);

    let norm_only = of(Baseline::Freeze(Freeze { frozen_layers: 30, frozen_embedding: true }));
    assert_eq!((norm_only.trained_parameters, norm_only.flops_per_token.backward.layers), (576, 0));
    assert_eq!(norm_only.flops_per_token.backward.head, 2 * 49_152 * 576);

    let pro = of(Baseline::LlamaPro(LlamaPro::new(&smol())));
    assert_eq!((pro.method, LlamaPro::new(&smol()).groups), ("llama-pro", 6));
    // Copies follow every fifth layer: 25 of the base's layers lie above the first copy.
    assert_eq!(pro.flops_per_token.table, 2 * N + 2 * 25 * layer + 6 * 6 * layer);
    assert_eq!((pro.frozen_parameters, pro.trained_parameters), (134_515_008, 6 * (layer + norms)));
    assert_eq!(pro.flops_per_token.table_full, 6 * N);

    let lora = of(Baseline::Lora(Lora::new(0)));
    let (a, b) = (trained(&lora, Block::LoraA), trained(&lora, Block::LoraB));
    // What q, k and v of the lowest layer read is frozen: no gradient is taken there.
    let lowest = 2 * (576 * 576 + 2 * 192 * 576) + 2 * 3 * 16 * 576;
    assert_eq!(lora.flops_per_token.table, 4 * N + 6 * (a + b) - lowest);
    assert_eq!((lora.frozen_parameters, lora.trained_parameters), (134_515_008, a + b));
    assert_eq!(a + b, 30 * 16 * (2 * (576 + 576) + 2 * (576 + 192) + 3 * (576 + 1536)));
    // The whole embedding, which is the output projection too, takes its gradient from both ends; nothing below is free of one then.
    let whole = of(Baseline::Lora(Lora { modules_to_save: vec![Whole::EmbedTokens], ..Lora::new(0) }));
    let table = 49_152 * 576;
    assert_eq!((whole.frozen_parameters, whole.trained_parameters), (134_515_008 - table, a + b + table));
    assert_eq!(whole.flops_per_token.table, 4 * N + 6 * (a + b));
    assert_eq!(whole.flops_per_token.backward.head, 2 * 2 * table);
    let dropped = of(Baseline::Lora(Lora { lora_dropout: 0.1, ..Lora::new(0) }));
    assert!(dropped.memory_bytes.activations > lora.memory_bytes.activations);
    let full = plan(None, Precision::Bf16, false).memory_bytes.peak;
    assert!([freeze, pro, lora].iter().all(|plan| plan.memory_bytes.peak < full));
}

#[test]
fn a_further_ring_counts_the_rings_within_as_frozen_and_reads_them() {
    let config = smol();
    let (first, ring) = (growth(15, &Module::ALL), growth(30, &[]));
    let rings = [first.clone(), ring.clone()];
    let of = |rings: &[Growth], growth: &Growth| {
        let method = method(Some(growth));
        Plan::new(&Request { rings, ..request(&config, &method) })
    };
    let (one, second, third) = (of(&[], &first).unwrap(), of(&rings[..1], &ring).unwrap(), of(&rings, &ring).unwrap());
    assert_eq!(second.frozen_parameters, one.frozen_parameters + one.trained_parameters);
    assert_eq!(third.frozen_parameters, second.frozen_parameters + second.trained_parameters);
    let values: usize = layout::ring_parameters(&config, &[ring.sizes; 2], &ring).iter().map(|e| e.count().unwrap()).sum();
    assert_eq!(third.trained_parameters, values as u64);
    assert!(third.trained_parameters > second.trained_parameters, "it reads from one ring more");
    // No gradient passes through anything frozen: a ring costs its own blocks twice or thrice, and what is frozen once.
    let (e21, e22) = (trained(&third, Block::BaseToExpansion), trained(&third, Block::ExpansionToExpansion));
    let matrices = |plan: &Plan| {
        [Block::BaseToExpansion, Block::ExpansionToExpansion, Block::ExpansionToBase].map(|b| trained(plan, b)).iter().sum::<u64>()
    };
    assert_eq!(third.flops_per_token.table, 2 * (N + matrices(&one) + matrices(&second)) + 4 * e21 + 6 * e22);
    assert_eq!(third.flops_per_token.table, third.flops_per_token.forward.layers + third.flops_per_token.backward.layers);
    assert!(of(&rings, &first).unwrap_err().to_string().contains("ring 3 cannot train expansion_to_base"));
    let method = method(None);
    let full = Request { rings: &rings, ..request(&config, &method) };
    assert!(Plan::new(&full).unwrap_err().to_string().contains("`full` trains a plain model"));
}

#[test]
fn memory_falls_with_recompute_bf16_and_preserved_layers() {
    let preserve = growth(30, &[]);
    let adapt = growth(15, &[Module::Attention]);
    let peak = |growth: Option<&Growth>, precision, recompute| plan(growth, precision, recompute).memory_bytes.peak;
    let bf16 = peak(Some(&preserve), Precision::Bf16, false);
    assert!(bf16 < peak(Some(&preserve), Precision::F32, false));
    assert!(bf16 < peak(Some(&adapt), Precision::Bf16, false));
    assert!(peak(Some(&adapt), Precision::Bf16, false) < peak(None, Precision::Bf16, false));
    assert!(peak(Some(&preserve), Precision::Bf16, true) < bf16);
    let memory = plan(Some(&preserve), Precision::Bf16, false).memory_bytes;
    assert_eq!(memory.frozen_weights, 134_515_008 * 2);
    assert_eq!(memory.optimizer, 2 * memory.gradients);
    assert_eq!(
        memory.peak,
        memory.frozen_weights
            + memory.trained_weights
            + memory.gradients
            + memory.optimizer
            + memory.activations
            + memory.workspace
            + memory.program
    );
}

#[test]
fn attention_grows_with_the_window_and_layers_do_not() {
    let growth = growth(30, &[]);
    let config = smol();
    let at = |sequence_length| {
        let method = Method::Expansion(growth.clone());
        Plan::new(&Request { batch_size: 1, sequence_length, ..request(&config, &method) }).unwrap().flops_per_token
    };
    let (short, long) = (at(255), at(1023));
    assert_eq!(short.forward.attention * 4, long.forward.attention);
    assert_eq!(short.forward.attention, 30 * 2 * (576 + 192) * 256);
    assert_eq!((short.table, short.forward.head), (long.table, long.forward.head));
    // Under Preserve only the expansion's heads are run backward.
    assert_eq!(short.backward.attention, 30 * 5 * 192 * 256);
}

#[test]
fn a_sliding_window_and_further_norms_are_counted() {
    let of = |config: &Config, method: &Method, sequence_length| {
        Plan::new(&Request { precision: Precision::F32, batch_size: 1, sequence_length, ..request(config, method) }).unwrap()
    };
    let full = method(None);
    // Of four tokens with a window of two the first sees one and the others two each.
    let mistral = Config { family: Family::Mistral, sliding_window: Some(2), ..smol() };
    assert_eq!(of(&mistral, &full, 4).flops_per_token.forward.attention, 30 * 4 * 576 * 7 / 4);
    assert_eq!(of(&mistral, &full, 2).flops_per_token, of(&smol(), &full, 2).flops_per_token);
    let upper = Config { family: Family::Qwen2, sliding_window: Some(2), full_attention_layers: (0..29).collect(), ..smol() };
    assert_eq!(of(&upper, &full, 4).flops_per_token.forward.attention, 4 * 576 * (29 * 10 + 7) / 4);

    for family in Family::ALL {
        let config = Config { family, ..smol() };
        for growth in [None, Some(growth(30, &[])), Some(growth(10, &Module::ALL))] {
            let plan = of(&config, &method(growth.as_ref()), 64);
            let frozen = if growth.is_some() { config.parameter_count() } else { 0 };
            let trained = growth.as_ref().map_or(config.parameter_count(), |g| layout::parameter_count(&config, g).unwrap() as u64);
            assert_eq!((plan.frozen_parameters, plan.trained_parameters), (frozen, trained), "{family:?}");
            // Norms are no matrices: the table is that of a Llama, to the operation.
            assert_eq!(plan.flops_per_token.table, of(&smol(), &method(growth.as_ref()), 64).flops_per_token.table, "{family:?}");
        }
    }
    let activations = |family| of(&Config { family, ..smol() }, &full, 64).memory_bytes.activations;
    assert_eq!(activations(Family::Qwen3) - activations(Family::Llama), 64 * 30 * (576 + 192 + 2 * 9) * 4);
}

#[test]
fn an_empty_or_endless_batch_is_refused() {
    for (batch_size, sequence_length) in [(0, 1), (1, 0), (usize::MAX, 2), (1 << 20, 1 << 20)] {
        let config = smol();
        let method = method(None);
        let request = Request { precision: Precision::F32, batch_size, sequence_length, ..request(&config, &method) };
        assert!(matches!(Plan::new(&request), Err(Error::Usage(_))), "{batch_size} × {sequence_length}");
    }
}

#[test]
fn a_faster_machine_trains_more_tokens() {
    let plan = plan(None, Precision::Bf16, false);
    let speed = Speed::estimate(&plan, Products::in_vectors(400.0));
    let expected = 400e9 * EFFICIENCY / plan.flops_per_token.total as f64;
    assert!((speed.tokens_per_second - expected).abs() < 1e-6 * expected);
    assert!(Products::measure(Precision::F32).gflops > 0.0);
    // Products ten times as fast as vectors leave the rest of a step as slow as it was: 1 + 10 · 3/7 instead of 10 + 10 · 3/7 parts of the time.
    let tiles = Products::in_tiles(4_000.0, 400.0);
    assert!((tiles.gflops * tiles.efficiency / (400.0 * EFFICIENCY) - (100.0 / 7.0) / (37.0 / 7.0)).abs() < 1e-9, "{tiles:?}");
    assert!(Products::in_tiles(300.0, 400.0).efficiency == EFFICIENCY);
}

#[test]
fn a_pair_holds_what_its_two_models_have_not_in_common() {
    let config = smol();
    let frozen = |baseline: &Baseline, pair| {
        let method = Method::Baseline(baseline.clone());
        let plan = Plan::new(&Request { pair, ..request(&config, &method) }).unwrap();
        assert_eq!(plan.pair, pair);
        plan.memory_bytes.frozen_weights
    };
    let embedding = 49_152 * 576 * 2;
    let lora = Baseline::Lora(Lora::new(0));
    let with_embedding = Baseline::Lora(Lora { modules_to_save: vec![Whole::EmbedTokens], ..Lora::new(0) });
    let freeze = Baseline::Freeze(Freeze::new(&config));
    let (pro, whole) = (Baseline::LlamaPro(LlamaPro::new(&config)), config.parameter_count() * 2);
    for (baseline, more) in [(&lora, 0), (&pro, 0), (&with_embedding, embedding), (&Baseline::Full, whole)] {
        assert_eq!(frozen(baseline, true), frozen(baseline, false) + more, "{}", baseline.as_str());
    }
    assert_eq!(frozen(&freeze, true), whole);
}
