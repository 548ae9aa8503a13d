//! Trained models as others read them, and back.
//!
//! 1. [`plain`]: what a baseline made, as a plain folder of its family in Hugging Face's layout, with adapters merged.
//! 2. [`widened`]: a widened model, which norms its streams apart and is no plain model, as a folder that `transformers` loads with code of its own;
//!    [`description`] is its `config.json`, [`card`] its model card.
//! 3. [`import()`](import::import): its rings as expansions again, on the base they grew around.

pub mod card;
pub mod description;
pub mod import;
pub mod widened;

use std::collections::HashMap;
use std::path::Path;

use crate::baseline::{Baseline, merge};
use crate::checkpoint::names::{self, Projection};
use crate::checkpoint::{BaseCheckpoint, Dtype};
use crate::error::{Error, Result};
use crate::grow::layout::{self, Expected};
use crate::grow::verify::{Difference, windows};
use crate::model::{Model, Parameter};

/// Windows, and tokens a window, that two models are compared on.
const WINDOWS: [usize; 2] = [4, 64];

/// Where a tensor of a plain model comes from.
enum Origin {
    /// A trained parameter, by its index.
    Trained(usize),
    /// A tensor of the base.
    Base(String),
    /// A matrix of the base and its adapter: the indices of A and B.
    Merged(String, [usize; 2]),
}

/// Writes what `baseline` made of `base` as a plain folder of its family, whole or not at all: `config.json`, `model.safetensors` and the tokenizer,
/// where there is one. `parameters` are the trained ones, in any order. Tensors are made one by one, so that only one is in memory.
///
/// # Errors
/// [`Error::Io`] where `folder` is there already or cannot be written, [`Error::Usage`] where a trained parameter is missing or misshapen,
/// and whatever reading the base returns.
pub fn plain(folder: &Path, base: &BaseCheckpoint, baseline: &Baseline, parameters: &[Parameter], dtype: Dtype) -> Result<()> {
    let config = baseline.model_config(base.config());
    let origins = origins(base, baseline, parameters)?;
    let tensors: Vec<(String, Vec<usize>)> = origins.iter().map(|(e, _)| (e.name.clone(), e.shape.clone())).collect();
    let by_name: HashMap<&str, &Origin> = origins.iter().map(|(e, origin)| (e.name.as_str(), origin)).collect();
    base.save_as(folder, &config, dtype, &tensors, |name, shape| match (by_name.get(name), baseline) {
        (Some(Origin::Trained(index)), _) => Ok(parameters[*index].value.clone()),
        (Some(Origin::Base(source)), _) => base.tensor(source, shape),
        (Some(Origin::Merged(source, [a, b])), Baseline::Lora(lora)) => {
            let mut weight = base.tensor(source, shape)?;
            merge(&mut weight, lora.scaling() as f32, &parameters[*a].value, &parameters[*b].value, shape[1]);
            Ok(weight)
        }
        _ => Err(Error::usage(format!("no values are known for `{name}`"))),
    })
}

/// Every tensor of the plain model, in the order of its layers.
fn origins(base: &BaseCheckpoint, baseline: &Baseline, parameters: &[Parameter]) -> Result<Vec<(Expected, Origin)>> {
    let mut trained: HashMap<&str, usize> = HashMap::new();
    let expected = baseline.parameters(base.config());
    for (index, parameter) in parameters.iter().enumerate() {
        trained.insert(&parameter.name, index);
    }
    for Expected { name, shape, .. } in &expected {
        match trained.get(name.as_str()).map(|&index| &parameters[index]) {
            Some(p) if p.shape == *shape && p.value.len() == shape.iter().product::<usize>() => {}
            Some(p) => return Err(Error::usage(format!("`{name}` has shape {:?}, expected {shape:?}", p.shape))),
            None => return Err(Error::usage(format!("the trained parameter `{name}` {shape:?} is missing"))),
        }
    }
    let model = baseline.model_config(base.config());
    let origin = |e: Expected, source: String| {
        let origin = match trained.get(e.name.as_str()) {
            Some(&index) => Origin::Trained(index),
            None => Origin::Base(source),
        };
        (e, origin)
    };
    let same = |e: Expected| {
        let source = e.name.clone();
        origin(e, source)
    };
    let mut all: Vec<(Expected, Origin)> = layout::embedding_parameters(&model).into_iter().map(same).collect();
    for layer in 0..model.num_hidden_layers {
        let sources = layout::layer_parameters(&model, baseline.source(base.config(), layer).layer);
        all.extend(layout::layer_parameters(&model, layer).into_iter().zip(sources).map(|(e, source)| origin(e, source.name)));
        if let Baseline::Lora(lora) = baseline {
            for projection in Projection::ALL.into_iter().filter(|p| lora.target_modules.contains(p)) {
                let pair = lora.pair(base.config(), layer, projection).map(|e| trained.get(e.name.as_str()).copied());
                let name = names::weight(&names::projection(layer, projection));
                if let ([Some(a), Some(b)], Some((_, origin))) = (pair, all.iter_mut().find(|(e, _)| e.name == name)) {
                    *origin = Origin::Merged(name, [a, b]);
                }
            }
        }
    }
    all.extend(layout::norm_parameters(&model).into_iter().chain(layout::head_parameters(&model)).map(same));
    Ok(all)
}

/// How every head of one model differs from that of another on random tokens: log-probabilities of whole windows, and the logits of the last
/// of them, and the largest logit there is, against which a difference is small or not.
///
/// # Errors
/// Whatever the models return, and [`Error::Usage`] where they have different heads.
pub fn compare(one: &Model, other: &Model) -> Result<(Difference, f64)> {
    if one.heads() != other.heads() {
        return Err(Error::usage("the two models have different heads"));
    }
    let [count, length] = WINDOWS;
    let length = length.min(one.config().max_position_embeddings);
    let batch = windows(one.config().vocab_size.min(other.config().vocab_size), &[], count, length, 0);
    let (mut difference, mut largest) = (Difference::default(), 0.0f64);
    let (a, b) = (one.score(&batch, false)?, other.score(&batch, false)?);
    for (a, b) in a.log_probs.iter().zip(&b.log_probs) {
        difference.add(a, b);
    }
    for tokens in batch.tokens.chunks(length) {
        let (a, b) = (one.step(&mut one.new_cache(length), tokens)?, other.step(&mut other.new_cache(length), tokens)?);
        for (a, b) in a.iter().zip(&b) {
            difference.add(a, b);
            largest = a.iter().fold(largest, |most, v| most.max(f64::from(v.abs())));
        }
    }
    Ok((difference, largest))
}
