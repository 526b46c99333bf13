//! The clipped surrogate with a KL penalty.
//!
//! With `r = p / p_old` (by token, or by sequence: GSPO) and advantage A,
//! `ℓ = −min(r A, clip(r, 1 − low, 1 + high) A) + β KL(p ‖ p_ref)`, for A < 0 also
//! `−max(min(..), dual · A)`, averaged as [`LossAggregation`] says over unmasked tokens. Sources: GRPO
//! (arXiv 2402.03300), DAPO (2503.14476), Dr. GRPO (2503.20783), GSPO (2507.18071), dual clip
//! (1912.09729); values, gradients and conventions (a sequence without unmasked tokens counts in the
//! mean and has denominator 1) as TRL 1.16's `GRPOTrainer._compute_loss`.
//!
//! Deviations: computed in f64 on the host from the log-probabilities of packed tokens, with the
//! gradient written out, `∂ℓ/∂log p_t = −A r` where the surrogate is not clipped and 0 where it is:
//! a few passes over a vector of tokens instead of a graph of twenty tensors.

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result, expect_length, finite};
use crate::metrics::Metrics;
use crate::options::{Clip, LossAggregation, LossOptions, RatioLevel};

/// Sizes of the batch whose mean the loss is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Unmasked tokens.
    pub tokens: usize,
    /// Sequences, those without unmasked tokens included.
    pub sequences: usize,
}

/// Packed tokens of several sequences; all slices are indexed by token unless said otherwise.
#[derive(Clone, Copy)]
pub struct LossInputs<'a> {
    /// Log-probabilities of the sampled tokens under the policy that is trained, `(tokens)`, float;
    /// the loss is differentiable with respect to it.
    pub log_probs: &'a Tensor,
    /// Under the policy that sampled them; `None` when that is this very policy (ratio 1).
    pub old: Option<&'a [f32]>,
    /// Under the reference policy; needed for a KL penalty.
    pub reference: Option<&'a [f32]>,
    /// Entropy of the policy at each token in nats, for the metrics.
    pub entropy: Option<&'a [f32]>,
    /// The sequence that a token belongs to, an index into `advantages`.
    pub sequence: &'a [usize],
    /// Advantage of each sequence.
    pub advantages: &'a [f32],
    /// Tokens that count; `None` for all. See [`crate::turn_mask`].
    pub mask: Option<&'a [bool]>,
    /// The whole batch's sizes when this is a micro-batch of it: losses and gradients of the
    /// micro-batches then sum to the batch's. `None` when this is the whole batch.
    pub totals: Option<Totals>,
}

/// A loss and what it is made of.
#[derive(Clone, Debug)]
pub struct LossOutput {
    /// The loss, a scalar f32; `backward` reaches whatever `log_probs` depends on.
    pub loss: Tensor,
    /// Its figures.
    pub metrics: Metrics,
    /// Loss of each token, KL included, before mask and average.
    pub token_losses: Vec<f32>,
    /// `p / p_old` of each token.
    pub token_ratios: Vec<f32>,
    /// KL estimate of each token; empty without a reference or a KL setting.
    pub token_kl: Vec<f32>,
}

