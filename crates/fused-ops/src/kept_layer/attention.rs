//! The attention half of a kept layer.

use candle_core::Tensor;

use super::{BLOCK_ROWS, Norm, for_gradients, plain};
use crate::error::Result;
use crate::kernels::attention::{self as kernel, Rows, Sizes};
use crate::kernels::elementwise::add_all;
use crate::kernels::gemm::{Matrix, PackedMatrix, Right, Start, gemm};
use crate::kernels::memory::{Buffer, Pointer, parallel_chunks};
use crate::kernels::norm;
use crate::layout::AttentionLayout;
use crate::linear::forward as product;
use crate::norm::forward as norm_forward;
use crate::rotary::apply;
use crate::self_attention::{Projection, SelfAttentionOptions, SelfAttentionWeights};
use crate::values::Values;

#[derive(Debug)]
pub(super) struct KeptAttention {
    sizes: Sizes,
    /// (tokens, hidden), what went in.
    pub(super) x: Tensor,
    norm: Norm,
    /// (tokens, dim) each.
    rotary: [Tensor; 2],
    /// (kv heads · dim, hidden)
    k: Tensor,
    /// (kv heads · dim, hidden)
    v: Tensor,
    /// (tokens, kv heads, dim)
    pub(super) keys: Tensor,
    /// (tokens, kv heads, dim)
    pub(super) values: Tensor,
    before: Option<Before>,
    own: Option<KeptQueries>,
}

/// Keys and values that the tokens' own come after, (tokens, kv heads, dim) each, and how many copies of
/// them there are.
#[derive(Clone, Debug)]
pub(super) struct Before {
    pub(super) keys: Tensor,
    pub(super) values: Tensor,
    pub(super) copies: usize,
}

/// Gradients of what a half of a layer was given.
pub(super) struct Gradients {
    /// (gradients, tokens, hidden)
    pub(super) x: Vec<f32>,
    /// Of the keys and values before, (copies · tokens, kv heads, dim) each.
    pub(super) before: Option<[Vec<f32>; 2]>,
}

/// What the tokens' own queries read.
#[derive(Debug)]
struct KeptQueries {
    layout: AttentionLayout,
    /// (heads · dim, hidden)
    q: Tensor,
    /// (hidden, heads · dim)
    o: Tensor,
    /// (tokens, heads, dim)
    queries: Vec<f32>,
    /// (tokens, heads, dim)
    attended: Vec<f32>,
    /// (tokens, heads)
    log_sums: Vec<f32>,
}

