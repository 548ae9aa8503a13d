//! Building a model from a checkpoint, and widening it.

use super::layer::{Adapter, Layer, Linear, Norms, RingLayer, Widened};
use super::pair::Shared;
use super::{Adapters, Head, Model, Precision, Ring};
use crate::baseline::{Baseline, Part, Source};
use crate::checkpoint::names::{self, Norm, Projection};
use crate::checkpoint::{BaseCheckpoint, Config, QueryKeyNorm};
use crate::error::{Error, Result};
use crate::grow::{Growth, Placement, Sizes};
use crate::model::parameter::{Block, Parameter};
use crate::ops::lora::Dropout;
use crate::ops::packed::Packed;
use crate::ops::rope::RopeTable;
use crate::ops::tape::{Vector, Weight};
use crate::route::Aids;
use std::collections::HashMap;
use std::sync::Arc;

/// Rows and columns of a base projection.
pub fn projection_shape(c: &Config, projection: Projection) -> [usize; 2] {
    let (d, q, kv, m) = (c.hidden_size, c.query_size(), c.key_value_size(), c.intermediate_size);
    match projection {
        Projection::Q => [q, d],
        Projection::K | Projection::V => [kv, d],
        Projection::O => [d, q],
        Projection::Gate | Projection::Up => [m, d],
        Projection::Down => [d, m],
    }
}

/// Rows and columns that the expansion adds to a projection.
pub fn added_shape(c: &Config, s: &Sizes, projection: Projection) -> [usize; 2] {
    let (e, q, kv, m) = (s.hidden_size, s.num_attention_heads * c.head_dim, s.num_key_value_heads * c.head_dim, s.intermediate_size);
    match projection {
        Projection::Q => [q, e],
        Projection::K | Projection::V => [kv, e],
        Projection::O => [e, q],
        Projection::Gate | Projection::Up => [m, e],
        Projection::Down => [e, m],
    }
}

/// Values of the weight of the norm that the expansion adds beside a layer's.
pub fn added_norm_size(c: &Config, s: &Sizes, norm: Norm) -> usize {
    let heads = match norm {
        Norm::Input | Norm::PostAttention | Norm::PostFeedforward => return s.hidden_size,
        Norm::Query => s.num_attention_heads,
        Norm::Key => s.num_key_value_heads,
    };
    if c.family.query_key_norm() == QueryKeyNorm::Projection { heads * c.head_dim } else { c.head_dim }
}

/// Name, block and shape of every parameter of an expansion, in the order of the layers: what [`Model::widen`] expects of a ring around `inner` ones.
pub fn ring_parameters(c: &Config, inner: &[Sizes], growth: &Growth) -> Vec<(String, Block, Vec<usize>)> {
    let (s, e) = (&growth.sizes, growth.sizes.hidden_size);
    let norm = |module: &str, n: usize| (names::block_weight(module, Block::ExpansionNorm), Block::ExpansionNorm, vec![n]);
    let norms = c.family.layer_norms();
    let mut all =
        vec![(names::block_weight(names::EMBED_TOKENS, Block::ExpansionEmbedding), Block::ExpansionEmbedding, vec![c.vocab_size, e])];
    for layer in 0..c.num_hidden_layers {
        // In the order of the computation: a norm before or behind each half, and those of queries and keys first of all but one.
        let of = |wanted: &[Norm]| {
            let here = wanted.iter().filter(|norm| norms.contains(norm));
            here.map(|&n| norm(&names::norm(layer, n), added_norm_size(c, s, n))).collect::<Vec<_>>()
        };
        all.extend(of(&[Norm::Input, Norm::Query, Norm::Key]));
        for projection in Projection::ALL {
            if projection == Projection::Gate {
                all.extend(of(&[Norm::PostAttention]));
            }
            let module = names::projection(layer, projection);
            let ([rows, columns], [rows_up, columns_up]) = (projection_shape(c, projection), added_shape(c, s, projection));
            let own = |block| names::block_weight(&module, block);
            let mut push = |name, block, rows, columns| all.push((name, block, vec![rows, columns]));
            push(own(Block::BaseToExpansion), Block::BaseToExpansion, rows_up, columns);
            for (index, sizes) in inner.iter().enumerate() {
                push(names::ring_weight(&module, index + 1), Block::BaseToExpansion, rows_up, added_shape(c, sizes, projection)[1]);
            }
            push(own(Block::ExpansionToExpansion), Block::ExpansionToExpansion, rows_up, columns_up);
            if growth.placement.trains(layer, projection.module()) {
                push(own(Block::ExpansionToBase), Block::ExpansionToBase, rows, columns_up);
            }
            if let Some(r) = growth.placement.rank(layer, projection.module()) {
                push(own(Block::LoraA), Block::LoraA, r, columns);
                push(own(Block::LoraB), Block::LoraB, rows, r);
            }
        }
        all.extend(of(&[Norm::PostFeedforward]));
    }
    all.push(norm(names::NORM, e));
    all.push((names::block_weight(names::LM_HEAD, Block::ExpansionHead), Block::ExpansionHead, vec![c.vocab_size, e]));
    all
}

