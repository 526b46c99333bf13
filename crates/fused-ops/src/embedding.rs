//! Rows of a table by token id.

use candle_core::Tensor;

use crate::composed;
use crate::error::{Result, shape_error, value_error};

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
    Ok(composed::embedding(weight, ids)?)
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
