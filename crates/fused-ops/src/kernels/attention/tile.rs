//! Some queries against some keys.

use std::ops::Range;

use super::sizes::{KEYS, Sizes};
use crate::kernels::simd::Simd;
use crate::kernels::tile::{Product, panel_width, run_product, tile_rows};
use crate::layout::{KeyRun, QueryBlock};

/// Some queries of a block, for the query heads of one key head.
pub(super) struct Tile<'a> {
    pub(super) block: &'a QueryBlock,
    /// (index of the run, whether it is the causal one)
    pub(super) runs: &'a [(usize, bool)],
    pub(super) all_runs: &'a [KeyRun],
    /// Counted within the block.
    pub(super) queries: Range<usize>,
    pub(super) kv_head: usize,
}

impl Tile<'_> {
    /// Rows: queries × query heads of the key head.
    pub(super) fn rows(&self, sizes: &Sizes) -> usize {
        self.queries.len() * sizes.group()
    }

    /// Where the row (query, head) is in a (queries, heads) tensor.
    pub(super) fn place(&self, row: usize, sizes: &Sizes) -> usize {
        let query = self.block.queries.start + self.queries.start + row / sizes.group();
        query * sizes.heads + self.kv_head * sizes.group() + row % sizes.group()
    }

    /// How many keys of a run the last query sees.
    pub(super) fn seen(&self, run: &KeyRun, causal: bool) -> usize {
        if causal {
            self.queries.end
        } else {
            run.keys.len()
        }
    }

    /// How many of the keys first..first + width of a run the row sees.
    pub(super) fn limit(
        &self,
        row: usize,
        sizes: &Sizes,
        causal: bool,
        first: usize,
        width: usize,
    ) -> usize {
        if causal {
            (self.queries.start + row / sizes.group() + 1)
                .saturating_sub(first)
                .min(width)
        } else {
            width
        }
    }
}

/// Copies the rows of a tile out of a (queries, heads, dim) tensor, scaled.
#[inline(always)]
pub(super) unsafe fn gather(tile: &Tile, sizes: &Sizes, from: &[f32], scale: f32, to: &mut [f32]) {
    let dim = sizes.dim;
    for row in 0..tile.rows(sizes) {
        let place = tile.place(row, sizes) * dim;
        let source = &from[place..place + dim];
        for (to, value) in to[row * dim..(row + 1) * dim].iter_mut().zip(source) {
            *to = value * scale;
        }
    }
}

/// scores (rows, KEYS) = rows of `left` (rows, dim) against the keys first..first + width.
#[inline(always)]
pub(super) unsafe fn against<S: Simd>(
    rows: usize,
    dim: usize,
    left: &[f32],
    run: *const f32,
    first: usize,
    width: usize,
    scores: &mut [f32],
) {
    // SAFETY: `left` holds `rows` rows of `dim` values, `scores` as many of `KEYS`, and the packed
    // run whole panels.
    unsafe {
        run_product(Product {
            rows,
            columns: width.next_multiple_of(S::LANES),
            inner: dim,
            a: left.as_ptr(),
            a_row: dim,
            a_tile: tile_rows() * dim,
            a_inner: 1,
            panels: run.add(first * dim),
            panel_stride: dim * panel_width(),
            c: scores.as_mut_ptr(),
            c_row: KEYS,
            accumulate: false,
            bias: std::ptr::null(),
        });
    }
}

/// sums (rows, padded dim) += weights (rows, KEYS) times the keys first..first + width of a run
/// of `run_len` keys packed along.
#[inline(always)]
pub(super) unsafe fn weighted<S: Simd>(
    rows: usize,
    sizes: &Sizes,
    weights: &[f32],
    run: *const f32,
    run_len: usize,
    first: usize,
    width: usize,
    sums: &mut [f32],
) {
    // SAFETY: `weights` holds `rows` rows of `KEYS` values, `sums` as many of the padded dim, and
    // the packed run whole panels.
    unsafe {
        run_product(Product {
            rows,
            columns: sizes.dim.next_multiple_of(S::LANES),
            inner: width,
            a: weights.as_ptr(),
            a_row: KEYS,
            a_tile: tile_rows() * KEYS,
            a_inner: 1,
            panels: run.add(first * panel_width()),
            panel_stride: run_len * panel_width(),
            c: sums.as_mut_ptr(),
            c_row: sizes.padded_dim(),
            accumulate: true,
            bias: std::ptr::null(),
        });
    }
}
