//! Learning rates over updates.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// What follows the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum Decay {
    /// The peak rate for ever.
    Constant,
    /// Half a cosine from the peak, at the end of the warm-up, to `final_fraction · peak` at update
    /// `updates`; that rate from then on.
    Cosine {
        /// Updates in all, warm-up included.
        updates: usize,
        /// Where the rate ends, as a fraction of the peak.
        final_fraction: f64,
    },
}

/// A linear warm-up and a decay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearningRateSchedule {
    /// The largest rate.
    pub peak: f64,
    /// Updates of linear warm-up; 0 for none.
    pub warmup: usize,
    /// What follows.
    pub decay: Decay,
}

impl LearningRateSchedule {
    /// The rate of update `update`, counted from 0.
    ///
    /// Update k of a warm-up of w runs at `peak (k + 1) / w`, so that none is spent at rate 0 as
    /// with transformers' schedules, which use `k / w`.
    pub fn rate(&self, update: usize) -> f64 {
        if update < self.warmup {
            return self.peak * (update + 1) as f64 / self.warmup as f64;
        }
        match self.decay {
            Decay::Constant => self.peak,
            Decay::Cosine {
                updates,
                final_fraction,
            } => {
                let length = updates.saturating_sub(self.warmup).max(1);
                let done = ((update - self.warmup) as f64 / length as f64).min(1.0);
                let cosine = (1.0 + libm::cos(PI * done)) / 2.0;
                self.peak * (final_fraction + (1.0 - final_fraction) * cosine)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warm_up_reaches_the_peak_and_the_cosine_its_end() {
        let schedule = LearningRateSchedule {
            peak: 2.0,
            warmup: 4,
            decay: Decay::Cosine {
                updates: 14,
                final_fraction: 0.1,
            },
        };
        let rates: Vec<f64> = (0..4).map(|k| schedule.rate(k)).collect();
        assert_eq!(rates, [0.5, 1.0, 1.5, 2.0]);
        assert_eq!(schedule.rate(4), 2.0);
        assert!((schedule.rate(9) - 1.1).abs() < 1e-12);
        assert!((schedule.rate(14) - 0.2).abs() < 1e-12);
        assert!((schedule.rate(1000) - 0.2).abs() < 1e-12);
        assert!((4..14).all(|k| schedule.rate(k) > schedule.rate(k + 1)));
    }

    #[test]
    fn without_warm_up_a_constant_is_constant() {
        let schedule = LearningRateSchedule {
            peak: 3e-4,
            warmup: 0,
            decay: Decay::Constant,
        };
        assert!((0..100).all(|k| schedule.rate(k) == 3e-4));
    }
}
