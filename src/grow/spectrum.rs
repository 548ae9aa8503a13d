//! The main directions of a weight, from the eigenvectors of its smaller Gram matrix.
//!
//! For `W [m, n] = U S Vᵀ` the wanted rows are `S Vᵀ = Uᵀ W`. They follow from `WᵀW = V S² Vᵀ` where `n ≤ m` and from `WWᵀ = U S² Uᵀ` otherwise,
//! always in f64: squaring loses half the digits, and half of f64 is more than the f32 weights have. Every sum has a fixed order,
//! so the result depends neither on the number of threads nor on what else runs.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use rayon::prelude::*;

use crate::error::{Error, Result};

/// Rows turned into f64 at a time.
const CHUNK: usize = 512;

/// Partial sums of a Gram matrix: a constant, so that the order of its sums does not depend on the number of threads.
const STRANDS: usize = 8;

/// The first `count` rows of `S Vᵀ` of `weight`, largest singular value first; the largest component of each row is positive.
///
/// # Shapes
/// `weight`: `[rows, columns]`; the result: `[min(count, rows, columns), columns]`.
///
/// # Errors
/// [`Error::Numeric`] where the weight holds values that are not finite.
pub fn scaled_right_vectors(weight: &[f32], rows: usize, columns: usize, count: usize) -> Result<Vec<f32>> {
    debug_assert_eq!(weight.len(), rows * columns);
    let count = count.min(rows).min(columns);
    if count == 0 {
        return Ok(Vec::new());
    }
    let mut top = Mat::<f64>::zeros(columns, count);
    if columns <= rows {
        let (values, vectors) = eigen(gram(weight, rows, columns))?;
        for i in 0..count {
            let from = columns - 1 - i;
            let sigma = values[from].max(0.0).sqrt();
            for j in 0..columns {
                top[(j, i)] = sigma * vectors[(j, from)];
            }
        }
    } else {
        // `weight` is row-major, so read by columns it is `Wᵀ`; `W Wᵀ` is the Gram matrix of its columns.
        let transposed = to_f64(weight, rows, columns);
        let mut products = Mat::<f64>::zeros(rows, rows);
        matmul(products.as_mut(), Accum::Replace, transposed.transpose(), transposed.as_ref(), 1.0, Par::Seq);
        let (_, vectors) = eigen(products)?;
        let mut chosen = Mat::<f64>::zeros(rows, count);
        for i in 0..count {
            for j in 0..rows {
                chosen[(j, i)] = vectors[(j, rows - 1 - i)];
            }
        }
        matmul(top.as_mut(), Accum::Replace, transposed.as_ref(), chosen.as_ref(), 1.0, Par::Seq);
    }
    let mut out = Vec::with_capacity(count * columns);
    for i in 0..count {
        let sign = sign_of_largest((0..columns).map(|j| top[(j, i)]));
        out.extend((0..columns).map(|j| (sign * top[(j, i)]) as f32));
    }
    Ok(out)
}

/// `W V_count`: the rows of `weight` seen along its own `count` main directions, each direction's largest component positive.
/// Parallel over blocks of rows; made for embeddings, which have many rows.
///
/// # Shapes
/// `weight`: `[rows, columns]`; the result: `[rows, count]`, where `count ≤ columns`.
///
/// # Errors
/// [`Error::Numeric`] where the weight holds values that are not finite.
pub fn projected_on_right_vectors(weight: &[f32], rows: usize, columns: usize, count: usize) -> Result<Vec<f32>> {
    debug_assert_eq!(weight.len(), rows * columns);
    debug_assert!(count <= columns);
    if rows == 0 || count == 0 {
        return Ok(Vec::new());
    }
    let (_, vectors) = eigen(gram(weight, rows, columns))?;
    let mut basis = Mat::<f64>::zeros(columns, count);
    for i in 0..count {
        let from = columns - 1 - i;
        let sign = sign_of_largest((0..columns).map(|j| vectors[(j, from)]));
        for j in 0..columns {
            basis[(j, i)] = sign * vectors[(j, from)];
        }
    }
    let mut out = vec![0.0; rows * count];
    out.par_chunks_mut(CHUNK * count).zip(weight.par_chunks(CHUNK * columns)).for_each(|(out, weight)| {
        let chunk = to_f64(weight, weight.len() / columns, columns);
        let mut product = Mat::<f64>::zeros(count, chunk.ncols());
        matmul(product.as_mut(), Accum::Replace, basis.transpose(), chunk.as_ref(), 1.0, Par::Seq);
        for (row, out) in out.chunks_exact_mut(count).enumerate() {
            for (i, out) in out.iter_mut().enumerate() {
                *out = product[(i, row)] as f32;
            }
        }
    });
    Ok(out)
}

