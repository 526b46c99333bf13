//! The attention half of a decoder layer, its norm and its residual included, as one operator.
//!
//! `y = x + o(attention(rotary(q(n)), rotary(k(n)), v(n)))` with `n = rms_norm(x)`. As in
//! [`crate::feed_forward`], gradients are added up in place, and only what the backward pass reads is
//! kept.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};

use crate::attention::attention;
use crate::error::{Result, shape_error};
use crate::kernels::attention::{self as kernel, Sizes};
use crate::kernels::elementwise::{add, add_all};
use crate::kernels::gemm::Start;
use crate::kernels::memory::{Buffer, Pointer};
use crate::layout::AttentionLayout;
use crate::linear::{bias_gradient, forward as product, input_gradient, linear, weight_gradient};
use crate::norm::{forward as norm_forward, residual_backward, rms_norm};
use crate::rotary::{apply, rotary};
use crate::values::{Values, flat, fusible, slice, tensor};

const OPERATOR: &str = "self_attention";

/// A projection's weight (out, in) and bias (out).
#[derive(Clone, Copy, Debug)]
pub struct Projection<'a> {
    /// (out, in).
    pub weight: &'a Tensor,
    /// (out).
    pub bias: &'a Tensor,
}

/// The weights of [`self_attention`].
#[derive(Clone, Copy, Debug)]
pub struct SelfAttentionWeights<'a> {
    /// Of the norm, (hidden).
    pub norm: &'a Tensor,
    /// Added to the norm's mean square.
    pub eps: f64,
    /// To heads · dim.
    pub q: Projection<'a>,
    /// To kv_heads · dim.
    pub k: Projection<'a>,
    /// To kv_heads · dim.
    pub v: Projection<'a>,
    /// (hidden, heads · dim).
    pub o: &'a Tensor,
    /// Query heads.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
}

/// Positions, layout and queries of [`self_attention`].
#[derive(Clone, Copy, Debug)]
pub struct SelfAttentionOptions<'a> {
    /// Cosines and sines of all tokens, (tokens, dim) each.
    pub rotary: [&'a Tensor; 2],
    /// What each query sees.
    pub layout: &'a AttentionLayout,
    /// The scale of the scores.
    pub scale: f64,
    /// The tokens that are queries, where not all are.
    pub queries: Option<QueryTokens<'a>>,
}

/// Some of the tokens, as queries.
#[derive(Clone, Copy, Debug)]
pub struct QueryTokens<'a> {
    /// Their indices, u32, ascending.
    pub index: &'a Tensor,
    /// Their cosines and sines, (queries, dim) each.
    pub rotary: [&'a Tensor; 2],
}

/// `x + o(attention(rotary(q(n)), rotary(k(n)), v(n)))`, `n = rms_norm(x)`, of the queries:
/// (queries, hidden) of `x` (tokens, hidden), differentiable in `x` and all weights. The values and
/// gradients are those of [`rms_norm`], [`linear`], [`rotary`] and [`attention`], one after the other.
///
/// # Errors
/// When shapes do not fit.
pub fn self_attention(
    x: &Tensor,
    weights: &SelfAttentionWeights<'_>,
    options: &SelfAttentionOptions<'_>,
) -> Result<Tensor> {
    let SelfAttentionWeights {
        norm,
        eps,
        q,
        k,
        v,
        o,
        heads,
        kv_heads,
    } = *weights;
    let &[tokens, hidden] = x.dims() else {
        return Err(shape_error(OPERATOR, "x", "(tokens, hidden)", x));
    };
    let [cos, sin] = options.rotary;
    let all = [
        x, norm, q.weight, q.bias, k.weight, k.bias, v.weight, v.bias, o, cos, sin,
    ];
    let dim = match *cos.dims() {
        [_, dim] => dim,
        _ => return Err(shape_error(OPERATOR, "cos", "(tokens, dim)", cos)),
    };
    let (of_heads, of_keys) = (heads * dim, kv_heads * dim);
    // The projections are copied into one argument: not worth it for a few tokens.
    let width = 2 * (of_heads + of_keys);
    let too_much = width * hidden > tokens * (hidden + width);
    if too_much || !fusible(&all)? {
        return by_operators(x, weights, options);
    }
    let sizes = check(x, weights, options, tokens)?;
    let own = options.queries.map_or(options.rotary, |own| own.rotary);
    let projections = flat(&[q.weight, q.bias, k.weight, k.bias, v.weight, v.bias, o])?;
    let table = |tables: [&Tensor; 2]| -> candle_core::Result<[Tensor; 2]> {
        let [cos, sin] = tables;
        Ok([cos.detach().contiguous()?, sin.detach().contiguous()?])
    };
    let indices = match options.queries {
        Some(queries) => Some(queries.index.to_vec1::<u32>()?),
        None => None,
    };
    if let Some(indices) = &indices
        && indices.iter().any(|&token| token as usize >= tokens)
    {
        let expected = format!("more tokens than the queries' indices {indices:?}");
        return Err(shape_error(OPERATOR, "x", expected, x));
    }
    let operator = SelfAttention {
        eps: eps as f32,
        sizes,
        layout: options.layout.clone(),
        rotary: table(options.rotary)?,
        query_rotary: table(own)?,
        queries: indices,
        trains: projections.track_op(),
        kept: OnceLock::new(),
    };
    Ok(x.contiguous()?
        .apply_op3(&norm.contiguous()?, &projections, operator)?)
}

