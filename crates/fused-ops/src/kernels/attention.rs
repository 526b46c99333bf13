//! Attention over packed sequences without the (queries, keys) matrix.
//!
//! FlashAttention's recurrence (Dao et al., arXiv 2205.14135): for a tile of queries, walk the
//! keys in tiles of 96, keep the running maximum m, sum l and weighted values o,
//! `m' = max(m, max s)`, `l' = l e^(m−m') + Σ e^(s−m')`, `o' = o e^(m−m') + e^(s−m') v`; at the
//! end `o / l` and `log-sum-exp = m + ln l`. The backward pass recomputes p = e^(s − lse) tile by
//! tile and uses ds = p (dp − Σ do·o).
//!
//! Single queries, as in decoding, are [`super::decoding`]'s.
//!
//! Deviations: the query heads that share a key head are rows of one tile; keys are runs of the
//! layout, packed once for all tiles; in the backward pass a task owns a key head of one
//! connected component of the layout (blocks that share no key, directly or through others), so
//! sums into dk and dv have one order whatever the number of threads.

use std::ops::Range;

use libm::{expf, logf};

use super::decoding;
use super::dispatch::dispatched;
use super::memory::{Buffer, Pointer, Scratch, parallel};
use super::simd::Simd;
use super::tile::{Product, pack, pack_panel, packed_len, panel_width, run_product};
use crate::layout::{AttentionLayout, KeyRun, QueryBlock};

/// Keys of a tile: a multiple of every panel width and of every tile height.
const KEYS: usize = 96;
/// Rows (queries × query heads of a key head) that a tile aims at.
const ROWS: usize = 48;

/// The sizes of one attention.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) queries: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) dim: usize,
    pub(crate) scale: f32,
}

impl Sizes {
    /// Query heads that share a key head.
    pub(super) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// `dim` filled up to whole panels.
    fn padded_dim(&self) -> usize {
        self.dim.next_multiple_of(panel_width())
    }

    fn tile_queries(&self) -> usize {
        (ROWS / self.group()).max(1)
    }
}

/// Keys or values of every run of the layout and every key head, packed.
struct Packed {
    values: Scratch,
    /// Values of one key head.
    head_stride: usize,
    /// Values for one key.
    key_stride: usize,
}

impl Packed {
    /// Where run `run` of key head `head` begins.
    fn run(&self, head: usize, run: &KeyRun) -> *const f32 {
        let at = head * self.head_stride + run.offset * self.key_stride;
        self.values.start().wrapping_add(at)
    }

    /// Panels of keys: B of `q kᵀ`, (panel of keys, dim, width).
    fn across(x: &[f32], layout: &AttentionLayout, sizes: &Sizes) -> Self {
        Self::pack(
            x,
            layout,
            sizes,
            sizes.dim,
            |from, stride, run, keys, to| {
                let width = panel_width();
                for key in keys.clone().step_by(width) {
                    let columns = (run.end - key).min(width);
                    // SAFETY: the keys lie within the run, the panel within its share.
                    unsafe {
                        let to = to.add((key - run.start) * sizes.dim);
                        pack_panel(from.add(key * stride), 1, stride, sizes.dim, columns, to);
                    }
                }
            },
        )
    }

    /// Panels of dimensions: B of `p v`, (panel of dimensions, key of the run, width).
    fn along(x: &[f32], layout: &AttentionLayout, sizes: &Sizes) -> Self {
        Self::pack(
            x,
            layout,
            sizes,
            sizes.padded_dim(),
            |from, stride, run, keys, to| {
                let width = panel_width();
                for first in (0..sizes.dim).step_by(width) {
                    let columns = (sizes.dim - first).min(width);
                    // SAFETY: as above.
                    unsafe {
                        let from = from.add(keys.start * stride + first);
                        let to = to.add(first * run.len() + (keys.start - run.start) * width);
                        pack_panel(from, stride, 1, keys.len(), columns, to);
                    }
                }
            },
        )
    }

    fn pack(
        x: &[f32],
        layout: &AttentionLayout,
        sizes: &Sizes,
        key_stride: usize,
        part: impl Fn(*const f32, usize, &Range<usize>, Range<usize>, *mut f32) + Sync + Send,
    ) -> Self {
        let plan = layout.plan();
        let head_stride = plan.padded_keys * key_stride;
        let mut buffer = Scratch::new(head_stride * sizes.kv_heads);
        let to = buffer.pointer();
        let tiles = plan.tiles.len();
        let stride = sizes.kv_heads * sizes.dim;
        parallel(tiles * sizes.kv_heads, |task| {
            let (head, (run, keys)) = (task / tiles, &plan.tiles[task % tiles]);
            let run = &plan.runs[*run];
            let from = x.as_ptr().wrapping_add(head * sizes.dim);
            // SAFETY: each tile of each head has a place of its own.
            let to = unsafe { to.at(head * head_stride + run.offset * key_stride) };
            part(from, stride, &run.keys, keys.clone(), to);
        });
        Packed {
            values: buffer,
            head_stride,
            key_stride,
        }
    }
}

