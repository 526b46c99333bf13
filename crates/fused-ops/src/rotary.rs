//! Rotary position embedding.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use crate::composed;
use crate::error::{Result, shape_error};
use crate::kernels::elementwise::rotate;
use crate::kernels::memory::{Buffer, Pointer, parallel_chunks};
use crate::values::{Values, fusible, slice, tensor};

const OPERATOR: &str = "rotary";

/// `x · cos + rotate_half(x) · sin`, where `rotate_half` of (low, high) is (−high, low).
///
/// `x` is (tokens, heads, dim) with an even `dim`, `cos` and `sin` are (tokens, dim) and get no
/// gradient. Any frequencies go in: one-dimensional, two-dimensional or multimodal positions
/// differ only in the tables.
///
/// # Errors
/// When `dim` is odd or the tables' shapes do not fit.
pub fn rotary(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let &[tokens, _, dim] = x.dims() else {
        return Err(shape_error(OPERATOR, "x", "(tokens, heads, dim)", x));
    };
    if dim % 2 != 0 {
        return Err(shape_error(OPERATOR, "x", "(tokens, heads, even dim)", x));
    }
    for (argument, table) in [("cos", cos), ("sin", sin)] {
        if table.dims() != [tokens, dim] {
            return Err(shape_error(
                OPERATOR,
                argument,
                format!("({tokens}, {dim})"),
                table,
            ));
        }
    }
    if !fusible(&[x, cos, sin])? {
        return Ok(composed::rotary(x, cos, sin)?);
    }
    let operator = Rotary {
        cos: cos.detach().contiguous()?,
        sin: sin.detach().contiguous()?,
    };
    Ok(x.contiguous()?.apply_op1(operator)?)
}

/// Rotates `x` (tokens, heads, dim) by the tables (tokens, dim), or back with `inverse`. `to` may
/// be `x` itself: a pair is read before it is written.
///
/// # Safety
/// `x` and `to` point to tokens · heads · dim values.
pub(crate) unsafe fn apply(
    (heads, dim): (usize, usize),
    cos: &[f32],
    sin: &[f32],
    inverse: bool,
    x: Pointer,
    to: Pointer,
) {
    parallel_chunks(cos.len() / dim, 64, |start, end| {
        for token in start..end {
            let (at, table) = (token * heads * dim, token * dim);
            // SAFETY: the token's rows lie within x and to, and belong to this task.
            unsafe {
                rotate(
                    heads,
                    dim,
                    cos[table..table + dim].as_ptr(),
                    sin[table..table + dim].as_ptr(),
                    inverse,
                    x.at(at),
                    to.at(at),
                );
            }
        }
    });
}

struct Rotary {
    cos: Tensor,
    sin: Tensor,
}

impl Rotary {
    fn run(&self, x: &[f32], shape: &Shape, inverse: bool) -> candle_core::Result<Vec<f32>> {
        let (_, heads, dim) = shape.dims3()?;
        let (cos, sin) = (Values::of(&self.cos), Values::of(&self.sin));
        let mut out = Buffer::new(x.len());
        // SAFETY: both hold the values of `shape`, x is only read; then all were written.
        unsafe {
            let (cos, sin) = (cos.slice()?, sin.slice()?);
            apply(
                (heads, dim),
                cos,
                sin,
                inverse,
                Pointer::from(x),
                out.pointer(),
            );
            Ok(out.filled())
        }
    }
}

impl CustomOp1 for Rotary {
    fn name(&self) -> &'static str {
        OPERATOR
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let out = self.run(slice(x, layout)?, layout.shape(), false)?;
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _out: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let values = self.run(Values::of(&grad).slice()?, x.shape(), true)?;
        Ok(Some(tensor(values, x)?))
    }
}
