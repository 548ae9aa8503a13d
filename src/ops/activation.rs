//! SwiGLU, the gate of the feed-forward network.

use super::math::{TASK_ELEMENTS, sigmoid};
use crate::simd_fn;
use rayon::prelude::*;

/// `out = silu(gate) * up`, with `silu(x) = x / (1 + e^-x)`.
///
/// # Shapes
/// All the same length.
///
/// # Paper
/// GLU variants, <https://arxiv.org/abs/2002.05202>.
pub fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == up.len() && out.len() == up.len());
    if out.len() <= TASK_ELEMENTS {
        return forward_chunk(gate, up, out);
    }
    (out.par_chunks_mut(TASK_ELEMENTS), gate.par_chunks(TASK_ELEMENTS), up.par_chunks(TASK_ELEMENTS))
        .into_par_iter()
        .for_each(|(out, gate, up)| forward_chunk(gate, up, out));
}

/// [`swiglu`] that replaces `up` by the result.
///
/// # Shapes
/// Both the same length.
pub fn swiglu_in_place(gate: &[f32], up: &mut [f32]) {
    assert!(gate.len() == up.len());
    (up.par_chunks_mut(TASK_ELEMENTS), gate.par_chunks(TASK_ELEMENTS))
        .into_par_iter()
        .for_each(|(up, gate)| forward_chunk_in_place(gate, up));
}

/// Writes the gradients of [`swiglu`] to `dgate` and `dup`.
///
/// # Shapes
/// All the same length.
pub fn swiglu_backward(gate: &[f32], up: &[f32], dout: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    let n = gate.len();
    assert!(up.len() == n && dout.len() == n && dgate.len() == n && dup.len() == n);
    (
        dgate.par_chunks_mut(TASK_ELEMENTS),
        dup.par_chunks_mut(TASK_ELEMENTS),
        gate.par_chunks(TASK_ELEMENTS),
        up.par_chunks(TASK_ELEMENTS),
        dout.par_chunks(TASK_ELEMENTS),
    )
        .into_par_iter()
        .for_each(|(dgate, dup, gate, up, dout)| backward_chunk(gate, up, dout, dgate, dup));
}

/// [`swiglu_backward`] that replaces `gate` by its gradient and `up` by its gradient.
///
/// # Shapes
/// All the same length.
pub fn swiglu_backward_in_place(gate: &mut [f32], up: &mut [f32], dout: &[f32]) {
    assert!(gate.len() == up.len() && dout.len() == up.len());
    (gate.par_chunks_mut(TASK_ELEMENTS), up.par_chunks_mut(TASK_ELEMENTS), dout.par_chunks(TASK_ELEMENTS))
        .into_par_iter()
        .for_each(|(gate, up, dout)| backward_chunk_in_place(gate, up, dout));
}

/// Gradients of one element: of the gate, and of the other factor.
#[inline(always)]
fn backward_one(gate: f32, up: f32, dout: f32) -> (f32, f32) {
    let s = sigmoid(gate);
    (dout * up * (s * (1.0 + gate * (1.0 - s))), dout * (gate * s))
}

simd_fn! {
    fn forward_chunk(gate: &[f32], up: &[f32], out: &mut [f32]) {
        for (o, (&g, &u)) in out.iter_mut().zip(gate.iter().zip(up)) {
            *o = g * sigmoid(g) * u;
        }
    }
}

simd_fn! {
    fn forward_chunk_in_place(gate: &[f32], up: &mut [f32]) {
        for (u, &g) in up.iter_mut().zip(gate) {
            *u *= g * sigmoid(g);
        }
    }
}

simd_fn! {
    fn backward_chunk(gate: &[f32], up: &[f32], dout: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        let n = gate.len();
        let (up, dout, dgate, dup) = (&up[..n], &dout[..n], &mut dgate[..n], &mut dup[..n]);
        for i in 0..n {
            (dgate[i], dup[i]) = backward_one(gate[i], up[i], dout[i]);
        }
    }
}

simd_fn! {
    fn backward_chunk_in_place(gate: &mut [f32], up: &mut [f32], dout: &[f32]) {
        for ((g, u), &d) in gate.iter_mut().zip(up).zip(dout) {
            (*g, *u) = backward_one(*g, *u, d);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::reference::{
        self, assert_close, assert_same_on_any_thread_count, bits, dot, each_isa, finite_differences, random, wide,
    };

    fn inputs(n: usize) -> [Vec<f32>; 3] {
        [random(1, n).iter().map(|g| g * 3.0).collect(), random(2, n), random(3, n)]
    }

    #[test]
    fn forward_and_both_backwards_agree_with_f64_at_odd_sizes() {
        for n in [1, 7, 33, 257] {
            let [gate, up, dout] = inputs(n);
            let mut out = vec![f32::NAN; n];
            swiglu(&gate, &up, &mut out);
            let (g, u, d) = (wide(&gate), wide(&up), wide(&dout));
            assert_close("out", &out, &reference::swiglu(&g, &u), 1e-6);
            let mut in_place = up.clone();
            swiglu_in_place(&gate, &mut in_place);
            assert_eq!(bits(&in_place), bits(&out), "{n} in place");

            let (mut dgate, mut dup) = (vec![f32::NAN; n], vec![f32::NAN; n]);
            swiglu_backward(&gate, &up, &dout, &mut dgate, &mut dup);
            assert_close("dgate", &dgate, &finite_differences(&g, |g| dot(&reference::swiglu(g, &u), &d)), 1e-6);
            assert_close("dup", &dup, &finite_differences(&u, |u| dot(&reference::swiglu(&g, u), &d)), 1e-6);

            let (mut in_gate, mut in_up) = (gate.clone(), up.clone());
            swiglu_backward_in_place(&mut in_gate, &mut in_up, &dout);
            assert_eq!(bits(&in_gate), bits(&dgate));
            assert_eq!(bits(&in_up), bits(&dup));
        }
    }

    #[test]
    fn extreme_gates_stay_finite() {
        let gate = [-1e30f32, -100.0, -88.0, 88.0, 100.0, 1e30];
        let (mut g, mut u) = (gate.to_vec(), vec![1.0; 6]);
        let mut out = vec![f32::NAN; 6];
        swiglu(&gate, &u, &mut out);
        swiglu_backward_in_place(&mut g, &mut u, &[1.0; 6]);
        assert!(out.iter().chain(&g).chain(&u).all(|v| v.is_finite()), "{out:?} {g:?} {u:?}");
    }

    #[test]
    fn bits_do_not_depend_on_threads_or_instruction_set() {
        let [gate, up, dout] = inputs(50_001);
        let all = || {
            let mut all = vec![0.0; gate.len()];
            swiglu(&gate, &up, &mut all);
            let (mut g, mut u) = (gate.clone(), up.clone());
            swiglu_backward_in_place(&mut g, &mut u, &dout);
            all.extend(g);
            all.extend(u);
            all
        };
        assert_same_on_any_thread_count(all);
        let mut results = Vec::new();
        each_isa(|_| results.push(bits(&all())));
        assert!(results.iter().all(|r| *r == results[0]));
    }
}
