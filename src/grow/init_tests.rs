use super::*;
use crate::grow::verify;
use crate::grow::{Module, Placement, Sizes};
use crate::model::{Head, Model, Precision};

/// A base of two layers with more query heads than key/value heads, more hidden values than one projection has directions for, and biases.
fn base(seed: u64) -> BaseCheckpoint {
    let mut config = Config::new(50, 16, 12, 2, 4);
    (config.num_key_value_heads, config.head_dim, config.attention_bias, config.mlp_bias) = (2, 4, true, true);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let normal = Normal::new(0.0f32, 0.3).unwrap();
    let tensors = layout::base_parameters(&config)
        .into_iter()
        .map(|e| {
            let count = e.count().unwrap();
            (e.name, (e.shape, (&normal).sample_iter(&mut rng).take(count).collect()))
        })
        .collect();
    BaseCheckpoint::from_memory(config, tensors, None).unwrap()
}

fn growth(hidden_size: usize, placement: Placement) -> Growth {
    Growth { sizes: Sizes { hidden_size, num_attention_heads: 2, num_key_value_heads: 1, intermediate_size: 6 }, placement }
}

fn preserve() -> Placement {
    Placement::new(2, &[])
}

fn adapt() -> Placement {
    Placement { r: 3, ..Placement::new(1, &Module::ALL) }
}

fn make(growth: &Growth, init: &str, seed: u64) -> Vec<Parameter> {
    initialise(&base(1), growth, init.parse().unwrap(), seed, &|_, _| Ok(())).unwrap()
}

fn find<'a>(parameters: &'a [Parameter], name: &str) -> &'a Parameter {
    parameters.iter().find(|p| p.name == name).unwrap_or_else(|| panic!("{name}"))
}

#[test]
fn an_expansion_has_exactly_the_parameters_of_its_layout() {
    for placement in [preserve(), adapt()] {
        let growth = growth(8, placement);
        let made = make(&growth, "svd,zero", 1);
        let expected = layout::expansion_parameters(base(1).config(), &growth);
        assert_eq!(made.len(), expected.len());
        for (p, e) in made.iter().zip(expected) {
            assert_eq!((&p.name, p.block, &p.shape, p.value.len()), (&e.name, e.block, &e.shape, e.count().unwrap()));
        }
    }
}

#[test]
fn blocks_outside_the_pair_start_as_the_method_says() {
    for init in ["svd,zero", "zero,svd", "random,random"] {
        for p in make(&growth(8, adapt()), init, 1) {
            match p.block {
                Block::ExpansionNorm => assert!(p.value.iter().all(|&x| x == 1.0), "{}", p.name),
                Block::ExpansionToBase | Block::ExpansionHead | Block::LoraB => {
                    assert!(p.value.iter().all(|&x| x.to_bits() == 0), "{}", p.name)
                }
                Block::LoraA => {
                    let bound = 1.0 / (p.shape[1] as f32).sqrt();
                    assert!(p.value.iter().all(|x| x.abs() <= bound) && p.value.iter().any(|x| x.abs() > bound / 2.0), "{}", p.name);
                }
                _ => assert!(p.value.iter().all(|x| x.is_finite())),
            }
        }
    }
}

#[test]
fn each_pair_fills_the_block_it_names() {
    let zero = |parameters: &[Parameter], block| parameters.iter().filter(|p| p.block == block).all(|p| p.value.iter().all(|&x| x == 0.0));
    for (init, w21_is_zero, w22_is_zero) in
        [("zero,random", true, false), ("random,zero", false, true), ("zero,svd", true, false), ("svd,zero", false, true)]
    {
        let made = make(&growth(8, preserve()), init, 1);
        assert_eq!(zero(&made, Block::BaseToExpansion), w21_is_zero, "{init}");
        assert_eq!(zero(&made, Block::ExpansionToExpansion), w22_is_zero, "{init}");
    }
}

