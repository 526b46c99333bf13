//! Where the path of integrated gradients starts, and what occlusion puts in place of a block.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::blocks::Blocks;
use crate::error::Result;

/// A baseline for input embeddings. One of another making, such as the embeddings of the same prompt
/// with a blurred image, is given to [`crate::Path::between`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Baseline {
    /// All zeros. RMS norms are steepest there: watch the completeness gap.
    Zero,
    /// Each token gets the mean embedding of its own block in this input.
    BlockMean,
}

impl Baseline {
    /// The baseline of `input` `(tokens, hidden)`, of its shape, dtype and device.
    ///
    /// # Errors
    /// Block labels that do not match the tokens.
    pub fn tensor(self, input: &Tensor, blocks: &Blocks) -> Result<Tensor> {
        let (tokens, _) = input.dims2()?;
        match self {
            Baseline::Zero => Ok(input.zeros_like()?.detach()),
            Baseline::BlockMean => block_means(input, blocks, tokens),
        }
    }
}

/// Sums the rows of each block in the order of the tokens, divides, and gives every token its
/// block's mean.
fn block_means(input: &Tensor, blocks: &Blocks, tokens: usize) -> Result<Tensor> {
    blocks.expect_tokens("input", tokens)?;
    if tokens == 0 {
        return Ok(input.detach());
    }
    let device = input.device();
    let labels: Vec<u32> = blocks.labels().iter().map(|&label| label as u32).collect();
    let labels = Tensor::from_vec(labels, tokens, device)?;
    let sizes: Vec<f32> = blocks.sizes().iter().map(|&size| size as f32).collect();
    let sizes = Tensor::from_vec(sizes, (blocks.count(), 1), device)?;
    let rows = input.detach().to_dtype(DType::F32)?.contiguous()?;
    let means = Tensor::zeros((blocks.count(), rows.dim(1)?), DType::F32, device)?
        .index_add(&labels, &rows, 0)?
        .broadcast_div(&sizes)?;
    Ok(means.index_select(&labels, 0)?.to_dtype(input.dtype())?)
}
