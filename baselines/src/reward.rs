//! An arm: a method with its settings, as a profile's table `[arms.NAME]` gives it.

use serde::{Deserialize, Serialize};

use crate::attribution_settings::AttributionSettings;
use crate::{
    Evidence, GroupEvidence, WithoutCall, distill, iapo, own_log_prob, random_penalty, shuffled,
    torl, trm, vtool_r1,
};

/// What is added to the outcome, by method. The method's settings stand beside its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reward {
    /// Nothing.
    VtoolR1 {},
    /// A penalty for calls that fail.
    Torl(torl::Settings),
    /// A verifier's judgement of the call.
    Trm(trm::Settings),
    /// Minus the divergence of block attributions from the teacher's.
    Iapo(iapo::Settings),
    /// The teacher's log-probability of the call.
    Distill(distill::Settings),
    /// The policy's own log-probability of the call.
    OwnLogProb(own_log_prob::Settings),
    /// IAPO's penalties, each for another call.
    Shuffled(iapo::Settings),
    /// Noise.
    Random(random_penalty::Settings),
}

impl Reward {
    /// The method's name, as profiles have it and as the parts of a reward are recorded.
    pub fn name(&self) -> &'static str {
        match self {
            Reward::VtoolR1 {} => "vtool-r1",
            Reward::Torl(_) => "torl",
            Reward::Trm(_) => "trm",
            Reward::Iapo(_) => "iapo",
            Reward::Distill(_) => "distill",
            Reward::OwnLogProb(_) => "own-log-prob",
            Reward::Shuffled(_) => "shuffled",
            Reward::Random(_) => "random",
        }
    }

    /// What must be measured of each distinct call.
    pub fn evidence(&self) -> Evidence {
        match self {
            Reward::VtoolR1 {} | Reward::Torl(_) | Reward::Random(_) => Evidence::Outcome,
            Reward::Trm(_) => Evidence::Truth,
            Reward::Iapo(settings) | Reward::Shuffled(settings) => {
                Evidence::Divergence(settings.teacher)
            }
            Reward::Distill(_) => Evidence::TeacherLogProb,
            Reward::OwnLogProb(_) => Evidence::OwnLogProb,
        }
    }

    /// How the divergence is taken, where one is.
    pub fn attribution(&self) -> Option<&AttributionSettings> {
        match self {
            Reward::Iapo(settings) | Reward::Shuffled(settings) => Some(&settings.attribution),
            _ => None,
        }
    }

    /// The term of every episode of a group; `None` for an episode without a call.
    pub fn terms(&self, group: &GroupEvidence<'_>) -> Vec<Option<f32>> {
        match self {
            Reward::VtoolR1 {} => vtool_r1::terms(group),
            Reward::Torl(settings) => torl::terms(settings, group),
            Reward::Trm(settings) => trm::terms(settings, group),
            Reward::Iapo(settings) => iapo::terms(settings, group),
            Reward::Distill(settings) => distill::terms(settings, group),
            Reward::OwnLogProb(settings) => own_log_prob::terms(settings, group),
            Reward::Shuffled(settings) => shuffled::terms(settings, group),
            Reward::Random(settings) => random_penalty::terms(settings, group),
        }
    }

    /// What an episode without a call gets.
    pub fn without_call(&self) -> WithoutCall {
        match self {
            Reward::VtoolR1 {} => WithoutCall::Zero,
            Reward::Torl(settings) => settings.without_call,
            Reward::Trm(settings) => settings.without_call,
            Reward::Iapo(settings) | Reward::Shuffled(settings) => settings.without_call,
            Reward::Distill(settings) => settings.without_call,
            Reward::OwnLogProb(settings) => settings.without_call,
            Reward::Random(settings) => settings.without_call,
        }
    }

    /// What is wrong with the settings, by key, if anything is.
    pub fn problem(&self) -> Option<String> {
        let finite = |key: &str, value: f32| {
            (!value.is_finite() || value < 0.0)
                .then(|| format!("{key} is {value}: expected a finite number, at least 0"))
        };
        match self {
            Reward::VtoolR1 {} => None,
            Reward::Torl(settings) => finite("penalty", settings.penalty),
            Reward::Trm(settings) => finite("weight", settings.weight).or_else(|| {
                let rate = settings.error_rate;
                (!(0.0..=1.0).contains(&rate))
                    .then(|| format!("error_rate is {rate}: expected a probability, 0 to 1"))
            }),
            Reward::Iapo(settings) | Reward::Shuffled(settings) => {
                finite("weight", settings.weight).or_else(|| {
                    let problem = settings.attribution.problem()?;
                    Some(format!("attribution.{problem}"))
                })
            }
            Reward::Distill(settings) => finite("weight", settings.weight),
            Reward::OwnLogProb(settings) => finite("weight", settings.weight),
            Reward::Random(settings) => finite("spread", settings.spread),
        }
    }
}

/// A way to train the student: a reward, and how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Table")]
pub struct Arm {
    /// Updates after the cold start, where they differ from the schedule's: an arm that trains as
    /// long as another needs, for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updates: Option<usize>,
    /// What an episode is worth.
    #[serde(flatten)]
    pub reward: Reward,
}

/// An arm's table before its keys are told apart: serde's flattening knows no unknown keys.
#[derive(Deserialize)]
struct Table(serde_json::Map<String, serde_json::Value>);

impl TryFrom<Table> for Arm {
    type Error = String;

    fn try_from(Table(mut table): Table) -> Result<Self, String> {
        let updates = table
            .remove("updates")
            .map(serde_json::from_value)
            .transpose()
            .map_err(|error| format!("updates: {error}"))?;
        let reward = serde_json::from_value(serde_json::Value::Object(table))
            .map_err(|error| error.to_string())?;
        Ok(Arm { updates, reward })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Arm, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn an_arm_is_a_strict_table() {
        let arm = parse(r#"{"method":"torl","penalty":0.3,"without_call":"zero","updates":4}"#);
        let arm = arm.unwrap();
        assert_eq!(arm.updates, Some(4));
        let again = serde_json::to_string(&arm).unwrap();
        assert_eq!(parse(&again).unwrap(), arm);
        for wrong in [
            r#"{"method":"vtool-r1","penalty":0.3}"#,
            r#"{"method":"torl","penalty":0.3,"without_call":"zero","pemalty":1}"#,
            r#"{"method":"torl","without_call":"zero"}"#,
            r#"{"method":"guess"}"#,
            r#"{"method":"vtool-r1","updates":-1}"#,
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let problem = |json| parse(json).unwrap().reward.problem();
        let torl = r#"{"method":"torl","penalty":-1,"without_call":"zero"}"#;
        assert!(problem(torl).unwrap().starts_with("penalty is -1"));
        let trm = r#"{"method":"trm","weight":1,"error_rate":2,"without_call":"zero"}"#;
        assert!(problem(trm).unwrap().starts_with("error_rate is 2"));
        assert_eq!(problem(r#"{"method":"vtool-r1"}"#), None);
    }
}
