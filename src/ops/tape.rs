//! A small reverse-mode tape over fused operations. It records nothing for what does not lead to a trained parameter,
//! so which parameters are trained decides what a step costs: a frozen stream that reads from nothing trained has no backward pass at all.

use super::gemm::{Left, Right, View};
use super::packed::Packed;
use super::tensor::{Bf16, Tensor};
use crate::model::{Gradients, Parameter, Precision};
use std::sync::Arc;

/// The matrix of a product `x · Wᵀ`: frozen and packed for the whole run, or a trained parameter by its index.
#[derive(Debug)]
pub enum Weight {
    /// Frozen.
    Frozen(Packed),
    /// Frozen rows `[out, in]` that are looked up rather than multiplied, and so stay f32 whatever the precision of the products.
    Table {
        /// The values, row-major.
        values: Vec<f32>,
        /// Values a row.
        cols: usize,
    },
    /// Trained: the index of a [`Parameter`] of shape `[out, in]`.
    Trained(usize),
}

/// A norm's weight or a bias: frozen, or a trained parameter by its index.
#[derive(Debug)]
pub enum Vector {
    /// Frozen.
    Frozen(Vec<f32>),
    /// Trained.
    Trained(usize),
}

/// An activation, and the node whose gradient it has where it leads to a trained parameter.
#[derive(Clone, Debug)]
pub struct Var {
    pub(super) value: Arc<Tensor>,
    pub(super) node: Option<usize>,
}

impl Var {
    /// The values.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// Whether a gradient flows through it.
    pub fn needs_gradient(&self) -> bool {
        self.node.is_some()
    }

    /// The tensor itself, copied only where others hold it too.
    pub(super) fn into_tensor(self) -> Tensor {
        Arc::try_unwrap(self.value).unwrap_or_else(|shared| Tensor::copy_of(&shared))
    }
}

/// What a product keeps of its input for the gradient of its weight: in bf16 the rounded copy loses nothing.
pub(super) enum Saved {
    F32(Arc<Tensor>),
    Bf16(Arc<Bf16>),
}

impl Saved {
    pub(super) fn right(&self) -> Right<'_> {
        match self {
            Self::F32(x) => Right::F32(x.view(), Precision::F32),
            Self::Bf16(x) => Right::Packed(x.packed()),
        }
    }
}

/// A left operand in the tape's precision.
pub(super) fn left(x: &Tensor, precision: Precision) -> Left<'_> {
    match precision {
        Precision::F32 => Left::F32(x.view()),
        Precision::Bf16 => x.bf16().left(),
    }
}

/// The rows `first ..` of a left operand.
pub(super) fn rows_from<'a>(x: &'a Tensor, first: usize, precision: Precision) -> Left<'a> {
    match left(x, precision) {
        Left::F32(view) => Left::F32(View { data: &view.data[first * view.row_stride..], ..view }),
        Left::Bf16 { data, stride } => Left::Bf16 { data: &data[first * stride..], stride },
    }
}

pub(super) type Backward<'m> = Box<dyn FnOnce(&mut Sink<'_>) + 'm>;

/// Gradients on their way back.
pub struct Sink<'g> {
    nodes: Vec<Option<Tensor>>,
    parameters: &'g mut Gradients,
}

impl Sink<'_> {
    /// Takes the gradient that has reached a node.
    pub(super) fn take(&mut self, node: usize) -> Option<Tensor> {
        self.nodes[node].take()
    }

    /// Adds a gradient to a node.
    pub(super) fn add(&mut self, node: usize, gradient: Tensor) {
        match &mut self.nodes[node] {
            Some(sum) => super::elementwise::add_assign(sum.data_mut(), gradient.data()),
            empty => *empty = Some(gradient),
        }
    }

    /// Lets `write(buffer, accumulate)` write or add a `[rows, cols]` gradient.
    pub(super) fn write(&mut self, node: usize, rows: usize, cols: usize, write: impl FnOnce(&mut [f32], bool)) {
        match &mut self.nodes[node] {
            Some(sum) => write(sum.data_mut(), true),
            empty => {
                let mut gradient = Tensor::scratch(rows, cols);
                write(gradient.data_mut(), false);
                *empty = Some(gradient);
            }
        }
    }

    /// The gradient buffer of a trained parameter.
    pub(super) fn parameter(&mut self, index: usize) -> &mut [f32] {
        &mut self.parameters.values[index]
    }
}

/// One forward pass, recorded where it has to be.
pub struct Tape<'m> {
    pub(super) parameters: &'m [Parameter],
    pub(super) precision: Precision,
    recording: bool,
    nodes: Vec<Option<Backward<'m>>>,
}