/// The transpose of row-major values, as a column-major matrix `[columns, rows]`.
fn to_f64(values: &[f32], rows: usize, columns: usize) -> Mat<f64> {
    Mat::from_fn(columns, rows, |j, i| f64::from(values[i * columns + j]))
}

/// `WᵀW`, `[columns, columns]`.
fn gram(weight: &[f32], rows: usize, columns: usize) -> Mat<f64> {
    let strands = rows.div_ceil(CHUNK).min(STRANDS);
    let partial: Vec<Mat<f64>> = (0..strands)
        .into_par_iter()
        .map(|strand| {
            let mut sum = Mat::<f64>::zeros(columns, columns);
            for chunk in weight.chunks(CHUNK * columns).skip(strand).step_by(strands) {
                let chunk = to_f64(chunk, chunk.len() / columns, columns);
                matmul(sum.as_mut(), Accum::Add, chunk.as_ref(), chunk.transpose(), 1.0, Par::Seq);
            }
            sum
        })
        .collect();
    let mut partial = partial.into_iter();
    let mut sum = partial.next().unwrap_or_else(|| Mat::zeros(columns, columns));
    for other in partial {
        sum += other;
    }
    sum
}

/// Eigenvalues of a symmetric matrix, ascending, and its eigenvectors in columns.
fn eigen(matrix: Mat<f64>) -> Result<(Vec<f64>, Mat<f64>)> {
    let n = matrix.nrows();
    let all_finite = |m: MatRef<'_, f64>| m.col_iter().all(|c| c.iter().all(|x| x.is_finite()));
    let failed = || Error::Numeric("the directions of a weight that holds values that are not finite cannot be computed".into());
    if !all_finite(matrix.as_ref()) {
        return Err(failed());
    }
    let mut values = Diag::<f64>::zeros(n);
    let mut vectors = Mat::<f64>::zeros(n, n);
    let scratch = self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, Par::Seq, Default::default());
    self_adjoint_evd(
        matrix.as_ref(),
        values.as_mut(),
        Some(vectors.as_mut()),
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(scratch)),
        Default::default(),
    )
    .map_err(|_| failed())?;
    Ok((values.column_vector().iter().copied().collect(), vectors))
}

