use super::*;
use crate::ops::reference::{self, assert_close, assert_same_on_any_thread_count, bits, dot, each_isa, finite_differences, random, wide};

/// An attention's inputs; keys and values packed.
struct Case {
    shape: Shape,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    dout: Vec<f32>,
    starts: Option<Vec<u32>>,
}

impl Case {
    fn new(batch: usize, query_len: usize, past: usize, heads: usize, kv_heads: usize, head_dim: usize) -> Self {
        let shape = Shape { batch, query_len, past, heads, kv_heads, head_dim };
        let keys = batch * shape.key_len() * kv_heads * head_dim;
        let n = shape.query_values();
        Self { shape, q: random(1, n), k: random(2, keys), v: random(3, keys), dout: random(4, n), starts: None }
    }

    /// Documents of uneven lengths.
    fn with_documents(mut self) -> Self {
        let (mut starts, mut start) = (Vec::new(), 0);
        for row in 0..self.shape.batch * self.shape.query_len {
            let i = row % self.shape.query_len;
            if i == 0 {
                start = 0;
            } else if i % 61 == 17 || i.is_multiple_of(173) {
                start = (self.shape.past + i) as u32;
            }
            starts.push(start);
        }
        self.starts = Some(starts);
        self
    }

    /// A window that slides over the keys, beside whatever hides keys already.
    fn with_window(mut self, window: usize) -> Self {
        self.starts = window_starts(&self.shape, self.starts.as_deref(), Some(window)).map(|starts| starts.into_owned());
        self
    }

    fn sequences<'a>(&self, data: &'a [f32]) -> Sequences<'a> {
        Sequences::packed(data, self.shape.key_len(), self.shape.kv_heads * self.shape.head_dim)
    }

    fn forward(&self) -> (Vec<f32>, Vec<f32>) {
        let (mut out, mut lse) = (vec![f32::NAN; self.q.len()], vec![f32::NAN; self.q.len() / self.shape.head_dim]);
        let (k, v) = (self.sequences(&self.k), self.sequences(&self.v));
        forward(&self.shape, &self.q, k, v, self.starts.as_deref(), &mut out, Some(&mut lse));
        (out, lse)
    }

    fn backward(&self, [dq, dk, dv]: [&mut [f32]; 3], accumulate: bool) {
        let (out, lse) = self.forward();
        let (k, v) = (self.sequences(&self.k), self.sequences(&self.v));
        let saved = Saved { q: &self.q, k, v, starts: self.starts.as_deref(), out: &out, lse: &lse };
        backward(&self.shape, saved, &self.dout, dq, dk, dv, accumulate);
    }

    fn reference(&self, q: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
        let Shape { batch, query_len, past, heads, kv_heads, head_dim } = self.shape;
        reference::Attention { batch, query_len, past, heads, kv_heads, head_dim }.forward(q, k, v, self.starts.as_deref())
    }
}

#[test]
fn forward_agrees_with_f64_over_sizes_groups_masks_and_caches() {
    for case in [
        Case::new(1, 1, 0, 1, 1, 1),
        Case::new(2, 5, 0, 3, 1, 7),
        Case::new(1, 65, 0, 4, 2, 16),
        Case::new(2, 129, 0, 9, 3, 64),
        Case::new(1, 300, 0, 2, 2, 33),
        Case::new(1, 3, 200, 6, 2, 16),
        Case::new(2, 70, 100, 8, 1, 24),
        Case::new(2, 300, 0, 4, 2, 16).with_documents(),
        Case::new(1, 90, 130, 3, 1, 8).with_documents(),
        Case::new(2, 300, 0, 4, 2, 16).with_window(1),
        Case::new(2, 300, 0, 4, 2, 16).with_window(70),
        Case::new(1, 90, 200, 3, 1, 8).with_window(129),
        Case::new(2, 300, 0, 4, 2, 16).with_documents().with_window(90),
    ] {
        let want = case.reference(&wide(&case.q), &wide(&case.k), &wide(&case.v));
        assert_close(&format!("{:?}", case.shape), &case.forward().0, &want, 2e-6);
    }
}

