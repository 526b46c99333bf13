//! Control: what a practitioner would do with the same teacher.
//!
//! `r = outcome + weight · mean_t log p_teacher(call_t | prompt, call_<t)`: on-policy distillation of
//! the tool call through the reward. It costs one forward pass of the teacher per distinct call.

use serde::{Deserialize, Serialize};

use crate::deviation::Deviation;
use crate::method::{RewardMethod, weight_problem};
use crate::{Evidence, GroupEvidence, WithoutCall};

/// The method with its settings: `method = "distill"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distill {
    /// Weight of the teacher's mean log-probability of the call's tokens, per nat.
    pub weight: f64,
    /// What an episode without a call gets.
    pub without_call: WithoutCall,
}

impl RewardMethod for Distill {
    fn evidence(&self) -> Evidence {
        Evidence::TeacherLogProb
    }

    fn terms(&self, group: &GroupEvidence<'_>) -> Vec<Option<f32>> {
        group.from_calls(|call| Some(self.weight as f32 * call.teacher_log_prob?))
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
    fn a_likelier_call_is_worth_more() {
        let settings = Distill {
            weight: 0.5,
            without_call: WithoutCall::Zero,
        };
        let call = |log_prob| CallEvidence {
            teacher_log_prob: Some(log_prob),
            ..CallEvidence::default()
        };
        let found = terms_of(&[call(-2.0), call(-4.0)], |group| settings.terms(group));
        assert_eq!(found, [Some(-1.0), Some(-2.0), None]);
    }
}
