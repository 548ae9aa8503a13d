//! bf16 products in the tile unit (AMX): sixteen rows by sixteen columns at a time, thirty-two values deep.
//!
//! Both operands lie in memory as the unit wants them: rows of pairs on the left, panels of pairs on the right. An element's bits depend on its row, its column and
//! `k` here too: within a step the unit sums the even and the odd values of the thirty-two on their own, then adds both to what was there.

/// Rows of a step: two tiles of sixteen.
pub(super) const ROWS: usize = 32;
/// Rows, columns and pairs of a tile.
const SIDE: usize = 16;
/// Columns of a step: two tiles.
const COLUMNS: usize = 2 * SIDE;
/// Columns of a panel.
const WIDTH: usize = 64;
/// Values of `k` that a tile takes: operands are filled up with zeros to a multiple of it.
pub(super) const DEPTH: usize = 2 * SIDE;

/// One of the products that a block of the result is the sum of, or a stretch of its `k`.
#[derive(Clone, Copy)]
pub(super) struct Part {
    /// The first row of `A`, in pairs.
    pub(super) a: *const u32,
    /// Words from one row of `A` to the next.
    pub(super) a_stride: usize,
    /// The panel of `B`, [`WIDTH`] words a line.
    pub(super) panel: *const u32,
    /// Times [`DEPTH`] values.
    pub(super) steps: usize,
}

/// The rows and columns that a [`Unit`] works on at once.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    /// The two tiles' first rows of the result; nothing is done to the second where there are no rows for it.
    c: [*mut f32; 2],
    c_stride: usize,
    /// Whether there are two tiles side by side.
    wide: bool,
}

/// A unit that multiplies tiles, and keeps those of the result meanwhile.
pub(super) trait Unit {
    /// Prepares for `rows` rows, at most [`ROWS`].
    unsafe fn begin(rows: usize) -> Self;
    /// Begins sums with zeros, or with what is there.
    unsafe fn open(&mut self, at: &Tiles, accumulate: bool);
    /// Adds the products of a part; `a` are the two tiles' first rows.
    unsafe fn add(&mut self, at: &Tiles, a: [*const u32; 2], part: &Part);
    /// Stores the sums.
    unsafe fn close(&mut self, at: &Tiles);
}

/// `c[rows, columns] (+)= Σ parts`: all of them go into a block of the result before it is stored, so that short ones cost no way to memory and back.
///
/// # Safety
/// The parts' rows and panels, and the result with rows `c_stride` apart, exist; `columns` is at most [`WIDTH`]; the processor has the unit.
pub(super) unsafe fn sweep<U: Unit>(parts: &[Part], (rows, columns): (usize, usize), (c, c_stride): (*mut f32, usize), accumulate: bool) {
    let mut unit: Option<(usize, U)> = None;
    for row in (0..rows).step_by(ROWS) {
        let count = ROWS.min(rows - row);
        // SAFETY: the caller's; offsets stay within what it vouches for.
        unsafe {
            if unit.as_ref().is_none_or(|(prepared, _)| *prepared != count) {
                // The one before goes first: it leaves the tiles as they were.
                drop(unit.take());
            }
            let (_, unit) = unit.get_or_insert_with(|| (count, U::begin(count)));
            for column in (0..columns).step_by(COLUMNS) {
                let c = c.add(row * c_stride + column);
                match columns - column {
                    COLUMNS.. => block(unit, parts, (row, count, column), &tiles(c, c_stride, true), accumulate),
                    SIDE => block(unit, parts, (row, count, column), &tiles(c, c_stride, false), accumulate),
                    some => partial(unit, parts, (row, count, column), (c, c_stride, some), accumulate),
                }
            }
        }
    }
}

fn tiles(c: *mut f32, c_stride: usize, wide: bool) -> Tiles {
    Tiles { c: [c, c.wrapping_add(SIDE * c_stride)], c_stride, wide }
}

/// `count` rows from `row` and one or two tiles of columns from `column`, over all parts.
#[inline(always)]
unsafe fn block<U: Unit>(unit: &mut U, parts: &[Part], (row, count, column): (usize, usize, usize), at: &Tiles, accumulate: bool) {
    // Stores into lines that are elsewhere would stall at the end: they are asked for now, and come meanwhile.
    for row in 0..count {
        for line in 0..1 + usize::from(at.wide) {
            prefetch_to_write(at.c[0].wrapping_add(row * at.c_stride + line * SIDE));
        }
    }
    // SAFETY: the caller's.
    unsafe {
        unit.open(at, accumulate);
        for part in parts {
            let a = part.a.add(row * part.a_stride);
            let part = Part { panel: part.panel.add(column), ..*part };
            unit.add(at, [a, a.wrapping_add(SIDE * part.a_stride)], &part);
        }
        unit.close(at);
    }
}

