//! Rotary position embedding.

use candle_core::Tensor;

use crate::composed;
use crate::error::{Result, shape_error};

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
    Ok(composed::rotary(x, cos, sin)?)
}