impl KeptAttention {
    /// Runs it on `x` (tokens, hidden), whose shapes fit; gives as much, or nothing without queries.
    pub(super) fn new(
        x: &Tensor,
        before: Option<Before>,
        weights: &SelfAttentionWeights<'_>,
        options: &SelfAttentionOptions<'_>,
        sizes: Sizes,
        with_queries: bool,
    ) -> Result<(Self, Vec<f32>)> {
        let x = plain(x)?;
        let norm = Norm::new(weights.norm, weights.eps)?;
        let [cos, sin] = options.rotary;
        let rotary = [plain(cos)?, plain(sin)?];
        let (tokens, hidden) = x.dims2()?;
        let of_heads = sizes.heads * sizes.dim;
        let x_values = Values::of(&x);
        let n = norm_forward(
            x_values.slice()?,
            Values::of(&norm.weight).slice()?,
            norm.eps,
        );
        let project = |projection: Projection<'_>, heads: usize| -> Result<(Tensor, Vec<f32>)> {
            let (weight, bias) = (plain(projection.weight)?, plain(projection.bias)?);
            let projected = {
                let (weight, bias) = (Values::of(&weight), Values::of(&bias));
                let outputs = (tokens, heads * sizes.dim, hidden);
                product(&n, weight.slice()?, Some(bias.slice()?), outputs)
            };
            Ok((weight, projected))
        };
        let (k, mut keys) = project(weights.k, sizes.kv_heads)?;
        let (v, values) = project(weights.v, sizes.kv_heads)?;
        turn(&mut keys, (sizes.kv_heads, sizes.dim), &rotary, false)?;
        let (mut own, mut out) = (None, Vec::new());
        if with_queries {
            let (q, mut queries) = project(weights.q, sizes.heads)?;
            turn(&mut queries, (sizes.heads, sizes.dim), &rotary, false)?;
            let layout = options.layout.clone();
            let (attended, log_sums) = with_before(before.as_ref(), [&keys, &values], |[k, v]| {
                kernel::forward(&queries, k, v, &layout, &sizes)
            })?;
            let o = plain(weights.o)?;
            let outputs = (tokens, hidden, of_heads);
            out = product(&attended, Values::of(&o).slice()?, None, outputs);
            add_all(x_values.slice()?, &mut out);
            own = Some(KeptQueries {
                layout,
                q,
                o,
                queries,
                attended,
                log_sums,
            });
        }
        drop(x_values);
        let shape = (tokens, sizes.kv_heads, sizes.dim);
        let kept = KeptAttention {
            sizes,
            norm,
            rotary,
            k,
            v,
            keys: Tensor::from_vec(keys, shape, x.device())?,
            values: Tensor::from_vec(values, shape, x.device())?,
            before,
            own,
            x,
        };
        Ok((kept, out))
    }

    /// The gradients of what went in from those of what it gave, (gradients, tokens, hidden), and of keys
    /// and values, (gradients · tokens, kv heads, dim); at least one of the two. Where something stands
    /// before, of one gradient.
    pub(super) fn backward(
        &self,
        grad: Option<Vec<f32>>,
        of: Option<&[Tensor; 2]>,
    ) -> Result<Gradients> {
        let Sizes {
            heads,
            kv_heads,
            dim,
            ..
        } = self.sizes;
        let (tokens, hidden) = self.x.dims2()?;
        let of = match of {
            Some([keys, values]) => Some([plain(keys)?, plain(values)?]),
            None => None,
        };
        let of = of.as_ref().map(|of| of.each_ref().map(Values::of));
        let of = match &of {
            Some([keys, values]) => Some([keys.slice()?, values.slice()?]),
            None => None,
        };
        let (Some(mut grad), Some(own)) = (grad, &self.own) else {
            let [keys, values] = of.unwrap_or_default();
            let mut keys = keys.to_vec();
            turn(&mut keys, (kv_heads, dim), &self.rotary, true)?;
            let mut grad = Buffer::new(keys.len() / (kv_heads * dim) * hidden);
            let rows = ProjectedGradients {
                values,
                keys: &keys,
                queries: None,
            };
            self.input_gradients(&rows, false, grad.pointer())?;
            return Ok(Gradients {
                // SAFETY: every row was written.
                x: unsafe { grad.filled() },
                before: None,
            });
        };
        let mut attended_grad = Buffer::new(grad.len() / hidden * heads * dim);
        let o = for_gradients(&own.o)?;
        // SAFETY: the buffer has room for (gradients · tokens, heads · dim), which the product fills.
        let attended_grad = unsafe {
            let sizes = (grad.len() / hidden, heads * dim, hidden);
            let (left, to) = (Matrix::rows(&grad, hidden), attended_grad.pointer());
            gemm(sizes, left, Right::Packed(&o), Start::Zero, to);
            attended_grad.filled()
        };
        let (keys, values) = (Values::of(&self.keys), Values::of(&self.values));
        let own_rows = [keys.slice()?, values.slice()?];
        let (mut queries, mut keys, mut values) =
            with_before(self.before.as_ref(), own_rows, |[k, v]| {
                kernel::backward(
                    &own.queries,
                    k,
                    v,
                    &own.attended,
                    &own.log_sums,
                    &attended_grad,
                    &own.layout,
                    &self.sizes,
                )
            })?;
        let before = self.before.as_ref().map(|_| {
            let own = keys.len() - tokens * kv_heads * dim;
            let (own_keys, own_values) = (keys.split_off(own), values.split_off(own));
            let keys = std::mem::replace(&mut keys, own_keys);
            [keys, std::mem::replace(&mut values, own_values)]
        });
        if let Some([of_keys, of_values]) = of {
            add_all(of_keys, &mut keys);
            add_all(of_values, &mut values);
        }
        turn(&mut keys, (kv_heads, dim), &self.rotary, true)?;
        turn(&mut queries, (heads, dim), &self.rotary, true)?;
        let rows = ProjectedGradients {
            values: &values,
            keys: &keys,
            queries: Some((&queries, for_gradients(&own.q)?)),
        };
        self.input_gradients(&rows, true, Pointer::to(&mut grad))?;
        Ok(Gradients { x: grad, before })
    }

    /// The gradients of what went in from those of the projections, through the norm; added to what is at
    /// `to` or written over it. They are added up as in the graph of operators seen from its end, where
    /// the queries of what others go on from come before its keys.
    fn input_gradients(
        &self,
        from: &ProjectedGradients<'_>,
        accumulate: bool,
        to: Pointer,
    ) -> Result<()> {
        let (tokens, hidden) = self.x.dims2()?;
        let (of_keys, of_heads) = (
            self.sizes.kv_heads * self.sizes.dim,
            self.sizes.heads * self.sizes.dim,
        );
        let gradients = from.keys.len() / (tokens * of_keys);
        let (k, v) = (for_gradients(&self.k)?, for_gradients(&self.v)?);
        let (x, norm_weight) = (Values::of(&self.x), Values::of(&self.norm.weight));
        let (x, norm_weight) = (x.slice()?, norm_weight.slice()?);
        parallel_chunks(tokens, BLOCK_ROWS, |start, end| {
            let rows = end - start;
            let mut n_grad = vec![0f32; rows * hidden];
            for of in 0..gradients {
                let at = of * tokens + start;
                let place = Pointer::to(&mut n_grad);
                let add = |from: &[f32], width: usize, weight: &PackedMatrix, first: Start<'_>| {
                    let left = Matrix::rows(&from[at * width..(at + rows) * width], width);
                    let sizes = (rows, hidden, width);
                    // SAFETY: the buffer holds as many rows, and the packed weight has these sizes.
                    unsafe { gemm(sizes, left, Right::Packed(weight), first, place) };
                };
                match &from.queries {
                    Some((queries, q)) if self.before.is_none() => {
                        add(queries, of_heads, q, Start::Zero);
                        add(from.values, of_keys, &v, Start::Current);
                        add(from.keys, of_keys, &k, Start::Current);
                    }
                    queries => {
                        add(from.values, of_keys, &v, Start::Zero);
                        add(from.keys, of_keys, &k, Start::Current);
                        if let Some((queries, q)) = queries {
                            add(queries, of_heads, q, Start::Current);
                        }
                    }
                }
                // SAFETY: the rows lie within x and the gradient, and belong to this task.
                unsafe {
                    norm::backward(
                        rows,
                        hidden,
                        x[start * hidden..].as_ptr(),
                        norm_weight.as_ptr(),
                        self.norm.eps,
                        n_grad.as_ptr(),
                        accumulate,
                        to.at(at * hidden),
                        std::ptr::null_mut(),
                    );
                }
            }
        });
        Ok(())
    }
}

