//! The inner matrix product: a tile of C = A B, or C + A B, with B packed in panels.
//!
//! A panel holds `2 · LANES` columns of B, row after row; the product keeps a few rows by one or two
//! panels of C in registers and walks the inner dimension once. Every element of C is the same
//! chain of multiply-adds over the inner dimension whatever tile it falls into, so results do
//! not depend on how rows and columns are split among threads or batches, nor on the width of a
//! vector. The bias comes last, as in BLAS, whose sums these are to the bit while it does not cut
//! the inner dimension.

use super::dispatch::dispatched;
use super::instruction_set::{InstructionSet, in_use};
use super::portable::Portable;
use super::simd::Simd;
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512};

/// Writes a block out once for each `$index` from 0 below `$count`, which is at most 12. The index is a
/// constant in each, so an array of sums is registers from the start; with a loop it is memory until a
/// compiler has unrolled it, and some settings (`lto = "off"`) then leave it there.
macro_rules! written_out {
    ($index:ident < $count:expr, $block:block) => {
        written_out!($index < $count, $block, 0 1 2 3 4 5 6 7 8 9 10 11)
    };
    ($index:ident < $count:expr, $block:block, $($value:literal)*) => {$({
        const $index: usize = $value;
        if $index < $count $block
    })*};
}

/// Where the operands of a tile are. Strides count values.
#[derive(Clone, Copy)]
pub(crate) struct Product {
    /// Rows of C and A.
    pub(crate) rows: usize,
    /// Columns of C.
    pub(crate) columns: usize,
    /// The inner dimension.
    pub(crate) inner: usize,
    /// A.
    pub(crate) a: *const f32,
    /// From a row of A to the next within a tile of [`tile_rows`].
    pub(crate) a_row: usize,
    /// From a tile of rows of A to the next.
    pub(crate) a_tile: usize,
    /// From a column of A to the next; this or `a_row` is 1.
    pub(crate) a_inner: usize,
    /// The first panel of B.
    pub(crate) panels: *const f32,
    /// From a panel to the next.
    pub(crate) panel_stride: usize,
    /// C; its columns are adjacent.
    pub(crate) c: *mut f32,
    /// From a row of C to the next.
    pub(crate) c_row: usize,
    /// Whether the product is added to C or replaces it.
    pub(crate) accumulate: bool,
    /// Added to every row when not null; `columns` values.
    pub(crate) bias: *const f32,
}

/// The columns of a panel.
pub(crate) fn panel_width() -> usize {
    match in_use() {
        InstructionSet::Avx512 => 32,
        InstructionSet::Avx2 | InstructionSet::Portable => 16,
    }
}

/// The rows that a tile takes at a time, for splitting work.
pub(crate) fn tile_rows() -> usize {
    match in_use() {
        InstructionSet::Avx512 | InstructionSet::Avx2 => 6,
        InstructionSet::Portable => 4,
    }
}

dispatched! {
    /// Runs the product for the instruction set in use.
    pub(crate) fn run_product(product: Product) = {
        avx512: tiles::<Avx512, 6, 12>,
        avx2: tiles::<Avx2, 6, 6>,
        portable: tiles::<Portable, 4, 4>,
    }
}

/// The product by vectors of `S`. A tile is `ROWS` rows by one panel; with registers for `TALL` rows, twice
/// as many, it is `ROWS` rows by two panels, or `TALL` by the last. The squarer tile has fewer loads for as
/// many sums (10 instead of 14 for 24), and loads are what the two threads of a core share.
#[inline(always)]
unsafe fn tiles<S: Simd, const ROWS: usize, const TALL: usize>(product: Product) {
    let whole = product.rows / ROWS * ROWS;
    // SAFETY: rows below `product.rows` lie within A and C, as the caller promises.
    unsafe {
        let mut column = 0;
        let mut panel = product.panels;
        while whole > 0 && column < product.columns {
            let panels = match product.columns - column {
                left if TALL > ROWS && left >= 4 * S::LANES => {
                    strip::<S, ROWS, ROWS, 4>(&product, whole, panel, column);
                    2
                }
                left if left > S::LANES => {
                    strip::<S, ROWS, TALL, 2>(&product, whole, panel, column);
                    1
                }
                _ => {
                    strip::<S, ROWS, TALL, 1>(&product, whole, panel, column);
                    1
                }
            };
            column += panels * 2 * S::LANES;
            panel = panel.wrapping_add(panels * product.panel_stride);
        }
        // The rows that are left are the beginning of one more tile.
        let mut a = product.a.wrapping_add(whole / ROWS * product.a_tile);
        let mut row = whole;
        if ROWS > 4 && product.rows - row >= 4 {
            columns::<S, 4>(&product, a, row);
            a = a.wrapping_add(4 * product.a_row);
            row += 4;
        }
        if product.rows - row >= 2 {
            columns::<S, 2>(&product, a, row);
            a = a.wrapping_add(2 * product.a_row);
            row += 2;
        }
        if product.rows - row >= 1 {
            columns::<S, 1>(&product, a, row);
        }
    }
}

