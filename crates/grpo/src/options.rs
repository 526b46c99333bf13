//! The settings of the loss, each a named choice of a profile.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The clipped surrogate's range.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clip {
    /// Ratios below `1 − low` are clipped, in (0, 1].
    pub low: f64,
    /// Ratios above `1 + high` are clipped; equal to `low` for PPO's symmetric clip, larger for
    /// DAPO's clip-higher (0.28 there).
    pub high: f64,
    /// Dual clip (arXiv 1912.09729): for negative advantages, ratios above this (> 1 + high) are
    /// clipped too. verl's default is 3.
    #[serde(default)]
    pub dual: Option<f64>,
}

/// What a ratio is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RatioLevel {
    /// `exp(log p_t − log p_old,t)`, token by token: GRPO.
    Token,
    /// `exp(mean_t (log p_t − log p_old,t))` over a sequence's unmasked tokens: GSPO
    /// (arXiv 2507.18071).
    Sequence,
}

/// Estimators of KL(policy ‖ reference) from one sampled token, with `d = log p − log p_ref`
/// (Schulman, "Approximating KL divergence", 2020).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KlEstimator {
    /// `d`: unbiased, high variance, can be negative.
    K1,
    /// `d² / 2`: biased, low variance.
    K2,
    /// `exp(−d) + d − 1`: unbiased, low variance, never negative. Not clamped, as in TRL.
    K3,
}

impl KlEstimator {
    /// The estimate for one token.
    pub fn value(self, log_prob: f64, reference: f64) -> f64 {
        let d = log_prob - reference;
        match self {
            KlEstimator::K1 => d,
            KlEstimator::K2 => d * d / 2.0,
            // expm1 keeps the digits that exp(−d) − 1 + d loses near d = 0.
            KlEstimator::K3 => libm::expm1(-d) + d,
        }
    }

    /// Its derivative with respect to `log_prob`.
    pub fn slope(self, log_prob: f64, reference: f64) -> f64 {
        let d = log_prob - reference;
        match self {
            KlEstimator::K1 => 1.0,
            KlEstimator::K2 => d,
            KlEstimator::K3 => -libm::expm1(-d),
        }
    }
}

/// A KL term in the loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KlPenalty {
    /// Which estimate.
    pub estimator: KlEstimator,
    /// Its factor β; with 0 the KL is measured but not penalised.
    pub coefficient: f64,
}

/// How token losses become one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum LossAggregation {
    /// Sum over the batch's unmasked tokens by their number: DAPO (arXiv 2503.14476), TRL's
    /// `dapo` and `bnpo`.
    TokenMean,
    /// Mean over sequences of the mean over each one's unmasked tokens: GRPO.
    SequenceMean,
    /// Sum by `sequences · max_tokens`: Dr. GRPO (arXiv 2503.20783).
    ConstantLength {
        /// The constant, usually the longest allowed completion.
        max_tokens: usize,
    },
}

/// All settings of [`crate::loss`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossOptions {
    /// The surrogate's range.
    pub clip: Clip,
    /// Token or sequence ratios.
    pub ratio: RatioLevel,
    /// KL to the reference policy, if any.
    #[serde(default)]
    pub kl: Option<KlPenalty>,
    /// How token losses are averaged.
    pub aggregation: LossAggregation,
}

impl LossOptions {
    pub(crate) fn check(&self) -> Result<()> {
        let Clip { low, high, dual } = self.clip;
        let setting = |what, why| Err(Error::Setting { what, why });
        if !(low > 0.0 && low <= 1.0) {
            return setting("clip.low", format!("{low} is not in (0, 1]; 0.2 is usual"));
        }
        if !(high > 0.0 && high.is_finite()) {
            return setting("clip.high", format!("{high} is not positive; 0.2 is usual"));
        }
        if let Some(dual) = dual
            && !(dual > 1.0 + high && dual.is_finite())
        {
            let why = format!("{dual} is not above 1 + clip.high = {}", 1.0 + high);
            return setting("clip.dual", why);
        }
        if let Some(kl) = self.kl
            && !(kl.coefficient >= 0.0 && kl.coefficient.is_finite())
        {
            let why = format!("{} is not a finite non-negative number", kl.coefficient);
            return setting("kl.coefficient", why);
        }
        if self.aggregation == (LossAggregation::ConstantLength { max_tokens: 0 }) {
            let why = "0 would divide by zero: give the longest allowed completion".to_owned();
            return setting("aggregation.max_tokens", why);
        }
        Ok(())
    }
}
