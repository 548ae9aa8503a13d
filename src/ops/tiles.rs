//! bf16 products in the tile unit (AMX): sixteen rows by sixteen columns at a time, thirty-two values deep.
//!
//! Both operands lie in memory as the unit wants them: rows of pairs on the left, panels of pairs on the right. An element's bits depend on its row, its column and
//! `k` here too: within a step the unit sums the even and the odd values of the thirty-two on their own, then adds both to what was there.

use super::kernel::Sweep;

/// Rows of a step: two tiles of sixteen.
pub(super) const ROWS: usize = 32;
/// Rows, columns and pairs of a tile.
const SIDE: usize = 16;
/// Columns of a step: two tiles.
const COLUMNS: usize = 2 * SIDE;
/// Columns of a panel.
const WIDTH: usize = 64;

/// Up to two tiles of rows by two of columns, over some of `k`.
pub(super) struct Step {
    /// The two tiles' first rows of `A`; the second is not read where there are no rows for it.
    a: [*const u32; 2],
    /// Words from one row of `A` to the next.
    a_stride: usize,
    /// Two tiles side by side of a panel, [`WIDTH`] words a line.
    b: *const u32,
    /// The two tiles' first rows of the result.
    c: [*mut f32; 2],
    c_stride: usize,
    /// Times [`SIDE`] pairs of `k`.
    steps: usize,
    /// Whether to add to `c`.
    accumulate: bool,
}

/// A unit that multiplies tiles.
pub(super) trait Unit {
    /// Prepares for steps of `rows` rows, at most [`ROWS`].
    unsafe fn begin(rows: usize) -> Self;
    /// Carries a step out.
    unsafe fn run(&mut self, step: &Step);
}

/// A sweep of bf16 pairs.
///
/// # Safety
/// The sweep's pointers cover its rows, depth and columns, with panels [`WIDTH`] wide; the processor has the unit.
#[inline(always)]
pub(super) unsafe fn sweep<U: Unit>(s: &Sweep, data: *const u32, stride: usize) {
    let whole = s.rows / ROWS * ROWS;
    // SAFETY: the caller's.
    unsafe {
        if whole > 0 {
            let mut unit = U::begin(ROWS);
            for row in (0..whole).step_by(ROWS) {
                rows(s, data, stride, row, ROWS, &mut unit);
            }
        }
        if s.rows > whole {
            rows(s, data, stride, whole, s.rows - whole, &mut U::begin(s.rows - whole));
        }
    }
}

/// `count` rows from `row`, at most [`ROWS`], by all columns of the panel.
#[inline(always)]
unsafe fn rows<U: Unit>(s: &Sweep, data: *const u32, stride: usize, row: usize, count: usize, unit: &mut U) {
    for column in (0..s.columns).step_by(COLUMNS) {
        let columns = COLUMNS.min(s.columns - column);
        // SAFETY: offsets stay within what the caller of `sweep` vouches for.
        unsafe {
            let (a, b, c) = (data.add(row * stride), s.panel.add(column), s.c.add(row * s.c_stride + column));
            if columns == COLUMNS {
                block(a, stride, b, s.depth, c, s.c_stride, s.accumulate, count, unit);
            } else {
                partial(a, stride, b, s, c, columns, count, unit);
            }
        }
    }
}

/// A tile is stored whole: where columns are missing, beside the result.
#[inline(never)]
#[allow(clippy::too_many_arguments)] // what `rows` has at hand
unsafe fn partial<U: Unit>(
    a: *const u32,
    stride: usize,
    b: *const u32,
    s: &Sweep,
    c: *mut f32,
    columns: usize,
    count: usize,
    unit: &mut U,
) {
    let mut beside = [[0.0f32; COLUMNS]; ROWS];
    // SAFETY: the caller's; `columns` of every row exist.
    unsafe {
        if s.accumulate {
            for (r, line) in beside[..count].iter_mut().enumerate() {
                std::ptr::copy_nonoverlapping(c.add(r * s.c_stride), line.as_mut_ptr(), columns);
            }
        }
        block(a, stride, b, s.depth, beside.as_mut_ptr().cast(), COLUMNS, s.accumulate, count, unit);
        for (r, line) in beside[..count].iter().enumerate() {
            std::ptr::copy_nonoverlapping(line.as_ptr(), c.add(r * s.c_stride), columns);
        }
    }
}