/// The first `rows` rows, a multiple of `ROWS`, of a few columns: what is read of B stays at hand.
#[inline(always)]
unsafe fn strip<S: Simd, const ROWS: usize, const TALL: usize, const VECTORS: usize>(
    product: &Product,
    rows: usize,
    panel: *const f32,
    column: usize,
) {
    // SAFETY: the caller's rows lie within A and C.
    unsafe {
        let at = |row: usize| {
            let a = product.a.add(row / ROWS * product.a_tile);
            (a, product.c.add(row * product.c_row))
        };
        let mut row = 0;
        while rows - row >= TALL {
            let (a, c) = at(row);
            registers::<S, TALL, VECTORS>(product, a, panel, c, column);
            row += TALL;
        }
        if TALL > ROWS && rows > row {
            let (a, c) = at(row);
            registers::<S, ROWS, VECTORS>(product, a, panel, c, column);
        }
    }
}

#[inline(always)]
unsafe fn columns<S: Simd, const ROWS: usize>(product: &Product, a: *const f32, row: usize) {
    // SAFETY: the caller's rows lie within A and C, and every panel has its stride.
    unsafe {
        let c = product.c.add(row * product.c_row);
        let mut column = 0;
        let mut panel = product.panels;
        while column < product.columns {
            let left = product.columns - column;
            // A multiply-add waits for the one before it in its chain: one or two rows by one panel
            // are too few chains to fill the time.
            let panels = match ROWS {
                1 if left >= 8 * S::LANES => {
                    registers::<S, ROWS, 8>(product, a, panel, c, column);
                    4
                }
                2 if left >= 4 * S::LANES => {
                    registers::<S, ROWS, 4>(product, a, panel, c, column);
                    2
                }
                _ if left > S::LANES => {
                    registers::<S, ROWS, 2>(product, a, panel, c, column);
                    1
                }
                _ => {
                    registers::<S, ROWS, 1>(product, a, panel, c, column);
                    1
                }
            };
            column += panels * 2 * S::LANES;
            panel = panel.wrapping_add(panels * product.panel_stride);
        }
    }
}

#[inline(always)]
unsafe fn registers<S: Simd, const ROWS: usize, const VECTORS: usize>(
    product: &Product,
    a: *const f32,
    panel: *const f32,
    c: *mut f32,
    column: usize,
) {
    // SAFETY: A has `inner` values in each of the rows, a panel `inner` rows of its width, filled up
    // with zeros; of C and the bias no more than the `width` columns that exist are touched.
    unsafe {
        let width = (product.columns - column).min(VECTORS * S::LANES);
        let full = width == VECTORS * S::LANES;
        let c = c.add(column);
        // Columns of vector V that exist, where not all do.
        let part = |vector: usize| width.saturating_sub(vector * S::LANES).min(S::LANES);
        let mut sums = [[S::splat(0.0); VECTORS]; ROWS];
        match (product.a_row, product.a_inner) {
            (row, 1) => chains::<S, ROWS, VECTORS>(product, a, (row, 1), panel, &mut sums),
            (_, inner) => chains::<S, ROWS, VECTORS>(product, a, (1, inner), panel, &mut sums),
        }
        if !product.bias.is_null() {
            let bias = product.bias.add(column);
            written_out!(V < VECTORS, {
                let from = bias.wrapping_add(V * S::LANES);
                let bias = match full {
                    true => S::load(from),
                    false => S::load_part(from, part(V)),
                };
                written_out!(ROW < ROWS, {
                    sums[ROW][V] = S::add(sums[ROW][V], bias);
                });
            });
        }
        written_out!(ROW < ROWS, {
            let to = c.add(ROW * product.c_row);
            written_out!(V < VECTORS, {
                let to = to.wrapping_add(V * S::LANES);
                if full {
                    let sum = match product.accumulate {
                        true => S::add(S::load(to), sums[ROW][V]),
                        false => sums[ROW][V],
                    };
                    S::store(to, sum);
                } else {
                    let sum = match product.accumulate {
                        true => S::add(S::load_part(to, part(V)), sums[ROW][V]),
                        false => sums[ROW][V],
                    };
                    S::store_part(to, sum, part(V));
                }
            });
        });
    }
}

