//! Attention of single queries, as in a step of decoding: keys and values are read where they lie.
//!
//! `s_j = scale · q·k_j`, `p = softmax(s)`, `o = Σ p_j v_j`, log-sum-exp `= max s + ln Σ e^(s − max s)`.
//! Tiles of [`super::attention`] pack the keys first, which pays when many queries use them; one
//! query would move its whole cache for a single pass over it.

use std::ops::Range;

use super::attention::Sizes;
use super::memory::{Buffer, Pointer, parallel};
use super::simd::{Simd, dispatched};
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
    parallel(layout.blocks().len() * sizes.kv_heads, |task| {
        let block = &layout.blocks()[task / sizes.kv_heads];
        // SAFETY: lengths were checked by the operator; tasks write rows of their own.
        unsafe {
            single(
                block,
                task % sizes.kv_heads,
                sizes,
                q,
                k,
                v,
                to,
                to_log_sums,
            )
        };
    });
    // SAFETY: every query is in one block, so every row was written.
    unsafe { (out.filled(), log_sums.filled()) }
}

/// The runs of keys that the block's query sees.
fn runs(block: &QueryBlock) -> impl Iterator<Item = Range<usize>> + '_ {
    let own = block.causal.map(|start| start..start + 1);
    block.visible.iter().cloned().chain(own)
}

#[inline(always)]
unsafe fn single_in<S: Simd>(
    block: &QueryBlock,
    kv_head: usize,
    sizes: &Sizes,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: Pointer,
    log_sums: Pointer,
) {
    let (dim, rows) = (sizes.dim, sizes.group());
    let whole = dim - dim % S::LANES;
    let seen: usize = runs(block).map(|run| run.len()).sum();
    let padded = seen.next_multiple_of(S::LANES);
    // The heads of a group are neighbours, so their rows are too.
    let place = block.queries.start * sizes.heads + kv_head * rows;
    let query = &q[place * dim..(place + rows) * dim];
    let mut scores = vec![f32::NEG_INFINITY; rows * padded];
    let mut sums = vec![0f32; rows * dim];
    let stride = sizes.kv_heads * dim;
    unsafe {
        let mut at = 0;
        for key in runs(block).flatten() {
            let key = k.as_ptr().add(key * stride + kv_head * dim);
            for row in 0..rows {
                let query = query.as_ptr().add(row * dim);
                let mut products = S::splat(0.0);
                for d in (0..whole).step_by(S::LANES) {
                    products = S::fma(S::load(query.add(d)), S::load(key.add(d)), products);
                }
                let mut product = S::sum(products);
                for d in whole..dim {
                    product += *query.add(d) * *key.add(d);
                }
                scores[row * padded + at] = product * sizes.scale;
            }
            at += 1;
        }
        for row in 0..rows {
            let scores = &mut scores[row * padded..(row + 1) * padded];
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
            *log_sums.at(place + row) = peak + total.ln();
            let inverse = 1.0 / total;
            for weight in scores {
                *weight *= inverse;
            }
        }
        at = 0;
        for key in runs(block).flatten() {
            let value = v.as_ptr().add(key * stride + kv_head * dim);
            for row in 0..rows {
                let weight = scores[row * padded + at];
                let spread = S::splat(weight);
                let sums = sums.as_mut_ptr().add(row * dim);
                for d in (0..whole).step_by(S::LANES) {
                    let sum = S::fma(spread, S::load(value.add(d)), S::load(sums.add(d)));
                    S::store(sums.add(d), sum);
                }
                for d in whole..dim {
                    *sums.add(d) += weight * *value.add(d);
                }
            }
            at += 1;
        }
        std::ptr::copy_nonoverlapping(sums.as_ptr(), out.at(place * dim), rows * dim);
    }
}

dispatched! {
    /// One query, for the query heads of one key head.
    fn single(
        block: &QueryBlock, kv_head: usize, sizes: &Sizes, q: &[f32], k: &[f32], v: &[f32],
        out: Pointer, log_sums: Pointer,
    ) = single_in
}