/// 1 or −1: what makes the component of largest magnitude (the first of equals) positive.
fn sign_of_largest(components: impl Iterator<Item = f64>) -> f64 {
    let largest = components.fold(0.0f64, |best, x| if x.abs() > best.abs() { x } else { best });
    if largest < 0.0 { -1.0 } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;
    use rand_distr::{Distribution, StandardNormal};

    fn random(rows: usize, columns: usize, seed: u64) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..rows * columns).map(|_| StandardNormal.sample(&mut rng)).collect()
    }

    fn dot(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    }

    /// The full set `R = S Vᵀ` keeps `RᵀR = WᵀW`, has orthogonal rows of falling length, and is determined by that up to signs.
    #[test]
    fn rows_are_the_scaled_right_vectors() {
        for (rows, columns) in [(40, 24), (24, 40), (17, 17), (1, 9), (9, 1), (1200, 13)] {
            let weight = random(rows, columns, 7);
            let count = rows.min(columns);
            let top = scaled_right_vectors(&weight, rows, columns, usize::MAX).unwrap();
            assert_eq!(top.len(), count * columns);
            let row = |i: usize| &top[i * columns..(i + 1) * columns];
            let scale = dot(row(0), row(0));
            for i in 0..count {
                for j in 0..i {
                    assert!(dot(row(i), row(j)).abs() < 1e-5 * scale, "rows {i} and {j} of {rows}×{columns} are not orthogonal");
                }
                assert!(i == 0 || dot(row(i), row(i)) <= dot(row(i - 1), row(i - 1)) * (1.0 + 1e-6));
            }
            for a in 0..columns {
                for b in 0..columns {
                    let wanted: f64 = (0..rows).map(|i| f64::from(weight[i * columns + a]) * f64::from(weight[i * columns + b])).sum();
                    let found: f64 = (0..count).map(|i| f64::from(row(i)[a]) * f64::from(row(i)[b])).sum();
                    assert!((wanted - found).abs() < 1e-5 * scale, "{rows}×{columns} ({a}, {b}): {wanted} {found}");
                }
            }
        }
    }

    /// faer's own thin SVD takes another way to the same values and directions.
    #[test]
    fn rows_agree_with_a_direct_svd_up_to_sign() {
        for (rows, columns) in [(48, 20), (20, 48)] {
            let weight = random(rows, columns, 3);
            let matrix = Mat::from_fn(rows, columns, |i, j| f64::from(weight[i * columns + j]));
            let svd = matrix.thin_svd().unwrap();
            let top = scaled_right_vectors(&weight, rows, columns, 6).unwrap();
            for i in 0..6 {
                let sigma = svd.S().column_vector()[i];
                let wanted: Vec<f64> = (0..columns).map(|j| sigma * svd.V()[(j, i)]).collect();
                let sign = sign_of_largest(wanted.iter().copied());
                for j in 0..columns {
                    assert!((sign * wanted[j] - f64::from(top[i * columns + j])).abs() < 1e-4, "{rows}×{columns} row {i} column {j}");
                }
            }
        }
    }

    #[test]
    fn the_largest_component_of_every_row_is_positive() {
        for (rows, columns) in [(40, 24), (24, 40)] {
            let top = scaled_right_vectors(&random(rows, columns, 11), rows, columns, 12).unwrap();
            for row in top.chunks_exact(columns) {
                let largest = row.iter().copied().fold(0.0f32, |best, x| if x.abs() > best.abs() { x } else { best });
                assert!(largest > 0.0);
            }
        }
    }

    #[test]
    fn fewer_rows_are_the_first_of_more() {
        let weight = random(30, 50, 5);
        let all = scaled_right_vectors(&weight, 30, 50, 30).unwrap();
        assert_eq!(scaled_right_vectors(&weight, 30, 50, 7).unwrap(), all[..7 * 50]);
    }

    /// `E V` of all directions is a rotation of `E`: inner products of rows stay.
    #[test]
    fn projection_on_all_directions_keeps_inner_products() {
        let (rows, columns) = (1100, 10);
        let weight = random(rows, columns, 9);
        let projected = projected_on_right_vectors(&weight, rows, columns, columns).unwrap();
        for (a, b) in [(0, 0), (0, 1099), (511, 512), (700, 3)] {
            let wanted = dot(&weight[a * columns..][..columns], &weight[b * columns..][..columns]);
            let found = dot(&projected[a * columns..][..columns], &projected[b * columns..][..columns]);
            assert!((wanted - found).abs() < 1e-4, "{wanted} {found}");
        }
    }

    /// Columns of `E V` are orthogonal, their squared lengths the largest eigenvalues of `EᵀE`, in falling order.
    #[test]
    fn projected_columns_are_orthogonal_and_fall_in_length() {
        let (rows, columns, count) = (600, 16, 5);
        let weight = random(rows, columns, 13);
        let projected = projected_on_right_vectors(&weight, rows, columns, count).unwrap();
        let column = |i: usize| projected.iter().skip(i).step_by(count).copied().collect::<Vec<f32>>();
        let singular = scaled_right_vectors(&weight, rows, columns, count).unwrap();
        for i in 0..count {
            let wanted = dot(&singular[i * columns..][..columns], &singular[i * columns..][..columns]);
            assert!((dot(&column(i), &column(i)) - wanted).abs() < 1e-5 * wanted);
            for j in 0..i {
                assert!(dot(&column(i), &column(j)).abs() < 1e-4 * wanted);
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_the_number_of_threads() {
        let weight = random(3000, 20, 17);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                (projected_on_right_vectors(&weight, 3000, 20, 8).unwrap(), scaled_right_vectors(&weight, 3000, 20, 8).unwrap())
            })
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn a_weight_that_is_not_finite_is_refused() {
        let mut weight = random(12, 8, 1);
        weight[5] = f32::NAN;
        assert!(matches!(scaled_right_vectors(&weight, 12, 8, 4), Err(Error::Numeric(_))));
        assert!(matches!(projected_on_right_vectors(&weight, 12, 8, 4), Err(Error::Numeric(_))));
    }
}
