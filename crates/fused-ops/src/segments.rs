//! Sums of rows by id, in one order on every device, composed of candle's operators.
//!
//! Rows are sorted by id on the host; then neighbours of one id are added in pairs, all ids at once,
//! until one row is left of each: ⌈log₂⌉ of the largest count passes over ever fewer rows. No two
//! writes meet, so no order of atomic additions shows in the bits, and sums are f32 however narrow
//! the rows are.

use candle_core::{Result, Tensor};

use crate::blockwise::wide;

/// `table[id] = Σ rows[t] over t with ids[t] = id`: a (vocab, hidden) table in the type of `rows`
/// (tokens, hidden), with at least one token. Ids are below `vocab`.
pub(crate) fn sums(rows: &Tensor, ids: &[u32], vocab: usize) -> Result<Tensor> {
    let (_, hidden) = rows.dims2()?;
    let device = rows.device();
    let mut order: Vec<u32> = (0..ids.len() as u32).collect();
    order.sort_by_key(|&token| ids[token as usize]);
    let mut counts: Vec<usize> = Vec::new();
    let mut unique: Vec<u32> = Vec::new();
    for run in order.chunk_by(|&a, &b| ids[a as usize] == ids[b as usize]) {
        counts.push(run.len());
        unique.push(ids[run[0] as usize]);
    }
    let index = |values: Vec<u32>| {
        let length = values.len();
        Tensor::from_vec(values, length, device)
    };
    let mut sums = rows
        .to_dtype(wide(rows.dtype()))?
        .contiguous()?
        .index_select(&index(order)?, 0)?;
    while counts.iter().any(|&count| count > 1) {
        // The row of zeros that a row without a neighbour gets stands behind all others.
        let none = sums.dim(0)? as u32;
        let (mut left, mut right) = (Vec::new(), Vec::new());
        let mut first = 0u32;
        for count in &mut counts {
            for at in (0..*count as u32).step_by(2) {
                left.push(first + at);
                right.push(match at + 1 < *count as u32 {
                    true => first + at + 1,
                    false => none,
                });
            }
            first += *count as u32;
            *count = count.div_ceil(2);
        }
        let padded = sums.pad_with_zeros(0, 0, 1)?;
        let left = sums.index_select(&index(left)?, 0)?;
        sums = (left + padded.index_select(&index(right)?, 0)?)?;
    }
    let table = Tensor::zeros((vocab, hidden), rows.dtype(), device)?;
    let places = index(unique)?
        .unsqueeze(1)?
        .expand((sums.dim(0)?, hidden))?
        .contiguous()?;
    table.scatter_set(&places, &sums.to_dtype(rows.dtype())?.contiguous()?, 0)?;
    Ok(table)
}
