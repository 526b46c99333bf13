//! Attention over packed sequences.

use candle_core::Tensor;

use crate::composed;
use crate::error::{Result, shape_error};
use crate::layout::AttentionLayout;

const OPERATOR: &str = "attention";

/// `softmax(scale · q kᵀ) v` over the keys that `layout` lets each query see.
///
/// `q` is (queries, heads, dim), `k` and `v` are (keys, kv_heads, dim); query head `h` uses key
/// head `h / (heads / kv_heads)`. Gives (queries, heads, dim), differentiable in all three.
///
/// # Errors
/// When shapes disagree with each other or with the layout.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    layout: &AttentionLayout,
    scale: f64,
) -> Result<Tensor> {
    check(q, k, v, layout)?;
    Ok(composed::attention(q, k, v, layout, scale)?)
}

fn check(q: &Tensor, k: &Tensor, v: &Tensor, layout: &AttentionLayout) -> Result<()> {
    let &[queries, heads, dim] = q.dims() else {
        return Err(shape_error(OPERATOR, "q", "(queries, heads, dim)", q));
    };
    if queries != layout.queries() {
        let expected = format!("({}, heads, dim) as its layout says", layout.queries());
        return Err(shape_error(OPERATOR, "q", expected, q));
    }
    let fits = match *k.dims() {
        [keys, kv_heads, key_dim] => {
            keys == layout.keys() && key_dim == dim && kv_heads > 0 && heads % kv_heads == 0
        }
        _ => false,
    };
    if !fits {
        let expected = format!("({}, a divisor of {heads}, {dim})", layout.keys());
        return Err(shape_error(OPERATOR, "k", expected, k));
    }
    if v.dims() != k.dims() {
        return Err(shape_error(
            OPERATOR,
            "v",
            format!("{:?} like k", k.dims()),
            v,
        ));
    }
    Ok(())
}