/// W21 holds the rows of `S Vᵀ`, W22 their first columns; neither depends on the other's kind.
#[test]
fn svd_blocks_hold_the_main_directions_of_the_base() {
    let base = base(1);
    let growth = growth(8, preserve());
    let w21 = make(&growth, "svd,zero", 1);
    let w22 = make(&growth, "zero,svd", 1);
    for projection in [Projection::Q, Projection::V, Projection::O, Projection::Gate, Projection::Down] {
        let module = names::projection(1, projection);
        let [rows, columns] = projection_shape(base.config(), projection);
        let weight = base.tensor(&names::weight(&module), &[rows, columns]).unwrap();
        let a = find(&w21, &names::block_weight(&module, Block::BaseToExpansion));
        let top = spectrum::scaled_right_vectors(&weight, rows, columns, a.shape[0]).unwrap();
        assert_eq!(a.value, top, "{module}");
        let b = find(&w22, &names::block_weight(&module, Block::ExpansionToExpansion));
        for (from, to) in top.chunks_exact(columns).zip(b.value.chunks_exact(b.shape[1])) {
            assert_eq!(from[..to.len()], *to, "{module}");
        }
    }
}

/// `up_proj` has 12 rows but `down_proj` only 12 directions for 14 rows: the last two are random.
#[test]
fn rows_beyond_the_directions_of_a_weight_are_random() {
    let growth = growth(14, preserve());
    let module = names::projection(0, Projection::Down);
    let name = names::block_weight(&module, Block::BaseToExpansion);
    let (one, two) = (make(&growth, "svd,zero", 1), make(&growth, "svd,zero", 2));
    let (one, two) = (find(&one, &name), find(&two, &name));
    assert_eq!(one.shape, [14, 12]);
    assert_eq!(one.value[..12 * 12], two.value[..12 * 12]);
    assert_ne!(one.value[12 * 12..], two.value[12 * 12..]);
    assert!(one.value[12 * 12..].iter().all(|x| *x != 0.0 && x.abs() < 0.2));
}

#[test]
fn the_embedding_is_the_base_seen_along_its_main_directions() {
    let base = base(1);
    let config = base.config();
    let made = make(&growth(8, preserve()), "svd,zero", 1);
    let embedding = base.tensor("model.embed_tokens.weight", &[config.vocab_size, config.hidden_size]).unwrap();
    let expected = spectrum::projected_on_right_vectors(&embedding, config.vocab_size, config.hidden_size, 8).unwrap();
    assert_eq!(find(&made, "model.embed_tokens.expansion.weight").value, expected);
}

#[test]
fn random_values_have_the_stated_spread_and_no_two_parameters_share_them() {
    let values = random("a", 1, 0, 20_000);
    let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / 20_000.0;
    let deviation = (values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / 20_000.0).sqrt();
    assert!(mean.abs() < 1e-3 && (deviation - 0.02).abs() < 1e-3, "{mean} {deviation}");
    assert_ne!(random("b", 1, 0, 4), values[..4]);
    assert_ne!(random("a", 2, 0, 4), values[..4]);
    assert_eq!(random("a", 1, 0, 4), values[..4]);
    assert_ne!(random("a", 1, 1, 4), values[..4], "rings have the same names, and values of their own");
}

