//! IAPO: the outcome minus how far the policy attends from where the teacher does.
//!
//! `r = outcome − λ · D(A_policy ‖ A_teacher)` (IAPO, arXiv 2606.11652), where `A` is the share of
//! each block of the prompt (context P, request R, image I, tools T) in the attribution of
//! `F = log p(call | prompt)`, both models' taken on the same prompt and the same call. As far as
//! the paper is known, the attribution is integrated gradients from a zero baseline with absolute
//! block sums over all tokens of the call, and D is the Kullback-Leibler divergence: only an arm with
//! that form may be called `iapo`; others carry their form in their name (`iapo-occlusion`).
//! Deviation: λ is not told by the paper; ours is chosen on tuning seeds.
//!
//! Controls are settings of the same method: [`TeacherRole::OwnStart`] aligns the policy to itself,
//! [`TeacherRole::Untrained`] to a model that is no stronger; [`crate::shuffled`] keeps the penalties
//! and gives them to other calls.

use serde::{Deserialize, Serialize};

use crate::attribution_settings::AttributionSettings;
use crate::{GroupEvidence, TeacherRole, WithoutCall};

/// Settings of `method = "iapo"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// λ, reward per nat of divergence.
    pub weight: f32,
    /// Whose attribution is the right one.
    pub teacher: TeacherRole,
    /// What an episode without a call gets.
    pub without_call: WithoutCall,
    /// How a call is attributed to the blocks of its prompt, and how two attributions are compared.
    pub attribution: AttributionSettings,
}

/// The term of every episode; `None` without a call.
pub fn terms(settings: &Settings, group: &GroupEvidence<'_>) -> Vec<Option<f32>> {
    group.from_calls(|call| Some(penalty(settings.weight, call.divergence?)))
}

/// `−λ · D`.
pub fn penalty(weight: f32, divergence: f64) -> f32 {
    -weight * divergence as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_further_from_the_teacher_the_worse() {
        assert_eq!(penalty(2.0, 0.25), -0.5);
        assert_eq!(penalty(2.0, 0.0), 0.0);
    }
}