/// `count` rows by [`COLUMNS`] columns over all of the depth.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // a product's
unsafe fn block<U: Unit>(
    a: *const u32,
    a_stride: usize,
    b: *const u32,
    depth: usize,
    c: *mut f32,
    c_stride: usize,
    accumulate: bool,
    count: usize,
    unit: &mut U,
) {
    let (steps, rest) = (depth / SIDE, depth % SIDE);
    // Stores into lines that are elsewhere would stall at the end: they are asked for now, and come meanwhile.
    for row in 0..count {
        for line in 0..COLUMNS / SIDE {
            prefetch_to_write(c.wrapping_add(row * c_stride + line * SIDE));
        }
    }
    let c = [c, c.wrapping_add(SIDE * c_stride)];
    // SAFETY: the caller's.
    unsafe {
        if steps > 0 {
            unit.run(&Step { a: [a, a.wrapping_add(SIDE * a_stride)], a_stride, b, c, c_stride, steps, accumulate });
        }
        if rest > 0 {
            let (a, b) = (a.add(steps * SIDE), b.add(steps * SIDE * WIDTH));
            last(a, a_stride, b, rest, count, |a, b| {
                unit.run(&Step { a, a_stride: SIDE, b, c, c_stride, steps: 1, accumulate: accumulate || steps > 0 });
            });
        }
    }
}

