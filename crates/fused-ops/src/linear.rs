//! The affine map of every projection.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, Layout, MetalStorage, Shape, Tensor};

use crate::error::{Result, shape_error};

const OPERATOR: &str = "linear";

/// `x weightᵀ + bias`.
///
/// `x` is (tokens, in), `weight` (out, in), `bias` (out); gives (tokens, out). The backward pass
/// computes a gradient only for what needs one: a weight that is neither a variable nor computed
/// from one costs nothing, and neither does such an input.
///
/// # Errors
/// When shapes do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let &[_, inputs] = x.dims() else {
        return Err(shape_error(OPERATOR, "x", "(tokens, in)", x));
    };
    let outputs = match *weight.dims() {
        [outputs, columns] if columns == inputs => outputs,
        _ => {
            return Err(shape_error(
                OPERATOR,
                "weight",
                format!("(out, {inputs})"),
                weight,
            ));
        }
    };
    if let Some(bias) = bias
        && bias.dims() != [outputs]
    {
        return Err(shape_error(OPERATOR, "bias", format!("({outputs})"), bias));
    }
    let product = project(x, weight)?;
    Ok(match bias {
        Some(bias) => product.broadcast_add(bias)?,
        None => product,
    })
}

/// `x weightᵀ` without checks.
pub(crate) fn project(x: &Tensor, weight: &Tensor) -> candle_core::Result<Tensor> {
    x.contiguous()?.apply_op2(&weight.contiguous()?, Project)
}

/// candle's own matmul always computes both gradients; this one asks who needs them.
struct Project;

/// (batch, m, n, k) and the transposed layout of the weight.
fn product(
    x: &Layout,
    weight: &Layout,
) -> candle_core::Result<((usize, usize, usize, usize), Layout, Shape)> {
    let (tokens, inputs) = x.shape().dims2()?;
    let (outputs, _) = weight.shape().dims2()?;
    Ok((
        (1, tokens, outputs, inputs),
        weight.transpose(0, 1)?,
        Shape::from((tokens, outputs)),
    ))
}

impl CustomOp2 for Project {
    fn name(&self) -> &'static str {
        OPERATOR
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (sizes, transposed, shape) = product(x_layout, weight_layout)?;
        Ok((x.matmul(weight, sizes, x_layout, &transposed)?, shape))
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        let (sizes, transposed, shape) = product(x_layout, weight_layout)?;
        Ok((x.matmul(weight, sizes, x_layout, &transposed)?, shape))
    }

    fn metal_fwd(
        &self,
        x: &MetalStorage,
        x_layout: &Layout,
        weight: &MetalStorage,
        weight_layout: &Layout,
    ) -> candle_core::Result<(MetalStorage, Shape)> {
        let (sizes, transposed, shape) = product(x_layout, weight_layout)?;
        Ok((x.matmul(weight, sizes, x_layout, &transposed)?, shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _result: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (x_values, weight_values) = (x.detach(), weight.detach());
        let x_grad = match x.track_op() {
            true => Some(grad.matmul(&weight_values)?),
            false => None,
        };
        let weight_grad = match weight.track_op() {
            true => Some(grad.t()?.matmul(&x_values)?),
            false => None,
        };
        Ok((x_grad, weight_grad))
    }
}
