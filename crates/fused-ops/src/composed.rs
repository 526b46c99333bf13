//! The operators composed of candle's own: differentiable on every device and dtype.
//!
//! They serve where no fused kernel exists, and the fused ones are tested against them. They
//! check nothing: the public operators of the crate check their arguments first.

use candle_core::{D, DType, Result, Tensor};

use crate::layout::AttentionLayout;

/// See [`crate::attention`]. Materialises the (heads, queries, keys) scores.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    layout: &AttentionLayout,
    scale: f64,
) -> Result<Tensor> {
    let (_, heads, _) = q.dims3()?;
    let weights = attention_weights(q, k, layout, scale)?;
    crate::matmul(&weights, &spread(v, heads)?)?
        .transpose(0, 1)?
        .contiguous()
}

/// The probabilities (heads, queries, keys) that [`attention`] weighs the values with: each row
/// sums to 1 and is 0 where the layout hides a key.
pub fn attention_weights(
    q: &Tensor,
    k: &Tensor,
    layout: &AttentionLayout,
    scale: f64,
) -> Result<Tensor> {
    let (_, heads, _) = q.dims3()?;
    let q = q.transpose(0, 1)?.contiguous()?;
    let mask = layout.dense_mask(q.device(), q.dtype())?;
    let scores = crate::matmul(&q, &spread(k, heads)?.transpose(1, 2)?)?
        .affine(scale, 0.0)?
        .broadcast_add(&mask)?;
    let peak = scores.detach().max_keepdim(D::Minus1)?;
    let weights = crate::exp(&scores.broadcast_sub(&peak)?)?;
    weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)
}

/// Keys or values (keys, kv_heads, dim) as (heads, keys, dim): each for its group of query heads.
fn spread(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (keys, kv_heads, dim) = x.dims3()?;
    x.transpose(0, 1)?
        .unsqueeze(1)?
        .expand((kv_heads, heads / kv_heads, keys, dim))?
        .reshape((heads, keys, dim))?
        .contiguous()
}

/// See [`crate::rms_norm`]. The mean square is taken in f32.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let wide = if x.dtype() == DType::F64 {
        DType::F64
    } else {
        DType::F32
    };
    let wide_x = x.to_dtype(wide)?;
    let mean_square = wide_x.sqr()?.mean_keepdim(D::Minus1)?;
    wide_x
        .broadcast_div(&(mean_square + eps)?.sqrt()?)?
        .to_dtype(x.dtype())?
        .broadcast_mul(weight)
}

/// See [`crate::rotary`].
pub fn rotary(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let dim = x.dim(D::Minus1)?;
    let low = x.narrow(D::Minus1, 0, dim / 2)?;
    let high = x.narrow(D::Minus1, dim / 2, dim / 2)?;
    let rotated = Tensor::cat(&[&high.neg()?, &low], D::Minus1)?;
    let cos = cos.detach().unsqueeze(1)?;
    let sin = sin.detach().unsqueeze(1)?;
    x.broadcast_mul(&cos)? + rotated.broadcast_mul(&sin)?
}

/// See [`crate::swiglu`].
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.silu()?.mul(up)
}

/// See [`crate::embedding`].
pub fn embedding(weight: &Tensor, ids: &[u32]) -> Result<Tensor> {
    let ids = Tensor::from_slice(ids, ids.len(), weight.device())?;
    weight.index_select(&ids, 0)
}

/// See [`crate::token_log_probs`]: (log-probs, entropy). Materialises the (tokens, vocab) logits.
pub fn token_log_probs(
    hidden: &Tensor,
    weight: &Tensor,
    targets: &[u32],
    temperature: f64,
    banned: &[u32],
) -> Result<(Tensor, Tensor)> {
    // Low enough for a probability of exactly 0, finite so that p · logit is 0 and not NaN.
    const BANNED_LOGIT: f32 = -1e30;
    let device = hidden.device();
    let mut mask = vec![0f32; weight.dim(0)?];
    for &id in banned {
        mask[id as usize] = BANNED_LOGIT;
    }
    let mask = Tensor::new(mask, device)?;
    let logits = crate::linear::project(hidden, weight)?
        .to_dtype(DType::F32)?
        .affine(1.0 / temperature, 0.0)?
        .broadcast_add(&mask)?;
    let peak = logits.detach().max_keepdim(D::Minus1)?;
    let log_sum = logits
        .broadcast_sub(&peak)?
        .exp()?
        .sum_keepdim(D::Minus1)?
        .log()?
        .add(&peak)?;
    let chosen = Tensor::from_slice(targets, (targets.len(), 1), device)?;
    let log_probs = logits
        .gather(&chosen, D::Minus1)?
        .sub(&log_sum)?
        .squeeze(1)?;
    let all = logits.detach().broadcast_sub(&log_sum.detach())?;
    let entropy = all.exp()?.mul(&all)?.sum(D::Minus1)?.neg()?;
    Ok((log_probs, entropy))
}
