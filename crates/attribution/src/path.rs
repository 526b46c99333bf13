//! The way of a prompt's embeddings from a baseline to what they are, and points on it.

use candle_core::{DType, Tensor, Var};

use crate::baseline::Baseline;
use crate::blocks::Blocks;
use crate::error::{Error, Result};
use crate::quadrature::Node;

/// The straight path from baseline to input embeddings of one prompt, `e' + α (e − e')`, and the
/// prompt's blocks, each of which may also go its own part of the way.
#[derive(Clone, Debug)]
pub struct Path {
    input: Tensor,
    baseline: Tensor,
    direction: Tensor,
    blocks: Blocks,
}

/// A point at which a prompt's functions are evaluated.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Which of the given paths it lies on.
    pub path: usize,
    /// For each block the share of the way from baseline (0) to input (1) that it has gone.
    pub shares: Vec<f64>,
}

impl Path {
    /// From a named baseline to `input`, `(tokens, hidden)` of any float dtype.
    ///
    /// # Errors
    /// Blocks that do not match the tokens, or an input of another shape.
    pub fn new(input: &Tensor, baseline: Baseline, blocks: Blocks) -> Result<Self> {
        check_matrix(input)?;
        let baseline = baseline.tensor(input, &blocks)?;
        Self::between(&baseline, input, blocks)
    }

    /// From a given baseline to `input`, both `(tokens, hidden)` on the same device; the baseline
    /// gets the input's dtype.
    ///
    /// # Errors
    /// Shapes or blocks that do not match.
    pub fn between(baseline: &Tensor, input: &Tensor, blocks: Blocks) -> Result<Self> {
        let (tokens, hidden) = check_matrix(input)?;
        if baseline.dims() != input.dims() {
            return Err(Error::Shape {
                what: "baseline",
                expected: format!("({tokens}, {hidden}), as the input"),
                found: baseline.dims().to_vec(),
            });
        }
        blocks.expect_tokens("blocks", tokens)?;
        // Nothing upstream of the embeddings is differentiated.
        let input = input.detach();
        let baseline = baseline.detach().to_dtype(input.dtype())?;
        Ok(Path {
            direction: (&input - &baseline)?,
            input,
            baseline,
            blocks,
        })
    }

    /// The input embeddings `(tokens, hidden)`.
    pub fn input(&self) -> &Tensor {
        &self.input
    }

    /// The baseline `(tokens, hidden)`.
    pub fn baseline(&self) -> &Tensor {
        &self.baseline
    }

    /// Input minus baseline `(tokens, hidden)`.
    pub(crate) fn direction(&self) -> &Tensor {
        &self.direction
    }

    /// The block of each token.
    pub fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// The embeddings `(tokens, hidden)` where each block has gone its share of the way. A block that
    /// has gone it all is its input, to the bit.
    ///
    /// # Errors
    /// Another number of shares than of blocks.
    pub fn at(&self, shares: &[f64]) -> Result<Tensor> {
        if shares.len() != self.blocks.count() {
            return Err(Error::Length {
                what: "shares",
                expected: self.blocks.count(),
                found: shares.len(),
            });
        }
        if shares.iter().all(|&share| share == 1.0) {
            return Ok(self.input.clone());
        }
        if shares.iter().all(|&share| share == 0.0) {
            return Ok(self.baseline.clone());
        }
        let labels = self.blocks.labels();
        let rows = (labels.len(), 1);
        let device = self.input.device();
        let moved: Vec<f64> = labels.iter().map(|&label| shares[label]).collect();
        let moved = Tensor::from_vec(moved, rows, device)?;
        let arrived: Vec<u8> = labels
            .iter()
            .map(|&label| u8::from(shares[label] == 1.0))
            .collect();
        let arrived = Tensor::from_vec(arrived, rows, device)?;
        let point = self.moved(&moved)?;
        Ok(arrived
            .broadcast_as(self.input.dims())?
            .where_cond(&self.input, &point)?)
    }

    /// The embeddings at several α of the straight path, `(nodes, tokens, hidden)`, as a leaf whose
    /// gradient can be taken.
    ///
    /// # Errors
    /// Whatever the device reports.
    pub fn along(&self, nodes: &[Node]) -> Result<Var> {
        let alphas: Vec<f64> = nodes.iter().map(|node| node.alpha).collect();
        let alphas = Tensor::from_vec(alphas, (nodes.len(), 1, 1), self.input.device())?;
        Ok(Var::from_tensor(&self.moved(&alphas)?)?)
    }

    /// `baseline + shares · direction` in at least f32: half of bf16's eight bits would be lost.
    fn moved(&self, shares: &Tensor) -> Result<Tensor> {
        let dtype = self.input.dtype();
        let wide = match dtype {
            DType::F64 => DType::F64,
            _ => DType::F32,
        };
        let moved = self
            .direction
            .to_dtype(wide)?
            .broadcast_mul(&shares.to_dtype(wide)?)?;
        let point = moved.broadcast_add(&self.baseline.to_dtype(wide)?)?;
        Ok(point.to_dtype(dtype)?)
    }
}

/// The shape `(tokens, hidden)` of an input.
fn check_matrix(input: &Tensor) -> Result<(usize, usize)> {
    let [tokens, hidden] = *input.dims() else {
        return Err(Error::Shape {
            what: "input",
            expected: "(tokens, hidden)".to_owned(),
            found: input.dims().to_vec(),
        });
    };
    Ok((tokens, hidden))
}
