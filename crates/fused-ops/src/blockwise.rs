//! Attention that holds the scores of one tile at a time, composed of candle's operators.
//!
//! For query i and the keys j that it sees, tile after tile: `s_ij = scale · q_i k_j`,
//! `m' = max(m, max_j s_ij)`, `l' = l e^(m − m') + Σ_j e^(s_ij − m')`,
//! `o' = o e^(m − m') + Σ_j e^(s_ij − m') v_j`; at the end `out_i = o / l` and `L_i = m + log l`.
//! The backward pass makes the probabilities of a tile again, `p_ij = e^(s_ij − L_i)`, and with
//! `d_i = Σ_c out_ic · ∂out_ic`: `∂v_j = Σ_i p_ij ∂out_i`, `∂s_ij = p_ij (∂out_i · v_j − d_i)`,
//! `∂q_i = scale Σ_j ∂s_ij k_j`, `∂k_j = scale Σ_i ∂s_ij q_i`.
//!
//! Source: FlashAttention-2 (Dao, arXiv 2307.08691). Deviations: tiles follow the runs of an
//! [`AttentionLayout`] and not a mask; the heads that share keys are rows of one product, so keys
//! and values are never copied per head; scores, sums and products are f32 for narrower inputs
//! (f64 for f64), whatever the device's products of such inputs would be.

use std::collections::BTreeMap;

use candle_core::{D, DType, Device, Result, Tensor};

use crate::layout::AttentionLayout;
use crate::matmul::{Side, product};
use crate::recomputed::Recomputed;
use crate::tiles::{Tile, tiles};

/// Queries of a tile at most; its scores are at most the square of it for each head.
pub(crate) const SIDE: usize = 512;

/// See [`crate::attention`]; with tiles of at most `side` queries.
pub(crate) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    layout: &AttentionLayout,
    scale: f64,
    side: usize,
) -> Result<Tensor> {
    let (queries, ..) = q.dims3()?;
    if queries == 0 {
        return Ok(q.clone());
    }
    let (q_values, k_values, v_values) = (q.detach(), k.detach(), v.detach());
    let problem = Problem::new(&q_values, &k_values, layout, scale, side)?;
    let (out, log_sums) = problem.forward(&q_values, &k_values, &v_values)?;
    if !(q.track_op() || k.track_op() || v.track_op()) {
        return Ok(out);
    }
    let operator = Recomputed::new(
        "attention",
        &out,
        move |[q, k, v], out, grad, [wants_q, wants_k, wants_v]| {
            problem.backward([q, k, v], out, &log_sums, grad, [wants_q, wants_k, wants_v])
        },
    );
    drop(out);
    q.apply_op3(k, v, operator)
}

