use super::super::bf16::{from_bf16, round_to_bf16, to_bf16};
use super::super::isa::Isa;
use super::super::kernel::{Lhs, Sweep, kernel, sweep_portable_wide};
use super::super::operands::{as_u16, round_rows};
use super::super::packed::pack_panel;
use super::super::reference::each_isa;
use super::super::tiles::{Part, tests::Plain};
use super::*;

fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 2.0
        })
        .collect()
}

fn rounded(x: &[f32], precision: Precision) -> Vec<f64> {
    x.iter().map(|&v| f64::from(if precision == Precision::Bf16 { from_bf16(to_bf16(v)) } else { v })).collect()
}

/// `[m, k] · [k, n]` in f64 from row-major operands, plus `c`.
fn reference(m: usize, n: usize, k: usize, a: &[f64], b: &[f64], c: &[f32]) -> Vec<f64> {
    let mut out: Vec<f64> = c.iter().map(|&v| f64::from(v)).collect();
    for i in 0..m {
        for p in 0..k {
            for j in 0..n {
                out[i * n + j] += a[i * k + p] * b[p * n + j];
            }
        }
    }
    out
}

fn transpose(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns).map(|i| x[i % rows * columns + i / rows]).collect()
}

const SHAPES: [(usize, usize, usize); 9] =
    [(1, 1, 1), (1, 40, 33), (2, 17, 64), (7, 65, 321), (13, 128, 640), (200, 70, 100), (64, 192, 33), (300, 16, 7), (5, 900, 650)];

#[test]
fn products_equal_f64_reference_in_every_layout() {
    each_isa(|isa| {
        for (m, n, k) in SHAPES {
            let (a, b, c) = (values(m * k, 1), values(k * n, 2), values(m * n, 3));
            for precision in [Precision::F32, Precision::Bf16] {
                let expected = reference(m, n, k, &rounded(&a, precision), &rounded(&b, precision), &c);
                let (at, bt) = (transpose(&a, m, k), transpose(&b, k, n));
                let stride = k.next_multiple_of(bf16_depth_unit(isa));
                let mut bits = vec![0u16; m * stride];
                a.chunks(k).zip(bits.chunks_mut(stride)).for_each(|(x, o)| round_to_bf16(x, &mut o[..k]));
                let packed = Packed::from_weight(&bt, n, k, precision);
                let back = Packed::from_weight(&b, k, n, precision).transposed();
                let lefts: &[Left<'_>] = if precision == Precision::Bf16 {
                    &[Left::F32(View::rows(&a, k)), Left::F32(View::rows(&at, m).t()), Left::Bf16 { data: &bits, stride }]
                } else {
                    &[Left::F32(View::rows(&a, k)), Left::F32(View::rows(&at, m).t())]
                };
                let rights = [
                    Right::Packed(&packed),
                    Right::Packed(&back),
                    Right::F32(View::rows(&b, n), precision),
                    Right::F32(View::rows(&bt, k).t(), precision),
                ];
                let mut first: Option<Vec<f32>> = None;
                for &left in lefts {
                    for &right in &rights {
                        let mut out = c.clone();
                        gemm(m, n, k, left, right, &mut out, n, true);
                        for (o, e) in out.iter().zip(&expected) {
                            assert!((f64::from(*o) - e).abs() < 1e-6 * (k as f64 + 10.0), "{isa:?}: {m} {n} {k} {precision:?}: {o} {e}");
                        }
                        assert_eq!(
                            first.get_or_insert_with(|| out.clone()),
                            &out,
                            "{isa:?}: layouts differ in bits: {m} {n} {k} {precision:?}"
                        );
                    }
                }
            }
        }
    });
}