/// The loss of packed tokens.
///
/// # Errors
/// Lengths that differ, settings out of range, a KL penalty without reference, or a value at an
/// unmasked token that is not finite. Masked tokens may hold anything.
pub fn loss(inputs: &LossInputs<'_>, options: &LossOptions) -> Result<LossOutput> {
    options.check()?;
    let log_probs = host(inputs.log_probs)?;
    check(inputs, &log_probs, options)?;
    let batch = Batch::new(inputs, &log_probs);
    let weights = batch.weights(inputs, options.aggregation);

    let surrogate = batch.surrogate(inputs, options);
    let mut token_losses = surrogate.losses.clone();
    let mut gradient = surrogate.gradient(&batch, inputs, options.ratio, &weights);
    let mut token_kl = Vec::new();
    if let (Some(kl), Some(reference)) = (options.kl, inputs.reference) {
        for (t, (&log_prob, &reference)) in log_probs.iter().zip(reference).enumerate() {
            let reference = f64::from(reference);
            let value = kl.estimator.value(log_prob, reference);
            token_kl.push(value);
            token_losses[t] += kl.coefficient * value;
            if batch.counts(t) {
                let slope = kl.estimator.slope(log_prob, reference);
                gradient[t] += weights[t] * kl.coefficient * slope;
            }
        }
    }

    let total = |per_token: &[f64]| -> f64 {
        let counted = (0..per_token.len()).filter(|&t| batch.counts(t));
        counted.map(|t| weights[t] * per_token[t]).sum()
    };
    let value = finite(|| "the loss".to_owned(), total(&token_losses))?;
    for (t, &slope) in gradient.iter().enumerate() {
        finite(|| format!("the loss's gradient at token {t}"), slope)?;
    }
    let metrics = Metrics {
        loss: value,
        policy_loss: total(&surrogate.losses),
        kl: (!token_kl.is_empty()).then(|| batch.mean(|t| token_kl[t])),
        clip_fraction: surrogate.share(|cut| cut != Cut::No),
        clip_fraction_low: surrogate.share(|cut| cut == Cut::Low),
        clip_fraction_high: surrogate.share(|cut| cut == Cut::High),
        clip_fraction_dual: surrogate.share(|cut| cut == Cut::Dual),
        approximate_kl: batch.mean(|t| libm::expm1(batch.log_ratios[t]) - batch.log_ratios[t]),
        mean_ratio: batch.mean_or(1.0, |t| libm::exp(batch.log_ratios[t])),
        max_ratio: batch.max_ratio(),
        entropy: inputs
            .entropy
            .map(|entropy| batch.mean(|t| f64::from(entropy[t]))),
        tokens: batch.tokens,
        sequences: inputs.advantages.len(),
    };
    let narrow = |values: &[f64]| values.iter().map(|&v| v as f32).collect::<Vec<f32>>();
    let token_ratios = batch
        .log_ratios
        .iter()
        .map(|&log| libm::exp(log) as f32)
        .collect();
    for (what, value) in [
        ("the mean ratio", metrics.mean_ratio),
        ("the approximate KL", metrics.approximate_kl),
    ] {
        finite(|| format!("{what} to the sampling policy"), value)?;
    }
    Ok(LossOutput {
        loss: scalar(inputs.log_probs, value, &gradient, |t| {
            log_probs[t].is_finite()
        })?,
        metrics,
        token_losses: narrow(&token_losses),
        token_ratios,
        token_kl: narrow(&token_kl),
    })
}

/// A scalar of the given value whose gradient with respect to `log_probs` is the given one, on any
/// device: `x − detach(x)` is exactly 0 and has slope 1. Masked tokens are cut out when one of them
/// is not finite, for ∞ − ∞ is not 0.
fn scalar(
    log_probs: &Tensor,
    value: f64,
    gradient: &[f64],
    finite: impl Fn(usize) -> bool,
) -> Result<Tensor> {
    let tokens = gradient.len();
    let device = log_probs.device();
    let mut log_probs = log_probs.to_dtype(DType::F32)?;
    if !(0..tokens).all(&finite) {
        let keep: Vec<u8> = (0..tokens).map(|t| u8::from(finite(t))).collect();
        let keep = Tensor::from_vec(keep, tokens, device)?;
        log_probs = keep.where_cond(&log_probs, &log_probs.zeros_like()?)?;
    }
    let gradient: Vec<f32> = gradient.iter().map(|&g| g as f32).collect();
    let gradient = Tensor::from_vec(gradient, tokens, device)?;
    let zero = (&log_probs - log_probs.detach())?;
    Ok(((zero * gradient)?.sum_all()? + value)?)
}

fn host(tensor: &Tensor) -> Result<Vec<f64>> {
    let values = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
    Ok(values.to_vec1()?)
}

