//! The affine map of every projection.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, CustomOp3, Layout, MetalStorage, Shape, Tensor,
};

use crate::error::{Result, shape_error};
use crate::kernels::elementwise;
use crate::kernels::gemm::{Matrix, Start, gemm};
use crate::kernels::memory::{Buffer, Pointer, parallel};
use crate::values::{Values, fusible, slice, tensor};

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
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    let fused = fusible(&[&x, &weight])?;
    Ok(match bias {
        None if fused => x.apply_op2(&weight, Fused)?,
        None => project(&x, &weight)?,
        Some(bias) if fused && fusible(&[bias])? => {
            x.apply_op3(&weight, &bias.contiguous()?, Fused)?
        }
        Some(bias) => project(&x, &weight)?.broadcast_add(bias)?,
    })
}

/// `x weightᵀ + bias` of (tokens, in) and (out, in).
pub(crate) fn forward(
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    (tokens, outputs, inputs): (usize, usize, usize),
) -> Vec<f32> {
    let mut out = Buffer::new(tokens * outputs);
    // SAFETY: out has room for the product, which writes all of it.
    unsafe {
        gemm(
            (tokens, outputs, inputs),
            Matrix::rows(x, inputs),
            Matrix::rows(weight, inputs).transposed(),
            bias.map_or(Start::Zero, Start::Bias),
            out.pointer(),
        );
        out.filled()
    }
}

/// The gradient of `x`, added to what is at `to` or replacing it: `grad weight`.
///
/// # Safety
/// `to` points to tokens · inputs values, initialised where `start` is [`Start::Current`].
pub(crate) unsafe fn input_gradient(
    grad: &[f32],
    weight: &[f32],
    (tokens, outputs, inputs): (usize, usize, usize),
    start: Start<'_>,
    to: Pointer,
) {
    let (grad, weight) = (Matrix::rows(grad, outputs), Matrix::rows(weight, inputs));
    // SAFETY: as the caller promises.
    unsafe { gemm((tokens, inputs, outputs), grad, weight, start, to) };
}

/// The gradient of the weight: `gradᵀ x`.
pub(crate) fn weight_gradient(
    grad: &[f32],
    x: &[f32],
    (tokens, outputs, inputs): (usize, usize, usize),
) -> Vec<f32> {
    let mut out = Buffer::new(outputs * inputs);
    // SAFETY: out has room for the product, which writes all of it.
    unsafe {
        gemm(
            (outputs, inputs, tokens),
            Matrix::rows(grad, outputs).transposed(),
            Matrix::rows(x, inputs),
            Start::Zero,
            out.pointer(),
        );
        out.filled()
    }
}

/// The gradient of the bias: the sum of the rows of `grad`, by runs of fixed length.
pub(crate) fn bias_gradient(grad: &[f32], outputs: usize) -> Vec<f32> {
    const TASK_ROWS: usize = 256;
    let tasks = grad.len().div_ceil(TASK_ROWS * outputs);
    let mut partial = vec![0f32; tasks * outputs];
    let partials = Pointer::to(&mut partial);
    let sum = |rows: &[f32], to: *mut f32| {
        for row in rows.chunks_exact(outputs) {
            // SAFETY: both rows hold `outputs` values.
            unsafe { elementwise::add(outputs, row.as_ptr(), to) };
        }
    };
    parallel(tasks, |task| {
        let end = ((task + 1) * TASK_ROWS * outputs).min(grad.len());
        // SAFETY: each task has a row of partial sums.
        let to = unsafe { partials.at(task * outputs) };
        sum(&grad[task * TASK_ROWS * outputs..end], to);
    });
    let mut total = vec![0f32; outputs];
    sum(&partial, total.as_mut_ptr());
    total
}

/// The operator on f32 in CPU memory, with or without bias.
struct Fused;

impl Fused {
    fn run(
        x: (&CpuStorage, &Layout),
        weight: (&CpuStorage, &Layout),
        bias: Option<(&CpuStorage, &Layout)>,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (tokens, inputs) = x.1.shape().dims2()?;
        let (outputs, _) = weight.1.shape().dims2()?;
        let bias = bias
            .map(|(storage, layout)| slice(storage, layout))
            .transpose()?;
        let out = forward(
            slice(x.0, x.1)?,
            slice(weight.0, weight.1)?,
            bias,
            (tokens, outputs, inputs),
        );
        Ok((CpuStorage::F32(out), Shape::from((tokens, outputs))))
    }

    fn gradients(
        x: &Tensor,
        weight: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let (tokens, inputs) = x.dims2()?;
        let (outputs, _) = weight.dims2()?;
        let sizes = (tokens, outputs, inputs);
        let grad_values = Values::of(grad);
        let grad = grad_values.slice()?;
        let mut x_grad = None;
        if x.track_op() {
            let mut buffer = Buffer::new(tokens * inputs);
            // SAFETY: the buffer has room for the gradient, all of which is written.
            let values = unsafe {
                let weight = Values::of(weight);
                input_gradient(grad, weight.slice()?, sizes, Start::Zero, buffer.pointer());
                buffer.filled()
            };
            x_grad = Some(tensor(values, x)?);
        }
        let mut weight_grad = None;
        if weight.track_op() {
            let values = weight_gradient(grad, Values::of(x).slice()?, sizes);
            weight_grad = Some(tensor(values, weight)?);
        }
        Ok((x_grad, weight_grad))
    }
}

impl CustomOp2 for Fused {
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
        Fused::run((x, x_layout), (weight, weight_layout), None)
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _out: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        Fused::gradients(x, weight, &grad.contiguous()?)
    }
}

impl CustomOp3 for Fused {
    fn name(&self) -> &'static str {
        OPERATOR
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        Fused::run(
            (x, x_layout),
            (weight, weight_layout),
            Some((bias, bias_layout)),
        )
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _out: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (x_grad, weight_grad) = Fused::gradients(x, weight, &grad)?;
        let mut bias_grad = None;
        if bias.track_op() {
            let values = bias_gradient(Values::of(&grad).slice()?, bias.elem_count());
            bias_grad = Some(tensor(values, bias)?);
        }
        Ok((x_grad, weight_grad, bias_grad))
    }
}

/// `x weightᵀ` without checks, by candle's matrix product.
pub(crate) fn project(x: &Tensor, weight: &Tensor) -> candle_core::Result<Tensor> {
    x.contiguous()?.apply_op2(&weight.contiguous()?, Project)
}

/// candle's own matmul always computes both gradients; this one asks who needs them.
struct Project;

/// (batch, m, n, k) as candle's matrix product takes them.
type Sizes = (usize, usize, usize, usize);

/// The sizes of the product, the transposed layout of the weight and the result's shape.
fn product(x: &Layout, weight: &Layout) -> candle_core::Result<(Sizes, Layout, Shape)> {
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
