//! Control: the policy's own log-probability of its call as a bonus.
//!
//! `r = outcome + weight · mean_t log p_policy(call_t | prompt, call_<t)`. It knows no teacher: it
//! merely sharpens what the policy does already. A method that does no better has only sharpened.

use serde::{Deserialize, Serialize};

use crate::deviation::Deviation;
use crate::method::{RewardMethod, weight_problem};
use crate::{Evidence, GroupEvidence, WithoutCall};

/// The method with its settings: `method = "own-log-prob"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnLogProb {
    /// Weight of the policy's mean log-probability of the call's tokens, per nat.
    pub weight: f64,
    /// What an episode without a call gets.
    pub without_call: WithoutCall,
}

impl RewardMethod for OwnLogProb {
    fn evidence(&self) -> Evidence {
        Evidence::OwnLogProb
    }

    fn terms(&self, group: &GroupEvidence<'_>) -> Vec<Option<f32>> {
        group.from_calls(|call| Some(self.weight as f32 * call.own_log_prob?))
    }

    fn without_call(&self) -> WithoutCall {
        self.without_call
    }

    fn problem(&self) -> Option<String> {
        weight_problem("weight", self.weight)
    }

    fn deviations(&self) -> Vec<Deviation> {
        vec![
            Deviation::new("weight", "no such arm", self.weight, "a control"),
            self.without_call.deviation(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CallEvidence;
    use crate::evidence::tests::terms_of;

    #[test]
    fn own_habits_of_the_policy_pay() {
        let settings = OwnLogProb {
            weight: 0.5,
            without_call: WithoutCall::Zero,
        };
        let call = CallEvidence {
            own_log_prob: Some(-2.0),
            teacher_log_prob: Some(-9.0),
            ..CallEvidence::default()
        };
        assert_eq!(
            terms_of(&[call], |group| settings.terms(group)),
            [Some(-1.0), None]
        );
    }
}
