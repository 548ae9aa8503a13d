//! What training will take, worked out from sizes alone: nothing is read or allocated.

mod flow;
mod memory;
mod speed;
mod work;

use serde::Serialize;

use crate::baseline::{Baseline, Method};
use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::grow::layout::{self, Expected};
use crate::grow::sizes::Growth;
use crate::model::{Block, Precision};
pub use memory::Memory;
pub use speed::{EFFICIENCY, Products, Speed};
pub use work::{Flops, Work};

/// Version of the plan's JSON.
pub const FORMAT_VERSION: u32 = 1;

/// Tokens of a batch beyond which nothing is estimated.
const MAX_TOKENS: usize = 1 << 32;

/// What is to be trained, and how.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The base.
    pub config: &'a Config,
    /// What the rings around it added, which are frozen; empty for a plain base.
    pub rings: &'a [Growth],
    /// What is trained.
    pub method: &'a Method,
    /// What it is called in recipes; sizes and placement alone do not tell `scale-route` from `scale-adapt`, which they are taken for without it.
    pub name: Option<&'static str>,
    /// Arithmetic of the matrix products.
    pub precision: Precision,
    /// Windows in one forward pass.
    pub batch_size: usize,
    /// Tokens a window.
    pub sequence_length: usize,
    /// Whether the backward pass runs layers again rather than keeping what they computed.
    pub recompute: bool,
    /// Whether the base stands beside a plain model that is trained from it, so that a router can choose between the two.
    pub pair: bool,
}

impl Request<'_> {
    /// The method's name in recipes.
    fn name(&self) -> &'static str {
        match (self.name, self.method) {
            (Some(name), _) => name,
            (None, Method::Baseline(baseline)) => baseline.as_str(),
            (None, Method::Expansion(growth)) if growth.placement.is_preserve(self.config) => "scale-preserve",
            (None, Method::Expansion(_)) => "scale-adapt",
        }
    }

    /// Whether the base's output projection is trained.
    fn trains_head(&self) -> bool {
        self.method.baseline().is_some_and(|baseline| baseline.trains_head(self.config))
    }
}

/// Parameters of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BlockCount {
    /// The block.
    pub block: Block,
    /// Parameters that never change.
    pub frozen: u64,
    /// Parameters that are trained.
    pub trained: u64,
}

/// What training will take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The method's name in recipes.
    pub method: &'static str,
    /// What is added to the base, where anything is.
    pub growth: Option<Growth>,
    /// What the rings within had added, which are frozen; absent where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rings: Vec<Growth>,
    /// What of the base, or which adapters, are trained where nothing is added to its width; `None` under `full` too.
    pub baseline: Option<Baseline>,
    /// Arithmetic of the matrix products.
    pub dtype: Precision,
    /// Windows in one forward pass.
    pub batch_size: usize,
    /// Tokens a window.
    pub sequence_length: usize,
    /// Whether layers are run again in the backward pass.
    pub recompute: bool,
    /// Whether the base stands beside what is trained, for a router; absent where it does not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pair: bool,
    /// Parameters by block, only blocks that have any.
    pub blocks: Vec<BlockCount>,
    /// All parameters that never change.
    pub frozen_parameters: u64,
    /// All parameters that are trained.
    pub trained_parameters: u64,
    /// Bytes by kind.
    pub memory_bytes: Memory,
    /// Floating-point operations for each token trained on.
    pub flops_per_token: Flops,
}

impl Plan {
    /// Works out a plan.
    ///
    /// # Errors
    /// [`Error::Usage`] where the growth does not fit the base or the batch is empty or beyond counting.
    pub fn new(request: &Request<'_>) -> Result<Self> {
        let Request { config, rings, method, batch_size, sequence_length, .. } = *request;
        config.validate()?;
        match method {
            Method::Expansion(growth) => {
                growth.validate(config)?;
                growth.placement.check_ring(config, rings.len())?;
            }
            Method::Baseline(baseline) if !rings.is_empty() => {
                return Err(Error::usage(format!("`{}` trains a plain model, and this one was widened", baseline.as_str())));
            }
            Method::Baseline(baseline) => baseline.validate(config)?,
        }
        match batch_size.checked_mul(sequence_length) {
            Some(1..=MAX_TOKENS) => {}
            _ => {
                return Err(Error::usage(format!(
                    "a batch of {batch_size} windows of {sequence_length} tokens cannot be planned: both must be at least 1, their product at most {MAX_TOKENS}"
                )));
            }
        }
        let blocks = block_counts(config, rings, method)?;
        let flow = flow::layers(config, rings, method);
        let (frozen, trained) = blocks.iter().fold((0, 0), |(frozen, trained), b| (frozen + b.frozen, trained + b.trained));
        Ok(Self {
            format_version: FORMAT_VERSION,
            method: request.name(),
            growth: method.growth().cloned(),
            rings: rings.to_vec(),
            baseline: method.baseline().filter(|&b| *b != Baseline::Full).cloned(),
            dtype: request.precision,
            batch_size,
            sequence_length,
            recompute: request.recompute,
            pair: request.pair,
            frozen_parameters: frozen,
            trained_parameters: trained,
            memory_bytes: Memory::estimate(request, &flow, frozen, trained),
            flops_per_token: Flops::count(request, &flow),
            blocks,
        })
    }
}

fn block_counts(config: &Config, rings: &[Growth], method: &Method) -> Result<Vec<BlockCount>> {
    let sum = |expected: &[Expected], block: Block| -> Result<u64> {
        expected.iter().filter(|e| e.block == block).try_fold(0, |sum, e| Ok(sum + e.count()? as u64))
    };
    let sizes: Vec<_> = rings.iter().map(|growth| growth.sizes).collect();
    let inner: Vec<Expected> =
        rings.iter().enumerate().flat_map(|(index, growth)| layout::ring_parameters(config, &sizes[..index], growth)).collect();
    let (all, expected) = match method {
        Method::Expansion(growth) => (config.parameter_count(), layout::ring_parameters(config, &sizes, growth)),
        Method::Baseline(baseline) => (baseline.model_config(config).parameter_count(), baseline.parameters(config)),
    };
    let trained = sum(&expected, Block::Base)?;
    let mut counts = vec![BlockCount { block: Block::Base, frozen: all - trained, trained }];
    for block in Block::ALL.into_iter().filter(|&b| b != Block::Base) {
        let (frozen, trained) = (sum(&inner, block)?, sum(&expected, block)?);
        if frozen + trained > 0 {
            counts.push(BlockCount { block, frozen, trained });
        }
    }
    Ok(counts)
}

#[cfg(test)]
mod tests;
