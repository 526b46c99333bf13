//! RMS normalisation.

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};

use crate::composed;
use crate::error::{Result, shape_error};
use crate::kernels::memory::{Buffer, Pointer, parallel_chunks};
use crate::kernels::{elementwise, norm};
use crate::values::{Values, fusible, slice, tensor};

const OPERATOR: &str = "rms_norm";

/// `x / sqrt(mean(x²) + eps) · weight` over the last dimension.
///
/// `x` is (.., hidden), `weight` (hidden); gives the shape of `x`, differentiable in both.
///
/// # Errors
/// When the last dimension of `x` is not the length of `weight`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let Some(&hidden) = x.dims().last() else {
        return Err(shape_error(OPERATOR, "x", "(.., hidden)", x));
    };
    if weight.dims() != [hidden] {
        return Err(shape_error(
            OPERATOR,
            "weight",
            format!("({hidden})"),
            weight,
        ));
    }
    if !fusible(&[x, weight])? {
        return Ok(composed::rms_norm(x, weight, eps)?);
    }
    Ok(x.contiguous()?
        .apply_op2(&weight.contiguous()?, RmsNorm { eps: eps as f32 })?)
}

/// Rows of a task; fixed, for the weight's gradient is summed by task.
const TASK_ROWS: usize = 128;

/// The rows of `x`, normalised.
pub(crate) fn forward(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let hidden = weight.len();
    let mut out = Buffer::new(x.len());
    let to = out.pointer();
    parallel_chunks(x.len() / hidden, TASK_ROWS, |start, end| {
        // SAFETY: the rows lie within x and out, and each belongs to one task.
        unsafe {
            let at = start * hidden;
            norm::forward(
                end - start,
                hidden,
                x[at..end * hidden].as_ptr(),
                weight.as_ptr(),
                eps,
                to.at(at),
            );
        }
    });
    // SAFETY: every row was written.
    unsafe { out.filled() }
}

/// The gradient of `x`, added to `x_grad` or, without `accumulate`, replacing it; and the
/// gradient of the weight. What is null or false is not computed.
pub(crate) fn backward(
    x: &[f32],
    weight: &[f32],
    eps: f32,
    grad: &[f32],
    x_grad: Option<(Pointer, bool)>,
    wants_weight: bool,
) -> Option<Vec<f32>> {
    let hidden = weight.len();
    let rows = x.len() / hidden;
    let mut partial = match wants_weight {
        true => vec![0f32; rows.div_ceil(TASK_ROWS) * hidden],
        false => Vec::new(),
    };
    let partials = Pointer::to(&mut partial);
    parallel_chunks(rows, TASK_ROWS, |start, end| {
        // SAFETY: as in the forward pass; each task has a row of partial sums.
        unsafe {
            let at = start * hidden;
            norm::backward(
                end - start,
                hidden,
                x[at..end * hidden].as_ptr(),
                weight.as_ptr(),
                eps,
                grad[at..end * hidden].as_ptr(),
                x_grad.is_some_and(|(_, accumulate)| accumulate),
                x_grad.map_or(std::ptr::null_mut(), |(to, _)| to.at(at)),
                match wants_weight {
                    true => partials.at(start / TASK_ROWS * hidden),
                    false => std::ptr::null_mut(),
                },
            );
        }
    });
    wants_weight.then(|| {
        let mut sum = vec![0f32; hidden];
        for row in partial.chunks_exact(hidden) {
            // SAFETY: both rows hold `hidden` values.
            unsafe { elementwise::add(hidden, row.as_ptr(), sum.as_mut_ptr()) };
        }
        sum
    })
}

/// The gradients of `x` and of the norm's weight where `x` goes through the norm and beside it: `beside`,
/// to which the norm's is added, and that of the weight. What is `None` or not tracked is not computed.
pub(crate) fn residual_backward(
    x: &Tensor,
    weight: &Tensor,
    eps: f32,
    grad: &[f32],
    mut beside: Option<Vec<f32>>,
) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
    let weight_grad = backward(
        Values::of(x).slice()?,
        Values::of(weight).slice()?,
        eps,
        grad,
        beside.as_mut().map(|values| (Pointer::to(values), true)),
        weight.track_op(),
    );
    Ok((
        beside.map(|values| tensor(values, x)).transpose()?,
        weight_grad
            .map(|values| tensor(values, weight))
            .transpose()?,
    ))
}

struct RmsNorm {
    eps: f32,
}

impl CustomOp2 for RmsNorm {
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
        let out = forward(slice(x, x_layout)?, slice(weight, weight_layout)?, self.eps);
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _out: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let mut x_grad = x.track_op().then(|| Buffer::new(x.elem_count()));
        let weight_grad = backward(
            Values::of(x).slice()?,
            Values::of(weight).slice()?,
            self.eps,
            Values::of(&grad).slice()?,
            x_grad.as_mut().map(|buffer| (buffer.pointer(), false)),
            weight.track_op(),
        );
        // SAFETY: every row was written.
        let x_grad = x_grad.map(|buffer| tensor(unsafe { buffer.filled() }, x));
        Ok((
            x_grad.transpose()?,
            weight_grad
                .map(|values| tensor(values, weight))
                .transpose()?,
        ))
    }
}
