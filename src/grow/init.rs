//! The first values of an expansion.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, Normal};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::baseline::Lora;
use crate::checkpoint::names::{self, Projection};
use crate::checkpoint::{BaseCheckpoint, Config};
use crate::error::{Error, Result};
use crate::grow::initialisation::{Initial, Initialisation};
use crate::grow::layout::{self, Expected};
use crate::grow::ring::{Ring, Wide};
use crate::grow::sizes::Growth;
use crate::grow::spectrum;
use crate::model::build::{added_shape, projection_shape};
use crate::model::{Block, Parameter};

/// Standard deviation of random values.
///
/// # Paper
/// Section 3.2.
pub const RANDOM_DEVIATION: f32 = 0.02;

/// Makes every parameter of an expansion, in the order of [`layout::expansion_parameters`].
///
/// W21 and W22 start as `init` says, W12, B of the low-rank parts beside it and the expansion's head from zero, A as LoRA's does, its norms from one, and its
/// embedding from `E V_e`, the base's embedding along its main directions. Random values depend on `seed` and on the parameter's name only.
/// `progress` is told how many of how many matrices are done, from several threads, and ends the work with an error.
///
/// # Errors
/// [`Error::Usage`] where the growth does not fit the base, and whatever reading the base or `progress` returns.
///
/// # Paper
/// Sections 3.1 and 3.2.
pub fn initialise(
    base: &BaseCheckpoint,
    growth: &Growth,
    init: Initialisation,
    seed: u64,
    progress: &(dyn Fn(usize, usize) -> Result<()> + Sync),
) -> Result<Vec<Parameter>> {
    initialise_ring(base, &[], growth, init, seed, progress)
}

/// [`initialise`], of the next ring around `inner`: the model with these is the base then, one block matrix a projection, whose main directions
/// are taken and cut into the blocks of W21.
///
/// # Errors
/// As [`initialise`], and [`Error::Usage`] where the growth adds to what is within it.
pub fn initialise_ring(
    base: &BaseCheckpoint,
    inner: &[Ring],
    growth: &Growth,
    init: Initialisation,
    seed: u64,
    progress: &(dyn Fn(usize, usize) -> Result<()> + Sync),
) -> Result<Vec<Parameter>> {
    let config = base.config();
    growth.validate(config)?;
    growth.placement.check_ring(config, inner.len())?;
    let wide = Wide::new(base, inner);
    let expected = layout::ring_parameters(config, &wide.sizes(), growth);
    let widened: Vec<(usize, Projection)> =
        (0..config.num_hidden_layers).flat_map(|layer| Projection::ALL.map(|projection| (layer, projection))).collect();
    let total = widened.len() + 1;
    let done = AtomicUsize::new(0);
    let advance = || progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);

    // The embedding is the largest matrix and is parallel in itself; the others are parallel side by side.
    let embedding = expansion_embedding(&wide, config, growth)?;
    advance()?;
    let values = widened
        .par_iter()
        .map(|&(layer, projection)| {
            let values = widened_projection(config, &wide, growth, init, seed, layer, projection)?;
            advance()?;
            Ok(values)
        })
        .collect::<Result<Vec<_>>>()?;
    let mut values: HashMap<String, Vec<f32>> = values.into_iter().flatten().collect();
    values.insert(names::block_weight(names::EMBED_TOKENS, Block::ExpansionEmbedding), embedding);

    expected
        .into_iter()
        .map(|Expected { name, block, shape }| {
            if block == Block::LoraA {
                return Ok(Lora::new(seed).initial(Expected { name, block, shape }));
            }
            let count = shape.iter().product();
            let value = match block {
                Block::ExpansionNorm => vec![1.0; count],
                Block::ExpansionHead | Block::ExpansionToBase | Block::LoraB => vec![0.0; count],
                _ => values.remove(&name).ok_or_else(|| Error::usage(format!("no first values were made for `{name}`")))?,
            };
            Ok(Parameter { name, block, shape, value })
        })
        .collect()
}

