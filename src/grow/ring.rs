//! A ring that is finished: what was added to a model, its values, and the hash by which the rings around it know it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::baseline::merge;
use crate::checkpoint::names::{self, Projection};
use crate::checkpoint::{BaseCheckpoint, Config};
use crate::error::{Error, Result};
use crate::files::hex;
use crate::grow::file::BaseReference;
use crate::grow::layout::block_shape;
use crate::grow::{Growth, Placement, Sizes};
use crate::model::build::{added_shape, projection_shape};
use crate::model::{Block, Parameter};

/// A ring that another one stands on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RingReference {
    /// Where it was when the file was written: a run, one of its checkpoints, or an expansion's folder.
    pub path: PathBuf,
    /// What identifies it: a hash, in hexadecimal, of every parameter's name, shape and values. In what file they are kept does not count.
    pub sha256: String,
}

/// What a ring stands on, by path and hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The plain base.
    pub base: BaseReference,
    /// The rings within, from the innermost out.
    pub rings: Vec<RingReference>,
}

/// A finished ring.
#[derive(Debug, Clone, PartialEq)]
pub struct Ring {
    /// Sizes and placement.
    pub growth: Growth,
    /// Its values, in the order of [`crate::grow::layout::ring_parameters`].
    pub parameters: Vec<Parameter>,
    /// Where it was found, and its hash.
    pub reference: RingReference,
}

impl Ring {
    /// The ring with these values, found at `path`.
    pub fn new(path: PathBuf, growth: Growth, parameters: Vec<Parameter>) -> Self {
        let sha256 = sha256(&parameters);
        Self { growth, parameters, reference: RingReference { path, sha256 } }
    }
}

/// The hash of a ring with these values, in hexadecimal.
pub(super) fn sha256(parameters: &[Parameter]) -> String {
    let mut hash = Sha256::new_with_prefix(b"treering ring 1\n");
    let mut bytes = Vec::new();
    for Parameter { name, shape, value, .. } in parameters {
        hash.update(format!("{name:?} {shape:?}\n").as_bytes());
        for part in value.chunks(1 << 16) {
            bytes.clear();
            bytes.extend(part.iter().flat_map(|v| v.to_le_bytes()));
            hash.update(&bytes);
        }
    }
    hex(hash.finalize())
}

/// The added sizes of rings.
pub fn sizes(rings: &[Ring]) -> Vec<Sizes> {
    rings.iter().map(|ring| ring.growth.sizes).collect()
}

/// Checks that what the file at `path` says of the rings it stands on is true of those that were found.
///
/// # Errors
/// [`Error::File`] with both hashes.
pub fn check_inner(path: &Path, expected: &[RingReference], found: &[Ring]) -> Result<()> {
    if expected.len() != found.len() {
        return Err(Error::file(
            path,
            format!("stands on {} rings, and there are {}: it belongs to another model", expected.len(), found.len()),
        ));
    }
    for (index, (expected, Ring { reference, .. })) in expected.iter().zip(found).enumerate() {
        if expected.sha256 != reference.sha256 {
            return Err(Error::file(
                path,
                format!(
                    "stands on a ring {} with SHA-256 {} (then at {}), but the one at {} has {}: it was trained on, or is another one",
                    index + 1,
                    expected.sha256,
                    expected.path.display(),
                    reference.path.display(),
                    reference.sha256
                ),
            ));
        }
    }
    Ok(())
}

/// The weights of a model with all its rings, as the one wide base that it is to the next ring.
pub(super) struct Wide<'a> {
    base: &'a BaseCheckpoint,
    rings: Vec<(&'a Growth, HashMap<&'a str, &'a [f32]>)>,
}

impl<'a> Wide<'a> {
    pub fn new(base: &'a BaseCheckpoint, rings: &'a [Ring]) -> Self {
        let named = |ring: &'a Ring| ring.parameters.iter().map(|p| (p.name.as_str(), p.value.as_slice())).collect();
        Self { base, rings: rings.iter().map(|ring| (&ring.growth, named(ring))).collect() }
    }

    /// Sizes of the rings.
    pub fn sizes(&self) -> Vec<Sizes> {
        self.rings.iter().map(|(growth, _)| growth.sizes).collect()
    }

