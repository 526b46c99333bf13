//! Attention over packed sequences without the (queries, keys) matrix.
//!
//! FlashAttention's recurrence (Dao et al., arXiv 2205.14135): for a tile of queries, walk the
//! keys in tiles of 96, keep the running maximum m, sum l and weighted values o,
//! `m' = max(m, max s)`, `l' = l e^(m−m') + Σ e^(s−m')`, `o' = o e^(m−m') + e^(s−m') v`; at the
//! end `o / l` and `log-sum-exp = m + ln l`. The backward pass recomputes p = e^(s − lse) tile by
//! tile and uses ds = p (dp − Σ do·o).
//!
//! Single queries, as in decoding, are [`decoding`]'s.
//!
//! Deviations: the query heads that share a key head are rows of one tile; keys are runs of the
//! layout, packed once for all tiles; in the backward pass a task owns a key head of one
//! connected component of the layout (blocks that share no key, directly or through others), so
//! sums into dk and dv have one order whatever the number of threads.

mod backward;
mod decoding;
mod forward;
mod packed;
mod rows;
mod sizes;
mod tile;

use crate::layout::AttentionLayout;

pub(crate) use backward::backward;
pub(crate) use rows::Rows;
pub(crate) use sizes::Sizes;

/// Gives the output (queries, heads, dim) and the log-sum-exp (queries, heads).
pub(crate) fn forward(
    q: &[f32],
    k: Rows<'_>,
    v: Rows<'_>,
    layout: &AttentionLayout,
    sizes: &Sizes,
) -> (Vec<f32>, Vec<f32>) {
    match (k.alone(), v.alone()) {
        (Some(k), Some(v)) if decoding::serves(layout) => decoding::forward(q, k, v, layout, sizes),
        _ => forward::forward(q, k, v, layout, sizes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::memory::Working;

    /// Tiles work in memory that holds whatever the kernel before left.
    #[test]
    fn nothing_is_read_that_a_tile_did_not_write() {
        let value = |index: usize| ((index * 2_654_435_761) % 1000) as f32 / 500.0 - 1.0;
        let values =
            |len: usize, shift: usize| -> Vec<f32> { (0..len).map(|i| value(i + shift)).collect() };
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        alone.unwrap().install(|| {
            for (dim, lengths) in [(32, vec![5, 130, 40]), (20, vec![97, 1]), (80, vec![33])] {
                let queries: usize = lengths.iter().sum();
                let layout = AttentionLayout::causal(&lengths);
                let sizes = Sizes {
                    queries,
                    heads: 4,
                    kv_heads: 2,
                    dim,
                    scale: 0.3,
                };
                let of_keys = queries * sizes.kv_heads * dim;
                let (q, grad) = (values(2 * of_keys, 1), values(2 * of_keys, 2));
                let (k, v) = (values(of_keys, 3), values(of_keys, 4));
                let (k, v): (Rows<'_>, Rows<'_>) = (k.as_slice().into(), v.as_slice().into());
                let found = [0.0, f32::NAN].map(|left| {
                    let leave = || Working::new(1 << 20).parts([1 << 20])[0].fill(left);
                    leave();
                    let (out, log_sums) = forward::forward(&q, k, v, &layout, &sizes);
                    leave();
                    let grads = backward(&q, k, v, &out, &log_sums, &grad, &layout, &sizes);
                    (out, log_sums, grads)
                });
                assert!(found[0].0.iter().all(|value| value.is_finite()));
                assert!(found[0] == found[1], "{dim} values, {lengths:?}");
            }
        });
    }
}
