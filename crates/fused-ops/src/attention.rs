//! Attention over packed sequences.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};

use crate::composed;
use crate::error::{Result, shape_error};
use crate::kernels::attention::{self as kernel, Sizes};
use crate::layout::AttentionLayout;
use crate::values::{Values, fusible, slice, tensor};

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
    if !fusible(&[q, k, v])? {
        #[cfg(feature = "cuda")]
        if q.device().is_cuda()
            && crate::cuda_kernels()?
            && let Some(out) = crate::cuda::attention(q, k, v, layout, scale)?
        {
            return Ok(out);
        }
        return Ok(composed::attention(q, k, v, layout, scale)?);
    }
    let (queries, heads, dim) = q.dims3()?;
    let (_, kv_heads, _) = k.dims3()?;
    let operator = Attention {
        layout: layout.clone(),
        sizes: Sizes {
            queries,
            heads,
            kv_heads,
            dim,
            scale: scale as f32,
        },
        log_sums: OnceLock::new(),
    };
    Ok(q.contiguous()?
        .apply_op3(&k.contiguous()?, &v.contiguous()?, operator)?)
}

struct Attention {
    layout: AttentionLayout,
    sizes: Sizes,
    /// (queries, heads), from the forward pass; all that the backward pass needs of the scores.
    log_sums: OnceLock<Vec<f32>>,
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        OPERATOR
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (out, log_sums) = kernel::forward(
            slice(q, q_layout)?,
            slice(k, k_layout)?.into(),
            slice(v, v_layout)?.into(),
            &self.layout,
            &self.sizes,
        );
        // An operator's forward pass runs once; were it to run again, the values are the same.
        self.log_sums.get_or_init(|| log_sums);
        Ok((CpuStorage::F32(out), q_layout.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        out: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(log_sums) = self.log_sums.get() else {
            candle_core::bail!("attention: backward before forward");
        };
        let grad = grad.contiguous()?;
        let (q_grad, k_grad, v_grad) = kernel::backward(
            Values::of(q).slice()?,
            Values::of(k).slice()?.into(),
            Values::of(v).slice()?.into(),
            Values::of(out).slice()?,
            log_sums,
            Values::of(&grad).slice()?,
            &self.layout,
            &self.sizes,
        );
        Ok((
            Some(tensor(q_grad, q)?),
            Some(tensor(k_grad, k)?),
            Some(tensor(v_grad, v)?),
        ))
    }
}

/// Whether shapes agree with each other and with the layout.
pub(crate) fn check(q: &Tensor, k: &Tensor, v: &Tensor, layout: &AttentionLayout) -> Result<()> {
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
