//! The gated activation of the feed-forward layers.

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};

use crate::composed;
use crate::error::{Result, shape_error};
use crate::kernels::elementwise::{swiglu_backward, swiglu_forward};
use crate::kernels::memory::{Buffer, Pointer, parallel_chunks};
use crate::values::{Values, fusible, slice, tensor};

/// `silu(gate) · up`, element by element; differentiable in both.
///
/// # Errors
/// When the shapes differ.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if up.dims() != gate.dims() {
        let expected = format!("{:?} like gate", gate.dims());
        return Err(shape_error("swiglu", "up", expected, up));
    }
    if !fusible(&[gate, up])? {
        return Ok(composed::swiglu(gate, up)?);
    }
    Ok(gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu)?)
}

/// Values of a task.
const TASK: usize = 8 * 1024;

/// `silu(gate) · up`
pub(crate) fn forward(gate: &[f32], up: &[f32]) -> Vec<f32> {
    let mut out = Buffer::new(gate.len());
    let to = out.pointer();
    parallel_chunks(gate.len(), TASK, |start, end| {
        let (gate, up) = (&gate[start..end], &up[start..end]);
        // SAFETY: all three runs hold end − start values.
        unsafe { swiglu_forward(end - start, gate.as_ptr(), up.as_ptr(), to.at(start)) };
    });
    // SAFETY: every value was written.
    unsafe { out.filled() }
}

/// The gradients of gate and up.
///
/// # Safety
/// The gradients' pointers are to as many values as `gate` has; they may be those of `gate` and
/// `up` themselves, whose values are read before they are written.
pub(crate) unsafe fn backward(
    gate: Pointer,
    up: Pointer,
    grad: &[f32],
    gate_grad: Pointer,
    up_grad: Pointer,
) {
    parallel_chunks(grad.len(), TASK, |start, end| {
        // SAFETY: all runs hold end − start values.
        unsafe {
            swiglu_backward(
                end - start,
                gate.at(start),
                up.at(start),
                grad[start..end].as_ptr(),
                gate_grad.at(start),
                up_grad.at(start),
            );
        }
    });
}

struct SwiGlu;

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let out = forward(slice(gate, gate_layout)?, slice(up, up_layout)?);
        Ok((CpuStorage::F32(out), gate_layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _out: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let mut gate_grad = Buffer::new(gate.elem_count());
        let mut up_grad = Buffer::new(up.elem_count());
        // SAFETY: the shapes are equal; then every value was written.
        unsafe {
            backward(
                Pointer::from(Values::of(gate).slice()?),
                Pointer::from(Values::of(up).slice()?),
                Values::of(&grad).slice()?,
                gate_grad.pointer(),
                up_grad.pointer(),
            );
            Ok((
                Some(tensor(gate_grad.filled(), gate)?),
                Some(tensor(up_grad.filled(), up)?),
            ))
        }
    }
}