/// Lengths, sequence indices, and finiteness of everything that counts.
fn check(inputs: &LossInputs<'_>, log_probs: &[f64], options: &LossOptions) -> Result<()> {
    let tokens = log_probs.len();
    expect_length("sequence", tokens, inputs.sequence.len())?;
    if let Some(mask) = inputs.mask {
        expect_length("mask", tokens, mask.len())?;
    }
    if options.kl.is_some_and(|kl| kl.coefficient > 0.0) && inputs.reference.is_none() {
        return Err(Error::Setting {
            what: "kl",
            why: "a KL penalty needs the reference policy's log-probabilities".to_owned(),
        });
    }
    let count = inputs.advantages.len();
    for (token, &sequence) in inputs.sequence.iter().enumerate() {
        if sequence >= count {
            return Err(Error::Sequence {
                token,
                sequence,
                count,
            });
        }
    }
    for (sequence, &advantage) in inputs.advantages.iter().enumerate() {
        let what = || format!("the advantage of sequence {sequence}");
        finite(what, f64::from(advantage))?;
    }
    let counts = |t: usize| inputs.mask.is_none_or(|mask| mask[t]);
    for (t, &log_prob) in log_probs.iter().enumerate().filter(|&(t, _)| counts(t)) {
        finite(|| format!("the log-probability of token {t}"), log_prob)?;
    }
    for (what, values) in [
        ("old", inputs.old),
        ("reference", inputs.reference),
        ("entropy", inputs.entropy),
    ] {
        let Some(values) = values else { continue };
        expect_length(what, tokens, values.len())?;
        for (t, &value) in values.iter().enumerate().filter(|&(t, _)| counts(t)) {
            finite(|| format!("`{what}` of token {t}"), f64::from(value))?;
        }
    }
    Ok(())
}

/// Which bound of the surrogate cut a ratio off.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    No,
    Low,
    High,
    Dual,
}

/// Value of the surrogate, its derivative with respect to the log of the ratio, and the clip.
fn clipped(ratio: f64, advantage: f64, clip: &Clip) -> (f64, f64, Cut) {
    let (low, high) = (1.0 - clip.low, 1.0 + clip.high);
    if advantage > 0.0 && ratio > high {
        return (-high * advantage, 0.0, Cut::High);
    }
    if advantage < 0.0 && ratio < low {
        return (-low * advantage, 0.0, Cut::Low);
    }
    if let Some(dual) = clip.dual
        && advantage < 0.0
        && ratio > dual
    {
        return (-dual * advantage, 0.0, Cut::Dual);
    }
    (-ratio * advantage, -ratio * advantage, Cut::No)
}

/// The parts of a batch that do not depend on the settings.
struct Batch<'a> {
    mask: Option<&'a [bool]>,
    log_ratios: Vec<f64>,
    /// Unmasked tokens of each sequence.
    lengths: Vec<usize>,
    /// Unmasked tokens in all.
    tokens: usize,
}

/// The surrogate of every token, and the clip of every unit: unmasked token, or sequence.
struct Surrogate {
    losses: Vec<f64>,
    slopes: Vec<f64>,
    cuts: Vec<Cut>,
}

impl<'a> Batch<'a> {
    fn new(inputs: &LossInputs<'a>, log_probs: &[f64]) -> Self {
        let log_ratios = match inputs.old {
            None => vec![0.0; log_probs.len()],
            Some(old) => {
                let pairs = log_probs.iter().zip(old);
                pairs.map(|(new, &old)| new - f64::from(old)).collect()
            }
        };
        let mut batch = Batch {
            mask: inputs.mask,
            log_ratios,
            lengths: vec![0; inputs.advantages.len()],
            tokens: 0,
        };
        for (t, &sequence) in inputs.sequence.iter().enumerate() {
            if batch.counts(t) {
                batch.lengths[sequence] += 1;
                batch.tokens += 1;
            }
        }
        batch
    }

    fn counts(&self, t: usize) -> bool {
        self.mask.is_none_or(|mask| mask[t])
    }

    /// Mean over unmasked tokens; 0 when there are none.
    fn mean(&self, per_token: impl Fn(usize) -> f64) -> f64 {
        self.mean_or(0.0, per_token)
    }

    fn mean_or(&self, empty: f64, per_token: impl Fn(usize) -> f64) -> f64 {
        if self.tokens == 0 {
            return empty;
        }
        let counted = (0..self.log_ratios.len()).filter(|&t| self.counts(t));
        counted.map(per_token).sum::<f64>() / self.tokens as f64
    }