#[test]
fn bits_do_not_depend_on_other_rows_columns_or_threads() {
    let (m, n, k) = (203, 210, 650);
    let (a, b) = (values(m * k, 4), values(k * n, 5));
    for precision in [Precision::F32, Precision::Bf16] {
        let all = |threads: usize| {
            let mut c = vec![0.0; m * n];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| gemm(m, n, k, Left::F32(View::rows(&a, k)), Right::F32(View::rows(&b, n), precision), &mut c, n, false));
            c
        };
        let whole = all(1);
        assert_eq!(whole, all(2));
        assert_eq!(whole, all(4));
        for row in [0, 5, 191, 202] {
            let mut c = vec![0.0; 150];
            let line = Left::F32(View::rows(&a[row * k..][..k], k));
            gemm(1, 150, k, line, Right::F32(View::rows(&b, n), precision), &mut c, 150, false);
            assert_eq!(c, whole[row * n..][..150], "row {row}");
        }
    }
}

#[test]
fn a_sum_of_products_has_the_bits_of_one_product_after_the_other() {
    each_isa(|isa| {
        let sizes =
            [(7, 65, vec![33, 0, 40]), (200, 130, vec![640, 64]), (1100, 70, vec![64, 9, 100]), (90, 48, vec![576, 16, 192, 16, 1300, 64])];
        for (m, n, ks) in sizes {
            for precision in [Precision::F32, Precision::Bf16] {
                let start = values(m * n, 3);
                let operands: Vec<_> = ks.iter().map(|&k| (k, values(k * m, 1 + k as u64), values(k * n, 2 + k as u64))).collect();
                let shared: Vec<_> =
                    operands.iter().map(|(k, a, _)| Shared::new(View::rows(a, m).t(), if *k > 0 { m } else { 0 }, *k, precision)).collect();
                for accumulate in [false, true] {
                    let (mut one_by_one, mut sum) = (start.clone(), start.clone());
                    for (i, (k, a, b)) in operands.iter().enumerate() {
                        let (left, right) = (Left::F32(View::rows(a, m).t()), Right::F32(View::rows(b, n), precision));
                        gemm(m, n, *k, left, right, &mut one_by_one, n, accumulate || i > 0);
                    }
                    let terms: Vec<_> = operands
                        .iter()
                        .zip(&shared)
                        .map(|((k, _, b), a)| Term { k: *k, left: a.left(), right: Right::F32(View::rows(b, n), precision) })
                        .collect();
                    gemm_sum(m, n, &terms, &mut sum, n, accumulate);
                    assert!(one_by_one == sum, "{isa:?}, {precision:?}: [{m}, {n}], {ks:?}, accumulate {accumulate}");
                }
            }
        }
    });
}

#[test]
fn packed_columns_are_the_weight_rows() {
    let (rows, columns) = (37, 19);
    let w = values(rows * columns, 6);
    for precision in [Precision::F32, Precision::Bf16] {
        let packed = Packed::from_weight(&w, rows, columns, precision);
        let mut out = vec![0.0; columns];
        for r in 0..rows {
            packed.column(r, &mut out);
            let expected: Vec<f32> = rounded(&w[r * columns..][..columns], precision).iter().map(|&v| v as f32).collect();
            assert_eq!(out, expected);
        }
        let mut turned = vec![0.0; rows];
        packed.transposed().column(3, &mut turned);
        let expected: Vec<f32> = (0..rows).map(|r| rounded(&w[r * columns + 3..][..1], precision)[0] as f32).collect();
        assert_eq!(turned, expected);
    }
}

