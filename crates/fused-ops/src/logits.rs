//! Scores over the vocabulary.

use candle_core::{DType, Tensor};

use crate::chunked_log_probs::LogitChunk;
use crate::error::{Result, shape_error};
use crate::linear::linear;

/// `hidden weightᵀ` in at least f32: (tokens, vocab) of (tokens, hidden) and (vocab, hidden).
///
/// What [`crate::token_log_probs`] normalises, for sampling from the same distribution: of narrower
/// inputs nothing but the inputs is rounded to their type. Slices of the weight are widened one
/// after the other.
///
/// # Errors
/// When shapes do not fit.
pub fn logits(hidden: &Tensor, weight: &Tensor) -> Result<Tensor> {
    if matches!(weight.dtype(), DType::F32 | DType::F64) {
        return linear(hidden, weight, None);
    }
    let &[vocab, _] = weight.dims() else {
        let expected = "(vocab, hidden)";
        return Err(shape_error("logits", "weight", expected, weight));
    };
    let hidden = hidden.to_dtype(DType::F32)?;
    let ids = LogitChunk::default().ids;
    let parts = (0..vocab)
        .step_by(ids)
        .map(|first| {
            let rows = weight.narrow(0, first, ids.min(vocab - first))?;
            linear(&hidden, &rows.to_dtype(DType::F32)?, None)
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Tensor::cat(&parts, 1)?)
}
