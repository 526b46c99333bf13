//! One update of the policy: a line of `metrics.jsonl`.
//!
//! Everything outside `seconds` and `attribution.seconds` is the same for the same profile and
//! seed; those are the clock's and are left out of [`crate::run_hashes`].

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::files::Checked;

/// One update. Rates and shares lie in [0, 1].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateMetrics {
    /// The stage of the schedule: `teacher`, `cold-start`, or the arm's name.
    pub stage: String,
    /// Updates made so far in this run, this one included; grows by 1 a line through all stages.
    pub update: u64,
    /// Mean reward of the episodes, all parts together.
    pub reward: f64,
    /// Mean of each part of the reward as it entered the sum, for example `outcome` and
    /// `attribution` (which is negative).
    #[serde(default)]
    pub reward_parts: BTreeMap<String, f64>,
    /// Share of episodes whose answer was right.
    pub accuracy: f64,
    /// The loss that was differentiated.
    pub loss: f64,
    /// Mean estimate of the divergence from the reference policy, nats a token.
    pub kl: f64,
    /// Share of tokens where the clip held the ratio.
    pub clip_fraction: f64,
    /// Mean importance ratio over the tokens; 1 on the first pass over fresh samples.
    pub ratio: f64,
    /// Mean entropy of the policy, nats a token.
    pub entropy: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Share of episodes that called a tool.
    pub tool_call_rate: f64,
    /// Share of the calls that ran; absent when none was made.
    #[serde(default)]
    pub tool_success_rate: Option<f64>,
    /// Share of groups whose rewards were all equal, which teach nothing.
    pub zero_variance_groups: f64,
    /// What the update's forward and backward passes ran over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<UpdateTokens>,
    /// The attribution's quality and cost, where the arm measures it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attribution: Option<AttributionMetrics>,
    /// How far the policy's attribution is from the teacher's on the fixed probe: whether
    /// alignment happens, measured alike for every arm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alignment: Option<Alignment>,
    /// Share of groups whose outcomes were all equal and whose rewards were not: there the auxiliary
    /// term acts alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub penalty_alone: Option<f64>,
    /// Mean, over the prompts where both vary, of the correlation (Pearson) of the penalty, which is
    /// minus the auxiliary term of the reward, with the call being wrong; absent without such a prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub penalty_correlation: Option<f64>,
    /// Over the pairs of a wrong and a right call for one prompt, the share in which the wrong one has the
    /// larger penalty, a tie counting a half; absent without such a pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub penalty_auc: Option<f64>,
    /// Episodes without a verdict, left out of their groups.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unjudged: u64,
    /// Questions that could not be asked, left out of the update.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
    /// The thresholds that this update passed, by the names of the profile's `[alarms]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<String>,
    /// Greedy validation, on the updates where it was run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
    /// Seconds by part (`rollout`, `reward`, `attribution`, `update`, `validation`): the clock's,
    /// not deterministic.
    #[serde(default)]
    pub seconds: BTreeMap<String, f64>,
}

/// Tokens of an update's forward and backward passes. The turns of a question are one tree: each token of
/// its prompt, calls, observations and answers is computed once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateTokens {
    /// Tokens that were computed.
    pub computed: u64,
    /// Tokens that the same turns would take with a sequence for each distinct prompt.
    pub separate: u64,
    /// Turns whose prompt does not begin with the turn before, as a chat template may render it: they are
    /// trees of their own.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub not_continued: u64,
    /// Tokens of second turns' prompts that were not run again to sample: their keys and values were kept
    /// from the first turn.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reused: u64,
    /// Prompts of second turns that go on with a first one and were run whole: their tokens are others than
    /// were sampled, or what was kept went for the budget.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub run_whole: u64,
}

impl UpdateTokens {
    /// Adds another part of the same update.
    pub fn add(&mut self, other: UpdateTokens) {
        self.computed += other.computed;
        self.separate += other.separate;
        self.not_continued += other.not_continued;
        self.reused += other.reused;
        self.run_whole += other.run_whole;
    }
}

/// What the attribution of one update's calls gave and cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttributionMetrics {
    /// Distinct tool calls that were attributed.
    pub calls: u64,
    /// Points at which it evaluated a call's log-probability, student and teacher together, summed
    /// over calls.
    pub passes: u64,
    /// Median over the calls of the completeness error, |sum − (F(1) − F(0))| / |F(1) − F(0)|;
    /// absent where the method has none. Earlier versions wrote 0.0 for such methods (occlusion):
    /// an exact 0 is read as absent, since no sum over nodes is exact to the last bit.
    #[serde(
        default,
        deserialize_with = "measured_gap",
        skip_serializing_if = "Option::is_none"
    )]
    pub gap: Option<f64>,
    /// Mean divergence of the student's blocks from the teacher's.
    pub divergence: f64,
    /// Seconds that the attribution took, the clock's; absent in files of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

fn measured_gap<'de, D: Deserializer<'de>>(input: D) -> Result<Option<f64>, D::Error> {
    Ok(Option::<f64>::deserialize(input)?.filter(|gap| *gap != 0.0))
}

