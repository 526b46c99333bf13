//! Functions of single values.
//!
//! candle's own call the system's mathematics library, which differs in the last bits between
//! processors and between its versions; these are the same bits everywhere.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use crate::error;
use crate::kernels::memory::{Buffer, parallel_chunks};
use crate::values::{Values, fusible, slice, tensor};

/// `e^x`, element by element.
///
/// # Errors
/// When candle fails.
pub fn exp(x: &Tensor) -> error::Result<Tensor> {
    apply(x, EXP, Tensor::exp)
}

/// The natural logarithm, element by element.
///
/// # Errors
/// When candle fails.
pub fn log(x: &Tensor) -> error::Result<Tensor> {
    apply(x, LOG, Tensor::log)
}

/// `x Φ(x)` with the normal distribution's Φ, element by element: GELU (Hendrycks and Gimpel, arXiv
/// 1606.08415) without an approximation.
///
/// # Errors
/// When candle fails.
pub fn gelu(x: &Tensor) -> error::Result<Tensor> {
    apply(x, GELU, Tensor::gelu_erf)
}

fn apply(
    x: &Tensor,
    function: Function,
    composed: impl Fn(&Tensor) -> Result<Tensor>,
) -> error::Result<Tensor> {
    match fusible(&[x])? {
        true => Ok(x.contiguous()?.apply_op1(function)?),
        false => Ok(composed(x)?),
    }
}

#[derive(Clone, Copy)]
struct Function {
    name: &'static str,
    value: fn(f32) -> f32,
    /// The derivative, of x and the value there.
    slope: fn(f32, f32) -> f32,
}

const EXP: Function = Function {
    name: "exp",
    value: libm::expf,
    slope: |_, value| value,
};

const LOG: Function = Function {
    name: "log",
    value: libm::logf,
    slope: |x, _| 1.0 / x,
};

const GELU: Function = Function {
    name: "gelu",
    value: |x| x * distribution(x),
    slope: |x, _| {
        // 1 / sqrt(2 π)
        let peak = 0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2;
        distribution(x) + x * peak * libm::expf(-0.5 * x * x)
    },
};

/// The normal distribution function. In the left tail `1 + erf` would lose its digits.
fn distribution(x: f32) -> f32 {
    0.5 * libm::erfcf(-x * FRAC_1_SQRT_2)
}

/// Values of a task.
const TASK: usize = 4 * 1024;

/// `of(0..len)`
fn map(len: usize, of: impl Fn(usize) -> f32 + Sync + Send) -> Vec<f32> {
    let mut out = Buffer::new(len);
    let to = out.pointer();
    parallel_chunks(len, TASK, |start, end| {
        for index in start..end {
            // SAFETY: the index is below `len`, and belongs to this task alone.
            unsafe { *to.at(index) = of(index) };
        }
    });
    // SAFETY: every value was written.
    unsafe { out.filled() }
}

impl CustomOp1 for Function {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(x, layout)?;
        let values = map(x.len(), |index| (self.value)(x[index]));
        Ok((CpuStorage::F32(values), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, out: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let values = {
            let (x, out, grad) = (Values::of(x), Values::of(out), Values::of(&grad));
            let (x, out, grad) = (x.slice()?, out.slice()?, grad.slice()?);
            map(x.len(), |index| {
                grad[index] * (self.slope)(x[index], out[index])
            })
        };
        Ok(Some(tensor(values, x)?))
    }
}