/// The sizes of a layer's attention against some keys, if all shapes fit.
pub(crate) fn check(
    x: &Tensor,
    weights: &SelfAttentionWeights<'_>,
    options: &SelfAttentionOptions<'_>,
    keys: usize,
) -> Result<Sizes> {
    let SelfAttentionWeights {
        norm,
        q,
        k,
        v,
        o,
        heads,
        kv_heads,
        ..
    } = *weights;
    let [cos, sin] = options.rotary;
    let &[tokens, hidden] = x.dims() else {
        return Err(shape_error(OPERATOR, "x", "(tokens, hidden)", x));
    };
    let &[_, dim] = cos.dims() else {
        return Err(shape_error(OPERATOR, "cos", "(tokens, dim)", cos));
    };
    let (of_heads, of_keys) = (heads * dim, kv_heads * dim);
    if options.layout.keys() != keys || kv_heads == 0 || heads % kv_heads != 0 || dim % 2 != 0 {
        let expected = format!(
            "({}, hidden) as its layout says, with heads of an even number of values and a whole \
             number of query heads for each of keys: {heads} and {kv_heads} of {dim}",
            (options.layout.keys() + tokens).saturating_sub(keys)
        );
        return Err(shape_error(OPERATOR, "x", expected, x));
    }
    for (name, weight, shape) in [
        ("q", q.weight, [of_heads, hidden]),
        ("k", k.weight, [of_keys, hidden]),
        ("v", v.weight, [of_keys, hidden]),
        ("o", o, [hidden, of_heads]),
    ] {
        if weight.dims() != shape {
            return Err(shape_error(OPERATOR, name, format!("{shape:?}"), weight));
        }
    }
    let queries = match options.queries {
        Some(queries) => queries.index.dim(0)?,
        None => tokens,
    };
    let own = options.queries.map_or(options.rotary, |own| own.rotary);
    let [own_cos, own_sin] = own;
    for (name, table, rows) in [
        ("cos", cos, tokens),
        ("sin", sin, tokens),
        ("cos of the queries", own_cos, queries),
        ("sin of the queries", own_sin, queries),
    ] {
        if table.dims() != [rows, dim] {
            let expected = format!("({rows}, {dim})");
            return Err(shape_error(OPERATOR, name, expected, table));
        }
    }
    if options.layout.queries() != queries {
        let expected = format!("{} queries as its layout says", options.layout.queries());
        return Err(shape_error(OPERATOR, "queries", expected, own_cos));
    }
    for (name, bias, length) in [
        ("norm", norm, hidden),
        ("the bias of q", q.bias, of_heads),
        ("the bias of k", k.bias, of_keys),
        ("the bias of v", v.bias, of_keys),
    ] {
        if bias.dims() != [length] {
            return Err(shape_error(OPERATOR, name, format!("({length})"), bias));
        }
    }
    Ok(Sizes {
        queries,
        heads,
        kv_heads,
        dim,
        scale: options.scale as f32,
    })
}

/// The operators that it is made of.
fn by_operators(
    x: &Tensor,
    weights: &SelfAttentionWeights<'_>,
    options: &SelfAttentionOptions<'_>,
) -> Result<Tensor> {
    let n = rms_norm(x, weights.norm, weights.eps)?;
    let dim = options.rotary[0].dim(1)?;
    let project = |n: &Tensor, projection: Projection<'_>, heads: usize| -> Result<Tensor> {
        let y = linear(n, projection.weight, Some(projection.bias))?;
        Ok(y.reshape(((), heads, dim))?)
    };
    let [cos, sin] = options.rotary;
    let k = rotary(&project(&n, weights.k, weights.kv_heads)?, cos, sin)?;
    let v = project(&n, weights.v, weights.kv_heads)?;
    let (x, n, [cos, sin]) = match options.queries {
        None => (x.clone(), n, options.rotary),
        Some(QueryTokens { index, rotary }) => {
            (x.index_select(index, 0)?, n.index_select(index, 0)?, rotary)
        }
    };
    let q = rotary(&project(&n, weights.q, weights.heads)?, cos, sin)?;
    let attended = attention(&q, &k, &v, options.layout, options.scale)?;
    let attended = attended.reshape(((), weights.heads * dim))?;
    Ok((x + linear(&attended, weights.o, None)?)?)
}

