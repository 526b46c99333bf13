//! Control: a random penalty for each distinct call.
//!
//! `r = outcome + spread · ε`, `ε ~ N(0, 1)` drawn once per distinct call of a prompt. With the spread
//! that IAPO's penalties have within a prompt it asks whether any noise in the reward would do.

use seeded_random::Draw;
use serde::{Deserialize, Serialize};

use crate::deviation::Deviation;
use crate::method::{RewardMethod, weight_problem};
use crate::{Evidence, GroupEvidence, WithoutCall};

/// The method with its settings: `method = "random"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomPenalty {
    /// Standard deviation of the term.
    pub spread: f64,
    /// What an episode without a call gets.
    pub without_call: WithoutCall,
}

impl RewardMethod for RandomPenalty {
    fn evidence(&self) -> Evidence {
        Evidence::Outcome
    }

    fn terms(&self, group: &GroupEvidence<'_>) -> Vec<Option<f32>> {
        let drawn: Vec<Option<f32>> = (0..group.calls.len())
            .map(|call| {
                let stream = group.stream.purpose("random").index(call as u64);
                Some(self.spread as f32 * stream.generator().normal() as f32)
            })
            .collect();
        group.per_episode(&drawn)
    }

    fn without_call(&self) -> WithoutCall {
        self.without_call
    }

    fn problem(&self) -> Option<String> {
        weight_problem("spread", self.spread)
    }

    fn deviations(&self) -> Vec<Deviation> {
        vec![
            Deviation::new("spread", "no such arm", self.spread, "a control"),
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
    fn the_spread_is_the_settings() {
        let settings = RandomPenalty {
            spread: 0.2,
            without_call: WithoutCall::Zero,
        };
        let calls = vec![CallEvidence::default(); 4000];
        let found = terms_of(&calls, |group| settings.terms(group));
        let values: Vec<f32> = found.into_iter().flatten().collect();
        assert_eq!(values.len(), 4000);
        let square = values.iter().map(|v| v * v).sum::<f32>() / 4000.0;
        assert!((square.sqrt() - 0.2).abs() < 0.01, "{}", square.sqrt());
    }
}
