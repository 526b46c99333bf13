//! The feed-forward half of a decoder layer, its norm and its residual included, as one operator.
//!
//! `y = x + down(silu(gate(n)) · up(n))` with `n = rms_norm(x)`. Of candle's graph this is one node: what
//! the operators that it is made of would each begin with zeros and add up in memory, gradient by
//! gradient, is added up in place here, and only what the backward pass reads is kept.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};

use crate::error::{Result, shape_error};
use crate::kernels::elementwise::add_all;
use crate::kernels::gemm::Start;
use crate::kernels::memory::{Buffer, Pointer};
use crate::linear::{forward as product, input_gradient, linear, weight_gradient};
use crate::norm::{forward as norm_forward, residual_backward, rms_norm};
use crate::swiglu::{backward as swiglu_backward, forward as swiglu_forward, swiglu};
use crate::values::{Values, flat, fusible, slice, tensor};

const OPERATOR: &str = "feed_forward";

/// The weights of [`feed_forward`].
#[derive(Clone, Copy, Debug)]
pub struct FeedForwardWeights<'a> {
    /// Of the norm, (hidden).
    pub norm: &'a Tensor,
    /// Added to the norm's mean square.
    pub eps: f64,
    /// (inner, hidden).
    pub gate: &'a Tensor,
    /// (inner, hidden).
    pub up: &'a Tensor,
    /// (hidden, inner).
    pub down: &'a Tensor,
}

/// `x + down(silu(gate(n)) · up(n))`, `n = rms_norm(x)`: (tokens, hidden) of `x` (tokens, hidden),
/// differentiable in all. The values and gradients are those of [`rms_norm`], [`linear`] and
/// [`swiglu`], one after the other.
///
/// # Errors
/// When shapes do not fit.
pub fn feed_forward(x: &Tensor, weights: &FeedForwardWeights<'_>) -> Result<Tensor> {
    let FeedForwardWeights {
        norm,
        eps,
        gate,
        up,
        down,
    } = *weights;
    let (tokens, hidden, inner) = sizes(x, down)?;
    // The projections are copied into one argument: not worth it for a few tokens.
    let too_much = 3 * inner * hidden > tokens * (hidden + 3 * inner);
    if too_much || !fusible(&[x, norm, gate, up, down])? {
        let n = rms_norm(x, norm, eps)?;
        let inner = swiglu(&linear(&n, gate, None)?, &linear(&n, up, None)?)?;
        return Ok((x + linear(&inner, down, None)?)?);
    }
    check(x, weights)?;
    let projections = flat(&[gate, up, down])?;
    let operator = FeedForward {
        eps: eps as f32,
        inner,
        trains: projections.track_op(),
        kept: OnceLock::new(),
    };
    Ok(x.contiguous()?
        .apply_op3(&norm.contiguous()?, &projections, operator)?)
}

/// (tokens, hidden, inner)
fn sizes(x: &Tensor, down: &Tensor) -> Result<(usize, usize, usize)> {
    let &[tokens, hidden] = x.dims() else {
        return Err(shape_error(OPERATOR, "x", "(tokens, hidden)", x));
    };
    match *down.dims() {
        [outputs, inner] if outputs == hidden => Ok((tokens, hidden, inner)),
        _ => {
            let expected = format!("({hidden}, inner)");
            Err(shape_error(OPERATOR, "down", expected, down))
        }
    }
}

/// The outputs of gate and up, if all shapes fit.
pub(crate) fn check(x: &Tensor, weights: &FeedForwardWeights<'_>) -> Result<usize> {
    let FeedForwardWeights {
        norm,
        gate,
        up,
        down,
        ..
    } = *weights;
    let (_, hidden, inner) = sizes(x, down)?;
    for (name, weight) in [("gate", gate), ("up", up)] {
        if weight.dims() != [inner, hidden] {
            let expected = format!("({inner}, {hidden})");
            return Err(shape_error(OPERATOR, name, expected, weight));
        }
    }
    if norm.dims() != [hidden] {
        let expected = format!("({hidden})");
        return Err(shape_error(OPERATOR, "norm", expected, norm));
    }
    Ok(inner)
}

