//! Log-probabilities of given tokens from hidden states, chunk by chunk, composed of candle's
//! operators.
//!
//! With the logits `x_tj = h_t · w_j / T` of one chunk of tokens and ids at a time:
//! `m' = max(m, max_j x_tj)`, `l' = l e^(m − m') + Σ_j e^(x_tj − m')`, and of
//! `u = Σ_j e^(x_tj − m) (x_tj − m)` likewise; at the end `log p_t = x_t,target − m − log l` and the
//! entropy is `log l − u / l`. The backward pass makes the logits again:
//! `∂x_tj = g_t (1[j = target] − p_tj)`, `∂h = ∂x w / T`, `∂w = ∂xᵀ h / T`.
//!
//! The same idea as Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models"
//! (arXiv 2411.09009), in operators of every device. Everything is f32: hidden states and slices of
//! the weight are widened as they are used, so that logits of a bf16 model are not rounded to bf16.

use std::sync::Arc;

use candle_core::{D, DType, Device, Result, Tensor};

use crate::matmul::{Side, product};
use crate::recomputed::Recomputed;

/// How much is held at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogitChunk {
    /// Tokens at most.
    pub tokens: usize,
    /// Ids of the vocabulary at most.
    pub ids: usize,
}

impl Default for LogitChunk {
    /// 32 MiB of logits.
    fn default() -> Self {
        LogitChunk {
            tokens: 1024,
            ids: 8192,
        }
    }
}

/// Low enough for a probability of exactly 0, finite so that p · logit is 0 and not NaN.
const BANNED_LOGIT: f32 = -1e30;

/// See [`crate::token_log_probs`]: (log-probs, entropy).
pub(crate) fn token_log_probs(
    hidden: &Tensor,
    weight: &Tensor,
    targets: &[u32],
    temperature: f64,
    banned: &[u32],
    chunk: LogitChunk,
) -> Result<(Tensor, Tensor)> {
    let device = hidden.device();
    if targets.is_empty() {
        let none = Tensor::zeros(0, DType::F32, device)?;
        return Ok((none.clone(), none));
    }
    let problem = Problem {
        targets: targets.to_vec(),
        banned: banned.to_vec(),
        temperature,
        chunk: LogitChunk {
            tokens: chunk.tokens.max(1),
            ids: chunk.ids.max(1),
        },
        vocab: weight.dim(0)?,
    };
    let (hidden_values, weight_values) = (hidden.detach(), weight.detach());
    let found = problem.forward(&hidden_values, &weight_values)?;
    if !(hidden.track_op() || weight.track_op()) {
        return Ok((found.log_probs, found.entropy));
    }
    let log_sums = Arc::new(found.log_sums);
    let operator = Recomputed::new(
        "token_log_probs",
        &found.log_probs,
        move |[hidden, weight], _, grad, wanted| {
            problem.backward(hidden, weight, &log_sums, grad, wanted)
        },
    );
    Ok((hidden.apply_op2(weight, operator)?, found.entropy))
}

struct Problem {
    targets: Vec<u32>,
    banned: Vec<u32>,
    temperature: f64,
    chunk: LogitChunk,
    vocab: usize,
}

struct Found {
    /// (tokens)
    log_probs: Tensor,
    /// (tokens)
    entropy: Tensor,
    /// One (chunk, 1) a chunk of tokens.
    log_sums: Vec<Tensor>,
}

/// Of the tokens of a chunk, (chunk, 1) each, over the ids so far.
struct Sums {
    peak: Tensor,
    /// Σ e^(x − peak)
    total: Tensor,
    /// Σ e^(x − peak) (x − peak)
    weighted: Tensor,
    /// The target's logit; 0 until its ids were there.
    chosen: Tensor,
}

