//! Rows of a table by token id.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use crate::composed;
use crate::error::{Result, shape_error, value_error};
use crate::kernels::elementwise;
use crate::kernels::memory::{Pointer, parallel};
use crate::values::{Values, fusible, slice, tensor};

const OPERATOR: &str = "embedding";

/// The rows `ids` of `weight` (vocab, hidden): (tokens, hidden), differentiable in `weight`.
///
/// # Errors
/// When `weight` is not a matrix or an id is not below its number of rows.
pub fn embedding(weight: &Tensor, ids: &[u32]) -> Result<Tensor> {
    let &[vocab, _] = weight.dims() else {
        return Err(shape_error(OPERATOR, "weight", "(vocab, hidden)", weight));
    };
    check_ids(OPERATOR, "token id", ids, vocab)?;
    if !fusible(&[weight])? || ids.is_empty() {
        return Ok(composed::embedding(weight, ids)?);
    }
    Ok(weight
        .contiguous()?
        .apply_op1(Embedding { ids: ids.to_vec() })?)
}

struct Embedding {
    ids: Vec<u32>,
}

impl CustomOp1 for Embedding {
    fn name(&self) -> &'static str {
        OPERATOR
    }

    fn cpu_fwd(
        &self,
        weight: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (_, hidden) = layout.shape().dims2()?;
        let weight = slice(weight, layout)?;
        let mut out = Vec::with_capacity(self.ids.len() * hidden);
        for &id in &self.ids {
            out.extend_from_slice(&weight[id as usize * hidden..(id as usize + 1) * hidden]);
        }
        Ok((CpuStorage::F32(out), Shape::from((self.ids.len(), hidden))))
    }

    /// Scatter-add. A task owns whole rows of the table and adds in the order of the tokens.
    fn bwd(
        &self,
        weight: &Tensor,
        _out: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<Option<Tensor>> {
        let (_, hidden) = weight.dims2()?;
        let grad = grad.contiguous()?;
        let grad = Values::of(&grad);
        let grad = grad.slice()?;
        let mut order: Vec<u32> = (0..self.ids.len() as u32).collect();
        order.sort_by_key(|&position| self.ids[position as usize]);
        let runs: Vec<&[u32]> = order
            .chunk_by(|&a, &b| self.ids[a as usize] == self.ids[b as usize])
            .collect();
        let mut table = vec![0f32; weight.elem_count()];
        let to = Pointer::to(&mut table);
        parallel(runs.len(), |run| {
            for &position in runs[run] {
                let (position, id) = (position as usize, self.ids[position as usize] as usize);
                let row = &grad[position * hidden..(position + 1) * hidden];
                // SAFETY: ids are below the vocabulary, and a run has one id.
                unsafe { elementwise::add(hidden, row.as_ptr(), to.at(id * hidden)) };
            }
        });
        Ok(Some(tensor(table, weight)?))
    }
}

/// Refuses an id that is not below `vocab`.
pub(crate) fn check_ids(
    operator: &'static str,
    what: &str,
    ids: &[u32],
    vocab: usize,
) -> Result<()> {
    match ids.iter().position(|&id| id as usize >= vocab) {
        Some(at) => Err(value_error(
            operator,
            format!(
                "{what} {} at position {at} is not below the vocabulary of {vocab}",
                ids[at]
            ),
        )),
        None => Ok(()),
    }
}