impl<'m> Tape<'m> {
    /// A tape that records what leads to `parameters`.
    pub fn new(parameters: &'m [Parameter], precision: Precision) -> Self {
        Self { parameters, precision, recording: true, nodes: Vec::new() }
    }

    /// A tape that records nothing.
    pub fn inference(parameters: &'m [Parameter], precision: Precision) -> Self {
        Self { parameters, precision, recording: false, nodes: Vec::new() }
    }

    /// An activation that nothing trained leads to.
    pub fn constant(&self, value: Tensor) -> Var {
        Var { value: Arc::new(value), node: None }
    }

    /// Whether a gradient has to be taken through an operation with these inputs and this trained parameter.
    pub(super) fn needs(&self, inputs: impl IntoIterator<Item = bool>) -> bool {
        self.recording && inputs.into_iter().any(|needed| needed)
    }

    /// Appends a node; `backward` gets the node's own index to take its gradient from.
    pub(super) fn push(&mut self, value: Tensor, backward: impl FnOnce(usize) -> Backward<'m>) -> Var {
        let node = self.nodes.len();
        self.nodes.push(Some(backward(node)));
        Var { value: Arc::new(value), node: Some(node) }
    }

    /// A node without a backward of its own: its gradient is taken by another node's, or by the caller.
    pub(super) fn leaf(&mut self, value: Arc<Tensor>) -> Var {
        self.nodes.push(None);
        Var { value, node: Some(self.nodes.len() - 1) }
    }

    /// The inputs of a segment on this tape.
    fn leaves(&mut self, inputs: &[Var]) -> Vec<Var> {
        inputs.iter().map(|v| if v.node.is_some() { self.leaf(v.value.clone()) } else { v.clone() }).collect()
    }

    /// Saves a product's input for its weight's gradient.
    pub(super) fn save(&self, x: &Var) -> Saved {
        match self.precision {
            Precision::F32 => Saved::F32(x.value.clone()),
            Precision::Bf16 => Saved::Bf16(x.value.bf16().clone()),
        }
    }

    /// Runs `segment` without keeping its activations; in the backward pass it is run again with them.
    /// Segments must be pure functions of their inputs.
    pub fn recompute(&mut self, inputs: Vec<Var>, segment: impl Fn(&mut Tape<'m>, &[Var]) -> Vec<Var> + 'm) -> Vec<Var> {
        let (parameters, precision) = (self.parameters, self.precision);
        if !self.recording {
            return segment(self, &inputs);
        }
        // Recorded and forgotten at once: the record says which outputs lead to trained parameters.
        let outputs = {
            let mut tape = Tape::new(parameters, precision);
            let leaves = tape.leaves(&inputs);
            segment(&mut tape, &leaves)
        };
        let first = self.nodes.len();
        let outputs: Vec<Var> = outputs.into_iter().map(|v| if v.node.is_some() { self.leaf(v.value) } else { v }).collect();
        let nodes: Vec<Option<usize>> = outputs.iter().map(|v| v.node).collect();
        if self.nodes.len() == first {
            return outputs;
        }
        self.nodes[first] = Some(Box::new(move |sink| {
            let gradients: Vec<Option<Tensor>> = nodes.iter().map(|node| sink.take((*node)?)).collect();
            let mut tape = Tape::new(parameters, precision);
            let leaves = tape.leaves(&inputs);
            let outputs = segment(&mut tape, &leaves);
            let seeds = outputs.iter().zip(gradients).filter_map(|(v, g)| Some((v.node?, g?))).collect();
            let mut rest = tape.run(seeds, sink.parameters);
            for (outer, inner) in inputs.iter().zip(&leaves) {
                if let (Some(outer), Some(inner)) = (outer.node, inner.node)
                    && let Some(gradient) = rest[inner].take()
                {
                    sink.add(outer, gradient);
                }
            }
        }));
        outputs
    }

    /// The backward pass from gradients of some activations; adds to `gradients`.
    pub fn backward(self, seeds: Vec<(usize, Tensor)>, gradients: &mut Gradients) {
        self.run(seeds, gradients);
    }

    fn run(self, seeds: Vec<(usize, Tensor)>, parameters: &mut Gradients) -> Vec<Option<Tensor>> {
        let mut nodes = self.nodes;
        let mut sink = Sink { nodes: (0..nodes.len()).map(|_| None).collect(), parameters };
        for (node, gradient) in seeds {
            sink.add(node, gradient);
        }
        while let Some(backward) = nodes.pop() {
            if let Some(backward) = backward {
                backward(&mut sink);
            }
        }
        sink.nodes
    }
}