/// What the backward pass reads of the forward pass.
struct Kept {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    attended: Vec<f32>,
    log_sums: Vec<f32>,
    /// `rms_norm(x)`, for the gradients of the projections.
    n: Option<Vec<f32>>,
}

struct SelfAttention {
    eps: f32,
    sizes: Sizes,
    layout: AttentionLayout,
    rotary: [Tensor; 2],
    query_rotary: [Tensor; 2],
    /// The tokens that are queries, where not all are.
    queries: Option<Vec<u32>>,
    /// Whether the projections get gradients.
    trains: bool,
    kept: OnceLock<Kept>,
}

/// The projections in their one argument.
struct Projections<'a> {
    q: (&'a [f32], &'a [f32]),
    k: (&'a [f32], &'a [f32]),
    v: (&'a [f32], &'a [f32]),
    o: &'a [f32],
}

impl SelfAttention {
    fn split<'a>(&self, all: &'a [f32], hidden: usize) -> Projections<'a> {
        let (of_heads, of_keys) = self.widths();
        let mut rest = all;
        let mut take = |length: usize| {
            let (part, left) = rest.split_at(length);
            rest = left;
            part
        };
        let mut pair = |outputs: usize| (take(outputs * hidden), take(outputs));
        let (q, k, v) = (pair(of_heads), pair(of_keys), pair(of_keys));
        Projections { q, k, v, o: rest }
    }

    /// Outputs of q, and of k and v.
    fn widths(&self) -> (usize, usize) {
        let Sizes {
            heads,
            kv_heads,
            dim,
            ..
        } = self.sizes;
        (heads * dim, kv_heads * dim)
    }

    /// Rotates `x` (tokens, heads, dim) in place, or back.
    fn rotate(
        &self,
        x: &mut [f32],
        heads: usize,
        tables: &[Tensor; 2],
        inverse: bool,
    ) -> candle_core::Result<()> {
        let [cos, sin] = [Values::of(&tables[0]), Values::of(&tables[1])];
        let place = Pointer::to(x);
        // SAFETY: x holds the heads of as many tokens as the tables have rows.
        unsafe {
            apply(
                (heads, self.sizes.dim),
                cos.slice()?,
                sin.slice()?,
                inverse,
                place,
                place,
            );
        }
        Ok(())
    }

    /// The rows of the queries.
    fn query_rows<'a>(&self, rows: &'a [f32], hidden: usize) -> std::borrow::Cow<'a, [f32]> {
        match &self.queries {
            None => rows.into(),
            Some(index) => index
                .iter()
                .flat_map(|&token| &rows[token as usize * hidden..][..hidden])
                .copied()
                .collect::<Vec<_>>()
                .into(),
        }
    }

    /// Adds the rows of the queries to those of all tokens.
    fn add_to_query_rows(&self, from: &[f32], to: &mut [f32], hidden: usize) {
        match &self.queries {
            None => add_all(from, to),
            Some(index) => {
                for (row, &token) in from.chunks_exact(hidden).zip(index) {
                    let to = &mut to[token as usize * hidden..][..hidden];
                    // SAFETY: both rows hold `hidden` values.
                    unsafe { add(hidden, row.as_ptr(), to.as_mut_ptr()) };
                }
            }
        }
    }
}

