//! Log-probabilities of given tokens, straight from hidden states.

use candle_core::Tensor;

use crate::composed;
use crate::embedding::check_ids;
use crate::error::{Result, shape_error, value_error};

const OPERATOR: &str = "token_log_probs";

/// What [`token_log_probs`] gives.
#[derive(Clone, Debug)]
pub struct TokenLogProbs {
    /// (tokens) f32: the log-probability of each target; differentiable in the hidden states and
    /// in the weight.
    pub log_probs: Tensor,
    /// (tokens) f32, in nats, detached: the entropy of each next-token distribution.
    pub entropy: Tensor,
}

/// `log softmax(hidden weightᵀ / temperature)[target]` for each token.
///
/// `hidden` is (tokens, hidden), `weight` (vocab, hidden). The ids in `banned` have probability 0
/// and take no part in the normalisation.
///
/// # Errors
/// When shapes do not fit, the temperature is not a positive number, an id is not below the
/// vocabulary, a target is banned, or every id is.
pub fn token_log_probs(
    hidden: &Tensor,
    weight: &Tensor,
    targets: &[u32],
    temperature: f64,
    banned: &[u32],
) -> Result<TokenLogProbs> {
    check(hidden, weight, targets, temperature, banned)?;
    let (log_probs, entropy) =
        composed::token_log_probs(hidden, weight, targets, temperature, banned)?;
    Ok(TokenLogProbs { log_probs, entropy })
}

fn check(
    hidden: &Tensor,
    weight: &Tensor,
    targets: &[u32],
    temperature: f64,
    banned: &[u32],
) -> Result<()> {
    let size = match *hidden.dims() {
        [tokens, size] if tokens == targets.len() => size,
        _ => {
            let expected = format!("({}, hidden), a row for each target", targets.len());
            return Err(shape_error(OPERATOR, "hidden", expected, hidden));
        }
    };
    let vocab = match *weight.dims() {
        [vocab, columns] if columns == size => vocab,
        _ => {
            return Err(shape_error(
                OPERATOR,
                "weight",
                format!("(vocab, {size})"),
                weight,
            ));
        }
    };
    if !(temperature.is_finite() && temperature > 0.0) {
        return Err(value_error(
            OPERATOR,
            format!("the temperature must be a positive number, found {temperature}"),
        ));
    }
    check_ids(OPERATOR, "target", targets, vocab)?;
    check_ids(OPERATOR, "banned id", banned, vocab)?;
    let mut is_banned = vec![false; vocab];
    for &id in banned {
        is_banned[id as usize] = true;
    }
    if let Some(at) = targets.iter().position(|&id| is_banned[id as usize]) {
        return Err(value_error(
            OPERATOR,
            format!(
                "target {} at position {at} is banned: its log-probability is −∞",
                targets[at]
            ),
        ));
    }
    Ok(())
}
