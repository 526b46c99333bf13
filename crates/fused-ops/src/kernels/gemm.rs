//! C = A B, or C + A B, for row-major f32 matrices of any size.
//!
//! Goto's blocking: the inner dimension in blocks of 512, B packed block by block, rows and
//! columns of C shared out. Adjacent rows of A that are a little longer stay whole.
//! A B of many products may be packed once ([`PackedMatrix`]).

use super::memory::{Pointer, Scratch, parallel, threads_at_hand};
use super::tile::{Product, pack, packed_len, panel_width, run_product, tile_rows};

/// The inner dimension of a block.
const INNER: usize = 512;
/// Rows of A of up to this length are one block. It is what a patch of two frames of 14 x 14 pixels
/// holds in three channels: cut in blocks, its sums differ from those of a convolution, which does
/// not cut, by more than all that follows.
const WHOLE: usize = 3 * 2 * 14 * 14;
/// At most so many rows of C are a task, a multiple of every tile's: enough to use a packed block often,
/// few enough to share out.
const TASK_ROWS: usize = 96;
/// The values of B packed at a time: 512 KiB, half of a usual second-level cache.
const PACKED: usize = 128 * 1024;

/// A matrix in memory that is only read.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    values: &'a [f32],
    row: usize,
    column: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `columns` adjacent values.
    pub(crate) fn rows(values: &'a [f32], columns: usize) -> Self {
        Matrix {
            values,
            row: columns,
            column: 1,
        }
    }

    /// The same with rows and columns exchanged.
    pub(crate) fn transposed(self) -> Self {
        Matrix {
            values: self.values,
            row: self.column,
            column: self.row,
        }
    }

    /// The address of an element, which is only read where it lies within the matrix.
    fn at(self, row: usize, column: usize) -> *const f32 {
        let index = row * self.row + column * self.column;
        self.values.as_ptr().wrapping_add(index)
    }
}

/// The whole of B in panels, for products whose A has its rows adjacent.
#[derive(Clone, Debug)]
pub(crate) struct PackedMatrix {
    /// Blocks of the inner dimension, the panels of all columns in each.
    values: Vec<f32>,
    inner: usize,
    columns: usize,
}

impl PackedMatrix {
    /// B (k, n).
    pub(crate) fn new(b: Matrix<'_>, (n, k): (usize, usize)) -> Self {
        let padded = n.next_multiple_of(panel_width());
        let mut values = vec![0f32; k * padded];
        let step = inner_block(k);
        for inner in (0..k).step_by(step) {
            let depth = (k - inner).min(step);
            // SAFETY: rows inner.. of B are `depth` long, and the block has room for all panels.
            unsafe {
                pack(
                    b.at(inner, 0),
                    b.row,
                    b.column,
                    depth,
                    n,
                    values.as_mut_ptr().wrapping_add(inner * padded),
                );
            }
        }
        PackedMatrix {
            values,
            inner: k,
            columns: n,
        }
    }

    /// (n, k) of B.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.columns, self.inner)
    }

    /// The panels from `column` on of the block that begins at `inner` and is `depth` long.
    fn panels(&self, inner: usize, depth: usize, column: usize) -> *const f32 {
        let padded = self.columns.next_multiple_of(panel_width());
        let at = inner * padded + column * depth;
        self.values.as_ptr().wrapping_add(at)
    }
}

/// B of a product.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a> {
    /// Packed as it is needed.
    Matrix(Matrix<'a>),
    /// Packed before.
    Packed(&'a PackedMatrix),
}

impl<'a> From<Matrix<'a>> for Right<'a> {
    fn from(matrix: Matrix<'a>) -> Self {
        Right::Matrix(matrix)
    }
}

/// How much of an inner dimension of `k` is one block where rows of A are adjacent.
fn inner_block(k: usize) -> usize {
    k.clamp(1, if k <= WHOLE { WHOLE } else { INNER })
}

/// What C holds before the product is added.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    /// Nothing: it is overwritten.
    Zero,
    /// This row of `n` values in every row.
    Bias(&'a [f32]),
    /// What is there.
    Current,
}

