//! What a loss tells about the step, over unmasked tokens.

use serde::{Deserialize, Serialize};

/// Figures of one loss. With micro-batches, [`Metrics::merge`] them in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// The loss: policy part plus weighted KL. Over micro-batches with common totals, additive.
    pub loss: f64,
    /// Its clipped-surrogate part.
    pub policy_loss: f64,
    /// Token mean of the KL estimate to the reference policy, in nats; `None` without a reference.
    pub kl: Option<f64>,
    /// Share of ratios (of tokens, or of sequences with sequence ratios) that the clip cut off.
    pub clip_fraction: f64,
    /// The part below `1 − low` (negative advantages).
    pub clip_fraction_low: f64,
    /// The part above `1 + high` (positive advantages).
    pub clip_fraction_high: f64,
    /// Share cut off by the dual clip.
    pub clip_fraction_dual: f64,
    /// Token mean of the k3 estimate of KL(old ‖ new), `r − 1 − ln r` with token ratios r: how far
    /// the policy has moved since the samples were drawn.
    pub approximate_kl: f64,
    /// Token mean of `p / p_old`; 1 at the first step when sampler and trainer agree.
    pub mean_ratio: f64,
    /// The largest.
    pub max_ratio: f64,
    /// Token mean of the policy's entropy in nats; `None` when it was not given.
    pub entropy: Option<f64>,
    /// Unmasked tokens.
    pub tokens: usize,
    /// Sequences, those without unmasked tokens included.
    pub sequences: usize,
}

impl Metrics {
    /// The metrics of both micro-batches together: losses add (they must have been taken with the
    /// same [`crate::Totals`] of the whole batch), means are weighted by tokens, clip fractions by
    /// tokens too (exact for token ratios), and the maximum is kept.
    pub fn merge(&self, other: &Metrics) -> Metrics {
        let tokens = self.tokens + other.tokens;
        let mean = |a: f64, b: f64| {
            if tokens == 0 {
                (a + b) / 2.0
            } else {
                (a * self.tokens as f64 + b * other.tokens as f64) / tokens as f64
            }
        };
        let both = |a: Option<f64>, b: Option<f64>| a.zip(b).map(|(a, b)| mean(a, b));
        Metrics {
            loss: self.loss + other.loss,
            policy_loss: self.policy_loss + other.policy_loss,
            kl: both(self.kl, other.kl),
            clip_fraction: mean(self.clip_fraction, other.clip_fraction),
            clip_fraction_low: mean(self.clip_fraction_low, other.clip_fraction_low),
            clip_fraction_high: mean(self.clip_fraction_high, other.clip_fraction_high),
            clip_fraction_dual: mean(self.clip_fraction_dual, other.clip_fraction_dual),
            approximate_kl: mean(self.approximate_kl, other.approximate_kl),
            mean_ratio: mean(self.mean_ratio, other.mean_ratio),
            max_ratio: self.max_ratio.max(other.max_ratio),
            entropy: both(self.entropy, other.entropy),
            tokens,
            sequences: self.sequences + other.sequences,
        }
    }
}
