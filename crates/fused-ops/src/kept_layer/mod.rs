//! Decoder layers that are run once forward, and backward for several gradients.
//!
//! `y = h + down(silu(gate(m)) · up(m))` with `m = rms_norm(h)` and
//! `h = x + o(attention(rotary(q(n)), rotary(k(n)), v(n)))` with `n = rms_norm(x)`: the halves of
//! [`crate::feed_forward`] and [`crate::self_attention`]. Continuations of these tokens read the keys and
//! values of every layer, each with a gradient of its own. What reaches `x` is the sum of what `y`, the
//! keys and the values give.
//!
//! The values and gradients are those of the two operators, to the bit, with a backward pass for each
//! gradient. Deviations: what these passes have in common is computed once (the probabilities of the
//! attention, the slopes of SwiGLU, weights laid out for products); rows go through a half in blocks that
//! stay in a second-level cache; weights get no gradient.

mod attention;
mod feed_forward;

use candle_core::Tensor;

use crate::error::{Result, shape_error, value_error};
use crate::feed_forward::{FeedForwardWeights, check as check_feed_forward};
use crate::kernels::gemm::{Matrix, PackedMatrix};
use crate::self_attention::{SelfAttentionOptions, SelfAttentionWeights, check as check_attention};
use crate::values::{Values, fusible};

use attention::{Before, KeptAttention};
use feed_forward::KeptFeedForward;

const OPERATOR: &str = "kept layer";

/// Rows of a block: whole tiles of every instruction set, and few enough that at a hidden size of some
/// hundreds a block and the weights fit a second-level cache.
const BLOCK_ROWS: usize = 96;

/// A layer with what the backward pass reads of its forward pass.
#[derive(Debug)]
pub struct KeptLayer {
    attention: KeptAttention,
    feed_forward: Option<KeptFeedForward>,
    /// (tokens, hidden)
    out: Option<Tensor>,
}

impl KeptLayer {
    /// Runs a layer on `x` (tokens, hidden), all of whose tokens are queries; without the weights of the
    /// feed-forward half as far as its keys and values. `before` is the same layer run on what stands
    /// before these tokens, and how many copies of its keys and values come before theirs in the layout:
    /// one for each that shall have a gradient of its own. `None` where the fused kernels do not take the
    /// tensors.
    ///
    /// # Errors
    /// When shapes do not fit, or an environment variable was refused.
    pub fn new(
        x: &Tensor,
        before: Option<(&KeptLayer, usize)>,
        weights: &SelfAttentionWeights<'_>,
        feed_forward: Option<&FeedForwardWeights<'_>>,
        options: &SelfAttentionOptions<'_>,
    ) -> Result<Option<Self>> {
        let SelfAttentionWeights { norm, q, k, v, .. } = *weights;
        let [cos, sin] = options.rotary;
        let mut all = vec![x, norm, cos, sin, weights.o];
        all.extend([q, k, v].iter().flat_map(|own| [own.weight, own.bias]));
        if let Some(own) = feed_forward {
            all.extend([own.norm, own.gate, own.up, own.down]);
        }
        if !fusible(&all)? {
            return Ok(None);
        }
        if options.queries.is_some() {
            let reason = "all tokens are queries, so none can be named";
            return Err(value_error(OPERATOR, reason));
        }
        let before = before.map(|(layer, copies)| Before {
            keys: layer.attention.keys.clone(),
            values: layer.attention.values.clone(),
            copies,
        });
        let tokens_before = match &before {
            Some(before) => before.copies * before.keys.dim(0)?,
            None => 0,
        };
        let sizes = check_attention(x, weights, options, tokens_before + x.dim(0)?)?;
        let expected = [sizes.kv_heads, sizes.dim];
        if let Some(Before { keys, .. }) = &before
            && keys.dims().get(1..) != Some(&expected)
        {
            let expected = format!("(tokens, {}, {})", sizes.kv_heads, sizes.dim);
            return Err(shape_error(OPERATOR, "keys before", expected, keys));
        }
        let Some(feed_forward) = feed_forward else {
            let (attention, _) = KeptAttention::new(x, before, weights, options, sizes, false)?;
            return Ok(Some(KeptLayer {
                attention,
                feed_forward: None,
                out: None,
            }));
        };
        check_feed_forward(x, feed_forward)?;
        let (attention, middle) = KeptAttention::new(x, before, weights, options, sizes, true)?;
        let (feed_forward, out) = KeptFeedForward::new(middle, feed_forward)?;
        Ok(Some(KeptLayer {
            attention,
            feed_forward: Some(feed_forward),
            out: Some(Tensor::from_vec(out, x.shape(), x.device())?),
        }))
    }

