//! Attention rollout.
//!
//! `R = Â_L … Â_2 Â_1` with `Â_l = ½ mean_heads(A_l) + ½ I`, rows normalised; a prompt token's score
//! is its column of R, averaged over the target positions. Source: Abnar and Zuidema 2020 (arXiv
//! 2005.00928). Deviation: only the target rows are carried through the product, so that the cost
//! is `targets × sequence²` a layer.

use std::ops::Range;

use candle_core::Tensor;

use crate::elements::host;
use crate::error::{Error, Result, finite};

/// A model's attention at one sequence.
#[derive(Clone, Debug)]
pub struct Attentions {
    /// One matrix per layer, from the first: `(heads, seq, seq)` or `(seq, seq)`, row = query.
    pub layers: Vec<Tensor>,
    /// Query positions whose attention is followed: from the position that predicts the first
    /// attributed token, one before that token, to the one that predicts the last.
    pub targets: Range<usize>,
}

/// The attention that reaches each of the sequence's first `tokens` positions.
///
/// Scores are non-negative and, when `tokens` is the whole sequence, sum to 1.
///
/// # Errors
/// Matrices that are not square or not of one size, target positions or tokens outside of the
/// sequence, non-finite attention.
pub fn attention_rollout(attentions: &Attentions, tokens: usize) -> Result<Vec<f64>> {
    let targets = attentions.targets.clone();
    let seq = match attentions.layers.first() {
        Some(layer) => layer.dims().last().copied().unwrap_or(0),
        None => return Err(Error::NoAttentions),
    };
    if targets.is_empty() || targets.end > seq || tokens > seq {
        return Err(Error::Setting {
            what: "attentions",
            why: format!("targets {targets:?} and {tokens} tokens do not fit a sequence of {seq}"),
        });
    }
    let mut rows = vec![0f64; targets.len() * seq];
    for (row, target) in rows.chunks_mut(seq).zip(targets.clone()) {
        row[target] = 1.0;
    }
    for layer in attentions.layers.iter().rev() {
        let step = with_residual(layer, seq)?;
        let mut next = vec![0f64; rows.len()];
        for (row, out) in rows.chunks(seq).zip(next.chunks_mut(seq)) {
            for (&weight, from) in row.iter().zip(step.chunks(seq)) {
                if weight != 0.0 {
                    out.iter_mut().zip(from).for_each(|(o, a)| *o += weight * a);
                }
            }
        }
        rows = next;
    }
    let mut scores = vec![0f64; tokens];
    for row in rows.chunks(seq) {
        for (score, value) in scores.iter_mut().zip(row) {
            *score += value / targets.len() as f64;
        }
    }
    for (token, &score) in scores.iter().enumerate() {
        finite(|| format!("the rollout of token {token}"), score)?;
    }
    Ok(scores)
}

/// `½ mean_heads(A) + ½ I` with rows that sum to 1, row-major.
fn with_residual(layer: &Tensor, seq: usize) -> Result<Vec<f64>> {
    let mean = match *layer.dims() {
        [rows, columns] if rows == seq && columns == seq => host(layer)?,
        [heads, rows, columns] if heads > 0 && rows == seq && columns == seq => {
            host(&layer.to_dtype(candle_core::DType::F64)?.mean(0)?)?
        }
        _ => {
            return Err(Error::Shape {
                what: "attentions.layers",
                expected: format!("(heads, {seq}, {seq}) or ({seq}, {seq})"),
                found: layer.dims().to_vec(),
            });
        }
    };
    let mut matrix = mean;
    for (i, row) in matrix.chunks_mut(seq).enumerate() {
        row.iter_mut().for_each(|a| *a *= 0.5);
        row[i] += 0.5;
        let sum: f64 = row.iter().sum();
        row.iter_mut().for_each(|a| *a /= sum);
    }
    Ok(matrix)
}
