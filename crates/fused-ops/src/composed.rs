//! The operators composed of candle's own: differentiable on every device and dtype.
//!
//! They serve where no fused kernel exists (other devices than the CPU, other types than f32), and the
//! fused ones are tested against them. They keep their arguments for the backward pass and nothing
//! that they compute on the way, and compute in f32 what is narrower. They check nothing: the public
//! operators of the crate check their arguments first.

use candle_core::{D, DType, Result, Tensor};

use crate::blockwise::{self, wide};
use crate::chunked_log_probs::{self, LogitChunk};
use crate::layout::AttentionLayout;
use crate::recomputed::Recomputed;
use crate::segments;

/// See [`crate::attention`]. Blockwise: of the scores it holds those of a tile of 512 queries and
/// 512 keys, and the backward pass makes them again. Scores and sums are f32 for narrower inputs.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    layout: &AttentionLayout,
    scale: f64,
) -> Result<Tensor> {
    attention_in_tiles(q, k, v, layout, scale, blockwise::SIDE)
}

/// [`attention`] with tiles of at most `side` queries and `side²` scores a head, at least 1.
pub fn attention_in_tiles(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    layout: &AttentionLayout,
    scale: f64,
    side: usize,
) -> Result<Tensor> {
    blockwise::attention(q, k, v, layout, scale, side)
}

/// The probabilities (heads, queries, keys) that [`attention`] weighs the values with: each row
/// sums to 1 and is 0 where the layout hides a key. Materialises all scores, some six times.
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

/// See [`crate::rms_norm`]. All in f32 (f64 for f64), rounded once to the type of `x`; the backward
/// pass makes the mean square again.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let wide = wide(x.dtype());
    let out = {
        let (x_values, inverse) = normalised(&x.detach(), wide, eps)?;
        x_values
            .broadcast_mul(&inverse)?
            .broadcast_mul(&weight.detach().to_dtype(wide)?)?
            .to_dtype(x.dtype())?
    };
    if !(x.track_op() || weight.track_op()) {
        return Ok(out);
    }
    let operator = Recomputed::new("rms_norm", &out, move |[x, weight], _, grad, wanted| {
        // With r = 1 / sqrt(mean(x²) + eps): ∂w = Σ ∂y x r, ∂x = r (∂y w − x r² mean(∂y w x)).
        let [wants_x, wants_weight] = wanted;
        let (own, inverse) = normalised(x, wide, eps)?;
        let grad = grad.to_dtype(wide)?;
        let normed = own.broadcast_mul(&inverse)?;
        let weight_grad = match wants_weight {
            true => {
                let rows = (&grad * &normed)?.reshape(((), weight.elem_count()))?;
                Some(rows.sum(0)?.to_dtype(weight.dtype())?)
            }
            false => None,
        };
        let x_grad = match wants_x {
            true => {
                let scaled = grad.broadcast_mul(&weight.to_dtype(wide)?)?;
                let shared = (&scaled * &normed)?.mean_keepdim(D::Minus1)?;
                let slope = (scaled - normed.broadcast_mul(&shared)?)?;
                Some(slope.broadcast_mul(&inverse)?.to_dtype(x.dtype())?)
            }
            false => None,
        };
        Ok([x_grad, weight_grad])
    });
    x.apply_op2(weight, operator)
}

/// `x` widened, and 1 / sqrt(mean(x²) + eps) of its rows.
fn normalised(x: &Tensor, wide: DType, eps: f64) -> Result<(Tensor, Tensor)> {
    let x = x.to_dtype(wide)?;
    let inverse = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
    Ok((x, inverse))
}

/// See [`crate::rotary`]. In the wider of f32 and the tables' type, rounded once to that of `x`.
pub fn rotary(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (cos, sin) = (cos.detach(), sin.detach());
    let out = rotated(&x.detach(), &cos, &sin, false)?;
    if !x.track_op() {
        return Ok(out);
    }
    let operator = Recomputed::new("rotary", &out, move |[_], _, grad, _| {
        Ok([Some(rotated(grad, &cos, &sin, true)?)])
    });
    x.apply_op1(operator)
}

