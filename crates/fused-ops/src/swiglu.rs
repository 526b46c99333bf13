//! The gated activation of the feed-forward layers.

use candle_core::Tensor;

use crate::composed;
use crate::error::{Result, shape_error};

/// `silu(gate) · up`, element by element; differentiable in both.
///
/// # Errors
/// When the shapes differ.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if up.dims() != gate.dims() {
        let expected = format!("{:?} like gate", gate.dims());
        return Err(shape_error("swiglu", "up", expected, up));
    }
    Ok(composed::swiglu(gate, up)?)
}