#[test]
fn backward_agrees_with_finite_differences_over_sizes_groups_masks_and_caches() {
    for case in [
        Case::new(1, 1, 0, 1, 1, 1),
        Case::new(2, 5, 0, 3, 1, 3),
        Case::new(1, 9, 0, 4, 2, 5),
        Case::new(1, 5, 130, 2, 1, 3),
        Case::new(1, 131, 0, 2, 1, 1).with_documents(),
        Case::new(1, 20, 0, 2, 2, 4).with_documents(),
        Case::new(2, 20, 0, 2, 1, 4).with_window(6),
        Case::new(1, 140, 0, 2, 2, 1).with_documents().with_window(9),
    ] {
        let (q, k, v, dout) = (wide(&case.q), wide(&case.k), wide(&case.v), wide(&case.dout));
        let old = [random(5, q.len()), random(6, k.len()), random(7, v.len())];
        let [mut dq, mut dk, mut dv] = old.clone();
        case.backward([&mut dq, &mut dk, &mut dv], true);
        let plus = |gradient: Vec<f64>, old: &[f32]| -> Vec<f64> { gradient.iter().zip(old).map(|(g, &o)| g + f64::from(o)).collect() };
        let what = format!("{:?}", case.shape);
        let want = finite_differences(&q, |q| dot(&case.reference(q, &k, &v), &dout));
        assert_close(&what, &dq, &plus(want, &old[0]), 3e-6);
        let want = finite_differences(&k, |k| dot(&case.reference(&q, k, &v), &dout));
        assert_close(&what, &dk, &plus(want, &old[1]), 3e-6);
        let want = finite_differences(&v, |v| dot(&case.reference(&q, &k, v), &dout));
        assert_close(&what, &dv, &plus(want, &old[2]), 3e-6);
    }
}

#[test]
fn backward_overwrites_unless_told_to_accumulate() {
    let case = Case::new(2, 70, 0, 3, 1, 8);
    let run = |start: f32, accumulate| {
        let mut d = [vec![start; case.q.len()], vec![start; case.k.len()], vec![start; case.v.len()]];
        let [dq, dk, dv] = &mut d;
        case.backward([dq, dk, dv], accumulate);
        bits(&d.concat())
    };
    assert_eq!(run(f32::NAN, false), run(0.0, true));
}

/// Values across many tiles, where finite differences would take too long: the gradients of all rows of a sequence of several key tiles
/// must be the sum of what each row alone gives.
#[test]
fn gradients_over_many_tiles_are_the_sum_of_each_rows_own() {
    let case = Case::new(1, 280, 0, 3, 1, 16).with_documents();
    let (mut dq, mut dk, mut dv) = (vec![0.0; case.q.len()], vec![0.0; case.k.len()], vec![0.0; case.v.len()]);
    case.backward([&mut dq, &mut dk, &mut dv], false);
    let starts = case.starts.clone().unwrap();
    let width = 3 * 16;
    let (mut sum_k, mut sum_v) = (vec![0.0f64; case.k.len()], vec![0.0f64; case.v.len()]);
    for i in 0..280 {
        let own = Case {
            shape: Shape { query_len: 1, past: i, ..case.shape },
            q: case.q[i * width..][..width].to_vec(),
            k: case.k[..(i + 1) * 16].to_vec(),
            v: case.v[..(i + 1) * 16].to_vec(),
            dout: case.dout[i * width..][..width].to_vec(),
            starts: Some(vec![starts[i]]),
        };
        let (mut q, mut k, mut v) = (vec![0.0; width], vec![0.0; own.k.len()], vec![0.0; own.v.len()]);
        own.backward([&mut q, &mut k, &mut v], false);
        assert_eq!(bits(&q), bits(&dq[i * width..][..width]), "query {i}");
        k.iter().enumerate().for_each(|(j, &g)| sum_k[j] += f64::from(g));
        v.iter().enumerate().for_each(|(j, &g)| sum_v[j] += f64::from(g));
    }
    assert_close("dk", &dk, &sum_k, 1e-6);
    assert_close("dv", &dv, &sum_v, 1e-6);
}

