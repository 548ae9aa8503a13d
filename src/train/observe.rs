//! What a measurement notes about the run itself, beside what the held-out corpora say: how large W12 has grown, and what training takes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::environment::peak_memory_bytes;
use crate::model::{Block, Parameter};

/// What training takes. Apart from the measured values, because these differ from machine to machine and from one run of a recipe to the next.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// The most memory this process has held so far, where the system tells.
    pub peak_memory_bytes: Option<u64>,
    /// Number of trained values by block.
    pub trained_parameters: BTreeMap<String, u64>,
}

impl Resources {
    /// As of now, for a model with these trained parameters.
    pub fn now(parameters: &[Parameter]) -> Self {
        let mut trained_parameters = BTreeMap::new();
        for parameter in parameters {
            *trained_parameters.entry(parameter.block.to_string()).or_insert(0) += parameter.value.len() as u64;
        }
        Self { peak_memory_bytes: peak_memory_bytes(), trained_parameters }
    }
}

/// Name of the mean over the W12 blocks of their Frobenius norms.
pub const MEAN_NORM: &str = "weights/expansion_to_base/mean_norm";
/// Name of the largest of those norms.
pub const LARGEST_NORM: &str = "weights/expansion_to_base/largest_norm";
/// What the name of each single norm begins with; the module's path follows.
pub const NORM_PREFIX: &str = "weights/expansion_to_base/norm/";

/// The Frobenius norm of every trained W12, their mean and the largest, as named numbers; nothing where none is trained.
///
/// # Paper
/// Section 5: forgetting follows the mean norm of W12.
pub fn weight_norms(parameters: &[Parameter]) -> Vec<(String, f64)> {
    let norm = |parameter: &Parameter| parameter.value.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
    let blocks = parameters.iter().filter(|parameter| parameter.block == Block::ExpansionToBase);
    let mut named: Vec<(String, f64)> = blocks
        .map(|parameter| {
            let module = parameter.name.strip_suffix(".expansion_to_base.weight").unwrap_or(&parameter.name);
            (format!("{NORM_PREFIX}{module}"), norm(parameter))
        })
        .collect();
    if !named.is_empty() {
        let mean = named.iter().map(|(_, norm)| norm).sum::<f64>() / named.len() as f64;
        let largest = named.iter().map(|(_, norm)| *norm).fold(0.0, f64::max);
        named.extend([(MEAN_NORM.to_owned(), mean), (LARGEST_NORM.to_owned(), largest)]);
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter(name: &str, block: Block, value: &[f32]) -> Parameter {
        Parameter { name: name.into(), block, shape: vec![1, value.len()], value: value.to_vec() }
    }

    #[test]
    fn norms_are_of_w12_alone() {
        let parameters = [
            parameter("model.layers.3.mlp.up_proj.expansion_to_base.weight", Block::ExpansionToBase, &[3.0, 4.0]),
            parameter("model.layers.3.mlp.up_proj.base_to_expansion.weight", Block::BaseToExpansion, &[9.0]),
            parameter("model.layers.4.mlp.up_proj.expansion_to_base.weight", Block::ExpansionToBase, &[0.0, 1.0]),
        ];
        let expected = [
            ("weights/expansion_to_base/norm/model.layers.3.mlp.up_proj", 5.0),
            ("weights/expansion_to_base/norm/model.layers.4.mlp.up_proj", 1.0),
            (MEAN_NORM, 3.0),
            (LARGEST_NORM, 5.0),
        ];
        assert_eq!(weight_norms(&parameters), expected.map(|(name, norm)| (name.to_owned(), norm)));
        assert_eq!(weight_norms(&parameters[1..2]), []);
    }

    #[test]
    fn trained_values_are_counted_by_block() {
        let parameters = [
            parameter("a", Block::ExpansionHead, &[1.0; 3]),
            parameter("b", Block::ExpansionNorm, &[1.0; 2]),
            parameter("c", Block::ExpansionHead, &[1.0; 4]),
        ];
        let counted = Resources::now(&parameters).trained_parameters;
        assert_eq!(counted, BTreeMap::from([("expansion_head".to_owned(), 7), ("expansion_norm".to_owned(), 2)]));
    }
}
