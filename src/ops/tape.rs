//! A small reverse-mode tape over fused operations. It records nothing for what does not lead to a trained parameter,
//! so which parameters are trained decides what a step costs: a frozen stream that reads from nothing trained has no backward pass at all.

use super::gemm::{Left, Right, Term, View, gemm_sum};
use super::packed::Packed;
use super::tensor::{Bf16, Tensor};
use crate::model::{Gradients, Parameter, Precision};
use std::cell::OnceCell;
use std::sync::Arc;

/// The matrix of a product `x · Wᵀ`: frozen and packed for the whole run, or a trained parameter by its index.
#[derive(Debug)]
pub enum Weight {
    /// Frozen; a base and what was made from it have it in common.
    Frozen(Arc<Packed>),
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

impl Weight {
    /// Rows and columns, `[out, in]`.
    pub(super) fn shape(&self, parameters: &[Parameter]) -> (usize, usize) {
        match self {
            Self::Frozen(packed) => (packed.n(), packed.k()),
            Self::Table { values, cols } => (values.len() / cols, *cols),
            Self::Trained(index) => (parameters[*index].shape[0], parameters[*index].shape[1]),
        }
    }
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

/// What is kept of an activation or a gradient for a product to come: in bf16 the rounded copy loses nothing.
pub(super) enum Saved {
    F32(Arc<Tensor>),
    Bf16(Arc<Bf16>),
}

impl Saved {
    pub(super) fn new(x: &Arc<Tensor>, precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32(x.clone()),
            Precision::Bf16 => Self::Bf16(x.bf16().clone()),
        }
    }

    fn shape(&self) -> (usize, usize) {
        match self {
            Self::F32(x) => (x.rows(), x.cols()),
            Self::Bf16(x) => x.shape(),
        }
    }

    fn precision(&self) -> Precision {
        match self {
            Self::F32(_) => Precision::F32,
            Self::Bf16(_) => Precision::Bf16,
        }
    }

    fn left(&self) -> Left<'_> {
        match self {
            Self::F32(x) => Left::F32(x.view()),
            Self::Bf16(x) => x.left(),
        }
    }

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

pub(super) type Backward<'m> = Box<dyn FnOnce(&mut Sink<'_, 'm>) + 'm>;

/// What one of the products that read an activation adds to its gradient: `dy · W`.
struct Share<'m> {
    dy: Saved,
    weight: &'m Weight,
}

/// Gradients on their way back.
pub struct Sink<'g, 'm> {
    nodes: Vec<Option<Tensor>>,
    /// Products that are still to be added to the nodes' gradients, in this order: all of a node's are one sum when its gradient is asked for.
    shares: Vec<Vec<Share<'m>>>,
    weights: &'m [Parameter],
    parameters: &'g mut Gradients,
}

impl<'m> Sink<'_, 'm> {
    /// Takes the gradient that has reached a node.
    pub(super) fn take(&mut self, node: usize) -> Option<Tensor> {
        self.settle(node);
        self.nodes[node].take()
    }

    /// Adds `dy · W` to the gradient of a node, at the latest when it is asked for.
    ///
    /// # Shapes
    /// `dy [tokens, out]`, `weight [out, in]`, the node's gradient `[tokens, in]`.
    pub(super) fn share(&mut self, node: usize, dy: Saved, weight: &'m Weight) {
        self.shares[node].push(Share { dy, weight });
    }

    fn settle(&mut self, node: usize) {
        let shares = std::mem::take(&mut self.shares[node]);
        let Some(first) = shares.first() else { return };
        let (rows, width) = (first.dy.shape().0, first.weight.shape(self.weights).1);
        let turned: Vec<OnceCell<Packed>> = shares.iter().map(|_| OnceCell::new()).collect();
        let terms: Vec<Term<'_>> = shares
            .iter()
            .zip(&turned)
            .map(|(Share { dy, weight }, turned)| {
                let right = match weight {
                    Weight::Frozen(packed) => Right::Packed(turned.get_or_init(|| packed.transposed())),
                    Weight::Table { values, .. } => Right::F32(View::rows(values, width), dy.precision()),
                    Weight::Trained(index) => Right::F32(View::rows(&self.weights[*index].value, width), dy.precision()),
                };
                Term { k: dy.shape().1, left: dy.left(), right }
            })
            .collect();
        self.write(node, rows, width, |dx, accumulate| gemm_sum(rows, width, &terms, dx, width, accumulate));
    }

    /// Adds a gradient to a node.
    pub(super) fn add(&mut self, node: usize, gradient: Tensor) {
        self.settle(node);
        match &mut self.nodes[node] {
            Some(sum) => super::elementwise::add_assign(sum.data_mut(), gradient.data()),
            empty => *empty = Some(gradient),
        }
    }

    /// Lets `write(buffer, accumulate)` write or add a `[rows, cols]` gradient.
    pub(super) fn write(&mut self, node: usize, rows: usize, cols: usize, write: impl FnOnce(&mut [f32], bool)) {
        self.settle(node);
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
        let mut sink = Sink {
            nodes: nodes.iter().map(|_| None).collect(),
            shares: nodes.iter().map(|_| Vec::new()).collect(),
            weights: self.parameters,
            parameters,
        };
        for (node, gradient) in seeds {
            sink.add(node, gradient);
        }
        while let Some(backward) = nodes.pop() {
            if let Some(backward) = backward {
                backward(&mut sink);
            }
        }
        (0..sink.nodes.len()).for_each(|node| sink.settle(node));
        sink.nodes
    }
}
