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