/// What the backward pass reads of the forward pass.
struct Kept {
    gate: Vec<f32>,
    up: Vec<f32>,
    /// `rms_norm(x)` and `silu(gate) · up`, for the gradients of the projections.
    of_projections: Option<(Vec<f32>, Vec<f32>)>,
}

struct FeedForward {
    eps: f32,
    inner: usize,
    /// Whether the projections get gradients.
    trains: bool,
    kept: OnceLock<Kept>,
}

/// The three projections in their one argument.
fn split(projections: &[f32]) -> [&[f32]; 3] {
    let third = projections.len() / 3;
    [0, 1, 2].map(|index| &projections[index * third..(index + 1) * third])
}

impl CustomOp3 for FeedForward {
    fn name(&self) -> &'static str {
        OPERATOR
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        norm: &CpuStorage,
        norm_layout: &Layout,
        projections: &CpuStorage,
        projections_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (tokens, hidden) = x_layout.shape().dims2()?;
        let x = slice(x, x_layout)?;
        let [gate, up, down] = split(slice(projections, projections_layout)?);
        let n = norm_forward(x, slice(norm, norm_layout)?, self.eps);
        let inward = (tokens, self.inner, hidden);
        let gate = product(&n, gate, None, inward);
        let up = product(&n, up, None, inward);
        let inner = swiglu_forward(&gate, &up);
        let mut out = product(&inner, down, None, (tokens, hidden, self.inner));
        add_all(x, &mut out);
        self.kept.get_or_init(|| Kept {
            gate,
            up,
            of_projections: self.trains.then_some((n, inner)),
        });
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        norm: &Tensor,
        projections: &Tensor,
        _out: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(kept) = self.kept.get() else {
            candle_core::bail!("{OPERATOR}: backward before forward");
        };
        let (tokens, hidden) = x.dims2()?;
        let grad_tensor = grad.contiguous()?;
        let grad_values = Values::of(&grad_tensor);
        let grad = grad_values.slice()?;
        let projection_values = Values::of(projections);
        let [gate, up, down] = split(projection_values.slice()?);
        let (inward, outward) = ((tokens, self.inner, hidden), (tokens, hidden, self.inner));

        let count = tokens * self.inner;
        let (mut inner_grad, mut gate_grad, mut up_grad) =
            (Buffer::new(count), Buffer::new(count), Buffer::new(count));
        // SAFETY: the buffers have room for (tokens, inner), and each is filled by what goes before.
        let (gate_grad, up_grad) = unsafe {
            input_gradient(grad, down, outward, Start::Zero, inner_grad.pointer());
            swiglu_backward(
                Pointer::from(&kept.gate),
                Pointer::from(&kept.up),
                &inner_grad.filled(),
                gate_grad.pointer(),
                up_grad.pointer(),
            );
            (gate_grad.filled(), up_grad.filled())
        };
        let projections_grad = match &kept.of_projections {
            Some((n, inner)) if projections.track_op() => {
                let mut all = weight_gradient(&gate_grad, n, inward);
                all.extend(weight_gradient(&up_grad, n, inward));
                all.extend(weight_gradient(grad, inner, outward));
                Some(tensor(all, projections)?)
            }
            _ => None,
        };
        let wants_x = x.track_op();
        if !wants_x && !norm.track_op() {
            return Ok((None, None, projections_grad));
        }
        let mut n_grad = Buffer::new(tokens * hidden);
        // SAFETY: the buffer has room for (tokens, hidden), which the first product fills.
        let n_grad = unsafe {
            input_gradient(&gate_grad, gate, inward, Start::Zero, n_grad.pointer());
            input_gradient(&up_grad, up, inward, Start::Current, n_grad.pointer());
            n_grad.filled()
        };
        let beside = wants_x.then(|| grad.to_vec());
        let (x_grad, norm_grad) = residual_backward(x, norm, self.eps, &n_grad, beside)?;
        Ok((x_grad, norm_grad, projections_grad))
    }
}