impl Start<'_> {
    /// For the block of the inner dimension that begins at `inner` and columns from `column` on:
    /// whether it is added to what C holds, and the bias or null.
    fn of_block(self, inner: usize, column: usize) -> (bool, *const f32) {
        match self {
            _ if inner > 0 => (true, std::ptr::null()),
            Start::Zero => (false, std::ptr::null()),
            Start::Bias(bias) => (false, bias.as_ptr().wrapping_add(column)),
            Start::Current => (true, std::ptr::null()),
        }
    }
}

/// C (m, n) = start + A (m, k) B (k, n), into `c` with rows of `n` adjacent values.
///
/// # Safety
/// `c` points to m · n values, initialised where `start` is [`Start::Current`]; a packed B has these
/// sizes, and rows of A are then adjacent.
pub(crate) unsafe fn gemm<'a>(
    (m, n, k): (usize, usize, usize),
    a: Matrix<'_>,
    b: impl Into<Right<'a>>,
    start: Start<'_>,
    c: Pointer,
) {
    if m == 0 || n == 0 {
        return;
    }
    let b = b.into();
    // Columns of A have to be copied: those of a gradient of weights, few and long.
    match b {
        Right::Matrix(b) if a.column != 1 => {
            // SAFETY: as the caller promises.
            unsafe { by_parts_of_c((m, n, k), a, b, start, c) }
        }
        // SAFETY: as the caller promises.
        _ => unsafe { by_blocks_of_b((m, n, k), a, b, start, c) },
    }
}

/// One block of B after the other is packed by all threads, which then share out rows of C.
///
/// # Safety
/// As for [`gemm`]; rows of A are adjacent.
unsafe fn by_blocks_of_b(
    (m, n, k): (usize, usize, usize),
    a: Matrix<'_>,
    b: Right<'_>,
    start: Start<'_>,
    c: Pointer,
) {
    let width = panel_width();
    let tile = tile_rows();
    let inner_block = inner_block(k);
    let column_block = (PACKED / inner_block / width).max(1) * width;
    let mut scratch = match b {
        Right::Matrix(_) => Scratch::new(inner_block * column_block.min(n.next_multiple_of(width))),
        Right::Packed(_) => Scratch::new(0),
    };
    let scratch = scratch.pointer();
    for column in (0..n).step_by(column_block) {
        let columns = (n - column).min(column_block);
        let panels = columns.div_ceil(width);
        for inner in (0..k.max(1)).step_by(inner_block) {
            let depth = (k - inner).min(inner_block);
            let first_panel: *const f32 = match b {
                Right::Packed(packed) => packed.panels(inner, depth, column),
                Right::Matrix(b) => {
                    let panel_task = 8;
                    parallel(panels.div_ceil(panel_task), |task| {
                        let first = task * panel_task;
                        let count = (panels - first).min(panel_task) * width;
                        let first = first * width;
                        // SAFETY: rows inner.. and columns first.. lie within B, the panels
                        // within the packed block.
                        unsafe {
                            pack(
                                b.at(inner, column + first),
                                b.row,
                                b.column,
                                depth,
                                (columns - first).min(count),
                                scratch.at(first * depth),
                            );
                        }
                    });
                    // SAFETY: the scratch begins with the first panel.
                    unsafe { scratch.at(0) }
                }
            };
            let packed = Pointer::of(first_panel.cast_mut());
            // Few rows (decoding): share out the panels too.
            let task_rows = m.div_ceil(m.div_ceil(TASK_ROWS)).next_multiple_of(tile);
            let row_tasks = m.div_ceil(task_rows);
            let column_tasks = if row_tasks >= 8 {
                1
            } else {
                panels.div_ceil(8)
            };
            let task_panels = panels.div_ceil(column_tasks);
            let run = |task: usize| {
                let (row_task, column_task) = (task / column_tasks, task % column_tasks);
                let first_panel = column_task * task_panels;
                let last_panel = (first_panel + task_panels).min(panels);
                if first_panel >= last_panel {
                    return;
                }
                let first_row = row_task * task_rows;
                let last_row = (first_row + task_rows).min(m);
                let skipped = first_panel * width;
                let (accumulate, bias) = start.of_block(inner, column + skipped);
                // SAFETY: the rows and columns of this task lie within A, the packed block and
                // C, and no other task writes them.
                unsafe {
                    run_product(Product {
                        rows: last_row - first_row,
                        columns: (last_panel * width).min(columns) - skipped,
                        inner: depth,
                        a: a.at(first_row, inner),
                        a_row: a.row,
                        a_tile: tile * a.row,
                        a_inner: 1,
                        panels: packed.at(skipped * depth),
                        panel_stride: depth * width,
                        c: c.at(first_row * n + column + skipped),
                        c_row: n,
                        accumulate,
                        bias,
                    });
                }
            };
            // Below this a task costs more to hand out than to do.
            if m * columns * depth < 32 * 1024 {
                (0..row_tasks * column_tasks).for_each(run);
            } else {
                parallel(row_tasks * column_tasks, run);
            }
        }
    }
}

