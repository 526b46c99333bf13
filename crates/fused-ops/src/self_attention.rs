//! The attention half of a decoder layer, its norm and its residual included, as one operator.
//!
//! `y = x + o(attention(rotary(q(n)), rotary(k(n)), v(n)))` with `n = rms_norm(x)`. As in
//! [`crate::feed_forward`], gradients are added up in place, and only what the backward pass reads is
//! kept.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};

use crate::attention::attention;
use crate::error::{Result, shape_error};
use crate::feed_forward::add;
use crate::kernels::attention::{self as kernel, Sizes};
use crate::kernels::elementwise;
use crate::kernels::gemm::Start;
use crate::kernels::memory::{Buffer, Pointer};
use crate::layout::AttentionLayout;
use crate::linear::{bias_gradient, forward as product, input_gradient, linear, weight_gradient};
use crate::norm::{backward as norm_backward, forward as norm_forward, rms_norm};
use crate::rotary::{apply, rotary};
use crate::values::{Values, fusible, slice, tensor};

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

/// Who asks in [`self_attention`], and who is seen.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// Rotary tables of all tokens, (tokens, dim) each.
    pub tables: [&'a Tensor; 2],
    /// What each query sees.
    pub layout: &'a AttentionLayout,
    /// The scale of the scores.
    pub scale: f64,
    /// The tokens that ask, u32 and ascending, with their tables, where not all do.
    pub some: Option<(&'a Tensor, [&'a Tensor; 2])>,
}