/// `x` turned by the tables, or multiplied by the transpose of that map.
fn rotated(x: &Tensor, cos: &Tensor, sin: &Tensor, transposed: bool) -> Result<Tensor> {
    let wide = wide(x.dtype());
    let half = x.dim(D::Minus1)? / 2;
    let table = |table: &Tensor| table.to_dtype(wide)?.unsqueeze(1);
    let own = x.to_dtype(wide)?;
    let turn = |x: &Tensor, negated_first: bool| {
        let (low, high) = (
            x.narrow(D::Minus1, 0, half)?,
            x.narrow(D::Minus1, half, half)?,
        );
        match negated_first {
            true => Tensor::cat(&[&high.neg()?, &low], D::Minus1),
            false => Tensor::cat(&[&high, &low.neg()?], D::Minus1),
        }
    };
    let sines = table(sin)?;
    let other = match transposed {
        false => turn(&own, true)?.broadcast_mul(&sines)?,
        true => turn(&own.broadcast_mul(&sines)?, false)?,
    };
    (own.broadcast_mul(&table(cos)?)? + other)?.to_dtype(x.dtype())
}

/// See [`crate::swiglu`]. In f32 (f64 for f64), rounded once; the backward pass makes the gate's
/// values again.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let wide = wide(gate.dtype());
    let out = {
        let gate = gate.detach().to_dtype(wide)?;
        (gate.silu()? * up.detach().to_dtype(wide)?)?.to_dtype(up.dtype())?
    };
    if !(gate.track_op() || up.track_op()) {
        return Ok(out);
    }
    let operator = Recomputed::new("swiglu", &out, move |[gate, up], _, grad, wanted| {
        // With σ the logistic function of the gate g: ∂up = ∂y g σ, ∂g = ∂y up σ (1 + g (1 − σ)).
        let [wants_gate, wants_up] = wanted;
        let (own, grad) = (gate.to_dtype(wide)?, grad.to_dtype(wide)?);
        let logistic = ((own.neg()?.exp()? + 1.0)?).recip()?;
        let up_grad = match wants_up {
            true => Some(((&grad * &own)? * &logistic)?.to_dtype(up.dtype())?),
            false => None,
        };
        let gate_grad = match wants_gate {
            true => {
                let slope = ((own * logistic.affine(-1.0, 1.0)?)? + 1.0)?;
                let slope = (slope * logistic)?;
                let grad = (grad * up.to_dtype(wide)?)?;
                Some((grad * slope)?.to_dtype(gate.dtype())?)
            }
            false => None,
        };
        Ok([gate_grad, up_grad])
    });
    gate.apply_op2(up, operator)
}

/// See [`crate::embedding`]. The gradient is summed by sorted segments, in f32 and in one order on
/// every device.
pub fn embedding(weight: &Tensor, ids: &[u32]) -> Result<Tensor> {
    let index = Tensor::from_slice(ids, ids.len(), weight.device())?;
    let out = weight.detach().contiguous()?.index_select(&index, 0)?;
    if !weight.track_op() || ids.is_empty() {
        return Ok(out);
    }
    let ids = ids.to_vec();
    let operator = Recomputed::new("embedding", &out, move |[weight], _, grad, _| {
        Ok([Some(segments::sums(grad, &ids, weight.dim(0)?)?)])
    });
    weight.apply_op1(operator)
}

/// See [`crate::token_log_probs`]: (log-probs, entropy). Holds the logits of a chunk of tokens and
/// ids, in f32 whatever the inputs are; the backward pass makes them again.
pub fn token_log_probs(
    hidden: &Tensor,
    weight: &Tensor,
    targets: &[u32],
    temperature: f64,
    banned: &[u32],
) -> Result<(Tensor, Tensor)> {
    let chunk = LogitChunk::default();
    token_log_probs_in_chunks(hidden, weight, targets, temperature, banned, chunk)
}

/// [`token_log_probs`] with chunks of a given size.
pub fn token_log_probs_in_chunks(
    hidden: &Tensor,
    weight: &Tensor,
    targets: &[u32],
    temperature: f64,
    banned: &[u32],
    chunk: LogitChunk,
) -> Result<(Tensor, Tensor)> {
    chunked_log_probs::token_log_probs(hidden, weight, targets, temperature, banned, chunk)
}
