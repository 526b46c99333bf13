//! The feed-forward half of a decoder layer, its norm and its residual included, as one operator.
//!
//! `y = x + down(silu(gate(n)) · up(n))` with `n = rms_norm(x)`. Of candle's graph this is one node: what
//! the operators that it is made of would each begin with zeros and add up in memory, gradient by
//! gradient, is added up in place here, and only what the backward pass reads is kept.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};

use crate::error::{Result, shape_error};
use crate::kernels::elementwise;
use crate::kernels::gemm::Start;
use crate::kernels::memory::{Buffer, Pointer, parallel_chunks};
use crate::linear::{forward as product, input_gradient, linear, weight_gradient};
use crate::norm::{backward as norm_backward, forward as norm_forward, rms_norm};
use crate::swiglu::{backward as swiglu_backward, forward as swiglu_forward, swiglu};
use crate::values::{Values, fusible, slice, tensor};

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
    let &[tokens, hidden] = x.dims() else {
        return Err(shape_error(OPERATOR, "x", "(tokens, hidden)", x));
    };
    let inner = match *down.dims() {
        [outputs, inner] if outputs == hidden => inner,
        _ => {
            let expected = format!("({hidden}, inner)");
            return Err(shape_error(OPERATOR, "down", expected, down));
        }
    };
    // The projections are copied into one argument: not worth it for a few tokens.
    let too_much = 3 * inner * hidden > tokens * (hidden + 3 * inner);
    if too_much || !fusible(&[x, norm, gate, up, down])? {
        let n = rms_norm(x, norm, eps)?;
        let inner = swiglu(&linear(&n, gate, None)?, &linear(&n, up, None)?)?;
        return Ok((x + linear(&inner, down, None)?)?);
    }
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
    // An operator has three arguments: the projections are one.
    let flat = [gate, up, down]
        .map(Tensor::flatten_all)
        .into_iter()
        .collect::<candle_core::Result<Vec<_>>>()?;
    let projections = Tensor::cat(&flat, 0)?;
    let operator = FeedForward {
        eps: eps as f32,
        inner,
        trains: projections.track_op(),
        kept: OnceLock::new(),
    };
    Ok(x.contiguous()?
        .apply_op3(&norm.contiguous()?, &projections, operator)?)
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
        add(x, &mut out);
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
        // The residual's gradient, to which the norm's is added.
        let mut x_grad = wants_x.then(|| grad.to_vec());
        let norm_grad = norm_backward(
            Values::of(x).slice()?,
            Values::of(norm).slice()?,
            self.eps,
            &n_grad,
            x_grad.as_mut().map(|values| (Pointer::to(values), true)),
            norm.track_op(),
        );
        Ok((
            x_grad.map(|values| tensor(values, x)).transpose()?,
            norm_grad.map(|values| tensor(values, norm)).transpose()?,
            projections_grad,
        ))
    }
}

/// to += from
pub(crate) fn add(from: &[f32], to: &mut [f32]) {
    const TASK: usize = 16 * 1024;
    let len = from.len().min(to.len());
    let to = Pointer::to(to);
    parallel_chunks(len, TASK, |start, end| {
        // SAFETY: both runs hold end − start values, and each belongs to one task.
        unsafe { elementwise::add(end - start, from[start..end].as_ptr(), to.at(start)) };
    });
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn var(shape: (usize, usize), seed: usize) -> Var {
        let values = (0..shape.0 * shape.1)
            .map(|i| ((i * 2_654_435_761 + seed * 97) % 1000) as f32 / 700.0 - 0.7)
            .collect::<Vec<_>>();
        Var::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn bits(tensor: &Tensor) -> Vec<u32> {
        let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn gives_the_bits_of_its_operators_forward_and_backward() {
        for (tokens, hidden, inner) in [(1, 4, 6), (37, 20, 40), (200, 64, 48)] {
            let x = var((tokens, hidden), 1);
            let norm = Var::from_tensor(&var((1, hidden), 2).flatten_all().unwrap()).unwrap();
            let (gate, up) = (var((inner, hidden), 3), var((inner, hidden), 4));
            let down = var((hidden, inner), 5);
            let slope = var((tokens, hidden), 6);
            let one = feed_forward(
                &x,
                &FeedForwardWeights {
                    norm: &norm,
                    eps: 1e-6,
                    gate: &gate,
                    up: &up,
                    down: &down,
                },
            )
            .unwrap();
            let n = rms_norm(&x, &norm, 1e-6).unwrap();
            let inner = swiglu(
                &linear(&n, &gate, None).unwrap(),
                &linear(&n, &up, None).unwrap(),
            )
            .unwrap();
            let several = (x.as_tensor() + linear(&inner, &down, None).unwrap()).unwrap();
            assert!(bits(&one) == bits(&several));
            let backward = |out: &Tensor| {
                let loss = (out * slope.as_tensor()).unwrap().sum_all().unwrap();
                loss.backward().unwrap()
            };
            let (ours, theirs) = (backward(&one), backward(&several));
            for variable in [&x, &norm, &gate, &up, &down] {
                let (ours, theirs) = (ours.get(variable).unwrap(), theirs.get(variable).unwrap());
                assert!(bits(ours) == bits(theirs), "{:?}", variable.dims());
            }
        }
    }

    #[test]
    fn frozen_parts_cost_and_get_nothing() {
        let (x, weight) = (var((5, 8), 1), var((6, 8), 2));
        let norm = var((1, 8), 3).flatten_all().unwrap();
        let (frozen, down) = (weight.as_detached_tensor(), var((8, 6), 4));
        let of = |x: &Tensor, down: &Tensor| {
            let weights = FeedForwardWeights {
                norm: &norm,
                eps: 1e-6,
                gate: &frozen,
                up: &frozen,
                down,
            };
            feed_forward(x, &weights).unwrap()
        };
        let of_input = of(&x, &down.as_detached_tensor());
        let gradients = of_input.sum_all().unwrap().backward().unwrap();
        assert!(gradients.get(&x).is_some() && gradients.get(&down).is_none());
        let of_weight = of(&x.as_detached_tensor(), &down);
        let gradients = of_weight.sum_all().unwrap().backward().unwrap();
        assert!(gradients.get(&x).is_none() && gradients.get(&down).is_some());
        assert!(
            feed_forward(
                &x,
                &FeedForwardWeights {
                    norm: &norm,
                    eps: 1e-6,
                    gate: &frozen,
                    up: &down,
                    down: &down
                }
            )
            .is_err()
        );
    }
}
