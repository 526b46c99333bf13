//! RMS normalisation.

use candle_core::Tensor;

use crate::composed;
use crate::error::{Result, shape_error};

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
    Ok(composed::rms_norm(x, weight, eps)?)
}