impl Problem {
    fn forward(&self, hidden: &Tensor, weight: &Tensor) -> Result<Found> {
        let hidden = self.chunks_of(hidden)?;
        let mut sums: Vec<Option<Sums>> = hidden.iter().map(|_| None).collect();
        for first in (0..self.vocab).step_by(self.chunk.ids) {
            let rows = self.rows(weight, first)?;
            let mask = self.mask(first, rows.device())?;
            for (index, (hidden, sums)) in hidden.iter().zip(&mut sums).enumerate() {
                let logits = self.logits(hidden, &rows, mask.as_ref())?;
                let chosen = self.chosen(index, first, &logits)?;
                *sums = Some(Sums::with(sums.take(), &logits, chosen)?);
            }
        }
        let (mut log_probs, mut entropy) = (Vec::new(), Vec::new());
        let mut log_sums = Vec::new();
        for sums in sums.into_iter().flatten() {
            let log_total = crate::log(&sums.total)?;
            entropy.push((&log_total - (sums.weighted / sums.total)?)?);
            log_probs.push(((sums.chosen - &sums.peak)? - &log_total)?);
            log_sums.push((sums.peak + log_total)?);
        }
        Ok(Found {
            log_probs: Tensor::cat(&log_probs, 0)?.flatten_all()?,
            entropy: Tensor::cat(&entropy, 0)?.flatten_all()?,
            log_sums,
        })
    }

    fn backward(
        &self,
        hidden: &Tensor,
        weight: &Tensor,
        log_sums: &[Tensor],
        grad: &Tensor,
        [wants_hidden, wants_weight]: [bool; 2],
    ) -> Result<[Option<Tensor>; 2]> {
        let own = self.chunks_of(hidden)?;
        let grads = self.chunks_of(&grad.unsqueeze(1)?)?;
        let mut hidden_grads: Vec<Option<Tensor>> = own.iter().map(|_| None).collect();
        let weight_grad = wants_weight
            .then(|| Tensor::zeros(weight.dims(), weight.dtype(), weight.device()))
            .transpose()?;
        for first in (0..self.vocab).step_by(self.chunk.ids) {
            let rows = self.rows(weight, first)?;
            let mask = self.mask(first, rows.device())?;
            let mut rows_grad: Option<Tensor> = None;
            for (index, (hidden, log_sums)) in own.iter().zip(log_sums).enumerate() {
                let logits = self.logits(hidden, &rows, mask.as_ref())?;
                let chances = crate::exp(&logits.broadcast_sub(log_sums)?)?;
                drop(logits);
                let slopes = (self.is_target(index, first, &rows)? - chances)?;
                let scale = (&grads[index] * (1.0 / self.temperature))?;
                let slopes = slopes.broadcast_mul(&scale)?;
                if wants_hidden {
                    let more = product(&slopes, Side::Plain, &rows, Side::Plain)?;
                    hidden_grads[index] = Some(plus(hidden_grads[index].take(), more)?);
                }
                if wants_weight {
                    let more = product(&slopes, Side::Turned, hidden, Side::Plain)?;
                    rows_grad = Some(plus(rows_grad, more)?);
                }
            }
            if let (Some(weight_grad), Some(rows_grad)) = (&weight_grad, rows_grad) {
                weight_grad.slice_set(&rows_grad.to_dtype(weight.dtype())?, 0, first)?;
            }
        }
        let hidden_grads: Vec<Tensor> = hidden_grads.into_iter().flatten().collect();
        let hidden_grad = wants_hidden
            .then(|| Tensor::cat(&hidden_grads, 0)?.to_dtype(hidden.dtype()))
            .transpose()?;
        Ok([hidden_grad, weight_grad])
    }

    /// (tokens, n) in f32, chunk by chunk.
    fn chunks_of(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        (0..self.targets.len())
            .step_by(self.chunk.tokens)
            .map(|first| {
                let tokens = self.chunk.tokens.min(self.targets.len() - first);
                x.narrow(0, first, tokens)?
                    .to_dtype(DType::F32)?
                    .contiguous()
            })
            .collect()
    }

    /// The rows of a chunk of ids, (ids, hidden) in f32.
    fn rows(&self, weight: &Tensor, first: usize) -> Result<Tensor> {
        let ids = self.chunk.ids.min(self.vocab - first);
        weight
            .narrow(0, first, ids)?
            .to_dtype(DType::F32)?
            .contiguous()
    }

