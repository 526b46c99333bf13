//! Occlusion of whole blocks: leave one block out.
//!
//! `drop_b = f(e) − f(e with block b's embeddings replaced by the baseline's)`. Source: Zeiler and
//! Fergus 2014 (arXiv 1311.2901), with a block of a prompt in place of an image patch. Deviation:
//! to share a type with the token-wise methods, a block's drop is spread evenly over its tokens, so
//! that a block's signed sum is its drop.

use candle_core::Tensor;

use crate::blocks::Blocks;
use crate::error::Result;
use crate::gradients::{same_matrix, values};
use crate::method::{AttributedFunction, Attribution};

/// The drop of `f` when one block at a time is replaced by the baseline.
///
/// Needs values of `f` only: one a non-empty block, one for the input and one for the baseline (all
/// blocks replaced). Shapes as in [`crate::integrated_gradients`]. The gap is the interaction
/// between blocks, which no single replacement sees.
///
/// # Errors
/// Shapes or labels that do not match, a non-finite value, or whatever `f` returns.
pub fn occlusion(
    input: &Tensor,
    baseline: &Tensor,
    blocks: &Blocks,
    nodes_per_batch: usize,
    f: &mut AttributedFunction<'_>,
) -> Result<Attribution> {
    let (tokens, hidden) = same_matrix(input, baseline)?;
    blocks.expect_tokens("input", tokens)?;
    let sizes = blocks.sizes();
    let occupied: Vec<usize> = (0..blocks.count()).filter(|&b| sizes[b] > 0).collect();

    let mut points = vec![baseline.clone(), input.clone()];
    for &block in &occupied {
        let mask: Vec<u8> = blocks
            .labels()
            .iter()
            .map(|&l| u8::from(l == block))
            .collect();
        let mask = Tensor::from_vec(mask, (tokens, 1), input.device())?;
        points.push(
            mask.broadcast_as((tokens, hidden))?
                .where_cond(baseline, input)?,
        );
    }
    let values = values(&points, nodes_per_batch, f)?;
    let (f_baseline, f_input) = (values[0], values[1]);

    let mut shares = vec![0f64; blocks.count()];
    for (&block, value) in occupied.iter().zip(&values[2..]) {
        shares[block] = (f_input - value) / sizes[block] as f64;
    }
    let scores: Vec<f64> = blocks.labels().iter().map(|&label| shares[label]).collect();
    let mut result = Attribution::new(&scores, f_input, f_baseline);
    result.forward_points = points.len();
    Ok(result)
}