/// Asks for the cache line at an address that will be written.
#[inline(always)]
fn prefetch_to_write(at: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which faults nowhere; every processor with tiles has it.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, readonly, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// What is left of the depth, `rest` pairs, goes through tiles filled up with zeros.
#[inline(never)]
unsafe fn last(a: *const u32, a_stride: usize, b: *const u32, rest: usize, count: usize, run: impl FnOnce([*const u32; 2], *const u32)) {
    let (mut a_rest, mut b_rest) = ([[0u32; SIDE]; ROWS], [[0u32; WIDTH]; SIDE]);
    // SAFETY: `count` rows of `A` and `rest` lines of the panel have what is copied; rows of halves need not begin at a whole word's address.
    unsafe {
        for (r, line) in a_rest[..count].iter_mut().enumerate() {
            std::ptr::copy_nonoverlapping(a.add(r * a_stride).cast::<u8>(), line.as_mut_ptr().cast(), 4 * rest);
        }
        for (p, line) in b_rest[..rest].iter_mut().enumerate() {
            std::ptr::copy_nonoverlapping(b.add(p * WIDTH), line.as_mut_ptr(), COLUMNS);
        }
    }
    run([a_rest.as_ptr().cast(), a_rest.as_ptr().wrapping_add(SIDE).cast()], b_rest.as_ptr().cast());
}

/// The processor's own unit. Tiles 0 to 3 are the result's, 4 and 5 the left operand's, 6 and 7 the right one's.
#[cfg(target_arch = "x86_64")]
pub(super) struct Amx {
    two: bool,
}

#[cfg(target_arch = "x86_64")]
impl Unit for Amx {
    #[inline(always)]
    unsafe fn begin(rows: usize) -> Self {
        /// What `ldtilecfg` reads: of each tile the bytes of a row and the rows.
        #[repr(C, align(64))]
        struct Shapes {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            row_bytes: [u16; 16],
            rows: [u8; 16],
        }
        let mut shapes = Shapes { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        let (first, second) = (rows.min(SIDE) as u8, rows.saturating_sub(SIDE) as u8);
        let whole = SIDE as u8;
        for (tile, rows) in [first, first, second, second, first, second, whole, whole].into_iter().enumerate() {
            shapes.rows[tile] = rows;
            shapes.row_bytes[tile] = if rows > 0 { 4 * SIDE as u16 } else { 0 };
        }
        // SAFETY: the caller's processor has tiles; the memory read is 64 bytes of a valid configuration.
        unsafe { std::arch::asm!("ldtilecfg [{}]", in(reg) &raw const shapes, options(nostack, readonly, preserves_flags)) };
        Self { two: second > 0 }
    }

    #[inline(always)]
    unsafe fn run(&mut self, s: &Step) {
        // SAFETY: the step's pointers cover what its tiles read and write. The compiler keeps nothing in tile registers.
        unsafe {
            if self.two {
                std::arch::asm!(
                    "test {load:e}, {load:e}",
                    "jz 2f",
                    "tileloadd tmm0, [{c0} + {cs}*1]",
                    "tileloadd tmm1, [{c0} + {cs}*1 + 64]",
                    "tileloadd tmm2, [{c1} + {cs}*1]",
                    "tileloadd tmm3, [{c1} + {cs}*1 + 64]",
                    "jmp 3f",
                    "2:",
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "3:",
                    "tileloadd tmm4, [{a0} + {astr}*1]",
                    "tileloadd tmm6, [{b} + {bs}*1]",
                    "tileloadd tmm7, [{b} + {bs}*1 + 64]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tileloadd tmm5, [{a1} + {astr}*1]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "add {a0}, 64",
                    "add {a1}, 64",
                    "add {b}, 4096",
                    "dec {n}",
                    "jnz 3b",
                    "tilestored [{c0} + {cs}*1], tmm0",
                    "tilestored [{c0} + {cs}*1 + 64], tmm1",
                    "tilestored [{c1} + {cs}*1], tmm2",
                    "tilestored [{c1} + {cs}*1 + 64], tmm3",
                    a0 = inout(reg) s.a[0] => _,
                    a1 = inout(reg) s.a[1] => _,
                    astr = in(reg) 4 * s.a_stride,
                    b = inout(reg) s.b => _,
                    bs = in(reg) 4 * WIDTH,
                    c0 = in(reg) s.c[0],
                    c1 = in(reg) s.c[1],
                    cs = in(reg) 4 * s.c_stride,
                    n = inout(reg) s.steps => _,
                    load = in(reg) u32::from(s.accumulate),
                    options(nostack)
                );
            } else {
                std::arch::asm!(
                    "test {load:e}, {load:e}",
                    "jz 2f",
                    "tileloadd tmm0, [{c0} + {cs}*1]",
                    "tileloadd tmm1, [{c0} + {cs}*1 + 64]",
                    "jmp 3f",
                    "2:",
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "3:",
                    "tileloadd tmm4, [{a0} + {astr}*1]",
                    "tileloadd tmm6, [{b} + {bs}*1]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{b} + {bs}*1 + 64]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "add {a0}, 64",
                    "add {b}, 4096",
                    "dec {n}",
                    "jnz 3b",
                    "tilestored [{c0} + {cs}*1], tmm0",
                    "tilestored [{c0} + {cs}*1 + 64], tmm1",
                    a0 = inout(reg) s.a[0] => _,
                    astr = in(reg) 4 * s.a_stride,
                    b = inout(reg) s.b => _,
                    bs = in(reg) 4 * WIDTH,
                    c0 = in(reg) s.c[0],
                    cs = in(reg) 4 * s.c_stride,
                    n = inout(reg) s.steps => _,
                    load = in(reg) u32::from(s.accumulate),
                    options(nostack)
                );
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Drop for Amx {
    fn drop(&mut self) {
        // Tiles that are in use are saved whenever the system switches threads.
        // SAFETY: the processor has tiles, and nothing is left in them.
        unsafe { std::arch::asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The same in plain code, so that what is asked of the unit is tested on every processor.
    pub(in super::super) struct Plain {
        rows: usize,
    }

    impl Unit for Plain {
        unsafe fn begin(rows: usize) -> Self {
            assert!((1..=ROWS).contains(&rows));
            Self { rows }
        }

        unsafe fn run(&mut self, s: &Step) {
            let halves = |pair: u32| (f32::from_bits(pair << 16), f32::from_bits(pair & 0xffff_0000));
            for row in 0..self.rows {
                for column in 0..COLUMNS {
                    // SAFETY: the step's pointers cover what is read and written.
                    unsafe {
                        let c = s.c[row / SIDE].add(row % SIDE * s.c_stride + column);
                        let mut sum = if s.accumulate { *c } else { 0.0 };
                        for pair in 0..s.steps * SIDE {
                            let (a, b) =
                                (halves(*s.a[row / SIDE].add(row % SIDE * s.a_stride + pair)), halves(*s.b.add(pair * WIDTH + column)));
                            sum += a.0 * b.0 + a.1 * b.1;
                        }
                        *c = sum;
                    }
                }
            }
        }
    }
}