/// The AVX-512 tiles, panels of 64 columns of which any number is there, f32 or pairs, without AVX-512.
#[test]
fn wide_tiles_index_their_operands_like_the_narrow_ones() {
    let (k, width) = (30, 64);
    for (m, n) in [(11, 50), (7, 64), (29, 16), (25, 9), (19, 32), (13, 20), (8, 48)] {
        let (a, b) = (values(m * k, 8), values(k * n, 9));
        let sweep = |precision: Precision, lhs: Lhs, depth: usize| {
            let (mut panel, mut c) = (vec![0u32; width * k], vec![0.0; m * n]);
            pack_panel(View::rows(&b, n), 0, n, k, width, precision, &mut panel);
            let sweep = Sweep { lhs, rows: m, depth, panel: panel.as_ptr(), c: c.as_mut_ptr(), c_stride: n, columns: n, accumulate: false };
            // SAFETY: all operands live and have the sizes named.
            unsafe { sweep_portable_wide(&sweep) };
            let expected = reference(m, n, k, &rounded(&a, precision), &rounded(&b, precision), &vec![0.0; m * n]);
            assert!(c.iter().zip(&expected).all(|(o, e)| (f64::from(*o) - e).abs() < 1e-5), "{precision:?}, [{m}, {n}]");
        };
        sweep(Precision::F32, Lhs::F32 { data: a.as_ptr(), stride: k }, k);
        let mut bits = vec![0u16; m * k];
        round_to_bf16(&a, &mut bits);
        let pairs: Vec<u32> = bits.chunks(2).map(|p| u32::from(p[0]) | (u32::from(p[1]) << 16)).collect();
        sweep(Precision::Bf16, Lhs::Pairs { data: pairs.as_ptr(), stride: k / 2 }, k / 2);
    }
}

/// Vectors of a panel that hold no column are left out, and tiles have more rows then: neither changes a bit.
#[test]
fn narrow_results_have_the_bits_of_wide_ones() {
    each_isa(|isa| {
        let (m, n, k) = (31, 64, 300);
        let (a, b) = (values(m * k, 4), values(k * n, 5));
        for precision in [Precision::F32, Precision::Bf16] {
            let product = |m: usize, n_of: usize| {
                let mut c = vec![0.0; m * n_of];
                gemm(m, n_of, k, Left::F32(View::rows(&a, k)), Right::F32(View::rows(&b, n), precision), &mut c, n_of, false);
                c
            };
            let whole = product(m, n);
            for columns in [1, 15, 16, 17, 31, 32, 33, 48, 50] {
                for rows in [1, 6, 12, 13, 17, 18, 24, 31] {
                    let narrow = product(rows, columns);
                    let same = narrow.chunks(columns).zip(whole.chunks(n)).all(|(narrow, whole)| narrow == &whole[..columns]);
                    assert!(same, "{isa:?}, {precision:?}: {rows} rows, {columns} columns");
                }
            }
        }
    });
}

/// What is asked of the tile unit, without one: whole and single tiles of rows, whole, single and partial ones of columns, one part and several.
#[test]
fn tiles_index_their_operands_like_vectors() {
    let sizes = [
        (1, 1, vec![1]),
        (16, 32, vec![32]),
        (17, 33, vec![33]),
        (32, 64, vec![64, 31]),
        (77, 50, vec![110, 32, 5]),
        (40, 48, vec![14]),
        (33, 16, vec![1, 64]),
        (20, 7, vec![96]),
    ];
    for (m, n, depths) in sizes {
        let mut operands = Vec::new();
        for &k in &depths {
            let (a, b, stride) = (values(m * k, 8 + k as u64), values(k * n, 9 + k as u64), k.next_multiple_of(tiles::DEPTH));
            let mut words = vec![0u32; m * stride / 2];
            round_rows(View::rows(&a, k), 0, 0, k, as_u16(&mut words), stride);
            let mut panel = vec![u32::MAX; 64 * stride / 2];
            pack_panel(View::rows(&b, n), 0, n, k, 64, Precision::Bf16, &mut panel);
            operands.push((a, b, k, stride, words, panel));
        }
        let mut parts = Vec::new();
        for (_, _, _, stride, words, panel) in &operands {
            parts.push(Part { a: words.as_ptr(), a_stride: stride / 2, panel: panel.as_ptr(), steps: stride / tiles::DEPTH });
        }
        let start = values(m * (n + 3), 10);
        let mut product = vec![0.0; m * n];
        for (a, b, k, ..) in &operands {
            let one = reference(m, n, *k, &rounded(a, Precision::Bf16), &rounded(b, Precision::Bf16), &vec![0.0; m * n]);
            product.iter_mut().zip(one).for_each(|(sum, one)| *sum += one);
        }
        for accumulate in [false, true] {
            let mut c = start.clone();
            // SAFETY: all operands live and have the sizes named.
            unsafe { tiles::sweep::<Plain>(&parts, (m, n), (c.as_mut_ptr(), n + 3), accumulate) };
            for (i, (&found, &before)) in c.iter().zip(&start).enumerate() {
                let (row, column) = (i / (n + 3), i % (n + 3));
                if column >= n {
                    assert_eq!(found, before, "[{m}, {n}, {depths:?}]: beyond the columns of row {row}");
                } else {
                    let want = product[row * n + column] + if accumulate { f64::from(before) } else { 0.0 };
                    assert!((f64::from(found) - want).abs() < 2e-5, "[{m}, {n}, {depths:?}] at {row}, {column}: {found}, {want}");
                }
            }
        }
    }
}