/// `x + o(attention(rotary(q(n)), rotary(k(n)), v(n)))`, `n = rms_norm(x)`, of the tokens that ask:
/// (queries, hidden) of `x` (tokens, hidden), differentiable in `x` and all weights. The values and
/// gradients are those of [`rms_norm`], [`linear`], [`rotary`] and [`attention`], one after the other.
///
/// # Errors
/// When shapes do not fit.
pub fn self_attention(
    x: &Tensor,
    weights: &SelfAttentionWeights<'_>,
    places: &Places<'_>,
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
    let [cos, sin] = places.tables;
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
        return several(x, weights, places);
    }
    if places.layout.keys() != tokens || kv_heads == 0 || heads % kv_heads != 0 || dim % 2 != 0 {
        let expected = format!(
            "({}, hidden) as its layout says, with heads of an even number of values and a whole \
             number of query heads for each of keys: {heads} and {kv_heads} of {dim}",
            places.layout.keys()
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
    let queries = match places.some {
        Some((index, _)) => index.dim(0)?,
        None => tokens,
    };
    let [own_cos, own_sin] = places.some.map_or(places.tables, |(_, tables)| tables);
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
    if places.layout.queries() != queries {
        let expected = format!("{} queries as its layout says", places.layout.queries());
        return Err(shape_error(OPERATOR, "some", expected, own_cos));
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
    let flat = [q.weight, q.bias, k.weight, k.bias, v.weight, v.bias, o]
        .map(Tensor::flatten_all)
        .into_iter()
        .collect::<candle_core::Result<Vec<_>>>()?;
    let projections = Tensor::cat(&flat, 0)?;
    let table = |tables: [&Tensor; 2]| -> candle_core::Result<[Tensor; 2]> {
        let [cos, sin] = tables;
        Ok([cos.detach().contiguous()?, sin.detach().contiguous()?])
    };
    let index = match places.some {
        Some((index, _)) => Some(index.to_vec1::<u32>()?),
        None => None,
    };
    if let Some(index) = &index
        && index.iter().any(|&token| token as usize >= tokens)
    {
        let expected = format!("more tokens than the queries' indices {index:?}");
        return Err(shape_error(OPERATOR, "x", expected, x));
    }
    let operator = SelfAttention {
        eps: eps as f32,
        sizes: Sizes {
            queries,
            heads,
            kv_heads,
            dim,
            scale: places.scale as f32,
        },
        layout: places.layout.clone(),
        tables: table(places.tables)?,
        query_tables: table([own_cos, own_sin])?,
        index,
        trains: projections.track_op(),
        kept: OnceLock::new(),
    };
    Ok(x.contiguous()?
        .apply_op3(&norm.contiguous()?, &projections, operator)?)
}

/// The operators that it is made of.
fn several(x: &Tensor, weights: &SelfAttentionWeights<'_>, places: &Places<'_>) -> Result<Tensor> {
    let n = rms_norm(x, weights.norm, weights.eps)?;
    let dim = places.tables[0].dim(1)?;
    let project = |n: &Tensor, projection: Projection<'_>, heads: usize| -> Result<Tensor> {
        let y = linear(n, projection.weight, Some(projection.bias))?;
        Ok(y.reshape(((), heads, dim))?)
    };
    let [cos, sin] = places.tables;
    let k = rotary(&project(&n, weights.k, weights.kv_heads)?, cos, sin)?;
    let v = project(&n, weights.v, weights.kv_heads)?;
    let (x, n, [cos, sin]) = match places.some {
        None => (x.clone(), n, places.tables),
        Some((index, tables)) => (x.index_select(index, 0)?, n.index_select(index, 0)?, tables),
    };
    let q = rotary(&project(&n, weights.q, weights.heads)?, cos, sin)?;
    let attended = attention(&q, &k, &v, places.layout, places.scale)?;
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
    tables: [Tensor; 2],
    query_tables: [Tensor; 2],
    /// The tokens that ask, where not all do.
    index: Option<Vec<u32>>,
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

    /// The rows of the tokens that ask.
    fn asking<'a>(&self, rows: &'a [f32], hidden: usize) -> std::borrow::Cow<'a, [f32]> {
        match &self.index {
            None => rows.into(),
            Some(index) => index
                .iter()
                .flat_map(|&token| &rows[token as usize * hidden..][..hidden])
                .copied()
                .collect::<Vec<_>>()
                .into(),
        }
    }

    /// Adds the rows of the tokens that ask to those of all.
    fn add_asking(&self, from: &[f32], to: &mut [f32], hidden: usize) {
        match &self.index {
            None => add(from, to),
            Some(index) => {
                for (row, &token) in from.chunks_exact(hidden).zip(index) {
                    let to = &mut to[token as usize * hidden..][..hidden];
                    // SAFETY: both rows hold `hidden` values.
                    unsafe { elementwise::add(hidden, row.as_ptr(), to.as_mut_ptr()) };
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
            &self.asking(&n, hidden),
            weights.q.0,
            Some(weights.q.1),
            (queries, of_heads, hidden),
        );
        self.rotate(&mut k, self.sizes.kv_heads, &self.tables, false)?;
        self.rotate(&mut q, self.sizes.heads, &self.query_tables, false)?;
        let (attended, log_sums) = kernel::forward(&q, &k, &v, &self.layout, &self.sizes);
        let mut out = product(&attended, weights.o, None, (queries, hidden, of_heads));
        add(&self.asking(x, hidden), &mut out);
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
            &kept.k,
            &kept.v,
            &kept.attended,
            &kept.log_sums,
            &attended_grad,
            &self.layout,
            &self.sizes,
        );
        self.rotate(&mut q_grad, self.sizes.heads, &self.query_tables, true)?;
        self.rotate(&mut k_grad, self.sizes.kv_heads, &self.tables, true)?;
        let projections_grad = match &kept.n {
            Some(n) if projections.track_op() => {
                let asking = self.asking(n, hidden);
                let mut all = weight_gradient(&q_grad, &asking, of_queries);
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
            if self.index.is_none() {
                input_gradient(&q_grad, weights.q.0, of_queries, Start::Current, to);
                n_grad.filled()
            } else {
                let mut own = Buffer::new(queries * hidden);
                let to = own.pointer();
                input_gradient(&q_grad, weights.q.0, of_queries, Start::Zero, to);
                let mut n_grad = n_grad.filled();
                self.add_asking(&own.filled(), &mut n_grad, hidden);
                n_grad
            }
        };
        // The residual's gradient, to which the norm's is added.
        let mut x_grad = wants_x.then(|| match self.index {
            None => grad.to_vec(),
            Some(_) => {
                let mut all = vec![0f32; tokens * hidden];
                self.add_asking(grad, &mut all, hidden);
                all
            }
        });
        let norm_grad = norm_backward(
            Values::of(x).slice()?,
            Values::of(norm).slice()?,
            self.eps,
            &n_grad,
            x_grad.as_mut().map(|values| (Pointer::to(values), true)),
            norm.track_op(),
        );
        Ok((
            x_grad.map(|values| tensor(values, x)).transpose()?,
            norm_grad.map(|values| tensor(values, norm)).transpose()?,
            projections_grad,
        ))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn var(shape: (usize, usize), seed: usize) -> Var {
        let values = (0..shape.0 * shape.1)
            .map(|i| ((i * 2_654_435_761 + seed * 97) % 1000) as f32 / 700.0 - 0.7)
            .collect::<Vec<_>>();
        Var::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn row(length: usize, seed: usize) -> Var {
        Var::from_tensor(&var((1, length), seed).flatten_all().unwrap()).unwrap()
    }

    fn bits(tensor: &Tensor) -> Vec<u32> {
        let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn gives_the_bits_of_its_operators_forward_and_backward() {
        let (hidden, heads, kv_heads, dim) = (24, 4, 2, 8);
        let lengths = [5, 30, 1];
        let tokens: usize = lengths.iter().sum();
        let full = AttentionLayout::causal(&lengths);
        let x = var((tokens, hidden), 1);
        let norm = row(hidden, 2);
        let (q, k, v) = (
            var((heads * dim, hidden), 3),
            var((kv_heads * dim, hidden), 4),
            var((kv_heads * dim, hidden), 5),
        );
        let biases = [heads, kv_heads, kv_heads].map(|heads| row(heads * dim, heads));
        let o = var((hidden, heads * dim), 6);
        let angles = var((tokens, dim), 7).as_detached_tensor();
        let (cos, sin) = (angles.cos().unwrap(), angles.sin().unwrap());
        let weights = SelfAttentionWeights {
            norm: &norm,
            eps: 1e-6,
            q: Projection {
                weight: &q,
                bias: &biases[0],
            },
            k: Projection {
                weight: &k,
                bias: &biases[1],
            },
            v: Projection {
                weight: &v,
                bias: &biases[2],
            },
            o: &o,
            heads,
            kv_heads,
        };
        let chosen = [3usize, 4, 20, 35];
        let index = Tensor::new(&[3u32, 4, 20, 35], &Device::Cpu).unwrap();
        let own = [&cos, &sin].map(|table| table.index_select(&index, 0).unwrap());
        let some_layout = full.select(&chosen).unwrap();
        for some in [false, true] {
            let places = Places {
                tables: [&cos, &sin],
                layout: if some { &some_layout } else { &full },
                scale: 0.3,
                some: some.then_some((&index, [&own[0], &own[1]])),
            };
            let one = self_attention(&x, &weights, &places).unwrap();
            let other = several(&x, &weights, &places).unwrap();
            assert!(bits(&one) == bits(&other), "some: {some}");
            let slope = var((one.dim(0).unwrap(), hidden), 8);
            let backward = |out: &Tensor| {
                let loss = (out * slope.as_tensor()).unwrap().sum_all().unwrap();
                loss.backward().unwrap()
            };
            let (ours, theirs) = (backward(&one), backward(&other));
            let [q_bias, k_bias, v_bias] = &biases;
            for (name, variable) in [
                ("norm", &norm),
                ("q", &q),
                ("k", &k),
                ("v", &v),
                ("o", &o),
                ("q bias", q_bias),
                ("k bias", k_bias),
                ("v bias", v_bias),
                ("x", &x),
            ] {
                let (ours, theirs) = (ours.get(variable).unwrap(), theirs.get(variable).unwrap());
                assert!(bits(ours) == bits(theirs), "some: {some}, {name}");
            }
        }
    }
}
