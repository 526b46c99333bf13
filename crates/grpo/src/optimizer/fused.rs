//! One pass over an f32 CPU parameter and its moments.

use std::cell::RefCell;

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor, Var, bail};
use rayon::prelude::*;

use super::Coefficients;

/// Elements a thread takes at a time; the result of an element depends on no other.
const CHUNK: usize = 16 * 1024;

struct Update<'a> {
    /// The moments, lent for the one call that `inplace_op2` makes.
    moments: RefCell<(&'a mut [f32], &'a mut [f32])>,
    coefficients: Coefficients,
}

/// Updates `parameter`, `first` and `second` in place.
pub(super) fn update(
    parameter: &Var,
    gradient: &Tensor,
    first: &mut [f32],
    second: &mut [f32],
    coefficients: Coefficients,
) -> Result<()> {
    let update = Update {
        moments: RefCell::new((first, second)),
        coefficients,
    };
    parameter.inplace_op2(gradient, &update)
}

impl InplaceOp2 for Update<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(
        &self,
        parameter: &mut CpuStorage,
        parameter_layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> Result<()> {
        let (Some((p0, p1)), Some((g0, g1))) = (
            parameter_layout.contiguous_offsets(),
            gradient_layout.contiguous_offsets(),
        ) else {
            bail!("adamw needs a contiguous parameter and gradient");
        };
        let CpuStorage::F32(parameter) = parameter else {
            bail!("adamw's fused pass is for f32 parameters");
        };
        let parameter = &mut parameter[p0..p1];
        let gradient = &gradient.as_slice::<f32>()?[g0..g1];
        let mut moments = self.moments.borrow_mut();
        let (first, second) = &mut *moments;
        let coefficients = self.coefficients;
        let chunks = parameter
            .par_chunks_mut(CHUNK)
            .zip(gradient.par_chunks(CHUNK))
            .zip(first.par_chunks_mut(CHUNK))
            .zip(second.par_chunks_mut(CHUNK));
        chunks.for_each(|(((p, g), m), v)| chunk(p, g, m, v, coefficients));
        Ok(())
    }
}

/// The operations of torch's AdamW in torch's order, on f32.
fn chunk(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], c: Coefficients) {
    let beta2 = c.beta2 as f32;
    let (lerp, square) = ((1.0 - c.beta1) as f32, (1.0 - c.beta2) as f32);
    let (shrink, rate) = (c.shrink as f32, c.rate as f32);
    let (correction, eps) = (c.correction as f32, c.eps as f32);
    for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
        *m += lerp * (g - *m);
        *v = *v * beta2 + square * g * g;
        let root = v.sqrt() / correction + eps;
        *p = *p * shrink - rate * (*m / root);
    }
}