/// Processor seconds of this process, all threads: what a shared machine leaves comparable.
fn cpu_seconds() -> f64 {
    let mut total = 0.0;
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let line = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        total += line.split(' ').next().and_then(|v| v.parse::<f64>().ok()).unwrap_or(0.0) / 1e9;
    }
    total
}

#[test]
#[ignore = "a measurement, not a check: cargo test --release gemm_speed -- --ignored --nocapture"]
fn gemm_speed() {
    for (m, n, k) in
        [(1024, 576, 576), (1024, 1536, 576), (1024, 576, 1536), (1024, 64, 576), (256, 49152, 576), (576, 64, 1024), (1, 1536, 576)]
    {
        let (a, w) = (values(m * k, 1), values(n * k, 2));
        for precision in [Precision::F32, Precision::Bf16] {
            let packed = Packed::from_weight(&w, n, k, precision);
            let mut c = vec![0.0; m * n];
            let mut time = |f: &mut dyn FnMut(&mut [f32])| {
                let mut best = f64::MAX;
                for _ in 0..5 {
                    let t = cpu_seconds();
                    f(&mut c);
                    best = best.min(cpu_seconds() - t);
                }
                2.0 * (m * n * k) as f64 / best / 1e9
            };
            let frozen = time(&mut |c| gemm(m, n, k, Left::F32(View::rows(&a, k)), Right::Packed(&packed), c, n, false));
            let trained =
                time(&mut |c| gemm(m, n, k, Left::F32(View::rows(&a, k)), Right::F32(View::rows(&w, k).t(), precision), c, n, false));
            let at = transpose(&a, m, k);
            let turned =
                time(&mut |c| gemm(m, n, k, Left::F32(View::rows(&at, m).t()), Right::F32(View::rows(&w, n), precision), c, n, true));
            println!(
                "{m:>5} x {n:>5} x {k:>5} {precision:?}: packed {frozen:.0}, on the way {trained:.0}, both turned {turned:.0} GFLOP/s"
            );
        }
    }
}

#[test]
#[ignore = "a measurement"]
fn sweep_speed() {
    for (rows, depth) in [(6, 288), (24, 288), (192, 288), (192, 64)] {
        let a = values(rows * depth, 1);
        let width = panel_width(Isa::current());
        let panel = vec![Line([0; 16]); depth * width / 16];
        let mut c = vec![0.0f32; rows * width];
        let lhs = Lhs::F32 { data: a.as_ptr(), stride: depth };
        let s =
            Sweep { lhs, rows, depth, panel: panel.as_ptr().cast(), c: c.as_mut_ptr(), c_stride: width, columns: width, accumulate: true };
        let run = kernel(Isa::current());
        let reps = 200_000_000 / (rows * depth * width) * 4;
        let t = cpu_seconds();
        for _ in 0..reps {
            unsafe { run(&s) };
        }
        let e = cpu_seconds() - t;
        println!("{rows} rows, depth {depth}: {:.1} GFLOP/s", 2.0 * (rows * depth * width * reps) as f64 / e / 1e9);
    }
}
