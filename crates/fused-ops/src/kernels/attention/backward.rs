//! The backward pass.

use super::packed::Packed;
use super::sizes::{KEYS, Sizes};
use super::tile::{Tile, against, gather, weighted};
use crate::kernels::dispatch::dispatched;
use crate::kernels::memory::{Buffer, Pointer, parallel};
use crate::kernels::simd::Simd;
use crate::kernels::tile::{Product, pack, packed_len, panel_width, run_product};
use crate::layout::AttentionLayout;

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
    // SAFETY: as in the forward pass; keys of the tile's component and head belong to this task.
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
