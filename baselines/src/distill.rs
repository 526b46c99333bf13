//! Control: what a practitioner would do with the same teacher.
//!
//! `r = outcome + weight · mean_t log p_teacher(call_t | prompt, call_<t)`: on-policy distillation of
//! the tool call through the reward. It costs one forward pass of the teacher per distinct call.

use serde::{Deserialize, Serialize};

use crate::{GroupEvidence, WithoutCall};

/// Settings of `method = "distill"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Weight of the teacher's mean log-probability of the call's tokens, per nat.
    pub weight: f32,
    /// What an episode without a call gets.
    pub without_call: WithoutCall,
}

/// The term of every episode; `None` without a call.
pub fn terms(settings: &Settings, group: &GroupEvidence<'_>) -> Vec<Option<f32>> {
    group.from_calls(|call| Some(settings.weight * call.teacher_log_prob?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CallEvidence;
    use crate::evidence::tests::terms_of;

    #[test]
    fn a_likelier_call_is_worth_more() {
        let settings = Settings {
            weight: 0.5,
            without_call: WithoutCall::Zero,
        };
        let call = |log_prob| CallEvidence {
            teacher_log_prob: Some(log_prob),
            ..CallEvidence::default()
        };
        let found = terms_of(&[call(-2.0), call(-4.0)], |group| terms(&settings, group));
        assert_eq!(found, [Some(-1.0), Some(-2.0), None]);
    }
}
