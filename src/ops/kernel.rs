//! Register tiles of the matrix product, written once over a vector type and compiled for each instruction set.
//!
//! Every element of the result is one chain of multiply-adds over `k` in rising order: its bits depend on its row of `A`, its column of `B`
//! and `k`, never on the rows and columns beside it. That is what lets a widened model keep its base bit for bit.

// Tiles are indexed so that they unroll into registers.
#![allow(clippy::needless_range_loop)]

use super::isa::Isa;

/// Rows of a register tile; twice as many where columns fill only one or two vectors of a wider panel.
pub(super) const TILE_ROWS: usize = 6;

/// The left operand of a sweep.
#[derive(Clone, Copy)]
pub(super) enum Lhs {
    /// f32, a row every `stride` values.
    F32 { data: *const f32, stride: usize },
    /// bf16 in pairs along `k`, a row every `stride` pairs; only where [`reads_pairs`].
    Pairs { data: *const u32, stride: usize },
    /// f32 transposed: a column every `stride` values.
    TurnedF32 { data: *const f32, stride: usize },
    /// bf16 pairs transposed: a column of pairs every `stride` pairs; only where [`reads_pairs`].
    TurnedPairs { data: *const u32, stride: usize },
}

/// Multiplies `rows` rows of `A` by one panel of `B` over one block of `k`.
pub(super) struct Sweep {
    pub(super) lhs: Lhs,
    pub(super) rows: usize,
    /// Length of the block: values for f32, pairs for bf16.
    pub(super) depth: usize,
    /// `[depth][width]` of f32 or of pairs, like the left operand.
    pub(super) panel: *const u32,
    pub(super) c: *mut f32,
    pub(super) c_stride: usize,
    /// Columns of the panel that exist.
    pub(super) columns: usize,
    /// Whether to add to `c`.
    pub(super) accumulate: bool,
}

/// The vector operations a tile needs.
trait Simd: Copy {
    type Vector: Copy;
    const LANES: usize;
    unsafe fn zero() -> Self::Vector;
    unsafe fn load(from: *const f32) -> Self::Vector;
    unsafe fn store(to: *mut f32, v: Self::Vector);
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn splat(from: *const f32) -> Self::Vector;
    unsafe fn multiply_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// `c + a.low * b.low + a.high * b.high` with the pair at `a` in every lane.
    unsafe fn dot_pairs(a: *const u32, b: Self::Vector, c: Self::Vector) -> Self::Vector;
}

/// Arrays that the compiler maps to whatever there is; `N` lanes, so that the wide layouts can be tested anywhere.
#[derive(Clone, Copy)]
struct Portable<const N: usize>;