/// `E V_e`.
fn expansion_embedding(wide: &Wide<'_>, config: &Config, growth: &Growth) -> Result<Vec<f32>> {
    let (embedding, width) = wide.embedding()?;
    spectrum::projected_on_right_vectors(&embedding, config.vocab_size, width, growth.sizes.hidden_size)
        .map_err(|error| about(&names::weight(names::EMBED_TOKENS), error))
}

/// Names and values of W21 and W22 of one projection.
fn widened_projection(
    config: &Config,
    wide: &Wide<'_>,
    growth: &Growth,
    init: Initialisation,
    seed: u64,
    layer: usize,
    projection: Projection,
) -> Result<Vec<(String, Vec<f32>)>> {
    let module = names::projection(layer, projection);
    let inner = wide.sizes();
    let [out, own] = added_shape(config, &growth.sizes, projection);
    let blocks = [init.base_to_expansion, init.expansion_to_expansion];
    let (top, columns) = if blocks.contains(&Initial::Svd) {
        let (weight, [rows, columns]) = wide.projection(layer, projection)?;
        let top = spectrum::scaled_right_vectors(&weight, rows, columns, out).map_err(|error| about(&names::weight(&module), error))?;
        (top, columns)
    } else {
        (Vec::new(), 1)
    };
    // `column` says where the block begins in the directions; W22 takes their upper left corner.
    let first_values = |name: String, kind, column: usize, width: usize| {
        let random = || random(&name, seed, inner.len(), out * width);
        let value = match kind {
            Initial::Zero => vec![0.0; out * width],
            Initial::Random => random(),
            Initial::Svd => framed(&top, columns, column, out, width, random),
        };
        (name, value)
    };
    let mut column = projection_shape(config, projection)[1];
    let mut values = vec![first_values(names::block_weight(&module, Block::BaseToExpansion), init.base_to_expansion, 0, column)];
    for (index, sizes) in inner.iter().enumerate() {
        let width = added_shape(config, sizes, projection)[1];
        values.push(first_values(names::ring_weight(&module, index + 1), init.base_to_expansion, column, width));
        column += width;
    }
    values.push(first_values(names::block_weight(&module, Block::ExpansionToExpansion), init.expansion_to_expansion, 0, own));
    Ok(values)
}

/// `[out, width]` whose upper left corner is that of `top` from `column` on, as far as both reach; the rest, where there is any, is random.
fn framed(top: &[f32], columns: usize, column: usize, out: usize, width: usize, random: impl FnOnce() -> Vec<f32>) -> Vec<f32> {
    let rows = (top.len() / columns).min(out);
    let common = (columns - column).min(width);
    let mut value = if rows == out && common == width { vec![0.0; out * width] } else { random() };
    for (to, from) in value.chunks_exact_mut(width).zip(top.chunks_exact(columns)).take(rows) {
        to[..common].copy_from_slice(&from[column..column + common]);
    }
    value
}

/// N(0, 0.02²), from a generator of the parameter's own in the ring around `inner` others.
fn random(name: &str, seed: u64, inner: usize, count: usize) -> Vec<f32> {
    let mut key = Sha256::new().chain_update(b"treering initialisation 1\0").chain_update(seed.to_le_bytes()).chain_update(name);
    if inner > 0 {
        // Not the values of the ring within, whose parameters have the same names.
        key.update(format!("\0ring {}", inner + 1));
    }
    let mut rng = ChaCha8Rng::from_seed(key.finalize().into());
    match Normal::new(0.0, RANDOM_DEVIATION) {
        Ok(normal) => normal.sample_iter(&mut rng).take(count).collect(),
        // A constant, positive deviation is never refused.
        Err(_) => unreachable!("{RANDOM_DEVIATION} is a deviation"),
    }
}

/// Says which tensor a numeric error is about, and what would do without its directions.
fn about(name: &str, error: Error) -> Error {
    match error {
        Error::Numeric(message) => Error::Numeric(format!("`{name}`: {message}")),
        other => other,
    }
}

#[cfg(test)]
#[path = "init_tests.rs"]
mod tests;