/// Gradients of the projections before their rotation, (gradients, tokens, ..) each.
struct ProjectedGradients<'a> {
    values: &'a [f32],
    keys: &'a [f32],
    /// With the weight laid out.
    queries: Option<(&'a [f32], PackedMatrix)>,
}

/// Turns `x` (.., tokens, heads, dim) in place by the tables of the tokens, or back.
fn turn(
    x: &mut [f32],
    (heads, dim): (usize, usize),
    rotary: &[Tensor; 2],
    inverse: bool,
) -> Result<()> {
    let [cos, sin] = [Values::of(&rotary[0]), Values::of(&rotary[1])];
    let (cos, sin) = (cos.slice()?, sin.slice()?);
    for own in x.chunks_exact_mut(cos.len() * heads) {
        let place = Pointer::to(own);
        // SAFETY: the run holds the heads of as many tokens as the tables have rows.
        unsafe { apply((heads, dim), cos, sin, inverse, place, place) };
    }
    Ok(())
}

/// What `run` gives for keys and values with those before them.
fn with_before<R>(
    before: Option<&Before>,
    own: [&[f32]; 2],
    run: impl FnOnce([Rows<'_>; 2]) -> R,
) -> Result<R> {
    let Some(before) = before else {
        return Ok(run(own.map(Rows::from)));
    };
    let (keys, values) = (Values::of(&before.keys), Values::of(&before.values));
    let [own_keys, own_values] = own;
    Ok(run([
        Rows::after(keys.slice()?, before.copies, own_keys),
        Rows::after(values.slice()?, before.copies, own_values),
    ]))
}
