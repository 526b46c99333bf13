//! ToRL: the outcome minus a penalty for a tool call that fails to execute.
//!
//! `r = outcome − penalty · [call failed]`. ToRL (arXiv 2503.23383) takes 0.5 off a reward in
//! {−1, 1} for code that does not execute; the penalty is the profile's. Deviation: our calls are
//! parsed and never executed, so a call that the parser refuses or whose boxes do not exist is what
//! fails.

use agent::ToolOutcome;
use serde::{Deserialize, Serialize};

use crate::{GroupEvidence, WithoutCall};

/// Settings of `method = "torl"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Subtracted when a call fails to execute.
    pub penalty: f32,
    /// What an episode without a call gets.
    pub without_call: WithoutCall,
}

/// The term of every episode; `None` without a call.
pub fn terms(settings: &Settings, group: &GroupEvidence<'_>) -> Vec<Option<f32>> {
    group
        .outcomes
        .iter()
        .map(|outcome| match outcome {
            ToolOutcome::NotCalled => None,
            ToolOutcome::Succeeded => Some(0.0),
            ToolOutcome::Refused(_) | ToolOutcome::Failed(_) => Some(-settings.penalty),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use seeded_random::Stream;

    #[test]
    fn only_failures_cost() {
        let settings = Settings {
            penalty: 0.3,
            without_call: WithoutCall::Zero,
        };
        let outcomes = [
            ToolOutcome::NotCalled,
            ToolOutcome::Succeeded,
            ToolOutcome::Refused("loop".into()),
            ToolOutcome::Failed("no box".into()),
        ];
        let outcomes: Vec<&ToolOutcome> = outcomes.iter().collect();
        let group = GroupEvidence {
            outcomes: &outcomes,
            call_of: &[None; 4],
            calls: &[],
            stream: &Stream::new(0),
        };
        assert_eq!(
            terms(&settings, &group),
            [None, Some(0.0), Some(-0.3), Some(-0.3)]
        );
    }
}
