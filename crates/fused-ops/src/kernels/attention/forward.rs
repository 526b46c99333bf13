//! The forward pass of many queries.

use libm::{expf, logf};

use super::packed::Packed;
use super::rows::Rows;
use super::sizes::{KEYS, Sizes};
use super::tile::{Tile, against, gather, weighted};
use crate::kernels::dispatch::dispatched;
use crate::kernels::memory::{Buffer, Pointer, Working, parallel};
use crate::kernels::simd::Simd;
use crate::layout::AttentionLayout;

/// Gives the output (queries, heads, dim) and the log-sum-exp (queries, heads).
pub(crate) fn forward(
    q: &[f32],
    k: Rows<'_>,
    v: Rows<'_>,
    layout: &AttentionLayout,
    sizes: &Sizes,
) -> (Vec<f32>, Vec<f32>) {
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
    let lengths = [rows * dim, rows * KEYS, rows * padded, rows, rows];
    let mut working = Working::new(lengths.iter().sum());
    let [query_rows, scores, sums, peaks, totals] = working.parts(lengths);
    sums.fill(0.0);
    peaks.fill(f32::NEG_INFINITY);
    totals.fill(0.0);
    // SAFETY: lengths were checked by the operator; the rows of a tile lie within q, out and log_sums,
    // and the buffers hold `rows` rows of their sizes.
    unsafe {
        gather(tile, sizes, q, sizes.scale, query_rows);
        for &(index, causal) in tile.runs {
            let run = &tile.all_runs[index];
            let packed_keys = keys.run(tile.kv_head, index);
            let packed_values = values.run(tile.kv_head, index);
            let seen = tile.seen(run, causal);
            for first in (0..seen).step_by(KEYS) {
                let width = (seen - first).min(KEYS);
                against::<S>(rows, dim, query_rows, packed_keys, first, width, scores);
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
                    scores,
                    packed_values,
                    run_len,
                    first,
                    width,
                    sums,
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