/// A tile is stored whole: where columns are missing, beside the result.
#[inline(never)]
unsafe fn partial<U: Unit>(
    unit: &mut U,
    parts: &[Part],
    place: (usize, usize, usize),
    (c, c_stride, columns): (*mut f32, usize, usize),
    accumulate: bool,
) {
    let mut beside = [[0.0f32; COLUMNS]; ROWS];
    // SAFETY: the caller's; `columns` of every row exist.
    unsafe {
        if accumulate {
            for (r, line) in beside[..place.1].iter_mut().enumerate() {
                std::ptr::copy_nonoverlapping(c.add(r * c_stride), line.as_mut_ptr(), columns);
            }
        }
        block(unit, parts, place, &tiles(beside.as_mut_ptr().cast(), COLUMNS, columns > SIDE), accumulate);
        for (r, line) in beside[..place.1].iter().enumerate() {
            std::ptr::copy_nonoverlapping(line.as_ptr(), c.add(r * c_stride), columns);
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

/// The processor's own unit. Tiles 0 to 3 are the result's, 4 and 5 the left operand's, 6 and 7 the right one's. The compiler keeps nothing in tile
/// registers, so what one statement leaves in them the next one finds.
#[cfg(target_arch = "x86_64")]
pub(super) struct Amx {
    two: bool,
}

/// The statement of `Unit::add`: the lines that load and multiply, and the second rows where there are any.
#[cfg(target_arch = "x86_64")]
macro_rules! multiply {
    ($part:expr, $a:expr, [$($line:literal),*] $(, $second:ident)?) => {
        std::arch::asm!(
            "2:",
            $($line,)*
            "add {a0}, 64",
            $(concat!("add {", stringify!($second), "}, 64"),)?
            "add {b}, 4096",
            "dec {n}",
            "jnz 2b",
            a0 = inout(reg) $a[0] => _,
            $($second = inout(reg) $a[1] => _,)?
            astr = in(reg) 4 * $part.a_stride,
            b = inout(reg) $part.panel => _,
            bs = in(reg) 4 * WIDTH,
            n = inout(reg) $part.steps => _,
            options(nostack, readonly)
        )
    };
}

/// A statement that moves the result's tiles between registers and memory.
#[cfg(target_arch = "x86_64")]
macro_rules! transfer {
    ($at:expr, [$($line:literal),*] $(, $second:ident)?) => {
        std::arch::asm!(
            $($line,)*
            c0 = in(reg) $at.c[0],
            $($second = in(reg) $at.c[1],)?
            cs = in(reg) 4 * $at.c_stride,
            options(nostack, preserves_flags)
        )
    };
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
    unsafe fn open(&mut self, at: &Tiles, accumulate: bool) {
        // SAFETY: the caller's tiles of the result exist, and are configured.
        unsafe {
            match (accumulate, self.two, at.wide) {
                (false, true, _) => {
                    std::arch::asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack, nomem));
                }
                (false, false, _) => std::arch::asm!("tilezero tmm0", "tilezero tmm1", options(nostack, nomem)),
                (true, true, true) => transfer!(
                    at,
                    [
                        "tileloadd tmm0, [{c0} + {cs}*1]",
                        "tileloadd tmm1, [{c0} + {cs}*1 + 64]",
                        "tileloadd tmm2, [{c1} + {cs}*1]",
                        "tileloadd tmm3, [{c1} + {cs}*1 + 64]"
                    ],
                    c1
                ),
                (true, true, false) => transfer!(at, ["tileloadd tmm0, [{c0} + {cs}*1]", "tileloadd tmm2, [{c1} + {cs}*1]"], c1),
                (true, false, true) => transfer!(at, ["tileloadd tmm0, [{c0} + {cs}*1]", "tileloadd tmm1, [{c0} + {cs}*1 + 64]"]),
                (true, false, false) => transfer!(at, ["tileloadd tmm0, [{c0} + {cs}*1]"]),
            }
        }
    }

    #[inline(always)]
    unsafe fn add(&mut self, at: &Tiles, a: [*const u32; 2], part: &Part) {
        if part.steps == 0 {
            return;
        }
        // SAFETY: the part's pointers cover what its tiles read.
        unsafe {
            match (self.two, at.wide) {
                (true, true) => multiply!(
                    part,
                    a,
                    [
                        "tileloadd tmm4, [{a0} + {astr}*1]",
                        "tileloadd tmm6, [{b} + {bs}*1]",
                        "tileloadd tmm7, [{b} + {bs}*1 + 64]",
                        "tdpbf16ps tmm0, tmm4, tmm6",
                        "tdpbf16ps tmm1, tmm4, tmm7",
                        "tileloadd tmm5, [{a1} + {astr}*1]",
                        "tdpbf16ps tmm2, tmm5, tmm6",
                        "tdpbf16ps tmm3, tmm5, tmm7"
                    ],
                    a1
                ),
                (true, false) => multiply!(
                    part,
                    a,
                    [
                        "tileloadd tmm4, [{a0} + {astr}*1]",
                        "tileloadd tmm6, [{b} + {bs}*1]",
                        "tdpbf16ps tmm0, tmm4, tmm6",
                        "tileloadd tmm5, [{a1} + {astr}*1]",
                        "tdpbf16ps tmm2, tmm5, tmm6"
                    ],
                    a1
                ),
                (false, true) => multiply!(
                    part,
                    a,
                    [
                        "tileloadd tmm4, [{a0} + {astr}*1]",
                        "tileloadd tmm6, [{b} + {bs}*1]",
                        "tdpbf16ps tmm0, tmm4, tmm6",
                        "tileloadd tmm7, [{b} + {bs}*1 + 64]",
                        "tdpbf16ps tmm1, tmm4, tmm7"
                    ]
                ),
                (false, false) => multiply!(
                    part,
                    a,
                    ["tileloadd tmm4, [{a0} + {astr}*1]", "tileloadd tmm6, [{b} + {bs}*1]", "tdpbf16ps tmm0, tmm4, tmm6"]
                ),
            }
        }
    }

    #[inline(always)]
    unsafe fn close(&mut self, at: &Tiles) {
        // SAFETY: as in `open`.
        unsafe {
            match (self.two, at.wide) {
                (true, true) => transfer!(
                    at,
                    [
                        "tilestored [{c0} + {cs}*1], tmm0",
                        "tilestored [{c0} + {cs}*1 + 64], tmm1",
                        "tilestored [{c1} + {cs}*1], tmm2",
                        "tilestored [{c1} + {cs}*1 + 64], tmm3"
                    ],
                    c1
                ),
                (true, false) => transfer!(at, ["tilestored [{c0} + {cs}*1], tmm0", "tilestored [{c1} + {cs}*1], tmm2"], c1),
                (false, true) => transfer!(at, ["tilestored [{c0} + {cs}*1], tmm0", "tilestored [{c0} + {cs}*1 + 64], tmm1"]),
                (false, false) => transfer!(at, ["tilestored [{c0} + {cs}*1], tmm0"]),
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
        sums: [[f32; COLUMNS]; ROWS],
    }

    impl Plain {
        /// Each value of the result that there is, and its sum.
        fn each(&mut self, at: &Tiles) -> impl Iterator<Item = (*mut f32, usize, usize, &mut f32)> {
            let (at, columns) = (*at, if at.wide { COLUMNS } else { SIDE });
            self.sums[..self.rows].iter_mut().enumerate().flat_map(move |(row, line)| {
                let of_row = at.c[row / SIDE].wrapping_add(row % SIDE * at.c_stride);
                line[..columns].iter_mut().enumerate().map(move |(column, sum)| (of_row.wrapping_add(column), row, column, sum))
            })
        }
    }

    impl Unit for Plain {
        unsafe fn begin(rows: usize) -> Self {
            assert!((1..=ROWS).contains(&rows));
            Self { rows, sums: [[f32::NAN; COLUMNS]; ROWS] }
        }

        unsafe fn open(&mut self, at: &Tiles, accumulate: bool) {
            // SAFETY: the caller's tiles exist.
            self.each(at).for_each(|(c, _, _, sum)| *sum = if accumulate { unsafe { *c } } else { 0.0 });
        }

        unsafe fn add(&mut self, at: &Tiles, a: [*const u32; 2], part: &Part) {
            let halves = |pair: u32| (f32::from_bits(pair << 16), f32::from_bits(pair & 0xffff_0000));
            for (_, row, column, sum) in self.each(at) {
                for pair in 0..part.steps * SIDE {
                    // SAFETY: the part's pointers cover what is read.
                    let (a, b) = unsafe {
                        let a = *a[row / SIDE].add(row % SIDE * part.a_stride + pair);
                        (halves(a), halves(*part.panel.add(pair * WIDTH + column)))
                    };
                    *sum += a.0 * b.0 + a.1 * b.1;
                }
            }
        }

        unsafe fn close(&mut self, at: &Tiles) {
            // SAFETY: as in `open`.
            self.each(at).for_each(|(c, _, _, sum)| unsafe { *c = *sum });
        }
    }
}