/// Gives the output (queries, heads, dim) and the log-sum-exp (queries, heads).
pub(crate) fn forward(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    layout: &AttentionLayout,
    sizes: &Sizes,
) -> (Vec<f32>, Vec<f32>) {
    if decoding::serves(layout) {
        return decoding::forward(q, k, v, layout, sizes);
    }
    let keys = Packed::across(k, layout, sizes);
    let values = Packed::along(v, layout, sizes);
    let plan = layout.plan();
    let step = sizes.tile_queries();
    let mut tiles = Vec::new();
    for (index, block) in layout.blocks().iter().enumerate() {
        for first in (0..block.queries.len()).step_by(step) {
            tiles.push((index, first..(first + step).min(block.queries.len())));
        }
    }
    let mut out = Buffer::new(sizes.queries * sizes.heads * sizes.dim);
    let mut log_sums = Buffer::new(sizes.queries * sizes.heads);
    let (to, to_log_sums) = (out.pointer(), log_sums.pointer());
    parallel(tiles.len() * sizes.kv_heads, |task| {
        let (index, queries) = &tiles[task / sizes.kv_heads];
        let tile = Tile {
            block: &layout.blocks()[*index],
            runs: &plan.block_runs[*index],
            all_runs: &plan.runs,
            queries: queries.clone(),
            kv_head: task % sizes.kv_heads,
        };
        // SAFETY: lengths were checked by the operator; tiles write rows of their own.
        unsafe { forward_tile(&tile, sizes, q, &keys, &values, to, to_log_sums) };
    });
    // SAFETY: every query is in one block, so every row was written.
    unsafe { (out.filled(), log_sums.filled()) }
}

/// The gradients of q, k and v.
#[allow(clippy::too_many_arguments)]
pub(crate) fn backward(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &[f32],
    log_sums: &[f32],
    grad: &[f32],
    layout: &AttentionLayout,
    sizes: &Sizes,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let keys_across = Packed::across(k, layout, sizes);
    let keys_along = Packed::along(k, layout, sizes);
    let values_across = Packed::across(v, layout, sizes);
    let plan = layout.plan();
    let mut q_grad = Buffer::new(q.len());
    let mut k_grad = vec![0f32; k.len()];
    let mut v_grad = vec![0f32; v.len()];
    let state = Backward {
        sizes,
        q,
        out,
        log_sums,
        grad,
        keys_across: &keys_across,
        keys_along: &keys_along,
        values_across: &values_across,
        q_grad: q_grad.pointer(),
        k_grad: Pointer::to(&mut k_grad),
        v_grad: Pointer::to(&mut v_grad),
    };
    let step = sizes.tile_queries();
    parallel(plan.components.len() * sizes.kv_heads, |task| {
        for &index in &plan.components[task / sizes.kv_heads] {
            let block = &layout.blocks()[index];
            for first in (0..block.queries.len()).step_by(step) {
                let tile = Tile {
                    block,
                    runs: &plan.block_runs[index],
                    all_runs: &plan.runs,
                    queries: first..(first + step).min(block.queries.len()),
                    kv_head: task % sizes.kv_heads,
                };
                // SAFETY: as in the forward pass; keys of a component and head belong to
                // this task alone.
                unsafe { backward_tile(&tile, &state) };
            }
        }
    });
    // SAFETY: every query is in one block, so every row was written.
    (unsafe { q_grad.filled() }, k_grad, v_grad)
}

/// Some queries of a block, for the query heads of one key head.
struct Tile<'a> {
    block: &'a QueryBlock,
    /// (index of the run, whether it is the causal one)
    runs: &'a [(usize, bool)],
    all_runs: &'a [KeyRun],
    /// Counted within the block.
    queries: Range<usize>,
    kv_head: usize,
}