    fn max_ratio(&self) -> f64 {
        let counted = (0..self.log_ratios.len()).filter(|&t| self.counts(t));
        let largest = counted.map(|t| self.log_ratios[t]).reduce(f64::max);
        largest.map_or(1.0, libm::exp)
    }

    /// What a token's loss counts in the average; 0 for masked tokens.
    fn weights(&self, inputs: &LossInputs<'_>, aggregation: LossAggregation) -> Vec<f64> {
        let totals = inputs.totals.unwrap_or(Totals {
            tokens: self.tokens,
            sequences: self.lengths.len(),
        });
        let (tokens, sequences) = (totals.tokens.max(1) as f64, totals.sequences.max(1) as f64);
        let weight = |(t, &sequence): (usize, &usize)| {
            if !self.counts(t) {
                return 0.0;
            }
            match aggregation {
                LossAggregation::TokenMean => 1.0 / tokens,
                LossAggregation::SequenceMean => 1.0 / (self.lengths[sequence] as f64 * sequences),
                LossAggregation::ConstantLength { max_tokens } => {
                    1.0 / (sequences * max_tokens as f64)
                }
            }
        };
        inputs.sequence.iter().enumerate().map(weight).collect()
    }

    fn surrogate(&self, inputs: &LossInputs<'_>, options: &LossOptions) -> Surrogate {
        let advantage = |sequence: usize| f64::from(inputs.advantages[sequence]);
        match options.ratio {
            RatioLevel::Token => {
                let terms = |(&log, &s): (&f64, &usize)| {
                    clipped(libm::exp(log), advantage(s), &options.clip)
                };
                let terms: Vec<_> = self
                    .log_ratios
                    .iter()
                    .zip(inputs.sequence)
                    .map(terms)
                    .collect();
                let cuts = terms.iter().enumerate().filter(|&(t, _)| self.counts(t));
                Surrogate {
                    cuts: cuts.map(|(_, term)| term.2).collect(),
                    losses: terms.iter().map(|term| term.0).collect(),
                    slopes: terms.iter().map(|term| term.1).collect(),
                }
            }
            RatioLevel::Sequence => {
                let mut means = vec![0f64; self.lengths.len()];
                for (t, &sequence) in inputs.sequence.iter().enumerate() {
                    if self.counts(t) {
                        means[sequence] += self.log_ratios[t] / self.lengths[sequence] as f64;
                    }
                }
                let term = |(s, mean): (usize, &f64)| {
                    clipped(libm::exp(*mean), advantage(s), &options.clip)
                };
                let terms: Vec<_> = means.iter().enumerate().map(term).collect();
                Surrogate {
                    cuts: terms.iter().map(|term| term.2).collect(),
                    losses: inputs.sequence.iter().map(|&s| terms[s].0).collect(),
                    slopes: inputs.sequence.iter().map(|&s| terms[s].1).collect(),
                }
            }
        }
    }
}

impl Surrogate {
    /// Derivative of the weighted sum of losses with respect to each log-probability.
    fn gradient(
        &self,
        batch: &Batch<'_>,
        inputs: &LossInputs<'_>,
        ratio: RatioLevel,
        weights: &[f64],
    ) -> Vec<f64> {
        let counted = |t: usize, value: f64| if batch.counts(t) { value } else { 0.0 };
        match ratio {
            RatioLevel::Token => (0..weights.len())
                .map(|t| counted(t, weights[t] * self.slopes[t]))
                .collect(),
            // One ratio serves a sequence's tokens; each moves it by 1 / length.
            RatioLevel::Sequence => {
                let mut sums = vec![0f64; batch.lengths.len()];
                for (&weight, &sequence) in weights.iter().zip(inputs.sequence) {
                    sums[sequence] += weight;
                }
                let tokens = inputs.sequence.iter().enumerate();
                let share = |s: usize| sums[s] / batch.lengths[s].max(1) as f64;
                tokens
                    .map(|(t, &s)| counted(t, share(s) * self.slopes[t]))
                    .collect()
            }
        }
    }

    /// Share of units whose cut satisfies `is`; 0 when there are none.
    fn share(&self, is: impl Fn(Cut) -> bool) -> f64 {
        let hits = self.cuts.iter().filter(|&&cut| is(cut)).count();
        hits as f64 / self.cuts.len().max(1) as f64
    }
}
