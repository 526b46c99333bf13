//! Log-probabilities of given tokens, straight from hidden states.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp2, Device, Layout, Shape, Tensor};

use crate::composed;
use crate::embedding::check_ids;
use crate::error::{Result, shape_error, value_error};
use crate::kernels::log_probs::{self as kernel, Problem};
use crate::values::{Values, fusible, slice, tensor};

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
    if !fusible(&[hidden, weight])? {
        let (log_probs, entropy) =
            composed::token_log_probs(hidden, weight, targets, temperature, banned)?;
        return Ok(TokenLogProbs { log_probs, entropy });
    }
    let (hidden, weight) = (hidden.contiguous()?, weight.contiguous()?);
    let mut banned = banned.to_vec();
    banned.sort_unstable();
    banned.dedup();
    let saved = Arc::new(OnceLock::new());
    let operator = LogProbs {
        targets: targets.to_vec(),
        banned,
        temperature: temperature as f32,
        saved: saved.clone(),
    };
    let log_probs = hidden.apply_op2(&weight, operator)?;
    let entropy = match saved.get() {
        Some(saved) => saved.entropy.clone(),
        None => return Err(value_error(OPERATOR, "candle did not run the forward pass")),
    };
    Ok(TokenLogProbs {
        log_probs,
        entropy: Tensor::from_vec(entropy, targets.len(), &Device::Cpu)?,
    })
}

/// What the forward pass leaves.
struct Saved {
    /// (tokens): log Σ exp(logit / temperature)
    log_sums: Vec<f32>,
    /// (tokens)
    entropy: Vec<f32>,
}

struct LogProbs {
    targets: Vec<u32>,
    /// Sorted, each once.
    banned: Vec<u32>,
    temperature: f32,
    saved: Arc<OnceLock<Saved>>,
}

impl LogProbs {
    fn problem<'a>(&'a self, hidden: &'a [f32], weight: &'a [f32]) -> Problem<'a> {
        Problem {
            hidden,
            weight,
            size: hidden.len() / self.targets.len(),
            targets: &self.targets,
            banned: &self.banned,
            temperature: self.temperature,
        }
    }
}

impl CustomOp2 for LogProbs {
    fn name(&self) -> &'static str {
        OPERATOR
    }

    fn cpu_fwd(
        &self,
        hidden: &CpuStorage,
        hidden_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let problem = self.problem(slice(hidden, hidden_layout)?, slice(weight, weight_layout)?);
        let (log_probs, log_sums, entropy) = kernel::forward(&problem);
        self.saved.get_or_init(|| Saved { log_sums, entropy });
        Ok((CpuStorage::F32(log_probs), Shape::from(self.targets.len())))
    }

    fn bwd(
        &self,
        hidden: &Tensor,
        weight: &Tensor,
        _out: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let Some(saved) = self.saved.get() else {
            candle_core::bail!("token_log_probs: backward before forward");
        };
        let (hidden_values, weight_values) = (Values::of(hidden), Values::of(weight));
        let problem = self.problem(hidden_values.slice()?, weight_values.slice()?);
        let grad = grad.contiguous()?;
        let (hidden_grad, weight_grad) = kernel::backward(
            &problem,
            &saved.log_sums,
            Values::of(&grad).slice()?,
            hidden.track_op(),
            weight.track_op(),
        );
        Ok((
            hidden_grad
                .map(|values| tensor(values, hidden))
                .transpose()?,
            weight_grad
                .map(|values| tensor(values, weight))
                .transpose()?,
        ))
    }
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
    if is_banned.iter().all(|&is_banned| is_banned) {
        return Err(value_error(
            OPERATOR,
            "every id of the vocabulary is banned",
        ));
    }
    Ok(())
}