/// A parameter's values follow from the seed and its own name, whatever else is made beside it, in whatever order.
#[test]
fn values_depend_on_seed_and_name_only() {
    let made = make(&growth(8, preserve()), "random,random", 7);
    let beside = make(&growth(8, adapt()), "random,random", 7);
    for p in &made {
        assert_eq!(p, find(&beside, &p.name));
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(pool.install(|| make(&growth(8, preserve()), "random,random", 7)), made);
    let other = make(&growth(8, preserve()), "random,random", 8);
    assert!(made.iter().zip(&other).any(|(a, b)| a.value != b.value));
}

#[test]
fn progress_reaches_its_total() {
    let (most, total) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let note = |done: usize, of: usize| {
        most.fetch_max(done, Ordering::Relaxed);
        total.store(of, Ordering::Relaxed);
        Ok(())
    };
    initialise(&base(1), &growth(8, preserve()), Initialisation::default(), 1, &note).unwrap();
    assert_eq!((most.load(Ordering::Relaxed), total.load(Ordering::Relaxed)), (15, 15));
}

#[test]
fn sizes_that_do_not_fit_are_refused_before_the_work() {
    let called = AtomicUsize::new(0);
    let error = initialise(&base(1), &growth(17, preserve()), Initialisation::default(), 1, &|_, _| {
        called.fetch_add(1, Ordering::Relaxed);
        Ok(())
    });
    assert!(matches!(error, Err(Error::Usage(_))));
    assert_eq!(called.load(Ordering::Relaxed), 0);
}

/// Widened logits equal base logits bit for bit before training, under every initialisation, placement and precision.
#[test]
fn both_heads_are_the_base_before_training() {
    let base = base(1);
    let batch = verify::windows(50, &[3, 1, 4, 1, 5], 2, 9, 0);
    for precision in [Precision::F32, Precision::Bf16] {
        let plain = Model::from_base(&base, precision, false).unwrap();
        for placement in [preserve(), adapt()] {
            for init in ["svd,zero", "zero,svd", "random,random"] {
                let growth = growth(8, placement.clone());
                let mut widened = Model::from_base(&base, precision, false).unwrap();
                widened.widen(growth.clone(), make(&growth, init, 1)).unwrap();
                let found = verify::compare(&plain, &widened, &batch, 9, |_, _| {}).unwrap();
                assert_eq!(found.iter().map(|f| f.head).collect::<Vec<_>>(), [Head::Preservation, Head::Adaptation]);
                for head in found {
                    assert!(head.holds(), "{precision:?} {init}: {head:?}");
                    assert_eq!((head.logits.compared, head.log_probs.compared, head.hidden.compared), (9 * 50, 18, 18 * 16));
                }
            }
        }
    }
}

/// The verification sees one changed bit: a base that differs in one weight, and an expansion that writes to the base stream.
#[test]
fn a_model_that_is_not_its_base_is_found_out() {
    let batch = verify::windows(50, &[], 1, 9, 0);
    let growth = growth(8, adapt());
    let plain = Model::from_base(&base(1), Precision::F32, false).unwrap();
    let mut other = Model::from_base(&base(2), Precision::F32, false).unwrap();
    other.widen(growth.clone(), make(&growth, "svd,zero", 1)).unwrap();
    assert!(verify::compare(&plain, &other, &batch, 4, |_, _| {}).unwrap().iter().all(|head| !head.holds()));

    let mut changed = Model::from_base(&base(1), Precision::F32, false).unwrap();
    changed.widen(growth.clone(), make(&growth, "svd,zero", 1)).unwrap();
    for p in changed.parameters_mut().iter_mut().filter(|p| p.block == Block::ExpansionToBase) {
        p.value.fill(0.1);
    }
    let found = verify::compare(&plain, &changed, &batch, 4, |_, _| {}).unwrap();
    assert!(found[0].holds(), "the preservation head never changes: {:?}", found[0]);
    assert!(!found[1].holds() && found[1].logits.largest > 0.0);
    assert!(verify::compare(&plain, &plain, &batch, 4, |_, _| {}).is_err());
}

/// The blocks of a projection as one matrix over all streams, put together value by value; the reference for what [`Wide`] copies.
fn wide(base: &BaseCheckpoint, rings: &[Ring], layer: usize, projection: Projection) -> Vec<Vec<f64>> {
    let (c, module) = (base.config(), names::projection(layer, projection));
    let shapes: Vec<[usize; 2]> = std::iter::once(projection_shape(c, projection))
        .chain(rings.iter().map(|ring| added_shape(c, &ring.growth.sizes, projection)))
        .collect();
    let block = |to: usize, from: usize| -> Option<Vec<f32>> {
        let of_ring = |ring: usize, name: String| rings[ring - 1].parameters.iter().find(|p| p.name == name).map(|p| p.value.clone());
        match (to, from) {
            (0, 0) => {
                let mut weight = base.tensor(&names::weight(&module), &shapes[0]).unwrap();
                let low_rank = [Block::LoraA, Block::LoraB].map(|block| of_ring(1, names::block_weight(&module, block)));
                if let [Some(a), Some(b)] = low_rank {
                    let (r, columns) = (rings[0].growth.placement.r, shapes[0][1]);
                    for (at, w) in weight.iter_mut().enumerate() {
                        let (row, column) = (at / columns, at % columns);
                        *w += (0..r).map(|k| 2.0 * b[row * r + k] * a[k * columns + column]).sum::<f32>();
                    }
                }
                Some(weight)
            }
            (0, ring) => of_ring(ring, names::block_weight(&module, Block::ExpansionToBase)),
            (ring, 0) => of_ring(ring, names::block_weight(&module, Block::BaseToExpansion)),
            (ring, same) if ring == same => of_ring(ring, names::block_weight(&module, Block::ExpansionToExpansion)),
            (ring, inner) if inner < ring => of_ring(ring, names::ring_weight(&module, inner)),
            _ => None,
        }
    };
    let row = |to: usize, i: usize| -> Vec<f64> {
        let part = |(from, shape): (usize, &[usize; 2])| {
            let width = shape[1];
            block(to, from).map_or(vec![0.0; width], |values| values[i * width..(i + 1) * width].iter().map(|&v| f64::from(v)).collect())
        };
        shapes.iter().enumerate().flat_map(part).collect()
    };
    (0..shapes.len()).flat_map(|to| (0..shapes[to][0]).map(move |i| (to, i))).map(|(to, i)| row(to, i)).collect()
}

#[test]
fn a_further_ring_starts_from_the_main_directions_of_everything_within() {
    let base = base(1);
    let config = base.config();
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let normal = Normal::new(0.0f32, 0.2).unwrap();
    let mut rings: Vec<Ring> = Vec::new();
    for growth in [growth(8, adapt()), growth(5, preserve())] {
        let mut parameters = initialise_ring(&base, &rings, &growth, "random,random".parse().unwrap(), 1, &|_, _| Ok(())).unwrap();
        // As if trained: no block is zero, and none is another's.
        parameters.iter_mut().for_each(|p| p.value.iter_mut().for_each(|v| *v = normal.sample(&mut rng)));
        rings.push(Ring::new("nowhere".into(), growth, parameters));
    }
    let next = growth(6, preserve());
    let make = |init: &str| initialise_ring(&base, &rings, &next, init.parse().unwrap(), 1, &|_, _| Ok(())).unwrap();
    let made = make("svd,zero");
    for (p, e) in made.iter().zip(layout::ring_parameters(config, &crate::grow::ring::sizes(&rings), &next)) {
        assert_eq!((&p.name, p.block, &p.shape, p.value.len()), (&e.name, e.block, &e.shape, e.count().unwrap()));
    }
    for layer in 0..2 {
        for projection in Projection::ALL {
            let (module, wide) = (names::projection(layer, projection), wide(&base, &rings, layer, projection));
            let blocks =
                [names::block_weight(&module, Block::BaseToExpansion), names::ring_weight(&module, 1), names::ring_weight(&module, 2)];
            let blocks = blocks.map(|name| find(&made, &name));
            let row = |i: usize| -> Vec<f64> {
                let part = |p: &Parameter| p.value[i * p.shape[1]..(i + 1) * p.shape[1]].iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
                blocks.iter().flat_map(|p| part(p)).collect()
            };
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let rows: Vec<Vec<f64>> = (0..blocks[0].shape[0]).map(row).collect();
            for (i, r) in rows.iter().enumerate() {
                // σ v has the length σ, and W makes σ² of it.
                let square = dot(r, r);
                let image = wide.iter().map(|w| dot(w, r).powi(2)).sum::<f64>().sqrt();
                assert!((image - square).abs() < 1e-4 * square, "{module} row {i}: {image} {square}");
                assert!(
                    rows[..i].iter().all(|other| dot(other, r).abs() < 1e-4 * square && dot(other, other) >= square - 1e-6),
                    "{module}"
                );
            }
        }
    }
    // The embedding along the main directions of all embeddings: its columns are orthogonal, the longest first.
    let embedding = find(&made, "model.embed_tokens.expansion.weight");
    let column = |j: usize| embedding.value.iter().skip(j).step_by(6).map(|&v| f64::from(v)).collect::<Vec<_>>();
    let dot = |i: usize, j: usize| column(i).iter().zip(column(j)).map(|(a, b)| a * b).sum::<f64>();
    assert!((1..6).all(|j| dot(j, j) <= dot(j - 1, j - 1) && dot(j, j - 1).abs() < 1e-4 * dot(0, 0)));
    // Random values are the ring's own.
    let random = make("random,random");
    let name = "model.layers.0.mlp.up_proj.base_to_expansion.weight";
    assert_ne!(
        find(&random, name).value,
        find(&initialise(&base, &next, "random,random".parse().unwrap(), 1, &|_, _| Ok(())).unwrap(), name).value
    );
}