impl CustomOp3 for SelfAttention {
    fn name(&self) -> &'static str {
        OPERATOR
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        norm: &CpuStorage,
        norm_layout: &Layout,
        projections: &CpuStorage,
        projections_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (tokens, hidden) = x_layout.shape().dims2()?;
        let queries = self.sizes.queries;
        let (of_heads, of_keys) = self.widths();
        let x = slice(x, x_layout)?;
        let weights = self.split(slice(projections, projections_layout)?, hidden);
        let n = norm_forward(x, slice(norm, norm_layout)?, self.eps);
        let of_tokens = (tokens, of_keys, hidden);
        let mut k = product(&n, weights.k.0, Some(weights.k.1), of_tokens);
        let v = product(&n, weights.v.0, Some(weights.v.1), of_tokens);
        let mut q = product(
            &self.query_rows(&n, hidden),
            weights.q.0,
            Some(weights.q.1),
            (queries, of_heads, hidden),
        );
        self.rotate(&mut k, self.sizes.kv_heads, &self.rotary, false)?;
        self.rotate(&mut q, self.sizes.heads, &self.query_rotary, false)?;
        let (attended, log_sums) = {
            let (k, v) = (k.as_slice().into(), v.as_slice().into());
            kernel::forward(&q, k, v, &self.layout, &self.sizes)
        };
        let mut out = product(&attended, weights.o, None, (queries, hidden, of_heads));
        add_all(&self.query_rows(x, hidden), &mut out);
        self.kept.get_or_init(|| Kept {
            q,
            k,
            v,
            attended,
            log_sums,
            n: self.trains.then_some(n),
        });
        Ok((CpuStorage::F32(out), Shape::from((queries, hidden))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        norm: &Tensor,
        projections: &Tensor,
        _out: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(kept) = self.kept.get() else {
            candle_core::bail!("{OPERATOR}: backward before forward");
        };
        let (tokens, hidden) = x.dims2()?;
        let queries = self.sizes.queries;
        let (of_heads, of_keys) = self.widths();
        let grad_tensor = grad.contiguous()?;
        let grad_values = Values::of(&grad_tensor);
        let grad = grad_values.slice()?;
        let projection_values = Values::of(projections);
        let weights = self.split(projection_values.slice()?, hidden);
        let outward = (queries, hidden, of_heads);
        let (of_queries, of_tokens) = ((queries, of_heads, hidden), (tokens, of_keys, hidden));

        let mut attended_grad = Buffer::new(queries * of_heads);
        // SAFETY: the buffer has room for (queries, heads · dim), which the product fills.
        let attended_grad = unsafe {
            let to = attended_grad.pointer();
            input_gradient(grad, weights.o, outward, Start::Zero, to);
            attended_grad.filled()
        };
        let (mut q_grad, mut k_grad, v_grad) = kernel::backward(
            &kept.q,
            kept.k.as_slice().into(),
            kept.v.as_slice().into(),
            &kept.attended,
            &kept.log_sums,
            &attended_grad,
            &self.layout,
            &self.sizes,
        );
        self.rotate(&mut q_grad, self.sizes.heads, &self.query_rotary, true)?;
        self.rotate(&mut k_grad, self.sizes.kv_heads, &self.rotary, true)?;
        let projections_grad = match &kept.n {
            Some(n) if projections.track_op() => {
                let rows = self.query_rows(n, hidden);
                let mut all = weight_gradient(&q_grad, &rows, of_queries);
                all.extend(bias_gradient(&q_grad, of_heads));
                for grad in [&k_grad, &v_grad] {
                    all.extend(weight_gradient(grad, n, of_tokens));
                    all.extend(bias_gradient(grad, of_keys));
                }
                all.extend(weight_gradient(grad, &kept.attended, outward));
                Some(tensor(all, projections)?)
            }
            _ => None,
        };
        let wants_x = x.track_op();
        if !wants_x && !norm.track_op() {
            return Ok((None, None, projections_grad));
        }
        let mut n_grad = Buffer::new(tokens * hidden);
        // SAFETY: the buffer has room for (tokens, hidden), which the first product fills; that of the
        // queries for (queries, hidden).
        let n_grad = unsafe {
            let to = n_grad.pointer();
            input_gradient(&v_grad, weights.v.0, of_tokens, Start::Zero, to);
            input_gradient(&k_grad, weights.k.0, of_tokens, Start::Current, to);
            if self.queries.is_none() {
                input_gradient(&q_grad, weights.q.0, of_queries, Start::Current, to);
                n_grad.filled()
            } else {
                let mut own = Buffer::new(queries * hidden);
                let to = own.pointer();
                input_gradient(&q_grad, weights.q.0, of_queries, Start::Zero, to);
                let mut n_grad = n_grad.filled();
                self.add_to_query_rows(&own.filled(), &mut n_grad, hidden);
                n_grad
            }
        };
        let beside = wants_x.then(|| match self.queries {
            None => grad.to_vec(),
            Some(_) => {
                let mut all = vec![0f32; tokens * hidden];
                self.add_to_query_rows(grad, &mut all, hidden);
                all
            }
        });
        let (x_grad, norm_grad) = residual_backward(x, norm, self.eps, &n_grad, beside)?;
        Ok((x_grad, norm_grad, projections_grad))
    }
}
