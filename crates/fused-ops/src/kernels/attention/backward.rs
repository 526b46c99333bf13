//! The backward pass, of one gradient of the output or of several: the probabilities are the same.

use super::packed::Packed;
use super::rows::Rows;
use super::sizes::{KEYS, Sizes};
use super::tile::{Tile, against, gather, weighted};
use crate::kernels::dispatch::dispatched;
use crate::kernels::memory::{Buffer, Pointer, Working, parallel};
use crate::kernels::simd::Simd;
use crate::kernels::tile::{Product, pack, packed_len, panel_width, run_product, tile_rows};
use crate::layout::AttentionLayout;

/// The gradients of q, k and v for each of several gradients `grad` (gradients, queries, heads, dim) of one
/// output: as many of each, one after the other. Copies of keys and values each have a gradient.
#[allow(clippy::too_many_arguments)]
pub(crate) fn backward(
    q: &[f32],
    k: Rows<'_>,
    v: Rows<'_>,
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
    let gradients = grad.len() / q.len().max(1);
    let mut q_grad = Buffer::new(gradients * q.len());
    let mut k_grad = vec![0f32; gradients * k.len()];
    let mut v_grad = vec![0f32; gradients * v.len()];
    let state = Backward {
        sizes,
        gradients,
        q,
        out,
        log_sums,
        grad,
        keys_across: &keys_across,
        keys_along: &keys_along,
        values_across: &values_across,
        of_keys: k.len(),
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
    /// Gradients of the output.
    gradients: usize,
    q: &'a [f32],
    out: &'a [f32],
    log_sums: &'a [f32],
    grad: &'a [f32],
    keys_across: &'a Packed,
    keys_along: &'a Packed,
    values_across: &'a Packed,
    /// Values of one gradient of k, and of v.
    of_keys: usize,
    q_grad: Pointer,
    k_grad: Pointer,
    v_grad: Pointer,
}

#[inline(always)]
unsafe fn backward_tile_in<S: Simd>(tile: &Tile, state: &Backward) {
    let (sizes, gradients) = (state.sizes, state.gradients);
    let (rows, dim, padded) = (tile.rows(sizes), sizes.dim, sizes.padded_dim());
    let (of_rows, of_sums, of_panels) = (rows * dim, rows * padded, packed_len(rows, dim));
    let of_scores = rows * KEYS;
    let lengths = [
        of_rows,
        gradients * of_rows,
        of_panels,
        gradients * of_panels,
        of_scores,
        of_scores,
        gradients * of_sums,
        gradients * rows,
    ];
    let mut working = Working::new(lengths.iter().sum());
    let [
        query_rows,
        grad_rows,
        packed_queries,
        packed_grads,
        weights,
        slopes,
        q_sums,
        deltas,
    ] = working.parts(lengths);
    slopes.fill(0.0);
    q_sums.fill(0.0);
    // SAFETY: as in the forward pass; keys of the tile's component and head belong to this task.
    unsafe {
        gather(tile, sizes, state.q, sizes.scale, query_rows);
        let to = packed_queries.as_mut_ptr();
        pack(query_rows.as_ptr(), dim, 1, rows, dim, to);
        for of in 0..gradients {
            let grad = &state.grad[of * state.q.len()..(of + 1) * state.q.len()];
            let grad_rows = &mut grad_rows[of * of_rows..(of + 1) * of_rows];
            gather(tile, sizes, grad, 1.0, grad_rows);
            let to = packed_grads.as_mut_ptr().add(of * of_panels);
            pack(grad_rows.as_ptr(), dim, 1, rows, dim, to);
            for row in 0..rows {
                let place = tile.place(row, sizes) * dim;
                let out = &state.out[place..place + dim];
                let grad = &grad_rows[row * dim..(row + 1) * dim];
                let delta = out.iter().zip(grad).map(|(out, grad)| out * grad).sum();
                deltas[of * rows + row] = delta;
            }
        }
        for &(index, causal) in tile.runs {
            let run = &tile.all_runs[index];
            let keys_across = state.keys_across.run(tile.kv_head, index);
            let keys_along = state.keys_along.run(tile.kv_head, index);
            let values_across = state.values_across.run(tile.kv_head, index);
            let seen = tile.seen(run, causal);
            for first in (0..seen).step_by(KEYS) {
                let width = (seen - first).min(KEYS);
                against::<S>(rows, dim, query_rows, keys_across, first, width, weights);
                let end = width.next_multiple_of(S::LANES);
                for row in 0..rows {
                    let limit = tile.limit(row, sizes, causal, first, width);
                    let weights = &mut weights[row * KEYS..row * KEYS + end];
                    weights[limit..].fill(f32::NEG_INFINITY);
                    let log_sum = S::splat(state.log_sums[tile.place(row, sizes)]);
                    for at in (0..end).step_by(S::LANES) {
                        let weight = weights.as_mut_ptr().add(at);
                        S::store(weight, S::exp(S::sub(S::load(weight), log_sum)));
                    }
                }
                let key = run.keys.start + first;
                let place = (key * sizes.kv_heads + tile.kv_head) * dim;
                for of in 0..gradients {
                    against::<S>(
                        rows,
                        dim,
                        &grad_rows[of * of_rows..(of + 1) * of_rows],
                        values_across,
                        first,
                        width,
                        slopes,
                    );
                    for row in 0..rows {
                        let weights = weights.as_ptr().add(row * KEYS);
                        let slopes = slopes.as_mut_ptr().add(row * KEYS);
                        let delta = S::splat(deltas[of * rows + row]);
                        for at in (0..end).step_by(S::LANES) {
                            let (p, slope) = (S::load(weights.add(at)), slopes.add(at));
                            S::store(slope, S::mul(p, S::sub(S::load(slope), delta)));
                        }
                    }
                    weighted::<S>(
                        rows,
                        sizes,
                        slopes,
                        keys_along,
                        run.keys.len(),
                        first,
                        width,
                        &mut q_sums[of * of_sums..(of + 1) * of_sums],
                    );
                    let grads = packed_grads.as_ptr().add(of * of_panels);
                    for (left, panels, to) in [
                        (&*weights, grads, state.v_grad),
                        (&*slopes, packed_queries.as_ptr(), state.k_grad),
                    ] {
                        run_product(Product {
                            rows: width,
                            columns: dim,
                            inner: rows,
                            a: left.as_ptr(),
                            a_row: 1,
                            a_tile: tile_rows(),
                            a_inner: KEYS,
                            panels,
                            panel_stride: rows * panel_width(),
                            c: to.at(of * state.of_keys + place),
                            c_row: sizes.kv_heads * dim,
                            accumulate: true,
                            bias: std::ptr::null(),
                        });
                    }
                }
            }
        }
        for of in 0..gradients {
            for row in 0..rows {
                let place = of * state.q.len() + tile.place(row, sizes) * dim;
                let sums = &q_sums[of * of_sums + row * padded..][..dim];
                for (index, sum) in sums.iter().enumerate() {
                    *state.q_grad.at(place + index) = sum * sizes.scale;
                }
            }
        }
    }
}

dispatched! {
    /// Adds a tile's share to dk and dv, and writes its dq.
    fn backward_tile(tile: &Tile, state: &Backward) = backward_tile_in
}
