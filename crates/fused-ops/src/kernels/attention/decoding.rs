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
        let block = &layout.blocks()[task];
        // Samples of a prompt follow each other: what the one before has read is at hand.
        let before = task.checked_sub(1).map(|task| &layout.blocks()[task]);
        let warm = match (
            before.and_then(|b| b.visible.first()),
            block.visible.first(),
        ) {
            (Some(before), Some(run)) if before == run => run.clone(),
            _ => 0..0,
        };
        // SAFETY: lengths were checked by the operator; tasks write rows of their own.
        unsafe { single(block, &warm, sizes, q, k, v, to, to_log_sums) };
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
/// cache, and memory is read from front to back. A lane of a vector for each.
const TILE: usize = 16;

#[inline(always)]
unsafe fn single_in<S: Simd>(
    block: &QueryBlock,
    warm: &Range<usize>,
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
            if !warm.contains(&tile.start) {
                ahead::<S>(k, &tile, stride);
            }
            for head in 0..heads {
                let query = query.add(head * dim);
                let keys = k.as_ptr().add(tile.start * stride + head / group * dim);
                // Heads of 32, 80 and 128 values, whose loops are then written out.
                let products = match whole / S::LANES {
                    2 => products::<S>(query, keys, stride, tile.len(), 2),
                    5 => products::<S>(query, keys, stride, tile.len(), 5),
                    8 => products::<S>(query, keys, stride, tile.len(), 8),
                    vectors => products::<S>(query, keys, stride, tile.len(), vectors),
                };
                let scale = S::splat(sizes.scale);
                let products = if whole == dim {
                    lanes::<S>(S::mul(products, scale))
                } else {
                    let mut products = lanes::<S>(products);
                    for (index, product) in products[..tile.len()].iter_mut().enumerate() {
                        let key = keys.add(index * stride);
                        for d in whole..dim {
                            *product += *query.add(d) * *key.add(d);
                        }
                        *product *= sizes.scale;
                    }
                    products
                };
                let scores = scores.as_mut_ptr().add(head * padded + at);
                std::ptr::copy_nonoverlapping(products.as_ptr(), scores, tile.len());
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
            if !warm.contains(&tile.start) {
                ahead::<S>(v, &tile, stride);
            }
            // Two heads of a group read its values once.
            let at_once = if group.is_multiple_of(2) { 2 } else { 1 };
            for head in (0..heads).step_by(at_once) {
                let weights = scores.as_ptr().add(head * padded + at);
                let values = v.as_ptr().add(tile.start * stride + head / group * dim);
                let sums = sums.as_mut_ptr().add(head * dim);
                let (weights, values) = ((weights, padded), (values, stride));
                match at_once {
                    2 => add_heads::<S, 2>(tile.len(), dim, weights, values, sums),
                    _ => add_heads::<S, 1>(tile.len(), dim, weights, values, sums),
                }
            }
        }
        std::ptr::copy_nonoverlapping(sums.as_ptr(), out.at(place * dim), heads * dim);
    }
}

/// The lanes of a vector.
#[inline(always)]
unsafe fn lanes<S: Simd>(vector: S::V) -> [f32; TILE] {
    const { assert!(S::LANES == TILE, "a tile has a key for each lane") };
    let mut lanes = [0f32; TILE];
    // SAFETY: there is a place for every lane; the instruction set is the caller's promise.
    unsafe { S::store(lanes.as_mut_ptr(), vector) };
    lanes
}

/// The products of a query with `count` keys, each of `vectors` vectors, in the lanes of one.
#[inline(always)]
unsafe fn products<S: Simd>(
    query: *const f32,
    keys: *const f32,
    stride: usize,
    count: usize,
    vectors: usize,
) -> S::V {
    // SAFETY: the query and `count` keys have the vectors, as the caller promises with the instruction
    // set; a tile has a key for each lane.
    unsafe {
        let mut products = [S::splat(0.0); TILE];
        for (index, sums) in products.iter_mut().enumerate() {
            // Lanes without a key get the last one's product: no branch is needed.
            let key = keys.add(index.min(count - 1) * stride);
            let mut sum = S::splat(0.0);
            for d in (0..vectors * S::LANES).step_by(S::LANES) {
                sum = S::fma(S::load(query.add(d)), S::load(key.add(d)), sum);
            }
            *sums = sum;
        }
        S::sum_each(&products)
    }
}

/// Adds `count` values of `dim` to the sums of each of `HEADS` heads, times the head's weights: rows of
/// weights and values have these strides, sums follow each other.
#[inline(always)]
unsafe fn add_heads<S: Simd, const HEADS: usize>(
    count: usize,
    dim: usize,
    weights: (*const f32, usize),
    values: (*const f32, usize),
    sums: *mut f32,
) {
    // SAFETY: weights, values and sums exist, as the caller promises with the instruction set.
    unsafe {
        let mut from = 0;
        while dim - from >= S::LANES {
            let values = (values.0.add(from), values.1);
            let sums = (sums.add(from), dim);
            // Two heads have twice the sums: as many vectors of each as registers hold.
            let vectors = match (dim - from) / S::LANES {
                8.. if HEADS == 1 => add_values::<S, 8, HEADS>(count, weights, values, sums),
                5.. if HEADS == 1 => add_values::<S, 5, HEADS>(count, weights, values, sums),
                4.. => add_values::<S, 4, HEADS>(count, weights, values, sums),
                2.. => add_values::<S, 2, HEADS>(count, weights, values, sums),
                _ => add_values::<S, 1, HEADS>(count, weights, values, sums),
            };
            from += vectors * S::LANES;
        }
        for head in 0..HEADS {
            for d in from..dim {
                for row in 0..count {
                    let value = *values.0.add(row * values.1 + d);
                    *sums.add(head * dim + d) += *weights.0.add(head * weights.1 + row) * value;
                }
            }
        }
    }
}

/// Adds `VECTORS` vectors of each of `count` values to the sums of each head; gives `VECTORS`.
#[inline(always)]
unsafe fn add_values<S: Simd, const VECTORS: usize, const HEADS: usize>(
    count: usize,
    (weights, of_head): (*const f32, usize),
    (values, stride): (*const f32, usize),
    (sums, of_sums): (*mut f32, usize),
) -> usize {
    // SAFETY: weights, values and sums exist, as the caller promises with the instruction set.
    unsafe {
        let mut total = [[S::splat(0.0); VECTORS]; HEADS];
        for (head, total) in total.iter_mut().enumerate() {
            for (vector, total) in total.iter_mut().enumerate() {
                *total = S::load(sums.add(head * of_sums + vector * S::LANES));
            }
        }
        let mut value = values;
        for row in 0..count {
            let mut own = [S::splat(0.0); VECTORS];
            for (vector, own) in own.iter_mut().enumerate() {
                *own = S::load(value.add(vector * S::LANES));
            }
            for (head, total) in total.iter_mut().enumerate() {
                let weight = S::splat(*weights.add(head * of_head + row));
                for (own, total) in own.iter().zip(total) {
                    *total = S::fma(weight, *own, *total);
                }
            }
            value = value.wrapping_add(stride);
        }
        for (head, total) in total.into_iter().enumerate() {
            for (vector, total) in total.into_iter().enumerate() {
                S::store(sums.add(head * of_sums + vector * S::LANES), total);
            }
        }
    }
    VECTORS
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
    /// One query, for all its heads; the rows in `warm` were read just before.
    fn single(
        block: &QueryBlock, warm: &Range<usize>, sizes: &Sizes, q: &[f32], k: &[f32], v: &[f32],
        out: Pointer, log_sums: Pointer,
    ) = single_in
}
