//! C = A B, or C + A B, for row-major f32 matrices of any size.
//!
//! Goto's blocking: the inner dimension in blocks of 512, B packed block by block, rows and
//! columns of C shared out as tasks of fixed size. Rows of A that are a little longer stay whole.
//! A B of many products may be packed once ([`PackedMatrix`]).

use super::memory::{Pointer, Scratch, parallel};
use super::tile::{Product, pack, pack_panel, panel_width, run_product, tile_rows};

/// The inner dimension of a block.
const INNER: usize = 512;
/// Rows of A of up to this length are one block. It is what a patch of two frames of 14 x 14 pixels
/// holds in three channels: cut in blocks, its sums differ from those of a convolution, which does
/// not cut, by more than all that follows.
const WHOLE: usize = 3 * 2 * 14 * 14;
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
        let step = inner_block(true, k);
        for inner in (0..k).step_by(step) {
            let depth = (k - inner).min(step);
            // SAFETY: rows inner.. of B are `depth` long, and the block has room for all panels.
            unsafe {
                pack(
                    b.values.as_ptr().wrapping_add(inner * b.row),
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

/// How much of an inner dimension of `k` is one block; `adjacent`: rows of A are.
fn inner_block(adjacent: bool, k: usize) -> usize {
    k.clamp(1, if adjacent && k <= WHOLE { WHOLE } else { INNER })
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
    let width = panel_width();
    let tile = tile_rows();
    let inner_block = inner_block(a.column == 1, k);
    let column_block = (PACKED / inner_block / width).max(1) * width;
    let mut scratch = match b {
        Right::Matrix(_) => Scratch::new(inner_block * column_block.min(n.next_multiple_of(width))),
        Right::Packed(_) => Scratch::new(0),
    };
    let scratch = scratch.pointer();
    // Rows of a task: enough to use a packed block often, few enough to share out.
    let task_rows = tile * 8;
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
                        for panel in task * panel_task..((task + 1) * panel_task).min(panels) {
                            let first = column + panel * width;
                            // SAFETY: rows inner.. and columns first.. lie within B, the panel
                            // within the packed block.
                            unsafe {
                                pack_panel(
                                    b.values
                                        .as_ptr()
                                        .wrapping_add(inner * b.row + first * b.column),
                                    b.row,
                                    b.column,
                                    depth,
                                    (n - first).min(width),
                                    scratch.at(panel * depth * width),
                                );
                            }
                        }
                    });
                    // SAFETY: the scratch begins with the first panel.
                    unsafe { scratch.at(0) }
                }
            };
            let packed = Pointer::of(first_panel.cast_mut());
            let (accumulate, bias) = match start {
                _ if inner > 0 => (true, None),
                Start::Zero => (false, None),
                Start::Bias(bias) => (false, Some(bias)),
                Start::Current => (true, None),
            };
            // Few rows (decoding): share out the panels too.
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
                let task_columns = (last_panel * width).min(columns) - skipped;
                // SAFETY: the rows and columns of this task lie within A, the packed block and
                // C, and no other task writes them.
                unsafe {
                    let mut product = Product {
                        rows: last_row - first_row,
                        columns: task_columns,
                        inner: depth,
                        a: a.values
                            .as_ptr()
                            .wrapping_add(first_row * a.row + inner * a.column),
                        a_row: a.row,
                        a_inner: a.column,
                        panels: packed.at(first_panel * depth * width),
                        panel_stride: depth * width,
                        c: c.at(first_row * n + column + skipped),
                        c_row: n,
                        accumulate,
                        bias: bias.map_or(std::ptr::null(), |bias| {
                            bias.as_ptr().wrapping_add(column + skipped)
                        }),
                    };
                    if a.column == 1 {
                        run_product(product);
                        return;
                    }
                    // Columns of A are far apart: copy a few rows at a time, inner first.
                    let mut copy = [0f32; 12 * INNER];
                    let rows = product.rows;
                    let (from, to) = (product.a, product.c);
                    for row in (0..rows).step_by(tile) {
                        let height = (rows - row).min(tile);
                        let from = from.wrapping_add(row * a.row);
                        if a.row == 1 && height == 12 {
                            for step in 0..depth {
                                let from = from.add(step * a.column).cast::<[f32; 12]>();
                                copy.as_mut_ptr()
                                    .add(step * 12)
                                    .cast::<[f32; 12]>()
                                    .write_unaligned(from.read_unaligned());
                            }
                        } else {
                            for step in 0..depth {
                                for offset in 0..height {
                                    copy[step * height + offset] =
                                        *from.add(offset * a.row + step * a.column);
                                }
                            }
                        }
                        product.rows = height;
                        product.a = copy.as_ptr();
                        product.a_row = 1;
                        product.a_inner = height;
                        product.c = to.add(row * n);
                        run_product(product);
                    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(index: usize) -> f32 {
        ((index * 2_654_435_761) % 1000) as f32 / 500.0 - 1.0
    }

    #[test]
    fn an_element_is_one_chain_of_multiply_adds_and_then_the_bias() {
        let (m, n) = (5, 3);
        for k in [1, 40, INNER, WHOLE] {
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
                    assert_eq!(c[i * n + j], chain + bias[j], "{k} values, [{i}, {j}]");
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