/// Positions whose rotary angles are kept; a longer context than this is refused where it is asked for.
const MAX_POSITIONS: usize = 1 << 20;

struct Builder<'a> {
    checkpoint: &'a BaseCheckpoint,
    precision: Precision,
    /// What is trained; nothing where there is none.
    baseline: Option<&'a Baseline>,
    /// Matrices that stand in memory already.
    shared: Shared,
    parameters: Vec<Parameter>,
}

impl Builder<'_> {
    fn trains(&self, part: Part) -> bool {
        self.baseline.is_some_and(|baseline| baseline.trains(self.checkpoint.config(), part))
    }

    fn parameter(&mut self, parameter: Parameter) -> usize {
        self.parameters.push(parameter);
        self.parameters.len() - 1
    }

    /// A matrix whose first values are the base's `source`, or zero where that is `None`.
    fn weight(&mut self, part: Part, module: &str, source: Option<&str>, shape: [usize; 2]) -> Result<Weight> {
        if let Some(packed) = self.shared.get(module) {
            return Ok(Weight::Frozen(Arc::clone(packed)));
        }
        let value = self.first_values(source.map(names::weight), &shape)?;
        Ok(if self.trains(part) {
            Weight::Trained(self.parameter(Parameter { name: names::weight(module), block: Block::Base, shape: shape.to_vec(), value }))
        } else {
            Weight::Frozen(Arc::new(Packed::from_weight(&value, shape[0], shape[1], self.precision)))
        })
    }

    /// As [`Builder::weight`], of the tensor `name`.
    fn vector(&mut self, part: Part, name: String, source: Option<String>, len: usize) -> Result<Vector> {
        let value = self.first_values(source, &[len])?;
        Ok(if self.trains(part) {
            Vector::Trained(self.parameter(Parameter { name, block: Block::Base, shape: vec![len], value }))
        } else {
            Vector::Frozen(value)
        })
    }

    fn first_values(&self, source: Option<String>, shape: &[usize]) -> Result<Vec<f32>> {
        match source {
            Some(name) => self.checkpoint.tensor(&name, shape),
            None => Ok(vec![0.0; shape.iter().product()]),
        }
    }

    fn layer(&mut self, c: &Config, index: usize) -> Result<Layer> {
        let part = Part::Layer(index);
        let source = self.baseline.map_or(Source { layer: index, copy: false }, |b| b.source(self.checkpoint.config(), index));
        let mut norm = |of: Norm| {
            let from = (!source.is_zero_norm(c, of)).then(|| names::weight(&names::norm(source.layer, of)));
            self.vector(part, names::weight(&names::norm(index, of)), from, c.norm_size(of))
        };
        let [first, second] = c.family.residual_norms();
        let residual = [norm(first)?, norm(second)?];
        let query_key = match c.family.query_key_norm() {
            QueryKeyNorm::None => None,
            QueryKeyNorm::Head | QueryKeyNorm::Projection => Some([norm(Norm::Query)?, norm(Norm::Key)?]),
        };
        let mut linear = Vec::with_capacity(7);
        for projection in Projection::ALL {
            let (module, shape) = (names::projection(index, projection), projection_shape(c, projection));
            let from = (!source.is_zero(c, projection)).then(|| names::projection(source.layer, projection));
            let weight = self.weight(part, &module, from.as_deref(), shape)?;
            let from = from.map(|module| names::bias(&module));
            let bias = if c.has_bias(projection) { Some(self.vector(part, names::bias(&module), from, shape[0])?) } else { None };
            let adapter = self.baseline.and_then(|b| b.adapter(projection)).map(|lora| {
                let [a, b] = lora.pair(c, index, projection).map(|expected| Weight::Trained(self.parameter(lora.initial(expected))));
                Adapter { a, b, number: (index * Projection::ALL.len() + projection as usize) as u64 }
            });
            linear.push(Linear { weight, bias, adapter });
        }
        let linear = linear.try_into().map_err(|_| Error::usage("a layer has seven projections"))?;
        Ok(Layer { norms: Norms { residual, query_key }, linear })
    }
}

impl Model {
    /// Reads a base; its weights are frozen, or with `train_base` are trained parameters (method `full`).
    ///
    /// # Errors
    /// Missing tensors and wrong shapes, by name.
    pub fn from_base(checkpoint: &BaseCheckpoint, precision: Precision, train_base: bool) -> Result<Self> {
        Self::build(checkpoint, precision, train_base.then_some(&Baseline::Full), Shared::new())
    }

