//! Dense labels for the decoder: where one of its heads should look for an answer.
//!
//! At the token that predicts the answer's word, let `a_j` be the attention of a head over the cells
//! `j` of the figure, softmax over those cells alone. With `S` the cells that a question leads to,
//!
//! ```text
//! loss = -log sum_{j in S} a_j
//! ```
//!
//! so it does not say how the head spreads over `S`. The first head of the last layer but one is
//! shown the entries that the question is about, the first head of the last layer those that the
//! answer rests on; all other heads are free. Without this the decoder never learnt to bind the
//! numbers of a table to the labels of their rows and columns (`replicate/LOG.md`, 2026-11-25).

use benchmarks::curriculum::{GRID_COLUMNS, GRID_ROWS};
use candle_core::{D, Tensor};
use qwen2_5_vl::Model;

use crate::Result;
use crate::packing::Packed;
use benchmarks::curriculum::Pointers;

/// Image tokens of a figure: one a cell, row by row.
const CELLS: usize = GRID_COLUMNS * GRID_ROWS;

/// The head that is taught; it belongs to the first key-value head.
const HEAD: usize = 0;

/// The losses `[selected, decisive]`, means over the questions.
///
/// `residuals` are those of [`Model::residuals`]; `askers[i]` is the token that predicts the answer
/// to question `i`, whose cells are `pointers[i]`; every tree of `packed` has one figure and the
/// same number of questions.
pub fn losses(
    model: &Model,
    packed: &Packed,
    residuals: &[Tensor],
    askers: &[u32],
    pointers: &[&Pointers],
) -> Result<[Tensor; 2]> {
    let layers = residuals.len() - 1;
    let selected = pointers.iter().map(|p| p.selected.as_slice());
    let decisive = pointers.iter().map(|p| p.decisive.as_slice());
    Ok([
        loss(
            model,
            packed,
            residuals,
            layers.saturating_sub(2),
            askers,
            selected,
        )?,
        loss(model, packed, residuals, layers - 1, askers, decisive)?,
    ])
}

fn loss<'a>(
    model: &Model,
    packed: &Packed,
    residuals: &[Tensor],
    layer: usize,
    askers: &[u32],
    targets: impl Iterator<Item = &'a [usize]>,
) -> Result<Tensor> {
    let (queries, keys) = model.queries_and_keys(layer, &residuals[layer], &packed.positions)?;
    let device = queries.device();
    let figures = packed.prompts.len();
    let questions = askers.len() / figures;
    let dim = queries.dim(2)?;
    let image = model.config().image_token_id;
    let cells: Vec<u32> = packed
        .input_ids
        .iter()
        .enumerate()
        .filter(|(_, id)| **id == image)
        .map(|(token, _)| token as u32)
        .collect();
    let of_head = |x: &Tensor, tokens: &[u32], of_figure: usize| -> Result<Tensor> {
        let chosen = x.narrow(1, HEAD, 1)?.squeeze(1)?.contiguous()?;
        let chosen = chosen.index_select(&Tensor::new(tokens, device)?, 0)?;
        Ok(chosen.reshape((figures, of_figure, dim))?)
    };
    let queries = of_head(&queries, askers, questions)?;
    let keys = of_head(&keys, &cells, CELLS)?;
    let scores = fused_ops::matmul(&queries, &keys.transpose(1, 2)?)?;
    let scores = (scores / (dim as f64).sqrt())?.reshape((askers.len(), CELLS))?;
    let mut wanted = vec![0f32; askers.len() * CELLS];
    for (question, target) in targets.enumerate() {
        for &cell in target {
            wanted[question * CELLS + cell] = 1.0;
        }
    }
    let wanted = Tensor::from_vec(wanted, (askers.len(), CELLS), device)?;
    let largest = scores.max_keepdim(D::Minus1)?.detach();
    let masses = fused_ops::exp(&scores.broadcast_sub(&largest)?)?;
    // The largest score may lie far outside the target: its share must not become 0.
    let pointed = ((&masses * wanted)?.sum(D::Minus1)? + 1e-20)?;
    let share = (fused_ops::log(&pointed)? - fused_ops::log(&masses.sum(D::Minus1)?)?)?;
    Ok(share.mean_all()?.neg()?)
}
