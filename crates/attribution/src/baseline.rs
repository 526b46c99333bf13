//! Where the path of integrated gradients starts, and what occlusion puts in place of a block.

use candle_core::{DType, Tensor};

use crate::blocks::Blocks;
use crate::error::{Error, Result};

/// A baseline for input embeddings.
#[derive(Clone, Debug)]
pub enum Baseline {
    /// All zeros. RMS norms are steepest there: watch the completeness gap.
    Zero,
    /// One embedding `(hidden)` for every token, for example the mean of the embedding table.
    Mean(Tensor),
    /// Each token gets the mean embedding of its own block in this input.
    BlockMean,
    /// A whole matrix `(tokens, hidden)`, for example with features of a blurred image at the image
    /// tokens.
    Given(Tensor),
}

impl Baseline {
    /// The baseline of `input` `(tokens, hidden)`, of its shape, dtype and device.
    ///
    /// # Errors
    /// A mean or matrix of the wrong shape, or block labels that do not match the tokens.
    pub fn tensor(&self, input: &Tensor, blocks: &Blocks) -> Result<Tensor> {
        let (tokens, hidden) = input.dims2()?;
        let fitted = |what, tensor: &Tensor, expected: &[usize]| -> Result<Tensor> {
            if tensor.dims() != expected {
                return Err(Error::Shape {
                    what,
                    expected: format!("{expected:?}"),
                    found: tensor.dims().to_vec(),
                });
            }
            let tensor = tensor.detach().to_device(input.device())?;
            Ok(tensor.to_dtype(input.dtype())?)
        };
        match self {
            Baseline::Zero => Ok(input.zeros_like()?.detach()),
            Baseline::Mean(mean) => {
                let mean = fitted("the mean embedding", mean, &[hidden])?;
                Ok(mean.broadcast_as((tokens, hidden))?.contiguous()?)
            }
            Baseline::Given(matrix) => fitted("the given baseline", matrix, &[tokens, hidden]),
            Baseline::BlockMean => block_means(input, blocks, tokens),
        }
    }
}

/// Averages through a matrix product: `membership (tokens, blocks) / size`, then back.
fn block_means(input: &Tensor, blocks: &Blocks, tokens: usize) -> Result<Tensor> {
    blocks.expect_tokens("input", tokens)?;
    if tokens == 0 {
        return Ok(input.detach());
    }
    let sizes = blocks.sizes();
    let count = blocks.count();
    let mut average = vec![0f32; count * tokens];
    for (token, &label) in blocks.labels().iter().enumerate() {
        average[label * tokens + token] = 1.0 / sizes[label] as f32;
    }
    let average = Tensor::from_vec(average, (count, tokens), input.device())?;
    let means = average.matmul(&input.detach().to_dtype(DType::F32)?.contiguous()?)?;
    let labels: Vec<u32> = blocks.labels().iter().map(|&label| label as u32).collect();
    let labels = Tensor::from_vec(labels, tokens, input.device())?;
    Ok(means.index_select(&labels, 0)?.to_dtype(input.dtype())?)
}
