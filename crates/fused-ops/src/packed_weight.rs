//! A weight that many products share, laid out for the kernels once.
//!
//! [`crate::linear`] packs its weight at every call: little beside a training step's thousands of
//! tokens, a fifth of a step of generation with 128, most of one with a single token.

use std::sync::Arc;

use candle_core::Tensor;

use crate::error::{Result, shape_error};
use crate::kernels::gemm::{Matrix, PackedMatrix, Right, Start, gemm};
use crate::kernels::memory::Buffer;
use crate::values::{Values, fusible};

const OPERATOR: &str = "packed linear";

/// A copy of a weight, packed for [`PackedWeight::linear`]. Cloning shares it.
#[derive(Clone, Debug)]
pub struct PackedWeight(Arc<PackedMatrix>);

impl PackedWeight {
    /// Packs `weight` (out, in) as it is now: what happens to it later does not show. `None` where
    /// [`crate::linear`] runs without the fused kernels, which alone know the layout.
    ///
    /// # Errors
    /// When `weight` is not a matrix, or an environment variable was refused.
    pub fn new(weight: &Tensor) -> Result<Option<Self>> {
        let &[outputs, inputs] = weight.dims() else {
            return Err(shape_error(OPERATOR, "weight", "(out, in)", weight));
        };
        let weight = weight.contiguous()?;
        if !fusible(&[&weight])? {
            return Ok(None);
        }
        let values = Values::of(&weight);
        let columns = Matrix::rows(values.slice()?, inputs).transposed();
        Ok(Some(PackedWeight(Arc::new(PackedMatrix::new(
            columns,
            (outputs, inputs),
        )))))
    }

    /// `x weightᵀ + bias` for `x` (tokens, in) and `bias` (out), in f32 on the CPU: (tokens, out), the
    /// bits of [`crate::linear`], without a graph.
    ///
    /// # Errors
    /// When shapes or dtypes do not fit.
    pub fn linear(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let (outputs, inputs) = self.0.sizes();
        let tokens = match *x.dims() {
            [tokens, columns] if columns == inputs => tokens,
            _ => return Err(shape_error(OPERATOR, "x", format!("(tokens, {inputs})"), x)),
        };
        if let Some(bias) = bias
            && bias.dims() != [outputs]
        {
            return Err(shape_error(OPERATOR, "bias", format!("({outputs})"), bias));
        }
        let x = x.contiguous()?;
        let bias = bias.map(Tensor::contiguous).transpose()?;
        let x_values = Values::of(&x);
        let bias_values = bias.as_ref().map(Values::of);
        let start = match &bias_values {
            Some(bias) => Start::Bias(bias.slice()?),
            None => Start::Zero,
        };
        let a = Matrix::rows(x_values.slice()?, inputs);
        let mut out = Buffer::new(tokens * outputs);
        // SAFETY: out has room for the product, which writes all of it; rows of x are adjacent, and
        // the packed weight has these sizes.
        let values = unsafe {
            gemm(
                (tokens, outputs, inputs),
                a,
                Right::Packed(&self.0),
                start,
                out.pointer(),
            );
            out.filled()
        };
        Ok(Tensor::from_vec(values, (tokens, outputs), x.device())?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::linear::linear;

    fn values(rows: usize, columns: usize, seed: usize) -> Tensor {
        let values = (0..rows * columns)
            .map(|i| ((i * 2_654_435_761 + seed) % 1000) as f32 / 500.0 - 1.0)
            .collect::<Vec<_>>();
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
    }

    /// Rows below, at and above those of a tile; panels that are whole and cut; inner dimensions of one
    /// block, of the longest and of several.
    #[test]
    fn gives_the_bits_of_linear() {
        for (tokens, outputs, inputs) in [
            (1, 300, 40),
            (2, 33, 512),
            (3, 32, 1176),
            (13, 65, 1300),
            (128, 150, 96),
            (1, 4096, 2100),
        ] {
            let (x, weight) = (values(tokens, inputs, 1), values(outputs, inputs, 7));
            let bias = values(1, outputs, 3).flatten_all().unwrap();
            let packed = PackedWeight::new(&weight).unwrap();
            for bias in [None, Some(&bias)] {
                let expected = linear(&x, &weight, bias).unwrap();
                // Composed operators have no packed weight.
                let Some(packed) = &packed else { continue };
                let found = packed.linear(&x, bias).unwrap();
                let bits = |t: &Tensor| -> Vec<u32> {
                    let values: Vec<f32> = t.flatten_all().unwrap().to_vec1().unwrap();
                    values.into_iter().map(f32::to_bits).collect()
                };
                assert_eq!(bits(&expected), bits(&found), "{tokens} {outputs} {inputs}");
            }
        }
    }

    #[test]
    fn other_types_are_not_packed_and_shapes_are_checked() {
        let weight = values(4, 3, 0);
        let half = weight.to_dtype(DType::BF16).unwrap();
        assert!(PackedWeight::new(&half).unwrap().is_none());
        assert!(PackedWeight::new(&values(1, 3, 0).flatten_all().unwrap()).is_err());
        if let Some(packed) = PackedWeight::new(&weight).unwrap() {
            let error = packed.linear(&values(2, 4, 0), None).unwrap_err();
            assert!(error.to_string().contains("(tokens, 3)"), "{error}");
            let bias = values(1, 3, 0).flatten_all().unwrap();
            assert!(packed.linear(&values(2, 3, 0), Some(&bias)).is_err());
        }
    }
}