impl<const N: usize> Simd for Portable<N> {
    type Vector = [f32; N];
    const LANES: usize = N;
    #[inline(always)]
    unsafe fn zero() -> [f32; N] {
        [0.0; N]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; N] {
        // SAFETY: the caller's panel or tile has N values here.
        unsafe { from.cast::<[f32; N]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: [f32; N]) {
        // SAFETY: as in `load`.
        unsafe { to.cast::<[f32; N]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn add(a: [f32; N], b: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn splat(from: *const f32) -> [f32; N] {
        // SAFETY: the caller's row has a value here.
        [unsafe { from.read_unaligned() }; N]
    }
    #[inline(always)]
    unsafe fn multiply_add(a: [f32; N], b: [f32; N], c: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn dot_pairs(a: *const u32, b: [f32; N], c: [f32; N]) -> [f32; N] {
        // SAFETY: the caller's row has a pair here.
        let halves = |pair: u32| (f32::from_bits(pair << 16), f32::from_bits(pair & 0xffff_0000));
        let (low, high) = halves(unsafe { a.read_unaligned() });
        std::array::from_fn(|i| {
            let b = halves(b[i].to_bits());
            c[i] + low * b.0 + high * b.1
        })
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Simd;
    use std::arch::x86_64::*;

    #[derive(Clone, Copy)]
    pub(super) struct Avx2;

    // SAFETY (all methods): called only from functions compiled with the features, on pointers the sweep owns.
    impl Simd for Avx2 {
        type Vector = __m256;
        const LANES: usize = 8;
        #[inline(always)]
        unsafe fn zero() -> __m256 {
            unsafe { _mm256_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: __m256) {
            unsafe { _mm256_storeu_ps(to, v) }
        }
        #[inline(always)]
        unsafe fn add(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn splat(from: *const f32) -> __m256 {
            unsafe { _mm256_broadcast_ss(&*from) }
        }
        #[inline(always)]
        unsafe fn multiply_add(a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn dot_pairs(_: *const u32, _: __m256, c: __m256) -> __m256 {
            debug_assert!(false, "AVX2 does not multiply bf16");
            c
        }
    }

    #[derive(Clone, Copy)]
    pub(super) struct Avx512;

    // SAFETY (all methods): as above.
    impl Simd for Avx512 {
        type Vector = __m512;
        const LANES: usize = 16;
        #[inline(always)]
        unsafe fn zero() -> __m512 {
            unsafe { _mm512_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: __m512) {
            unsafe { _mm512_storeu_ps(to, v) }
        }
        #[inline(always)]
        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn splat(from: *const f32) -> __m512 {
            unsafe { _mm512_set1_ps(*from) }
        }
        #[inline(always)]
        unsafe fn multiply_add(a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn dot_pairs(a: *const u32, b: __m512, c: __m512) -> __m512 {
            unsafe {
                let pair: __m512bh = std::mem::transmute(_mm512_set1_epi32(a.cast::<i32>().read_unaligned()));
                let panel: __m512bh = std::mem::transmute(b);
                _mm512_dpbf16_ps(c, pair, panel)
            }
        }
    }
}

/// One line of a panel. A plain loop: closures would not inherit the caller's instruction set.
#[inline(always)]
unsafe fn load_line<S: Simd, const V: usize>(line: *const f32) -> [S::Vector; V] {
    // SAFETY: a line has `V * S::LANES` values.
    unsafe {
        let mut b = [S::zero(); V];
        for (v, b) in b.iter_mut().enumerate() {
            *b = S::load(line.add(v * S::LANES));
        }
        b
    }
}

/// `R` rows by `V` vectors of an f32 product, over the whole block, with panels `P` vectors wide; `TURNED` where a row of the tile is a column of `data`.
///
/// # Safety
/// The sweep's pointers cover `R` rows from `row`, the panel and the result.
#[inline(always)]
unsafe fn tile_f32<S: Simd, const R: usize, const V: usize, const P: usize, const TURNED: bool>(
    s: &Sweep,
    data: *const f32,
    stride: usize,
    row: usize,
) {
    let (row_step, depth_step) = if TURNED { (1, stride) } else { (stride, 1) };
    // SAFETY: offsets stay within what the caller vouches for.
    unsafe {
        let mut sums = [[S::zero(); V]; R];
        let mut a = data.add(row * row_step);
        let mut line = s.panel.cast::<f32>();
        for _ in 0..s.depth {
            let b = load_line::<S, V>(line);
            for r in 0..R {
                let a = S::splat(a.add(r * row_step));
                for v in 0..V {
                    sums[r][v] = S::multiply_add(a, b[v], sums[r][v]);
                }
            }
            a = a.wrapping_add(depth_step);
            line = line.add(P * S::LANES);
        }
        finish::<S, R, V>(s, row, &sums);
    }
}

/// `R` rows by `V` vectors of a bf16 product, over the whole block; `P` and `TURNED` as in [`tile_f32`].
///
/// # Safety
/// As [`tile_f32`].
#[inline(always)]
unsafe fn tile_pairs<S: Simd, const R: usize, const V: usize, const P: usize, const TURNED: bool>(
    s: &Sweep,
    data: *const u32,
    stride: usize,
    row: usize,
) {
    let (row_step, depth_step) = if TURNED { (1, stride) } else { (stride, 1) };
    // SAFETY: as in `tile_f32`.
    unsafe {
        let mut sums = [[S::zero(); V]; R];
        let mut a = data.add(row * row_step);
        let mut line = s.panel.cast::<f32>();
        for _ in 0..s.depth {
            let b = load_line::<S, V>(line);
            for r in 0..R {
                for v in 0..V {
                    sums[r][v] = S::dot_pairs(a.add(r * row_step), b[v], sums[r][v]);
                }
            }
            a = a.wrapping_add(depth_step);
            line = line.add(P * S::LANES);
        }
        finish::<S, R, V>(s, row, &sums);
    }
}

/// Stores or adds a tile's sums.
///
/// # Safety
/// As [`tile_f32`].
#[inline(always)]
unsafe fn finish<S: Simd, const R: usize, const V: usize>(s: &Sweep, row: usize, sums: &[[S::Vector; V]; R]) {
    // SAFETY: as in `tile_f32`.
    unsafe {
        let c = s.c.add(row * s.c_stride);
        if s.columns == V * S::LANES {
            for r in 0..R {
                for v in 0..V {
                    let to = c.add(r * s.c_stride + v * S::LANES);
                    S::store(to, if s.accumulate { S::add(S::load(to), sums[r][v]) } else { sums[r][v] });
                }
            }
        } else {
            let mut line = [0.0f32; 64];
            for r in 0..R {
                for v in 0..V {
                    S::store(line.as_mut_ptr().add(v * S::LANES), sums[r][v]);
                }
                for (j, &sum) in line[..s.columns].iter().enumerate() {
                    let to = c.add(r * s.c_stride + j);
                    *to = if s.accumulate { *to + sum } else { sum };
                }
            }
        }
    }
}

/// `R` rows of a sweep.
///
/// # Safety
/// As [`tile_f32`].
#[inline(always)]
unsafe fn tile<S: Simd, const R: usize, const V: usize, const P: usize>(s: &Sweep, row: usize) {
    // SAFETY: the caller's.
    unsafe {
        match s.lhs {
            Lhs::F32 { data, stride } => tile_f32::<S, R, V, P, false>(s, data, stride, row),
            Lhs::TurnedF32 { data, stride } => tile_f32::<S, R, V, P, true>(s, data, stride, row),
            Lhs::Pairs { data, stride } => tile_pairs::<S, R, V, P, false>(s, data, stride, row),
            Lhs::TurnedPairs { data, stride } => tile_pairs::<S, R, V, P, true>(s, data, stride, row),
        }
    }
}

/// All rows of a sweep, `V` vectors of its panel; in tiles of `R` rows while there are as many.
///
/// # Safety
/// As [`sweep`].
#[inline(always)]
unsafe fn rows<S: Simd, const R: usize, const V: usize, const P: usize>(s: &Sweep) {
    let mut row = 0;
    // SAFETY: each tile's rows lie within the sweep's.
    unsafe {
        while row + R <= s.rows {
            tile::<S, R, V, P>(s, row);
            row += R;
        }
        if row + TILE_ROWS <= s.rows {
            tile::<S, TILE_ROWS, V, P>(s, row);
            row += TILE_ROWS;
        }
        match s.rows - row {
            1 => tile::<S, 1, V, P>(s, row),
            2 => tile::<S, 2, V, P>(s, row),
            3 => tile::<S, 3, V, P>(s, row),
            4 => tile::<S, 4, V, P>(s, row),
            5 => tile::<S, 5, V, P>(s, row),
            _ => {}
        }
    }
}

/// A whole sweep with panels `P` vectors wide. Vectors of a panel that hold no column are left out: a ring, and a low-rank part still more, is narrower than a wide
/// processor's panel. Twice the rows then, or there were too few sums to keep the multipliers busy.
///
/// # Safety
/// The sweep's pointers cover its rows, depth and columns, with panels `P * S::LANES` wide.
#[inline(always)]
unsafe fn sweep<S: Simd, const P: usize>(s: &Sweep) {
    // SAFETY: the caller's.
    unsafe {
        match s.columns.div_ceil(S::LANES) {
            1 if P > 1 => rows::<S, { 2 * TILE_ROWS }, 1, P>(s),
            2 if P > 2 => rows::<S, { 2 * TILE_ROWS }, 2, P>(s),
            3 if P > 3 => rows::<S, TILE_ROWS, 3, P>(s),
            _ => rows::<S, TILE_ROWS, P, P>(s),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn sweep_avx2(s: &Sweep) {
    // SAFETY: the caller's.
    unsafe { sweep::<x86::Avx2, 2>(s) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
unsafe fn sweep_avx512(s: &Sweep) {
    // SAFETY: the caller's.
    unsafe { sweep::<x86::Avx512, 4>(s) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")]
unsafe fn sweep_avx512_bf16(s: &Sweep) {
    // SAFETY: the caller's.
    unsafe { sweep::<x86::Avx512, 4>(s) }
}

unsafe fn sweep_portable(s: &Sweep) {
    // SAFETY: the caller's.
    unsafe { sweep::<Portable<8>, 2>(s) }
}

/// The layouts of the AVX-512 kernels on any processor, so that their indexing is tested everywhere.
///
/// # Safety
/// As [`sweep`].
#[cfg(test)]
pub(super) unsafe fn sweep_portable_wide(s: &Sweep) {
    // SAFETY: the caller's.
    unsafe { sweep::<Portable<16>, 4>(s) }
}

/// The kernel for an instruction set.
pub(super) fn kernel(isa: Isa) -> unsafe fn(&Sweep) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => sweep_avx2,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => sweep_avx512,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 | Isa::Amx => sweep_avx512_bf16,
        _ => sweep_portable,
    }
}

/// Whether the kernel reads bf16 panels as they are stored, without decoding them to f32.
pub(super) fn reads_pairs(isa: Isa) -> bool {
    isa >= Isa::Avx512Bf16
}

/// Whether bf16 products go through the [tile unit](super::tiles) instead.
pub(super) fn has_tiles(isa: Isa) -> bool {
    isa == Isa::Amx
}
