//! An arm: a method with its settings, as a profile's table `[arms.NAME]` gives it.

use serde::{Deserialize, Serialize};

use crate::attribution_settings::AttributionSettings;
use crate::distill::Distill;
use crate::iapo::Iapo;
use crate::method::RewardMethod;
use crate::own_log_prob::OwnLogProb;
use crate::random_penalty::RandomPenalty;
use crate::shuffled::Shuffled;
use crate::torl::Torl;
use crate::trm::Trm;
use crate::vtool_r1::VtoolR1;

/// What is added to the outcome, by method. The method's settings stand beside its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case")]
pub enum Reward {
    /// Nothing.
    VtoolR1(VtoolR1),
    /// A penalty for calls that fail.
    Torl(Torl),
    /// A verifier's judgement of the call.
    Trm(Trm),
    /// Minus the divergence of block attributions from the teacher's.
    Iapo(Iapo),
    /// The teacher's log-probability of the call.
    Distill(Distill),
    /// The policy's own log-probability of the call.
    OwnLogProb(OwnLogProb),
    /// IAPO's penalties, each for another call.
    Shuffled(Shuffled),
    /// Noise.
    Random(RandomPenalty),
}

impl Reward {
    /// The method with its settings.
    pub fn method(&self) -> &dyn RewardMethod {
        match self {
            Reward::VtoolR1(method) => method,
            Reward::Torl(method) => method,
            Reward::Trm(method) => method,
            Reward::Iapo(method) => method,
            Reward::Distill(method) => method,
            Reward::OwnLogProb(method) => method,
            Reward::Shuffled(method) => method,
            Reward::Random(method) => method,
        }
    }

    /// The method's name, as profiles have it and as the parts of a reward are recorded.
    pub fn name(&self) -> String {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::Object(table)) => match table.get("method") {
                Some(serde_json::Value::String(name)) => name.clone(),
                _ => String::new(),
            },
            _ => String::new(),
        }
    }

    /// How the divergence is taken, where one is.
    pub fn attribution(&self) -> Option<&AttributionSettings> {
        match self {
            Reward::Iapo(iapo) | Reward::Shuffled(Shuffled(iapo)) => Some(&iapo.attribution),
            _ => None,
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
struct Table(toml::Table);

impl TryFrom<Table> for Arm {
    type Error = String;

    fn try_from(Table(mut table): Table) -> Result<Self, String> {
        let said = |error: toml::de::Error| error.message().to_owned();
        let updates = table
            .remove("updates")
            .map(toml::Value::try_into)
            .transpose()
            .map_err(|error| format!("updates: {}", said(error)))?;
        let reward = toml::Value::Table(table).try_into().map_err(said)?;
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
        let problem = |json| parse(json).unwrap().reward.method().problem();
        let torl = r#"{"method":"torl","penalty":-1,"without_call":"zero"}"#;
        assert!(problem(torl).unwrap().starts_with("penalty is -1"));
        let trm = r#"{"method":"trm","weight":1,"error_rate":2,"without_call":"zero"}"#;
        assert!(problem(trm).unwrap().starts_with("error_rate is 2"));
        assert_eq!(problem(r#"{"method":"vtool-r1"}"#), None);
    }
}