/// The manipulation check: the divergence of the policy's block shares from the teacher's on a
/// fixed probe of teacher-forced calls, the same for all arms and updates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alignment {
    /// Mean divergence over the probe's right calls, in the profile's divergence.
    pub right: f64,
    /// Mean divergence over its wrong calls.
    pub wrong: f64,
    /// Calls of each sort.
    pub n: u64,
}

/// Greedy answers to the validation questions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validation {
    /// Questions asked.
    pub n: u64,
    /// Share answered rightly.
    pub accuracy: f64,
    /// Mean outcome reward.
    pub reward: f64,
    /// Share that called a tool.
    pub tool_call_rate: f64,
    /// Share of all questions whose call ran.
    pub tool_success_rate: f64,
}

impl Checked for UpdateMetrics {
    fn problem(&self) -> Option<String> {
        let single = [
            ("reward", self.reward),
            ("accuracy", self.accuracy),
            ("loss", self.loss),
            ("kl", self.kl),
            ("clip_fraction", self.clip_fraction),
            ("ratio", self.ratio),
            ("entropy", self.entropy),
            ("grad_norm", self.grad_norm),
            ("tool_call_rate", self.tool_call_rate),
            ("tool_success_rate", self.tool_success_rate.unwrap_or(0.0)),
            ("zero_variance_groups", self.zero_variance_groups),
        ];
        let attribution = self.attribution.unwrap_or_default();
        let validation = self.validation.unwrap_or_default();
        let alignment = self.alignment.unwrap_or_default();
        let nested = [
            ("alignment.right", alignment.right),
            ("alignment.wrong", alignment.wrong),
            (
                "penalty_correlation",
                self.penalty_correlation.unwrap_or(0.0),
            ),
            ("penalty_auc", self.penalty_auc.unwrap_or(0.0)),
            ("attribution.gap", attribution.gap.unwrap_or(0.0)),
            ("attribution.seconds", attribution.seconds.unwrap_or(0.0)),
            ("attribution.divergence", attribution.divergence),
            ("validation.accuracy", validation.accuracy),
            ("validation.reward", validation.reward),
            ("validation.tool_call_rate", validation.tool_call_rate),
            ("validation.tool_success_rate", validation.tool_success_rate),
        ];
        let named = |parts: &BTreeMap<String, f64>, of: &str| {
            let (name, value) = parts.iter().find(|(_, value)| !value.is_finite())?;
            Some(format!(
                "'{of}.{name}' is {value}: expected a finite number"
            ))
        };
        // JSON has no NaN: it would be written as null and not be read again.
        single
            .into_iter()
            .chain(nested)
            .find(|(_, value)| !value.is_finite())
            .map(|(name, value)| format!("'{name}' is {value}: expected a finite number"))
            .or_else(|| named(&self.reward_parts, "reward_parts"))
            .or_else(|| named(&self.seconds, "seconds"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_the_contract() {
        let metrics = UpdateMetrics {
            stage: "iapo".to_string(),
            update: 3,
            reward: 0.5,
            reward_parts: BTreeMap::from([
                ("outcome".to_string(), 0.75),
                ("attribution".to_string(), -0.25),
            ]),
            ratio: 1.0,
            tool_success_rate: Some(0.5),
            attribution: Some(AttributionMetrics {
                calls: 3,
                passes: 48,
                gap: Some(0.02),
                divergence: 0.25,
                seconds: Some(1.5),
            }),
            alignment: Some(Alignment {
                right: 0.12,
                wrong: 0.31,
                n: 64,
            }),
            penalty_correlation: Some(0.4),
            penalty_auc: Some(0.6),
            alarms: vec!["kl 12.0 is above 1.0".to_string()],
            seconds: BTreeMap::from([("rollout".to_string(), 0.7)]),
            ..UpdateMetrics::default()
        };
        let line = serde_json::to_string(&metrics).unwrap();
        insta::assert_snapshot!(line);
        assert_eq!(
            serde_json::from_str::<UpdateMetrics>(&line).unwrap(),
            metrics
        );
        assert_eq!(metrics.problem(), None);
    }

    #[test]
    fn a_gap_of_zero_was_not_measured() {
        let read = |gap: &str| {
            let line = format!(r#"{{"calls":1,"passes":2,{gap}"divergence":0.1}}"#);
            serde_json::from_str::<AttributionMetrics>(&line)
                .unwrap()
                .gap
        };
        assert_eq!(read(r#""gap":0.0,"#), None);
        assert_eq!(read(""), None);
        assert_eq!(read(r#""gap":1e-9,"#), Some(1e-9));
    }

    #[test]
    fn a_number_that_json_cannot_hold_is_named() {
        let mut metrics = UpdateMetrics {
            loss: f64::NAN,
            ..UpdateMetrics::default()
        };
        assert_eq!(
            metrics.problem().unwrap(),
            "'loss' is NaN: expected a finite number"
        );
        metrics.loss = 0.0;
        metrics
            .reward_parts
            .insert("outcome".to_string(), f64::INFINITY);
        assert_eq!(
            metrics.problem().unwrap(),
            "'reward_parts.outcome' is inf: expected a finite number"
        );
    }
}
