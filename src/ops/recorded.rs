//! The fused operations as the model calls them: forward now, backward on the tape.

use super::attention::{self, Sequences, Shape};
use super::gemm::{Right, Shared, Term, View, gemm, gemm_sum};
use super::packed::Packed;
use super::rope::RopeTable;
use super::sequence::{Heads, Sequence};
use super::tape::{Saved, Tape, Var, Vector, Weight, rows_from};
use super::tensor::Tensor;
use super::{activation, elementwise, embedding, norm};
use std::cell::LazyCell;
use std::sync::Arc;

impl<'m> Tape<'m> {
    /// The values of a norm weight or a bias.
    fn vector(&self, v: &'m Vector) -> &'m [f32] {
        match v {
            Vector::Frozen(values) => values,
            Vector::Trained(index) => &self.parameters[*index].value,
        }
    }

    /// A weight as the right operand of `x · Wᵀ`.
    fn right(&self, w: &'m Weight) -> Right<'m> {
        match w {
            Weight::Frozen(packed) => Right::Packed(packed),
            Weight::Table { values, cols } => Right::F32(View::rows(values, *cols).t(), self.precision),
            Weight::Trained(index) => {
                let parameter = &self.parameters[*index];
                Right::F32(View::rows(&parameter.value, parameter.shape[1]).t(), self.precision)
            }
        }
    }

    /// Rows of a table.
    ///
    /// # Shapes
    /// `[tokens, in]` from a table `[vocab, in]`.
    pub fn embedding(&mut self, tokens: &[u32], table: &'m Weight) -> Var {
        let (_, cols) = table.shape(self.parameters);
        let mut out = Tensor::scratch(tokens.len(), cols);
        match table {
            Weight::Frozen(packed) => {
                out.data_mut().chunks_exact_mut(cols).zip(tokens).for_each(|(row, &t)| packed.column(t as usize, row));
                self.constant(out)
            }
            Weight::Table { values, .. } => {
                embedding::gather(values, tokens, cols, out.data_mut());
                self.constant(out)
            }
            Weight::Trained(index) => {
                embedding::gather(&self.parameters[*index].value, tokens, cols, out.data_mut());
                if !self.needs([true]) {
                    return self.constant(out);
                }
                let (index, tokens) = (*index, tokens.to_vec());
                self.push(out, |node| {
                    Box::new(move |sink| {
                        if let Some(dy) = sink.take(node) {
                            embedding::scatter_add(dy.data(), &tokens, cols, sink.parameter(index));
                        }
                    })
                })
            }
        }
    }

    /// `residual + bias + Σ inputᵢ · weightᵢᵀ`, summed in that order.
    ///
    /// Where nothing is recorded, rows may be counted from the end: of an input with more of them than the result the last are read, and one with fewer
    /// adds to the result's last. So a stream that carries a [copy](Tape::one_after_another) before its own rows stands beside streams that don't.
    ///
    /// # Shapes
    /// Inputs `[tokens, inᵢ]`, weights `[out, inᵢ]`, bias `[out]`, residual and result `[rows, out]`.
    pub fn linear(&mut self, rows: usize, products: &[(&Var, &'m Weight)], bias: Option<&'m Vector>, residual: Option<&Var>) -> Var {
        let (cols, _) = products[0].1.shape(self.parameters);
        let mut out = match residual {
            Some(residual) => Tensor::copy_of(&residual.value),
            None => Tensor::scratch(rows, cols),
        };
        let (mut whole, mut ends, mut last) = (Vec::with_capacity(products.len()), Vec::new(), rows);
        for &(x, w) in products {
            let first = x.value.rows().saturating_sub(rows);
            let term = Term { k: x.value.cols(), left: rows_from(&x.value, first, self.precision), right: self.right(w) };
            if x.value.rows() < rows {
                last = x.value.rows();
                ends.push(term);
            } else {
                whole.push(term);
            }
        }
        gemm_sum(rows, cols, &whole, out.data_mut(), cols, residual.is_some());
        gemm_sum(last, cols, &ends, &mut out.data_mut()[(rows - last) * cols..], cols, true);
        if let Some(bias) = bias {
            elementwise::add_bias(out.data_mut(), self.vector(bias));
        }
        let trained_bias = match bias {
            Some(Vector::Trained(index)) => Some(*index),
            _ => None,
        };
        let trained = |w: &Weight| matches!(w, Weight::Trained(_));
        let needed = products.iter().map(|(x, w)| x.node.is_some() || trained(w));
        if !self.needs(needed.chain([trained_bias.is_some(), residual.is_some_and(|r| r.node.is_some())])) {
            return self.constant(out);
        }
        assert!(products.iter().all(|(x, _)| x.value.rows() == rows), "rows are counted from the end where nothing is recorded");
        let saved: Vec<_> = products
            .iter()
            .filter(|(x, w)| x.node.is_some() || trained(w))
            .map(|(x, w)| (x.node, x.value.cols(), *w, trained(w).then(|| Saved::new(&x.value, self.precision))))
            .collect();
        let (precision, residual) = (self.precision, residual.and_then(|r| r.node));
        self.push(out, |node| {
            Box::new(move |sink| {
                let Some(dy) = sink.take(node).map(Arc::new) else { return };
                let turned = LazyCell::new(|| Shared::new(dy.view().t(), cols, rows, precision));
                for (input, width, weight, saved) in saved {
                    if let Some(input) = input {
                        sink.share(input, Saved::new(&dy, precision), weight);
                    }
                    if let (Weight::Trained(index), Some(saved)) = (weight, saved) {
                        gemm(cols, width, rows, turned.left(), saved.right(), sink.parameter(*index), width, true);
                    }
                }
                drop(turned);
                if let Some(index) = trained_bias {
                    elementwise::bias_gradient(dy.data(), sink.parameter(index));
                }
                if let Some(residual) = residual {
                    sink.add(residual, Arc::try_unwrap(dy).unwrap_or_else(|shared| Tensor::copy_of(&shared)));
                }
            })
        })
    }

    /// RMSNorm of every row, or of every head of every row where the weight is a head's.
    ///
    /// # Shapes
    /// `x [tokens, heads * n]`, `weight [n]`.
    pub fn rms_norm(&mut self, x: &Var, weight: &'m Vector, eps: f32) -> Var {
        let (rows, cols, width) = (x.value.rows(), x.value.cols(), self.vector(weight).len());
        let (mut out, mut inverse) = (Tensor::scratch(rows, cols), vec![0.0; rows * (cols / width)]);
        norm::rms_norm(x.value.data(), self.vector(weight), eps, width, out.data_mut(), &mut inverse);
        let index = match weight {
            Vector::Trained(index) => Some(*index),
            Vector::Frozen(_) => None,
        };
        if !self.needs([x.node.is_some(), index.is_some()]) {
            return self.constant(out);
        }
        let (input, saved, values) = (x.node, x.value.clone(), self.vector(weight));
        self.push(out, |node| {
            Box::new(move |sink| {
                let Some(dy) = sink.take(node) else { return };
                let mut dweight = index.map(|_| vec![0.0; width]);
                let mut back = |dx: &mut [f32]| {
                    norm::rms_norm_backward(saved.data(), values, &inverse, dy.data(), width, dx, dweight.as_deref_mut());
                };
                match input {
                    Some(input) => sink.write(input, rows, cols, |dx, accumulate| {
                        if !accumulate {
                            dx.fill(0.0);
                        }
                        back(dx);
                    }),
                    None => back(Tensor::zeros(rows, cols).data_mut()),
                }
                if let (Some(index), Some(dweight)) = (index, dweight) {
                    elementwise::add_assign(sink.parameter(index), &dweight);
                }
            })
        })
    }

    /// `x + y`: a residual connection around a norm.
    ///
    /// # Shapes
    /// All `[tokens, n]`.
    pub fn add(&mut self, x: &Var, y: Var) -> Var {
        let nodes = [x.node, y.node];
        let mut out = y.into_tensor();
        elementwise::add_assign(out.data_mut(), x.value.data());
        if !self.needs(nodes.map(|node| node.is_some())) {
            return self.constant(out);
        }
        self.push(out, |node| {
            Box::new(move |sink| {
                let Some(dy) = sink.take(node) else { return };
                if let [Some(x), Some(y)] = nodes {
                    sink.add(x, Tensor::copy_of(&dy));
                    sink.add(y, dy);
                } else if let Some(only) = nodes.into_iter().flatten().next() {
                    sink.add(only, dy);
                }
            })
        })
    }

    /// Rotary position embedding.
    ///
    /// # Shapes
    /// `x [tokens, heads * head_dim]`.
    pub fn rope(&mut self, x: Var, table: &'m RopeTable, sequence: &Arc<Sequence>) -> Var {
        let input = x.node;
        let mut out = x.into_tensor();
        table.apply(out.data_mut(), &sequence.positions);
        if !self.needs([input.is_some()]) {
            return self.constant(out);
        }
        let sequence = sequence.clone();
        self.push(out, |node| {
            Box::new(move |sink| {
                if let (Some(mut dy), Some(input)) = (sink.take(node), input) {
                    table.apply_backward(dy.data_mut(), &sequence.positions);
                    sink.add(input, dy);
                }
            })
        })
    }

    /// Causal grouped-query attention inside each window of tokens, as far back as the heads look.
    ///
    /// # Shapes
    /// `q [tokens, query * dim]`, `k`, `v [tokens, key_value * dim]`, result as `q`.
    pub fn attention(&mut self, q: Var, k: Var, v: Var, heads: Heads, sequence: &Arc<Sequence>) -> Var {
        if let Some(segments) = &sequence.forest {
            assert!(!self.needs([&q, &k, &v].map(|x| x.node.is_some())), "a forest is not trained on");
            let mut out = Tensor::scratch(q.value.rows(), q.value.cols());
            let sizes = (heads.query, heads.key_value, heads.dim);
            attention::forward_forest(sizes, q.value.data(), k.value.data(), v.value.data(), segments, heads.window, out.data_mut());
            return self.constant(out);
        }
        let shape = Shape {
            batch: sequence.batch,
            query_len: sequence.length,
            past: 0,
            heads: heads.query,
            kv_heads: heads.key_value,
            head_dim: heads.dim,
        };
        let rows = sequence.batch * sequence.length;
        let recorded = self.needs([&q, &k, &v].map(|x| x.node.is_some()));
        let mut out = Tensor::scratch(rows, heads.query * heads.dim);
        let mut lse = vec![0.0; if recorded { rows * heads.query } else { 0 }];
        let width = heads.key_value * heads.dim;
        let (keys, values) = [&k, &v].map(|x| Sequences::packed(x.value.data(), sequence.length, width)).into();
        let starts = attention::window_starts(&shape, sequence.starts.as_deref(), heads.window);
        attention::forward(&shape, q.value.data(), keys, values, starts.as_deref(), out.data_mut(), recorded.then_some(&mut lse));
        if !recorded {
            return self.constant(out);
        }
        let out = Arc::new(out);
        let (saved, sequence, output) = ((q, k, v), sequence.clone(), out.clone());
        let var = self.push(Tensor::default(), |node| {
            Box::new(move |sink| {
                let Some(dy) = sink.take(node) else { return };
                let (q, k, v) = saved;
                let [mut dq, mut dk, mut dv] = [&q, &k, &v].map(|x| Tensor::scratch(rows, x.value.cols()));
                let (keys, values) = [&k, &v].map(|x| Sequences::packed(x.value.data(), sequence.length, width)).into();
                let starts = attention::window_starts(&shape, sequence.starts.as_deref(), heads.window);
                let saved =
                    attention::Saved { q: q.value.data(), k: keys, v: values, starts: starts.as_deref(), out: output.data(), lse: &lse };
                attention::backward(&shape, saved, dy.data(), dq.data_mut(), dk.data_mut(), dv.data_mut(), false);
                for (var, gradient) in [(q, dq), (k, dk), (v, dv)] {
                    if let Some(input) = var.node {
                        sink.add(input, gradient);
                    }
                }
            })
        });
        Var { value: out, node: var.node }
    }

    /// `silu(gate) ∘ up`.
    ///
    /// # Shapes
    /// All `[tokens, intermediate]`.
    pub fn swiglu(&mut self, gate: Var, up: Var) -> Var {
        if !self.needs([gate.node.is_some(), up.node.is_some()]) {
            let mut out = up.into_tensor();
            activation::swiglu_in_place(gate.value.data(), out.data_mut());
            return self.constant(out);
        }
        let mut out = Tensor::scratch(gate.value.rows(), gate.value.cols());
        activation::swiglu(gate.value.data(), up.value.data(), out.data_mut());
        self.push(out, |node| {
            Box::new(move |sink| {
                let Some(dy) = sink.take(node) else { return };
                let (gate_node, up_node) = (gate.node, up.node);
                // The saved activations are not needed again: they become their own gradients.
                let (mut gate, mut up) = (gate.into_tensor(), up.into_tensor());
                activation::swiglu_backward_in_place(gate.data_mut(), up.data_mut(), dy.data());
                for (node, gradient) in [(gate_node, gate), (up_node, up)] {
                    if let Some(node) = node {
                        sink.add(node, gradient);
                    }
                }
            })
        })
    }

    /// A weight as a packed right operand of `x · Wᵀ`, packed now where it is trained: for products that are cut into chunks of rows.
    pub(super) fn packed(&self, w: &'m Weight) -> std::borrow::Cow<'m, Packed> {
        match w {
            Weight::Frozen(packed) => std::borrow::Cow::Borrowed(packed),
            Weight::Table { values, cols } => {
                std::borrow::Cow::Owned(Packed::pack(View::rows(values, *cols).t(), *cols, values.len() / cols, self.precision))
            }
            Weight::Trained(index) => {
                let p = &self.parameters[*index];
                std::borrow::Cow::Owned(Packed::pack(View::rows(&p.value, p.shape[1]).t(), p.shape[1], p.shape[0], self.precision))
            }
        }
    }
}
