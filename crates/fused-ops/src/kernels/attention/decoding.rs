//! Attention of single queries, as in a step of decoding: keys and values are read where they lie.
//!
//! `s_j = scale · q·k_j`, `p = softmax(s)`, `o = Σ p_j v_j`, log-sum-exp `= max s + ln Σ e^(s − max s)`.
//! Tiles of [`super::forward`] pack the keys first, which pays when many queries use them; one
//! query would move its whole cache for a single pass over it.

use std::ops::Range;

use libm::logf;

use super::sizes::Sizes;
use crate::kernels::dispatch::dispatched;
use crate::kernels::memory::{Buffer, Pointer, parallel};
use crate::kernels::simd::Simd;
use crate::layout::{AttentionLayout, QueryBlock};

/// Whether every block of the layout is a single query.
pub(crate) fn serves(layout: &AttentionLayout) -> bool {
    layout.blocks().iter().all(|block| block.queries.len() == 1)
}

/// Gives the output (queries, heads, dim) and the log-sum-exp (queries, heads).
pub(crate) fn forward(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    layout: &AttentionLayout,
    sizes: &Sizes,
) -> (Vec<f32>, Vec<f32>) {
    let mut out = Buffer::new(sizes.queries * sizes.heads * sizes.dim);
    let mut log_sums = Buffer::new(sizes.queries * sizes.heads);
    let (to, to_log_sums) = (out.pointer(), log_sums.pointer());
    parallel(layout.blocks().len(), |task| {
        // SAFETY: lengths were checked by the operator; tasks write rows of their own.
        unsafe { single(&layout.blocks()[task], sizes, q, k, v, to, to_log_sums) };
    });
    // SAFETY: every query is in one block, so every row was written.
    unsafe { (out.filled(), log_sums.filled()) }
}

/// The runs of keys that the block's query sees.
fn runs(block: &QueryBlock) -> impl Iterator<Item = Range<usize>> + '_ {
    let own = block.causal.map(|start| start..start + 1);
    block.visible.iter().cloned().chain(own)
}

/// Keys whose rows are walked at a time, all heads one after the other: they stay in the first-level
/// cache, and memory is read from front to back.
const TILE: usize = 16;

#[inline(always)]
unsafe fn single_in<S: Simd>(
    block: &QueryBlock,
    sizes: &Sizes,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: Pointer,
    log_sums: Pointer,
) {
    let (dim, heads, group) = (sizes.dim, sizes.heads, sizes.group());
    let whole = dim - dim % S::LANES;
    let seen: usize = runs(block).map(|run| run.len()).sum();
    let padded = seen.next_multiple_of(S::LANES);
    let place = block.queries.start * heads;
    let stride = sizes.kv_heads * dim;
    let mut scores = vec![f32::NEG_INFINITY; heads * padded];
    let mut sums = vec![0f32; heads * dim];
    // SAFETY: lengths were checked by the operator: keys lie within k and v, the query within q, and
    // the scores have a row of `padded` for each head; the instruction set is the caller's promise.
    unsafe {
        let query = q.as_ptr().add(place * dim);
        for (at, tile) in tiles(block) {
            ahead::<S>(k, &tile, stride);
            for head in 0..heads {
                let query = query.add(head * dim);
                let scores = scores.as_mut_ptr().add(head * padded + at);
                for (index, key) in tile.clone().enumerate() {
                    let key = k.as_ptr().add(key * stride + head / group * dim);
                    let mut products = S::splat(0.0);
                    for d in (0..whole).step_by(S::LANES) {
                        products = S::fma(S::load(query.add(d)), S::load(key.add(d)), products);
                    }
                    let mut product = S::sum(products);
                    for d in whole..dim {
                        product += *query.add(d) * *key.add(d);
                    }
                    *scores.add(index) = product * sizes.scale;
                }
            }
        }
        for head in 0..heads {
            let scores = &mut scores[head * padded..(head + 1) * padded];
            let mut peak = S::splat(f32::NEG_INFINITY);
            for at in (0..padded).step_by(S::LANES) {
                peak = S::max(S::load(scores.as_ptr().add(at)), peak);
            }
            let peak = S::largest(peak);
            let shift = S::splat(peak);
            let mut total = S::splat(0.0);
            for at in (0..padded).step_by(S::LANES) {
                let at = scores.as_mut_ptr().add(at);
                let weight = S::exp(S::sub(S::load(at), shift));
                total = S::add(total, weight);
                S::store(at, weight);
            }
            let total = S::sum(total);
            *log_sums.at(place + head) = peak + logf(total);
            let inverse = 1.0 / total;
            for weight in scores {
                *weight *= inverse;
            }
        }
        for (at, tile) in tiles(block) {
            ahead::<S>(v, &tile, stride);
            for head in 0..heads {
                let weights = scores.as_ptr().add(head * padded + at);
                let value = v.as_ptr().add(head / group * dim);
                let sums = sums.as_mut_ptr().add(head * dim);
                for d in (0..whole).step_by(S::LANES) {
                    let mut sum = S::load(sums.add(d));
                    for (index, key) in tile.clone().enumerate() {
                        let value = S::load(value.add(key * stride + d));
                        sum = S::fma(S::splat(*weights.add(index)), value, sum);
                    }
                    S::store(sums.add(d), sum);
                }
                for d in whole..dim {
                    for (index, key) in tile.clone().enumerate() {
                        *sums.add(d) += *weights.add(index) * *value.add(key * stride + d);
                    }
                }
            }
        }
        std::ptr::copy_nonoverlapping(sums.as_ptr(), out.at(place * dim), heads * dim);
    }
}

/// Asks for the rows of the tile after next: a cache of many prompts lies in main memory.
#[inline(always)]
unsafe fn ahead<S: Simd>(cache: &[f32], tile: &Range<usize>, stride: usize) {
    const LINE: usize = 16;
    let first = cache
        .as_ptr()
        .wrapping_add((tile.start + 2 * TILE) * stride);
    for line in (0..TILE * stride).step_by(LINE) {
        // SAFETY: a prefetch reads nothing, whatever the address.
        unsafe { S::prefetch(first.wrapping_add(line)) };
    }
}

/// The keys that the block's query sees, in tiles: where a tile starts among them, and its rows.
fn tiles(block: &QueryBlock) -> impl Iterator<Item = (usize, Range<usize>)> + '_ {
    let mut before = 0;
    runs(block).flat_map(move |run| {
        let first = before;
        before += run.len();
        let end = run.end;
        let start = run.start;
        (start..end)
            .step_by(TILE)
            .map(move |row| (first + row - start, row..(row + TILE).min(end)))
    })
}

dispatched! {
    /// One query, for all its heads.
    fn single(
        block: &QueryBlock, sizes: &Sizes, q: &[f32], k: &[f32], v: &[f32], out: Pointer,
        log_sums: Pointer,
    ) = single_in
}