    /// The embedding `[E, E_up, …]`, and its width.
    ///
    /// # Shapes
    /// `[vocab_size, hidden_size + Σ e]`.
    pub fn embedding(&self) -> Result<(Vec<f32>, usize)> {
        let c = self.base.config();
        let table = self.base.tensor(&names::weight(names::EMBED_TOKENS), &[c.vocab_size, c.hidden_size])?;
        if self.rings.is_empty() {
            return Ok((table, c.hidden_size));
        }
        let width = c.hidden_size + self.rings.iter().map(|(growth, _)| growth.sizes.hidden_size).sum::<usize>();
        let mut wide = vec![0.0; c.vocab_size * width];
        copy(&mut wide, width, 0, &table, c.hidden_size);
        let mut column = c.hidden_size;
        for (index, (growth, _)) in self.rings.iter().enumerate() {
            let name = names::block_weight(names::EMBED_TOKENS, Block::ExpansionEmbedding);
            copy(&mut wide, width, column, self.value(index, &name)?, growth.sizes.hidden_size);
            column += growth.sizes.hidden_size;
        }
        Ok((wide, width))
    }

    /// A projection's whole block matrix, with its rows and columns: the base's, then each ring's.
    ///
    /// # Shapes
    /// `[out + Σ added out, in + Σ added in]`.
    pub fn projection(&self, layer: usize, projection: Projection) -> Result<(Vec<f32>, [usize; 2])> {
        let c: &Config = self.base.config();
        let module = names::projection(layer, projection);
        let [out, input] = projection_shape(c, projection);
        let weight = self.base.tensor(&names::weight(&module), &[out, input])?;
        if self.rings.is_empty() {
            return Ok((weight, [out, input]));
        }
        let added: Vec<[usize; 2]> = self.rings.iter().map(|(growth, _)| added_shape(c, &growth.sizes, projection)).collect();
        let rows = out + added.iter().map(|shape| shape[0]).sum::<usize>();
        let columns = input + added.iter().map(|shape| shape[1]).sum::<usize>();
        let mut wide = vec![0.0; rows * columns];
        copy(&mut wide, columns, 0, &self.adapted(layer, projection, weight)?, input);
        let mut row = out;
        for (index, (growth, _)) in self.rings.iter().enumerate() {
            let value = |block| self.value(index, &names::block_weight(&module, block));
            let width = |block| block_shape(c, growth, projection, block)[1];
            let mut column = input;
            let rows = &mut wide[row * columns..];
            copy(rows, columns, 0, value(Block::BaseToExpansion)?, width(Block::BaseToExpansion));
            for (inner, shape) in added[..index].iter().enumerate() {
                copy(rows, columns, column, self.value(index, &names::ring_weight(&module, inner + 1))?, shape[1]);
                column += shape[1];
            }
            copy(rows, columns, column, value(Block::ExpansionToExpansion)?, added[index][1]);
            if growth.placement.trains(layer, projection.module()) {
                copy(&mut wide, columns, column, value(Block::ExpansionToBase)?, added[index][1]);
            }
            row += added[index][0];
        }
        Ok((wide, [rows, columns]))
    }

    /// The base's weight as the adapted copy of its stream has it, which is the one that rings read: `W + 2 B A` where the first ring adds that.
    fn adapted(&self, layer: usize, projection: Projection, mut weight: Vec<f32>) -> Result<Vec<f32>> {
        if self.rings.first().is_some_and(|(growth, _)| growth.placement.rank(layer, projection.module()).is_some()) {
            let module = names::projection(layer, projection);
            let value = |block| self.value(0, &names::block_weight(&module, block));
            let width = projection_shape(self.base.config(), projection)[1];
            merge(&mut weight, Placement::SCALING, value(Block::LoraA)?, value(Block::LoraB)?, width);
        }
        Ok(weight)
    }

    fn value(&self, ring: usize, name: &str) -> Result<&'a [f32]> {
        let found = self.rings[ring].1.get(name).copied();
        found.ok_or_else(|| Error::usage(format!("ring {} lacks the tensor `{name}`", ring + 1)))
    }
}

/// Puts a block of `width` columns at `column` of rows of `columns`.
fn copy(wide: &mut [f32], columns: usize, column: usize, block: &[f32], width: usize) {
    for (to, from) in wide.chunks_exact_mut(columns).zip(block.chunks_exact(width)) {
        to[column..column + width].copy_from_slice(from);
    }
}