    /// Reads a base and makes it ready to be trained as `baseline` says, from the values that its training starts with.
    ///
    /// # Errors
    /// A baseline that does not fit the base, missing tensors and wrong shapes, by name.
    pub fn from_baseline(checkpoint: &BaseCheckpoint, precision: Precision, baseline: &Baseline) -> Result<Self> {
        baseline.validate(checkpoint.config())?;
        Self::build(checkpoint, precision, Some(baseline), Shared::new())
    }

    /// `shared` is empty where something is trained: what is frozen of it stands under the names of the base's modules.
    pub(super) fn build(checkpoint: &BaseCheckpoint, precision: Precision, baseline: Option<&Baseline>, shared: Shared) -> Result<Self> {
        let c = baseline.map_or_else(|| checkpoint.config().clone(), |b| b.model_config(checkpoint.config()));
        let mut builder = Builder { checkpoint, precision, baseline, shared, parameters: Vec::new() };
        let mut table = |part, module| builder.weight(part, module, Some(module), [c.vocab_size, c.hidden_size]);
        let embed_tokens = table(Part::Embedding, names::EMBED_TOKENS)?;
        let layers = (0..c.num_hidden_layers).map(|i| builder.layer(&c, i)).collect::<Result<_>>()?;
        let norm = names::weight(names::NORM);
        let norm = builder.vector(Part::Norm, norm.clone(), Some(norm), c.hidden_size)?;
        let mut table = |part, module| builder.weight(part, module, Some(module), [c.vocab_size, c.hidden_size]);
        let lm_head = if c.tie_word_embeddings { None } else { Some(table(Part::Head, names::LM_HEAD)?) };
        let (inverse, attention_factor) = crate::checkpoint::rope::inverse_frequencies(&c);
        let rope = RopeTable::new(&inverse, attention_factor, c.max_position_embeddings.min(MAX_POSITIONS));
        let parameters = builder.parameters;
        let adapters = match baseline {
            Some(Baseline::Lora(lora)) => Adapters {
                scaling: lora.scaling() as f32,
                dropout: (lora.lora_dropout > 0.0).then_some(Dropout {
                    probability: lora.lora_dropout,
                    seed: lora.seed,
                    step: 0,
                    first_row: 0,
                }),
            },
            // Of what a ring may add.
            _ => Adapters { scaling: Placement::SCALING, dropout: None },
        };
        let (rings, heads) = (Vec::new(), Head::of_rings(0));
        Ok(Self {
            config: c,
            precision,
            embed_tokens,
            layers,
            norm,
            lm_head,
            rope,
            parameters,
            rings,
            heads,
            adapters,
            beside: None,
            aids: Aids::default(),
        })
    }

    /// Gives every trained parameter the value of the one of its name, as a checkpoint holds it.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the first parameter that is another one, or of another shape.
    pub fn set_parameters(&mut self, parameters: Vec<Parameter>) -> Result<()> {
        if parameters.len() != self.parameters.len() {
            return Err(Error::usage(format!("{} tensors were given for {} trained parameters", parameters.len(), self.parameters.len())));
        }
        for (ours, given) in self.parameters.iter_mut().zip(parameters) {
            if ours.name != given.name || ours.shape != given.shape || ours.value.len() != given.value.len() {
                let message = format!("`{}` {:?} stands where the model has `{}` {:?}", given.name, given.shape, ours.name, ours.shape);
                return Err(Error::Usage(message));
            }
            ours.value = given.value;
        }
        Ok(())
    }

