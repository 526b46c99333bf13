//! ToRL: the outcome minus a penalty for a tool call that fails to execute.
//!
//! `r = outcome − penalty · [call failed]`. ToRL (arXiv 2503.23383) takes 0.5 off a reward in
//! {−1, 1} for code that does not execute; the penalty is the profile's. Deviation: our calls are
//! parsed and never executed, so a call that the parser refuses or whose boxes do not exist is what
//! fails.

use agent::ToolOutcome;
use serde::{Deserialize, Serialize};

use crate::deviation::Deviation;
use crate::method::{RewardMethod, weight_problem};
use crate::{Evidence, GroupEvidence, WithoutCall};

/// The method with its settings: `method = "torl"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Torl {
    /// Subtracted when a call fails to execute.
    pub penalty: f64,
    /// What an episode without a call gets.
    pub without_call: WithoutCall,
}

impl RewardMethod for Torl {
    fn evidence(&self) -> Evidence {
        Evidence::Outcome
    }

    fn terms(&self, group: &GroupEvidence<'_>) -> Vec<Option<f32>> {
        group
            .outcomes
            .iter()
            .map(|outcome| match outcome {
                ToolOutcome::NotCalled => None,
                ToolOutcome::Succeeded => Some(0.0),
                ToolOutcome::Refused(_) | ToolOutcome::Failed(_) => Some(-self.penalty as f32),
            })
            .collect()
    }

    fn without_call(&self) -> WithoutCall {
        self.without_call
    }

    fn problem(&self) -> Option<String> {
        weight_problem("penalty", self.penalty)
    }

    fn deviations(&self) -> Vec<Deviation> {
        vec![
            Deviation::new(
                "penalty",
                "0.5 of a reward in -1 to 1",
                self.penalty,
                "rewards here are 0 or 1",
            ),
            self.without_call.deviation(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use seeded_random::Stream;

    #[test]
    fn only_failures_cost() {
        let settings = Torl {
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
            settings.terms(&group),
            [None, Some(0.0), Some(-0.3), Some(-0.3)]
        );
    }
}