#[test]
fn a_row_has_the_same_bits_in_a_prefill_alone_with_a_cache_and_beside_other_sequences() {
    for case in
        [Case::new(2, 270, 0, 6, 2, 64), Case::new(2, 270, 0, 3, 1, 20).with_documents(), Case::new(2, 270, 0, 3, 1, 20).with_window(100)]
    {
        let whole = case.forward();
        let Shape { query_len, heads, kv_heads, head_dim, .. } = case.shape;
        let (width, kv_width, capacity) = (heads * head_dim, kv_heads * head_dim, query_len + 50);
        // One sequence's keys and values in a buffer with room for more, which holds NaN.
        let sequence = 1;
        let cache = |data: &[f32], tokens: usize| {
            let mut buffer = vec![f32::NAN; capacity * kv_width];
            let from = &data[sequence * query_len * kv_width..];
            buffer[..tokens * kv_width].copy_from_slice(&from[..tokens * kv_width]);
            buffer
        };
        for (past, len) in [(0, 1), (0, 100), (37, 1), (127, 1), (128, 1), (129, 3), (100, 170), (269, 1)] {
            let (k, v) = (cache(&case.k, past + len), cache(&case.v, past + len));
            let shape = Shape { batch: 1, query_len: len, past, ..case.shape };
            let first = sequence * query_len + past;
            let starts = case.starts.as_ref().map(|s| &s[first..][..len]);
            let (mut out, mut lse) = (vec![f32::NAN; len * width], vec![f32::NAN; len * heads]);
            let (k, v) = (Sequences::packed(&k, capacity, kv_width), Sequences::packed(&v, capacity, kv_width));
            forward(&shape, &case.q[first * width..][..len * width], k, v, starts, &mut out, Some(&mut lse));
            assert_eq!(bits(&out), bits(&whole.0[first * width..][..len * width]), "past {past}, {len} queries");
            assert_eq!(bits(&lse), bits(&whole.1[first * heads..][..len * heads]), "past {past}, {len} queries");
        }
    }
}

#[test]
fn a_window_hides_what_lies_further_back_and_nothing_where_it_is_wide_enough() {
    let shape = Case::new(2, 4, 3, 1, 1, 1).shape;
    let starts = |given: Option<&[u32]>, window| window_starts(&shape, given, window).map(|starts| starts.into_owned());
    assert_eq!((starts(None, None), starts(None, Some(7))), (None, None));
    assert_eq!(starts(None, Some(6)).unwrap(), [0, 0, 0, 1, 0, 0, 0, 1]);
    assert_eq!(starts(None, Some(2)).unwrap(), [2, 3, 4, 5, 2, 3, 4, 5]);
    let documents = [0, 4, 4, 4, 0, 0, 0, 6];
    assert_eq!(starts(Some(&documents), None).unwrap(), documents);
    assert_eq!(starts(Some(&documents), Some(2)).unwrap(), [2, 4, 4, 5, 2, 3, 4, 6]);
}

#[test]
fn bits_do_not_depend_on_the_thread_count() {
    let case = Case::new(3, 200, 0, 6, 2, 32).with_documents().with_window(80);
    assert_same_on_any_thread_count(|| {
        let mut d = [vec![0.0; case.q.len()], vec![0.0; case.k.len()], vec![0.0; case.v.len()]];
        let [dq, dk, dv] = &mut d;
        case.backward([dq, dk, dv], false);
        [case.forward().0, d.concat()].concat()
    });
}

#[test]
fn every_instruction_set_agrees_with_f64() {
    let case = Case::new(1, 140, 0, 4, 2, 24);
    let want = case.reference(&wide(&case.q), &wide(&case.k), &wide(&case.v));
    each_isa(|isa| assert_close(&format!("{isa:?}"), &case.forward().0, &want, 2e-6));
}
