//! Control: IAPO's penalties, each given to another call of the same prompt.
//!
//! `r = outcome − λ · D_{π(call)}` with a random permutation π of the prompt's distinct calls. The
//! penalties have the spread that IAPO's have and say nothing about the call that pays them. A method
//! that does no better owes its gain to dense rewards, not to alignment.

use seeded_random::Draw;

use crate::GroupEvidence;
use crate::iapo::{Settings, penalty};

/// The term of every episode; `None` without a call.
pub fn terms(settings: &Settings, group: &GroupEvidence<'_>) -> Vec<Option<f32>> {
    let mut penalties: Vec<Option<f32>> = group
        .calls
        .iter()
        .map(|call| call.divergence.map(|d| penalty(settings.weight, d)))
        .collect();
    let mut draw = group.stream.purpose("shuffled").generator();
    draw.shuffle(&mut penalties);
    group.per_episode(&penalties)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::tests::terms_of;
    use crate::{CallEvidence, TeacherRole, WithoutCall};

    #[test]
    fn the_penalties_stay_and_their_calls_change() {
        let settings = Settings {
            weight: 1.0,
            teacher: TeacherRole::Teacher,
            without_call: WithoutCall::Zero,
            attribution: crate::attribution_settings::AttributionSettings::paper(),
        };
        let calls: Vec<CallEvidence> = (0..8)
            .map(|call| CallEvidence {
                divergence: Some(f64::from(call)),
                ..CallEvidence::default()
            })
            .collect();
        let mut found = terms_of(&calls, |group| terms(&settings, group));
        let straight = terms_of(&calls, |group| crate::iapo::terms(&settings, group));
        assert_ne!(found, straight);
        assert_eq!(found.pop(), Some(None));
        found.sort_by(|a, b| b.partial_cmp(a).unwrap());
        assert_eq!(found, straight[..8]);
    }
}