    /// Adds an expansion whose parameters were made by [`crate::grow`] or read from a checkpoint. On a widened model, frozen by [`Model::freeze`], it is
    /// the next ring: it reads from every stream that there is and writes to its own alone.
    ///
    /// # Errors
    /// Missing, surplus or misshapen parameters, by name; a model of which something is trained or adapted; a second ring with W12.
    pub fn widen(&mut self, growth: Growth, parameters: Vec<Parameter>) -> Result<()> {
        let adapted = self.layers.iter().flat_map(|layer| &layer.linear).any(|linear| linear.adapter.is_some());
        if adapted || !self.parameters.is_empty() {
            return Err(Error::usage("only a frozen model without adapters can be widened"));
        }
        let inner: Vec<Sizes> = self.growths().map(|growth| growth.sizes).collect();
        growth.placement.check_ring(&self.config, inner.len())?;
        let mut given: HashMap<String, Parameter> = parameters.into_iter().map(|p| (p.name.clone(), p)).collect();
        let (mut index, mut ordered) = (HashMap::new(), Vec::new());
        for (name, block, shape) in ring_parameters(&self.config, &inner, &growth) {
            let p = given.remove(&name).ok_or_else(|| Error::usage(format!("the expansion lacks the tensor {name} {shape:?}")))?;
            if p.shape != shape || p.block != block || p.value.len() != shape.iter().product::<usize>() {
                return Err(Error::usage(format!("tensor {name}: expected {block} {shape:?}, found {} {:?}", p.block, p.shape)));
            }
            index.insert(name, ordered.len());
            ordered.push(p);
        }
        if let Some(name) = given.keys().min() {
            return Err(Error::usage(format!("the expansion has a tensor {name} that a model grown like this does not have")));
        }
        let find = |module: &str, block| index.get(&names::block_weight(module, block)).copied();
        // Every name was inserted above, from the same list.
        let weight = |module: &str, block| Weight::Trained(find(module, block).unwrap_or_default());
        let from_ring = |module: &str, ring| Weight::Trained(index.get(&names::ring_weight(module, ring)).copied().unwrap_or_default());
        let norm = |module: &str| Vector::Trained(find(module, Block::ExpansionNorm).unwrap_or_default());
        let layers = (0..self.config.num_hidden_layers)
            .map(|layer| RingLayer {
                norms: Norms {
                    residual: self.config.family.residual_norms().map(|of| norm(&names::norm(layer, of))),
                    query_key: (self.config.family.query_key_norm() != QueryKeyNorm::None)
                        .then(|| [Norm::Query, Norm::Key].map(|of| norm(&names::norm(layer, of)))),
                },
                widened: Projection::ALL.map(|projection| {
                    let module = names::projection(layer, projection);
                    let from_rings = (1..=inner.len()).map(|ring| from_ring(&module, ring));
                    let reads = std::iter::once(weight(&module, Block::BaseToExpansion)).chain(from_rings);
                    Widened {
                        reads: reads.chain([weight(&module, Block::ExpansionToExpansion)]).collect(),
                        expansion_to_base: find(&module, Block::ExpansionToBase).map(Weight::Trained),
                        // Its number is for dropout, of which there is none beside a ring.
                        adapter: find(&module, Block::LoraA).zip(find(&module, Block::LoraB)).map(|(a, b)| Adapter {
                            a: Weight::Trained(a),
                            b: Weight::Trained(b),
                            number: 0,
                        }),
                    }
                }),
            })
            .collect();
        let ring = Ring {
            growth,
            embed_tokens: weight(names::EMBED_TOKENS, Block::ExpansionEmbedding),
            layers,
            norm: norm(names::NORM),
            lm_head: weight(names::LM_HEAD, Block::ExpansionHead),
        };
        self.rings.push(ring);
        self.heads = Head::of_rings(self.rings.len());
        self.parameters = ordered;
        Ok(())
    }

    /// Freezes every trained parameter and packs it, for evaluation, generation and the next ring; the results stay the same, bit for bit.
    pub fn freeze(&mut self) {
        let (parameters, precision) = (std::mem::take(&mut self.parameters), self.precision);
        let freeze_weight = |w: &mut Weight| {
            if let Weight::Trained(index) = *w {
                let p = &parameters[index];
                *w = Weight::Frozen(Arc::new(Packed::from_weight(&p.value, p.shape[0], p.shape[1], precision)));
            }
        };
        let freeze_vector = |v: &mut Vector| {
            if let Vector::Trained(index) = *v {
                *v = Vector::Frozen(parameters[index].value.clone());
            }
        };
        // Embeddings are looked up, not multiplied: their f32 values stay.
        let freeze_table = |w: &mut Weight| {
            if let Weight::Trained(index) = *w {
                *w = Weight::Table { values: parameters[index].value.clone(), cols: parameters[index].shape[1] };
            }
        };
        if let (None, Weight::Trained(index)) = (&self.lm_head, &self.embed_tokens) {
            self.lm_head = Some(Weight::Trained(*index));
        }
        freeze_table(&mut self.embed_tokens);
        self.lm_head.iter_mut().for_each(freeze_weight);
        freeze_vector(&mut self.norm);
        for layer in &mut self.layers {
            layer.norms.each_mut().for_each(freeze_vector);
            for linear in &mut layer.linear {
                freeze_weight(&mut linear.weight);
                linear.bias.iter_mut().for_each(freeze_vector);
                linear.adapter.iter_mut().flat_map(|Adapter { a, b, .. }| [a, b]).for_each(freeze_weight);
            }
        }
        for ring in &mut self.rings {
            freeze_table(&mut ring.embed_tokens);
            freeze_weight(&mut ring.lm_head);
            freeze_vector(&mut ring.norm);
            for layer in &mut ring.layers {
                layer.norms.each_mut().for_each(freeze_vector);
                for widened in &mut layer.widened {
                    widened.reads.iter_mut().for_each(freeze_weight);
                    widened.expansion_to_base.iter_mut().for_each(freeze_weight);
                    widened.adapter.iter_mut().flat_map(|Adapter { a, b, .. }| [a, b]).for_each(freeze_weight);
                }
            }
        }
    }
}
