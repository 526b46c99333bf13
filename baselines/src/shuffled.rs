//! Control: IAPO's penalties, each given to another call of the same prompt.
//!
//! `r = outcome − λ · D_{π(call)}` with a random permutation π of the prompt's distinct calls. The
//! penalties have the spread that IAPO's have and say nothing about the call that pays them. A method
//! that does no better owes its gain to dense rewards, not to alignment.

use seeded_random::Draw;
use serde::{Deserialize, Serialize};

use crate::deviation::Deviation;
use crate::iapo::{Iapo, penalty};
use crate::method::RewardMethod;
use crate::{Evidence, GroupEvidence, WithoutCall};

/// The method with its settings, which are IAPO's: `method = "shuffled"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Shuffled(pub Iapo);

impl RewardMethod for Shuffled {
    fn evidence(&self) -> Evidence {
        self.0.evidence()
    }

    fn terms(&self, group: &GroupEvidence<'_>) -> Vec<Option<f32>> {
        let mut penalties: Vec<Option<f32>> = group
            .calls
            .iter()
            .map(|call| call.divergence.map(|d| penalty(self.0.weight, d)))
            .collect();
        let mut draw = group.stream.purpose("shuffled").generator();
        draw.shuffle(&mut penalties);
        group.per_episode(&penalties)
    }

    fn without_call(&self) -> WithoutCall {
        self.0.without_call
    }

    fn problem(&self) -> Option<String> {
        self.0.problem()
    }

    fn deviations(&self) -> Vec<Deviation> {
        let mut found = self.0.deviations();
        found.push(Deviation::new(
            "penalties",
            "each call's own",
            "shuffled among a prompt's calls",
            "a control",
        ));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribution_settings::AttributionSettings;
    use crate::evidence::tests::terms_of;
    use crate::{CallEvidence, TeacherRole};

    #[test]
    fn the_penalties_stay_and_their_calls_change() {
        let iapo = Iapo {
            weight: 1.0,
            teacher: TeacherRole::Teacher,
            without_call: WithoutCall::Zero,
            attribution: AttributionSettings::paper(),
        };
        let calls: Vec<CallEvidence> = (0..8)
            .map(|call| CallEvidence {
                divergence: Some(f64::from(call)),
                ..CallEvidence::default()
            })
            .collect();
        let straight = terms_of(&calls, |group| iapo.terms(group));
        let mut found = terms_of(&calls, |group| Shuffled(iapo.clone()).terms(group));
        assert_ne!(found, straight);
        assert_eq!(found.pop(), Some(None));
        found.sort_by(|a, b| b.partial_cmp(a).unwrap());
        assert_eq!(found, straight[..8]);
    }
}