impl Tile<'_> {
    fn rows(&self, sizes: &Sizes) -> usize {
        self.queries.len() * sizes.group()
    }

    /// Where the row (query, head) is in a (queries, heads) tensor.
    fn place(&self, row: usize, sizes: &Sizes) -> usize {
        let query = self.block.queries.start + self.queries.start + row / sizes.group();
        query * sizes.heads + self.kv_head * sizes.group() + row % sizes.group()
    }

    /// How many keys of a run the last query sees.
    fn seen(&self, run: &KeyRun, causal: bool) -> usize {
        if causal {
            self.queries.end
        } else {
            run.keys.len()
        }
    }

    /// How many of the keys first..first + width of a run the row sees.
    fn limit(&self, row: usize, sizes: &Sizes, causal: bool, first: usize, width: usize) -> usize {
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
unsafe fn gather(tile: &Tile, sizes: &Sizes, from: &[f32], scale: f32, to: &mut [f32]) {
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
unsafe fn against<S: Simd>(
    rows: usize,
    dim: usize,
    left: &[f32],
    run: *const f32,
    first: usize,
    width: usize,
    scores: &mut [f32],
) {
    unsafe {
        run_product(Product {
            rows,
            columns: width.next_multiple_of(S::LANES),
            inner: dim,
            a: left.as_ptr(),
            a_row: dim,
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
unsafe fn weighted<S: Simd>(
    rows: usize,
    sizes: &Sizes,
    weights: &[f32],
    run: *const f32,
    run_len: usize,
    first: usize,
    width: usize,
    sums: &mut [f32],
) {
    unsafe {
        run_product(Product {
            rows,
            columns: sizes.dim.next_multiple_of(S::LANES),
            inner: width,
            a: weights.as_ptr(),
            a_row: KEYS,
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

#[inline(always)]
unsafe fn forward_tile_in<S: Simd>(
    tile: &Tile,
    sizes: &Sizes,
    q: &[f32],
    keys: &Packed,
    values: &Packed,
    out: Pointer,
    log_sums: Pointer,
) {
    let (rows, dim, padded) = (tile.rows(sizes), sizes.dim, sizes.padded_dim());
    let mut query_rows = vec![0f32; rows * dim];
    let mut scores = vec![0f32; rows * KEYS];
    let mut sums = vec![0f32; rows * padded];
    let mut peaks = vec![f32::NEG_INFINITY; rows];
    let mut totals = vec![0f32; rows];
    unsafe {
        gather(tile, sizes, q, sizes.scale, &mut query_rows);
        for &(index, causal) in tile.runs {
            let run = &tile.all_runs[index];
            let packed_keys = keys.run(tile.kv_head, run);
            let packed_values = values.run(tile.kv_head, run);
            let seen = tile.seen(run, causal);
            for first in (0..seen).step_by(KEYS) {
                let width = (seen - first).min(KEYS);
                against::<S>(
                    rows,
                    dim,
                    &query_rows,
                    packed_keys,
                    first,
                    width,
                    &mut scores,
                );
                let end = width.next_multiple_of(S::LANES);
                for row in 0..rows {
                    let scores = &mut scores[row * KEYS..row * KEYS + end];
                    let limit = tile.limit(row, sizes, causal, first, width);
                    if limit == 0 {
                        scores.fill(0.0);
                        continue;
                    }
                    scores[limit..].fill(f32::NEG_INFINITY);
                    let mut peak = S::splat(peaks[row]);
                    for at in (0..end).step_by(S::LANES) {
                        peak = S::max(S::load(scores.as_ptr().add(at)), peak);
                    }
                    let peak = S::largest(peak);
                    let keep = if peaks[row] == peak {
                        1.0
                    } else {
                        expf(peaks[row] - peak)
                    };
                    peaks[row] = peak;
                    let shift = S::splat(peak);
                    let mut total = S::splat(0.0);
                    for at in (0..end).step_by(S::LANES) {
                        let at = scores.as_mut_ptr().add(at);
                        let weight = S::exp(S::sub(S::load(at), shift));
                        total = S::add(total, weight);
                        S::store(at, weight);
                    }
                    totals[row] = totals[row] * keep + S::sum(total);
                    if keep != 1.0 {
                        for sum in &mut sums[row * padded..(row + 1) * padded] {
                            *sum *= keep;
                        }
                    }
                }
                let run_len = run.keys.len();
                weighted::<S>(
                    rows,
                    sizes,
                    &scores,
                    packed_values,
                    run_len,
                    first,
                    width,
                    &mut sums,
                );
            }
        }
        for row in 0..rows {
            let place = tile.place(row, sizes);
            *log_sums.at(place) = peaks[row] + logf(totals[row]);
            let inverse = 1.0 / totals[row];
            for (index, sum) in sums[row * padded..row * padded + dim].iter().enumerate() {
                *out.at(place * dim + index) = sum * inverse;
            }
        }
    }
}

dispatched! {
    /// The output and log-sum-exp of a tile.
    fn forward_tile(
        tile: &Tile, sizes: &Sizes, q: &[f32], keys: &Packed, values: &Packed,
        out: Pointer, log_sums: Pointer,
    ) = forward_tile_in
}

/// What every tile of the backward pass reads and writes.
struct Backward<'a> {
    sizes: &'a Sizes,
    q: &'a [f32],
    out: &'a [f32],
    log_sums: &'a [f32],
    grad: &'a [f32],
    keys_across: &'a Packed,
    keys_along: &'a Packed,
    values_across: &'a Packed,
    q_grad: Pointer,
    k_grad: Pointer,
    v_grad: Pointer,
}

#[inline(always)]
unsafe fn backward_tile_in<S: Simd>(tile: &Tile, state: &Backward) {
    let sizes = state.sizes;
    let (rows, dim, padded) = (tile.rows(sizes), sizes.dim, sizes.padded_dim());
    let mut query_rows = vec![0f32; rows * dim];
    let mut grad_rows = vec![0f32; rows * dim];
    let mut packed_queries = vec![0f32; packed_len(rows, dim)];
    let mut packed_grads = vec![0f32; packed_len(rows, dim)];
    let mut weights = vec![0f32; rows * KEYS];
    let mut slopes = vec![0f32; rows * KEYS];
    let mut q_sums = vec![0f32; rows * padded];
    let mut deltas = vec![0f32; rows];
    unsafe {
        gather(tile, sizes, state.q, sizes.scale, &mut query_rows);
        gather(tile, sizes, state.grad, 1.0, &mut grad_rows);
        pack(
            query_rows.as_ptr(),
            dim,
            1,
            rows,
            dim,
            packed_queries.as_mut_ptr(),
        );
        pack(
            grad_rows.as_ptr(),
            dim,
            1,
            rows,
            dim,
            packed_grads.as_mut_ptr(),
        );
        for row in 0..rows {
            let place = tile.place(row, sizes) * dim;
            let out = &state.out[place..place + dim];
            let grad = &grad_rows[row * dim..(row + 1) * dim];
            deltas[row] = out.iter().zip(grad).map(|(out, grad)| out * grad).sum();
        }
        for &(index, causal) in tile.runs {
            let run = &tile.all_runs[index];
            let keys_across = state.keys_across.run(tile.kv_head, run);
            let keys_along = state.keys_along.run(tile.kv_head, run);
            let values_across = state.values_across.run(tile.kv_head, run);
            let seen = tile.seen(run, causal);
            for first in (0..seen).step_by(KEYS) {
                let width = (seen - first).min(KEYS);
                against::<S>(
                    rows,
                    dim,
                    &query_rows,
                    keys_across,
                    first,
                    width,
                    &mut weights,
                );
                against::<S>(
                    rows,
                    dim,
                    &grad_rows,
                    values_across,
                    first,
                    width,
                    &mut slopes,
                );
                let end = width.next_multiple_of(S::LANES);
                for row in 0..rows {
                    let limit = tile.limit(row, sizes, causal, first, width);
                    let weights = &mut weights[row * KEYS..row * KEYS + end];
                    let slopes = &mut slopes[row * KEYS..row * KEYS + end];
                    weights[limit..].fill(f32::NEG_INFINITY);
                    let log_sum = S::splat(state.log_sums[tile.place(row, sizes)]);
                    let delta = S::splat(deltas[row]);
                    for at in (0..end).step_by(S::LANES) {
                        let (weight, slope) =
                            (weights.as_mut_ptr().add(at), slopes.as_mut_ptr().add(at));
                        let p = S::exp(S::sub(S::load(weight), log_sum));
                        S::store(weight, p);
                        S::store(slope, S::mul(p, S::sub(S::load(slope), delta)));
                    }
                }
                let run_len = run.keys.len();
                weighted::<S>(
                    rows,
                    sizes,
                    &slopes,
                    keys_along,
                    run_len,
                    first,
                    width,
                    &mut q_sums,
                );
                let key = run.keys.start + first;
                let place = (key * sizes.kv_heads + tile.kv_head) * dim;
                for (left, panels, to) in [
                    (&weights, &packed_grads, state.v_grad),
                    (&slopes, &packed_queries, state.k_grad),
                ] {
                    run_product(Product {
                        rows: width,
                        columns: dim,
                        inner: rows,
                        a: left.as_ptr(),
                        a_row: 1,
                        a_inner: KEYS,
                        panels: panels.as_ptr(),
                        panel_stride: rows * panel_width(),
                        c: to.at(place),
                        c_row: sizes.kv_heads * dim,
                        accumulate: true,
                        bias: std::ptr::null(),
                    });
                }
            }
        }
        for row in 0..rows {
            let place = tile.place(row, sizes) * dim;
            for (index, sum) in q_sums[row * padded..row * padded + dim].iter().enumerate() {
                *state.q_grad.at(place + index) = sum * sizes.scale;
            }
        }
    }
}

dispatched! {
    /// Adds a tile's share to dk and dv, and writes its dq.
    fn backward_tile(tile: &Tile, state: &Backward) = backward_tile_in
}
