//! TRM: the outcome plus a verifier's judgement of the tool call.
//!
//! `r = outcome + weight · v`, `v = 1` when the verifier approves the call and `−1` when it rejects
//! it. Source: Tool-call Reward Model (ICLR 2026, OpenReview LnBEASInVr), a trained 3B process model
//! with credit for each turn; the verifier in IAPO's paper is GPT-4o. Deviations: credit for the
//! whole trajectory; at the micro scale the verifier has the generator's knowledge (a call is right
//! when it focuses exactly on what the question names) and its judgement is flipped with a stated
//! probability, drawn once for each distinct call, so that equal calls get equal verdicts. With
//! `verifier = "endpoint"` a model is asked instead, whose judgement stands as it is.

use seeded_random::Draw;
use serde::{Deserialize, Serialize};

use crate::deviation::{Deviation, NOT_TOLD};
use crate::method::{RewardMethod, weight_problem};
use crate::{Evidence, GroupEvidence, WithoutCall};

/// Who verifies a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verifier {
    /// The generator's truth, flipped with [`Trm::error_rate`].
    #[default]
    Truth,
    /// The model of the profile's `[verifier]`.
    Endpoint,
}

impl Verifier {
    fn is_truth(&self) -> bool {
        *self == Verifier::Truth
    }
}

/// The method with its settings: `method = "trm"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trm {
    /// Added when the verifier approves the call, subtracted when it rejects it.
    pub weight: f64,
    /// Probability that the verifier's judgement is flipped; 0 for an endpoint.
    pub error_rate: f64,
    /// Who verifies.
    #[serde(default, skip_serializing_if = "Verifier::is_truth")]
    pub verifier: Verifier,
    /// What an episode without a call gets.
    pub without_call: WithoutCall,
}

impl RewardMethod for Trm {
    fn evidence(&self) -> Evidence {
        match self.verifier {
            Verifier::Truth => Evidence::Truth,
            Verifier::Endpoint => Evidence::Verifier,
        }
    }

    fn terms(&self, group: &GroupEvidence<'_>) -> Vec<Option<f32>> {
        let verdicts: Vec<Option<f32>> = group
            .calls
            .iter()
            .enumerate()
            .map(|(call, evidence)| {
                let stream = group.stream.purpose("verifier").index(call as u64);
                let flipped = stream.generator().unit() < self.error_rate;
                evidence.right.map(|right| match right != flipped {
                    true => self.weight as f32,
                    false => -self.weight as f32,
                })
            })
            .collect();
        group.per_episode(&verdicts)
    }

    fn without_call(&self) -> WithoutCall {
        self.without_call
    }

    fn problem(&self) -> Option<String> {
        weight_problem("weight", self.weight).or_else(|| {
            let rate = self.error_rate;
            (!(0.0..=1.0).contains(&rate))
                .then(|| format!("error_rate is {rate}: expected a probability, 0 to 1"))
                .or_else(|| {
                    (rate > 0.0 && self.verifier == Verifier::Endpoint).then(|| {
                        format!(
                            "error_rate is {rate}: expected 0, an endpoint's errors are its own"
                        )
                    })
                })
        })
    }

    fn deviations(&self) -> Vec<Deviation> {
        vec![
            match self.verifier {
                Verifier::Truth => Deviation::new(
                    "verifier",
                    "GPT-4o (IAPO); a trained 3B model with credit by turn (TRM)",
                    format!(
                        "the generator's truth, flipped with probability {}, per trajectory",
                        self.error_rate
                    ),
                    "no endpoint is needed",
                ),
                Verifier::Endpoint => Deviation::new(
                    "verifier",
                    "GPT-4o (IAPO); a trained 3B model with credit by turn (TRM)",
                    "the profile's [verifier], asked in our words, per trajectory",
                    "IAPO's prompt is not published",
                ),
            },
            Deviation::new("weight", NOT_TOLD, self.weight, "set beforehand"),
            self.without_call.deviation(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CallEvidence;
    use crate::evidence::tests::terms_of;

    fn judged(error_rate: f64) -> Vec<Option<f32>> {
        let settings = Trm {
            weight: 0.3,
            error_rate,
            verifier: Verifier::Truth,
            without_call: WithoutCall::Zero,
        };
        let call = |right| CallEvidence {
            right,
            ..CallEvidence::default()
        };
        let calls = [call(Some(true)), call(Some(false)), call(None)];
        terms_of(&calls, |group| settings.terms(group))
    }

    #[test]
    fn the_verifier_errs_as_often_as_it_should() {
        assert_eq!(judged(0.0), [Some(0.3), Some(-0.3), None, None]);
        assert_eq!(judged(1.0), [Some(-0.3), Some(0.3), None, None]);
    }
}