/// Every thread computes parts of C of its own, over the whole inner dimension, and packs what it
/// needs: A is copied once for each strip of columns, and threads never wait for each other.
///
/// # Safety
/// As for [`gemm`].
unsafe fn by_parts_of_c(
    (m, n, k): (usize, usize, usize),
    a: Matrix<'_>,
    b: Matrix<'_>,
    start: Start<'_>,
    c: Pointer,
) {
    debug_assert_eq!(a.row, 1, "one of A's strides is 1");
    let width = panel_width();
    let tile = tile_rows();
    let threads = match m * n * k {
        work if work < 32 * 1024 => 1,
        _ => threads_at_hand(),
    };
    // At least as many parts as threads. A is copied for each strip of columns and B packed for each
    // group of rows: of the numbers of strips, the one that moves the fewest values.
    let panels = n.div_ceil(width);
    let fewest = panels.div_ceil(PACKED / INNER / width);
    let moved = |strips: &usize| strips * m + threads.div_ceil(*strips) * n;
    let strips = (fewest..=fewest.max(threads))
        .min_by_key(moved)
        .unwrap_or(fewest);
    let strip = panels.div_ceil(strips) * width;
    let strips = n.div_ceil(strip);
    let rows = m.div_ceil(tile).div_ceil(threads.div_ceil(strips)) * tile;
    parallel(strips * m.div_ceil(rows), |part| {
        let (column, row) = (part % strips * strip, part / strips * rows);
        let (columns, last_row) = ((n - column).min(strip), (row + rows).min(m));
        let mut packed = Scratch::new(packed_len(k.min(INNER), columns));
        let mut copy = Scratch::new(TASK_ROWS.min(rows) * k.min(INNER));
        let (packed, copy) = (packed.pointer(), copy.pointer());
        for inner in (0..k.max(1)).step_by(INNER) {
            let depth = (k - inner).min(INNER);
            let (accumulate, bias) = start.of_block(inner, column);
            // SAFETY: the rows and columns of this part lie within A, B and C, and no other part
            // writes them; the scratch has room for a block of B and some tiles of A.
            unsafe {
                let panels = packed.at(0);
                pack(b.at(inner, column), b.row, b.column, depth, columns, panels);
                for row in (row..last_row).step_by(TASK_ROWS) {
                    let height = (last_row - row).min(TASK_ROWS);
                    for step in 0..depth {
                        let from = a.at(row, inner + step);
                        std::ptr::copy_nonoverlapping(from, copy.at(step * height), height);
                    }
                    run_product(Product {
                        rows: height,
                        columns,
                        inner: depth,
                        a: copy.at(0),
                        a_row: 1,
                        a_tile: tile,
                        a_inner: height,
                        panels,
                        panel_stride: depth * width,
                        c: c.at(row * n + column),
                        c_row: n,
                        accumulate,
                        bias,
                    });
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(index: usize) -> f32 {
        ((index * 2_654_435_761) % 1000) as f32 / 500.0 - 1.0
    }

    #[test]
    fn an_element_is_one_chain_of_multiply_adds_and_then_the_bias() {
        // Sizes with every kind of tile: whole ones of two panels and of one, and rows and columns left.
        let sizes = [(5, 3), (31, 150), (12, 96), (6, 32)];
        let inner = [1, 40, 43, INNER, WHOLE];
        for ((m, n), k) in sizes.into_iter().flat_map(|size| inner.map(|k| (size, k))) {
            let a: Vec<f32> = (0..m * k).map(|i| value(i) / 3.0).collect();
            let b: Vec<f32> = (0..n * k).map(|i| value(i + 77) / 3.0).collect();
            let bias: Vec<f32> = (0..n).map(|i| value(i + 5)).collect();
            let mut c = vec![0f32; m * n];
            let (left, right) = (Matrix::rows(&a, k), Matrix::rows(&b, k).transposed());
            let to = Pointer::to(&mut c);
            // SAFETY: c holds m · n values.
            unsafe { gemm((m, n, k), left, right, Start::Bias(&bias), to) };
            for i in 0..m {
                for j in 0..n {
                    let pairs = a[i * k..].iter().zip(&b[j * k..(j + 1) * k]);
                    let chain = pairs.fold(0f32, |sum, (a, b)| a.mul_add(*b, sum));
                    assert_eq!(c[i * n + j], chain + bias[j], "{m} {n} {k}, [{i}, {j}]");
                }
            }
        }
    }

    #[test]
    fn columns_of_a_are_summed_block_by_block_whatever_part_of_c_an_element_is_in() {
        for (m, n, k) in [(5, 3, 40), (64, 128, 1100), (200, 70, 513), (30, 530, 1024)] {
            let a: Vec<f32> = (0..m * k).map(|i| value(i) / 3.0).collect();
            let b: Vec<f32> = (0..n * k).map(|i| value(i + 77) / 3.0).collect();
            let mut c = vec![0f32; m * n];
            let (left, right) = (Matrix::rows(&a, m).transposed(), Matrix::rows(&b, n));
            // SAFETY: c holds m · n values.
            unsafe { gemm((m, n, k), left, right, Start::Zero, Pointer::to(&mut c)) };
            for i in 0..m {
                for j in 0..n {
                    let chain = |inner: usize| {
                        let block = inner..(inner + INNER).min(k);
                        block.fold(0f32, |sum, p| a[p * m + i].mul_add(b[p * n + j], sum))
                    };
                    let blocks = (0..k).step_by(INNER).map(chain);
                    let sum = blocks.reduce(|sum, block| sum + block).unwrap_or(0.0);
                    assert_eq!(c[i * n + j], sum, "{m} {n} {k}, [{i}, {j}]");
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn agrees_with_three_loops(
            m in 1usize..70, n in 1usize..70, k in 0usize..600, mode in 0usize..3, ta: bool, tb: bool,
        ) {
            let a: Vec<f32> = (0..m * k).map(value).collect();
            let b: Vec<f32> = (0..n * k).map(|i| value(i + 77)).collect();
            let bias: Vec<f32> = (0..n).map(|i| value(i + 5)).collect();
            let left = if ta { Matrix::rows(&a, m).transposed() } else { Matrix::rows(&a, k) };
            let right = if tb { Matrix::rows(&b, k).transposed() } else { Matrix::rows(&b, n) };
            let start = [Start::Zero, Start::Bias(&bias), Start::Current][mode];
            let mut c = vec![0.5f32; m * n];
            // SAFETY: c holds m · n values.
            unsafe { gemm((m, n, k), left, right, start, Pointer::to(&mut c)) };
            for i in 0..m {
                for j in 0..n {
                    let mut sum: f64 = [0.0, bias[j] as f64, 0.5][mode];
                    for p in 0..k {
                        sum += a[i * left.row + p * left.column] as f64
                            * b[p * right.row + j * right.column] as f64;
                    }
                    prop_assert!((c[i * n + j] as f64 - sum).abs() < 1e-5 * (10.0 + sum.abs()), "{} {}", c[i * n + j], sum);
                }
            }
        }
    }
}
