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

use attribution::{Baseline, BlockMass, Divergence, Method};
use serde::{Deserialize, Serialize};

use crate::attribution_settings::{AttributedTokens, AttributionSettings};
use crate::deviation::{Deviation, NOT_TOLD};
use crate::method::{RewardMethod, weight_problem};
use crate::{Evidence, GroupEvidence, TeacherRole, WithoutCall};

/// The method with its settings: `method = "iapo"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Iapo {
    /// λ, reward per nat of divergence.
    pub weight: f64,
    /// Whose attribution is the right one.
    pub teacher: TeacherRole,
    /// What an episode without a call gets.
    pub without_call: WithoutCall,
    /// How a call is attributed to the blocks of its prompt, and how two attributions are compared.
    pub attribution: AttributionSettings,
}

impl RewardMethod for Iapo {
    fn evidence(&self) -> Evidence {
        Evidence::Divergence(self.teacher)
    }

    fn terms(&self, group: &GroupEvidence<'_>) -> Vec<Option<f32>> {
        group.from_calls(|call| Some(penalty(self.weight, call.divergence?)))
    }

    fn without_call(&self) -> WithoutCall {
        self.without_call
    }

    fn problem(&self) -> Option<String> {
        weight_problem("weight", self.weight).or_else(|| {
            let problem = self.attribution.problem()?;
            Some(format!("attribution.{problem}"))
        })
    }

    fn deviations(&self) -> Vec<Deviation> {
        let mut found = vec![
            Deviation::new(
                "weight of the divergence",
                NOT_TOLD,
                self.weight,
                "scaled to the rewards of this data",
            ),
            self.without_call.deviation(),
        ];
        if self.teacher != TeacherRole::Teacher {
            let whose = match self.teacher {
                TeacherRole::OwnStart => "the policy where it started",
                TeacherRole::Untrained | TeacherRole::Teacher => "the untrained student",
            };
            found.push(Deviation::new(
                "teacher",
                "the stronger model",
                whose,
                "a control",
            ));
        }
        found.extend(of_form(&self.attribution));
        found
    }
}

/// Where the form of attribution departs from the paper's.
fn of_form(settings: &AttributionSettings) -> Vec<Deviation> {
    let AttributionSettings {
        method,
        baseline,
        masses,
        smoothing,
        tokens,
        divergence,
    } = settings;
    let mut found = vec![match method {
        Method::Occlusion {} => Deviation::new(
            "attribution",
            "integrated gradients",
            "occlusion: drop of the call's log-probability without a block",
            "a fraction of the cost",
        ),
        Method::PathDifferences(levels) => Deviation::new(
            "attribution",
            "integrated gradients",
            format!(
                "differences along {} steps of the path, level k at (k/n)^{}",
                levels.steps, levels.exponent
            ),
            "the same integral for whole blocks, without a backward pass",
        ),
        Method::IntegratedGradients { quadrature } => Deviation::new(
            "integration",
            NOT_TOLD,
            quadrature,
            "chosen by the ranking of calls (results/attribution/nodes.md)",
        ),
        Method::GradientXInput {} => Deviation::new(
            "attribution",
            "integrated gradients",
            "gradient times input",
            "one node",
        ),
        Method::AttentionRollout {} => Deviation::new(
            "attribution",
            "integrated gradients",
            "rollout of attention",
            "where the model looks, not what speaks for the call",
        ),
    }];
    found.push(Deviation::new(
        "smoothing of block shares",
        NOT_TOLD,
        smoothing,
        "a divergence with an empty block stays finite",
    ));
    if *baseline != Baseline::Zero {
        found.push(Deviation::new(
            "baseline",
            "zero, as far as known",
            "the block's mean embedding",
            "RMS norms are steepest at zero",
        ));
    }
    if *masses != BlockMass::Absolute {
        found.push(Deviation::new(
            "block masses",
            "sums of absolute scores",
            format!("{masses:?}"),
            "absolute sums hide what speaks against a call",
        ));
    }
    if *tokens == AttributedTokens::Content {
        found.push(Deviation::new(
            "attributed tokens",
            "the tool call",
            "its tool and names",
            "the other tokens are the same in every call",
        ));
    }
    if *divergence != Divergence::Kl {
        found.push(Deviation::new(
            "divergence",
            "KL(student, teacher)",
            format!("{divergence:?}"),
            "bounded: an empty block cannot dominate a group",
        ));
    }
    found
}

/// `−λ · D`.
pub fn penalty(weight: f64, divergence: f64) -> f32 {
    -weight as f32 * divergence as f32
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