    /// What to add to the logits of a chunk of ids, where one is banned.
    fn mask(&self, first: usize, device: &Device) -> Result<Option<Tensor>> {
        let ids = self.chunk.ids.min(self.vocab - first);
        let mut mask = vec![0f32; ids];
        let mut any = false;
        for &id in &self.banned {
            if let Some(logit) = (id as usize)
                .checked_sub(first)
                .and_then(|at| mask.get_mut(at))
            {
                *logit = BANNED_LOGIT;
                any = true;
            }
        }
        any.then(|| Tensor::from_vec(mask, ids, device)).transpose()
    }

    fn logits(&self, hidden: &Tensor, rows: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let logits = product(hidden, Side::Plain, rows, Side::Turned)?;
        let logits = match self.temperature {
            1.0 => logits,
            temperature => (logits * (1.0 / temperature))?,
        };
        match mask {
            Some(mask) => logits.broadcast_add(mask),
            None => Ok(logits),
        }
    }

    /// The targets of a chunk of tokens, counted from the first id; none where it is elsewhere.
    fn places(&self, index: usize, first: usize) -> impl Iterator<Item = Option<u32>> {
        let ids = self.chunk.ids.min(self.vocab - first);
        let from = index * self.chunk.tokens;
        let to = (from + self.chunk.tokens).min(self.targets.len());
        self.targets[from..to].iter().map(move |&target| {
            let place = (target as usize).checked_sub(first)?;
            (place < ids).then_some(place as u32)
        })
    }

    /// (chunk, 1): the logit of each target, 0 where it is not among these ids.
    fn chosen(&self, index: usize, first: usize, logits: &Tensor) -> Result<Option<Tensor>> {
        let places: Vec<Option<u32>> = self.places(index, first).collect();
        if places.iter().all(Option::is_none) {
            return Ok(None);
        }
        let shape = (places.len(), 1);
        let here: Vec<f32> = places
            .iter()
            .map(|place| f32::from(u8::from(place.is_some())))
            .collect();
        let places: Vec<u32> = places.into_iter().map(Option::unwrap_or_default).collect();
        let found = logits.gather(
            &Tensor::from_vec(places, shape, logits.device())?,
            D::Minus1,
        )?;
        Ok(Some(
            (found * Tensor::from_vec(here, shape, logits.device())?)?,
        ))
    }

    /// (chunk, ids) f32: 1 at each target.
    fn is_target(&self, index: usize, first: usize, rows: &Tensor) -> Result<Tensor> {
        let (ids, _) = rows.dims2()?;
        // No column has this number.
        let places: Vec<u32> = self
            .places(index, first)
            .map(|place| place.unwrap_or(ids as u32))
            .collect();
        let places = Tensor::from_vec(places, ((), 1), rows.device())?;
        let columns = Tensor::arange(0u32, ids as u32, rows.device())?.unsqueeze(0)?;
        places.broadcast_eq(&columns)?.to_dtype(DType::F32)
    }
}

impl Sums {
    /// The sums with the logits (chunk, ids) of further ids.
    fn with(before: Option<Sums>, logits: &Tensor, chosen: Option<Tensor>) -> Result<Self> {
        let own = logits.max_keepdim(D::Minus1)?;
        let peak = match &before {
            Some(before) => before.peak.maximum(&own)?,
            None => own,
        };
        let below = logits.broadcast_sub(&peak)?;
        let weights = crate::exp(&below)?;
        let mut total = weights.sum_keepdim(D::Minus1)?;
        let mut weighted = (weights * below)?.sum_keepdim(D::Minus1)?;
        let mut chosen = match chosen {
            Some(chosen) => chosen,
            None => peak.zeros_like()?,
        };
        if let Some(before) = before {
            let moved = (&before.peak - &peak)?;
            let shrink = crate::exp(&moved)?;
            let old = (&before.total * &shrink)?;
            let old_weighted = ((before.weighted * &shrink)? + (&old * &moved)?)?;
            total = (total + old)?;
            weighted = (weighted + old_weighted)?;
            chosen = (chosen + before.chosen)?;
        }
        Ok(Sums {
            peak,
            total,
            weighted,
            chosen,
        })
    }
}

fn plus(sum: Option<Tensor>, more: Tensor) -> Result<Tensor> {
    match sum {
        Some(sum) => sum + more,
        None => Ok(more),
    }
}