    /// What it gives, (tokens, hidden); `None` where it was run as far as its keys and values.
    pub fn out(&self) -> Option<&Tensor> {
        self.out.as_ref()
    }

    /// From the gradient (tokens, hidden) of what the last of several layers in a row gave: that of what
    /// went into the first, and for each layer those of the keys and of the values before it,
    /// (copies · tokens, kv heads, dim) each.
    ///
    /// # Errors
    /// When shapes do not fit, or a layer was run as far as its keys and values or after nothing.
    pub fn backward(layers: &[KeptLayer], grad: &Tensor) -> Result<(Tensor, Vec<[Tensor; 2]>)> {
        let mut x = Values::of(&plain(grad)?).slice()?.to_vec();
        let mut before = Vec::with_capacity(layers.len());
        for layer in layers.iter().rev() {
            let (Some(out), Some(feed_forward)) = (&layer.out, &layer.feed_forward) else {
                let reason = "a layer that was run as far as its keys has no result's gradient";
                return Err(value_error(OPERATOR, reason));
            };
            if grad.dims() != out.dims() {
                let expected = format!("{:?}", out.dims());
                return Err(shape_error(OPERATOR, "grad", expected, grad));
            }
            feed_forward.backward(&mut x)?;
            let found = layer.attention.backward(Some(x), None)?;
            x = found.x;
            let Some(found) = found.before else {
                let reason = "a layer that was run after nothing has no gradient before it";
                return Err(value_error(OPERATOR, reason));
            };
            let shape = (
                (),
                layer.attention.keys.dim(1)?,
                layer.attention.keys.dim(2)?,
            );
            let [keys, values] = found.map(|own| Tensor::from_vec(own, shape, grad.device()));
            before.push([keys?, values?]);
        }
        before.reverse();
        Ok((Tensor::from_vec(x, grad.shape(), grad.device())?, before))
    }

    /// The gradients (gradients, tokens, hidden) of what went into the first of several layers in a row,
    /// of which nothing reads what the last one gives. `of` has for each layer the gradients of its keys
    /// and of its values, (gradients · tokens, kv heads, dim).
    ///
    /// # Errors
    /// When shapes do not fit, or there is no layer.
    pub fn backward_of_keys(layers: &[KeptLayer], of: &[[Tensor; 2]]) -> Result<Tensor> {
        let (Some(first), true) = (layers.first(), layers.len() == of.len()) else {
            let (layers, found) = (layers.len(), of.len());
            let reason = format!("{layers} layers, at least one, have gradients of {found}");
            return Err(value_error(OPERATOR, reason));
        };
        let (tokens, hidden) = first.attention.x.dims2()?;
        let of_keys = first.attention.keys.elem_count();
        let gradients = of[0][0].elem_count() / of_keys;
        let mut grad: Option<Vec<f32>> = None;
        for (layer, own) in layers.iter().zip(of).rev() {
            for (name, grad) in ["keys", "values"].into_iter().zip(own) {
                let expected = layer.attention.keys.dims();
                let fits = grad.dims().get(1..) == expected.get(1..)
                    && grad.elem_count() == gradients * of_keys;
                if !fits || gradients == 0 {
                    let expected = format!("{expected:?}, once for each gradient");
                    return Err(shape_error(OPERATOR, name, expected, grad));
                }
            }
            if let (Some(grad), Some(feed_forward)) = (&mut grad, &layer.feed_forward) {
                feed_forward.backward(grad)?;
            }
            grad = Some(layer.attention.backward(grad, Some(own))?.x);
        }
        let grad = grad.unwrap_or_default();
        let shape = (gradients, tokens, hidden);
        Ok(Tensor::from_vec(grad, shape, first.attention.x.device())?)
    }
}

/// The weight of a norm and what is added to its mean square.
#[derive(Debug)]
struct Norm {
    weight: Tensor,
    eps: f32,
}

impl Norm {
    fn new(weight: &Tensor, eps: f64) -> Result<Self> {
        Ok(Norm {
            weight: plain(weight)?,
            eps: eps as f32,
        })
    }
}

/// The values of a tensor without its graph.
fn plain(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.detach().contiguous()?)
}

/// A weight (out, in) laid out for `grad weight`.
fn for_gradients(weight: &Tensor) -> Result<PackedMatrix> {
    let (outputs, inputs) = weight.dims2()?;
    let values = Values::of(weight);
    let rows = Matrix::rows(values.slice()?, inputs);
    Ok(PackedMatrix::new(rows, (inputs, outputs)))
}