/// The type of scores and sums for inputs of a type.
pub(crate) fn wide(dtype: DType) -> DType {
    match dtype {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}

struct Problem {
    tiles: Vec<Tile>,
    scale: f64,
    heads: usize,
    kv_heads: usize,
    /// Of scores and sums.
    wide: DType,
    /// By the side of a causal tile what to add to its scores (side, side): 0, or −∞ for keys that
    /// come after the query.
    masks: BTreeMap<usize, Tensor>,
}

impl Problem {
    fn new(
        q: &Tensor,
        k: &Tensor,
        layout: &AttentionLayout,
        scale: f64,
        side: usize,
    ) -> Result<Self> {
        let wide = wide(q.dtype());
        let tiles = tiles(layout, side);
        let mut masks = BTreeMap::new();
        for tile in tiles.iter().filter(|tile| tile.causal) {
            if let std::collections::btree_map::Entry::Vacant(free) = masks.entry(tile.queries) {
                free.insert(causal_mask(tile.queries, wide, q.device())?);
            }
        }
        Ok(Problem {
            tiles,
            scale,
            heads: q.dim(1)?,
            kv_heads: k.dim(1)?,
            wide,
            masks,
        })
    }

    /// The result (queries, heads, dim) in the type of `q`, and log Σ exp of the scores
    /// (queries, heads, 1).
    fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let (queries, heads, dim) = q.dims3()?;
        let zeros = |last| Tensor::zeros((queries, heads, last), self.wide, q.device());
        let (sums, totals) = (zeros(1)?, zeros(dim)?);
        let peaks = lowest((queries, heads, 1), self.wide, q.device())?;
        for tile in &self.tiles {
            let keys = self.of_keys(tile, k)?;
            let scores = self.scores(tile, &self.scaled_queries(tile, q)?, &keys)?;
            let before = self.of_queries(tile, &peaks)?;
            let peak = scores.max_keepdim(D::Minus1)?.maximum(&before)?;
            let weights = crate::exp(&scores.broadcast_sub(&peak)?)?;
            drop(scores);
            let shrink = crate::exp(&(before - &peak)?)?;
            let sum = (self.of_queries(tile, &sums)? * &shrink)?;
            let sum = (sum + weights.sum_keepdim(D::Minus1)?)?;
            let total = self.of_queries(tile, &totals)?.broadcast_mul(&shrink)?;
            let values = self.of_keys(tile, v)?;
            let total = (total + product(&weights, Side::Plain, &values, Side::Plain)?)?;
            self.set(tile, &peaks, &peak)?;
            self.set(tile, &sums, &sum)?;
            self.set(tile, &totals, &total)?;
        }
        let out = totals.broadcast_div(&sums)?.to_dtype(q.dtype())?;
        Ok((out, (peaks + crate::log(&sums)?)?))
    }

    fn backward(
        &self,
        [q, k, v]: [&Tensor; 3],
        out: &Tensor,
        log_sums: &Tensor,
        grad: &Tensor,
        [wants_q, wants_k, wants_v]: [bool; 3],
    ) -> Result<[Option<Tensor>; 3]> {
        let zeros = |wanted: bool, like: &Tensor| -> Result<Option<Tensor>> {
            wanted
                .then(|| Tensor::zeros(like.dims(), self.wide, like.device()))
                .transpose()
        };
        let (q_grad, k_grad, v_grad) = (zeros(wants_q, q)?, zeros(wants_k, k)?, zeros(wants_v, v)?);
        let shared = (grad.to_dtype(self.wide)? * out.to_dtype(self.wide)?)?;
        let shared = shared.sum_keepdim(D::Minus1)?;
        for tile in &self.tiles {
            let queries = self.scaled_queries(tile, q)?;
            let keys = self.of_keys(tile, k)?;
            let scores = self.scores(tile, &queries, &keys)?;
            let log_sums = self.of_queries(tile, log_sums)?;
            let weights = crate::exp(&scores.broadcast_sub(&log_sums)?)?;
            drop(scores);
            let grad = self.of_queries(tile, grad)?;
            if let Some(v_grad) = &v_grad {
                let own = product(&weights, Side::Turned, &grad, Side::Plain)?;
                self.add_to_keys(tile, v_grad, &own)?;
            }
            if q_grad.is_none() && k_grad.is_none() {
                continue;
            }
            let values = self.of_keys(tile, v)?;
            let slopes = product(&grad, Side::Plain, &values, Side::Turned)?;
            let slopes = slopes.broadcast_sub(&self.of_queries(tile, &shared)?)?;
            let slopes = (slopes * weights)?;
            if let Some(q_grad) = &q_grad {
                let own = product(&slopes, Side::Plain, &keys, Side::Plain)?;
                let own = (self.of_queries(tile, q_grad)? + (own * self.scale)?)?;
                self.set(tile, q_grad, &own)?;
            }
            if let Some(k_grad) = &k_grad {
                let own = product(&slopes, Side::Turned, &queries, Side::Plain)?;
                self.add_to_keys(tile, k_grad, &own)?;
            }
        }
        let narrow = |grad: Option<Tensor>, like: &Tensor| {
            grad.map(|grad| grad.to_dtype(like.dtype())).transpose()
        };
        Ok([narrow(q_grad, q)?, narrow(k_grad, k)?, narrow(v_grad, v)?])
    }

    /// `queries keysᵀ`, −∞ where a causal tile hides a key: (batch · kv_heads, group · queries, keys).
    fn scores(&self, tile: &Tile, queries: &Tensor, keys: &Tensor) -> Result<Tensor> {
        let scores = product(queries, Side::Plain, keys, Side::Turned)?;
        match self.masks.get(&tile.queries) {
            Some(mask) if tile.causal => {
                let shape = scores.dims().to_vec();
                scores
                    .reshape((tile.batch * self.heads, tile.queries, tile.keys))?
                    .broadcast_add(mask)?
                    .reshape(shape)
            }
            _ => Ok(scores),
        }
    }

    fn scaled_queries(&self, tile: &Tile, q: &Tensor) -> Result<Tensor> {
        self.of_queries(tile, q)? * self.scale
    }

    /// The tile's rows of (queries, heads, n), as (batch · kv_heads, group · queries, n).
    fn of_queries(&self, tile: &Tile, x: &Tensor) -> Result<Tensor> {
        let (_, _, width) = x.dims3()?;
        let group = self.heads / self.kv_heads;
        x.narrow(0, tile.first_query, tile.batch * tile.queries)?
            .reshape((tile.batch, tile.queries, self.kv_heads, group, width))?
            .permute((0, 2, 3, 1, 4))?
            .to_dtype(self.wide)?
            .contiguous()?
            .reshape((tile.batch * self.kv_heads, group * tile.queries, width))
    }

    /// Writes rows as [`Problem::of_queries`] gives them back to (queries, heads, n).
    fn set(&self, tile: &Tile, x: &Tensor, rows: &Tensor) -> Result<()> {
        let (_, _, width) = x.dims3()?;
        let group = self.heads / self.kv_heads;
        let rows = rows
            .reshape((tile.batch, self.kv_heads, group, tile.queries, width))?
            .permute((0, 3, 1, 2, 4))?
            .contiguous()?
            .reshape((tile.batch * tile.queries, self.heads, width))?;
        x.slice_set(&rows, 0, tile.first_query)
    }

    /// The tile's rows of (keys, kv_heads, dim), as (batch · kv_heads, keys, dim).
    fn of_keys(&self, tile: &Tile, x: &Tensor) -> Result<Tensor> {
        let (_, kv_heads, dim) = x.dims3()?;
        x.narrow(0, tile.first_key, tile.batch * tile.stride)?
            .reshape((tile.batch, tile.stride, kv_heads, dim))?
            .narrow(1, 0, tile.keys)?
            .transpose(1, 2)?
            .to_dtype(self.wide)?
            .contiguous()?
            .reshape((tile.batch * kv_heads, tile.keys, dim))
    }

    /// Adds rows as [`Problem::of_keys`] gives them to (keys, kv_heads, dim).
    fn add_to_keys(&self, tile: &Tile, x: &Tensor, rows: &Tensor) -> Result<()> {
        let (_, kv_heads, dim) = x.dims3()?;
        let between = tile.stride - tile.keys;
        let rows = rows
            .reshape((tile.batch, kv_heads, tile.keys, dim))?
            .transpose(1, 2)?
            .contiguous()?;
        let rows = match between {
            0 => rows,
            _ => rows.pad_with_zeros(1, 0, between)?,
        };
        let all = tile.batch * tile.stride;
        let rows = rows.reshape((all, kv_heads, dim))?;
        let sum = (x.narrow(0, tile.first_key, all)? + rows)?;
        x.slice_set(&sum, 0, tile.first_key)
    }
}

/// (side, side): 0 where the column is not after the row, −∞ elsewhere.
fn causal_mask(side: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    let places = Tensor::arange(0u32, side as u32, device)?;
    let after = places
        .unsqueeze(0)?
        .broadcast_gt(&places.unsqueeze(1)?)?
        .contiguous()?;
    let zeros = Tensor::zeros((side, side), dtype, device)?;
    after.where_cond(&lowest((side, side), dtype, device)?, &zeros)
}

/// −∞ everywhere.
fn lowest<S: Into<candle_core::Shape>>(shape: S, dtype: DType, device: &Device) -> Result<Tensor> {
    Tensor::full(f32::NEG_INFINITY, shape, device)?.to_dtype(dtype)
}