/// The sums along the inner dimension, with the strides of A's rows and columns, one of which is a
/// constant wherever this is inlined.
#[inline(always)]
unsafe fn chains<S: Simd, const ROWS: usize, const VECTORS: usize>(
    product: &Product,
    a: *const f32,
    (a_row, a_inner): (usize, usize),
    panel: *const f32,
    sums: &mut [[S::V; VECTORS]; ROWS],
) {
    // Every third row has a pointer of its own, from which the next two are one and two strides away:
    // an address that an instruction computes by itself.
    let [third, tile] = [3 * a_row, product.a_tile];
    let mut from_a = [0, third, tile, tile + third].map(|offset| a.wrapping_add(offset));
    let mut from_b = panel;
    let mut left = product.inner;
    // SAFETY: the caller's rows lie within A, and its panels have as many rows.
    unsafe {
        while left >= 4 {
            from_a = from_a.map(|a| S::opaque(a));
            written_out!(STEP < 4, {
                let from_a = from_a.map(|a| a.wrapping_add(STEP * a_inner));
                let from_b = from_b.wrapping_add(STEP * 2 * S::LANES);
                step::<S, ROWS, VECTORS>((from_a, a_row), (from_b, product.panel_stride), sums);
            });
            from_a = from_a.map(|a| a.wrapping_add(4 * a_inner));
            from_b = from_b.wrapping_add(4 * 2 * S::LANES);
            left -= 4;
        }
        while left > 0 {
            step::<S, ROWS, VECTORS>((from_a, a_row), (from_b, product.panel_stride), sums);
            from_a = from_a.map(|a| a.wrapping_add(a_inner));
            from_b = from_b.wrapping_add(2 * S::LANES);
            left -= 1;
        }
    }
}

/// One step along the inner dimension, with the strides of A's rows and B's panels: `from_a` points to
/// rows 0, 3, 6 and 9, as far as there are so many, `from_b` to a row of the first panel.
#[inline(always)]
unsafe fn step<S: Simd, const ROWS: usize, const VECTORS: usize>(
    (from_a, a_row): ([*const f32; 4], usize),
    (from_b, panel_stride): (*const f32, usize),
    sums: &mut [[S::V; VECTORS]; ROWS],
) {
    // SAFETY: as the caller promises.
    unsafe {
        let mut b = [S::splat(0.0); VECTORS];
        written_out!(V < VECTORS, {
            b[V] = S::load(from_b.wrapping_add(V / 2 * panel_stride + V % 2 * S::LANES));
        });
        written_out!(ROW < ROWS, {
            let value = S::splat(*from_a[ROW / 3].wrapping_add(ROW % 3 * a_row));
            written_out!(V < VECTORS, {
                sums[ROW][V] = S::fma(value, b[V], sums[ROW][V]);
            });
        });
    }
}

/// Packs `columns` columns of B with `inner` rows into panels: (panel, inner, panel width), the
/// last panel filled up with zeros. `b_row` and `b_column` are the strides of B; `to` has room
/// for [`packed_len`] values.
pub(crate) unsafe fn pack(
    b: *const f32,
    b_row: usize,
    b_column: usize,
    inner: usize,
    columns: usize,
    to: *mut f32,
) {
    let width = panel_width();
    for panel in 0..columns.div_ceil(width) {
        // SAFETY: the columns lie within B, as the caller promises, and `to` has room for every panel.
        unsafe {
            pack_panel(
                b.add(panel * width * b_column),
                b_row,
                b_column,
                inner,
                (columns - panel * width).min(width),
                to.add(panel * inner * width),
            );
        }
    }
}

/// One panel of [`pack`], with `columns` of its columns present.
pub(crate) unsafe fn pack_panel(
    b: *const f32,
    b_row: usize,
    b_column: usize,
    inner: usize,
    columns: usize,
    to: *mut f32,
) {
    let width = panel_width();
    // SAFETY: `columns` columns of `inner` values lie within B, and `to` has room for a panel.
    unsafe {
        if columns < width {
            std::ptr::write_bytes(to, 0, inner * width);
        }
        if b_column == 1 {
            for row in 0..inner {
                std::ptr::copy_nonoverlapping(b.add(row * b_row), to.add(row * width), columns);
            }
        } else {
            // Eight rows at a time: each column of B is then read a vector at a time.
            let mut row = 0;
            while row < inner {
                let rows = (inner - row).min(8);
                for column in 0..columns {
                    let from = b.add(column * b_column + row * b_row);
                    let to = to.add(row * width + column);
                    for step in 0..rows {
                        *to.add(step * width) = *from.add(step * b_row);
                    }
                }
                row += rows;
            }
        }
    }
}

/// The values that [`pack`] writes.
pub(crate) fn packed_len(inner: usize, columns: usize) -> usize {
    inner * columns.next_multiple_of(panel_width())
}
