//! What the runs of a table are: replications at some scale, or evaluations of given models.

use crate::manifest::ProfileStamp;

/// The profile at whose scale the paper's numbers were made.
const PAPER: &str = "paper";

/// Where the runs of one table come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunKind {
    /// A replication at the paper's scale.
    PaperScale,
    /// A replication of another profile, by its name.
    Replication(String),
    /// Given models, asked the micro world's test questions.
    MicroEvaluation,
    /// Given models, asked the questions of the paper's own test sets.
    Evaluation,
    /// Given models, asked questions of one's own: a column is scored by the rule of its set.
    OwnQuestions,
    /// Records without a manifest.
    Unknown,
}

impl RunKind {
    /// The profile's name of evaluations that train nothing. Its settings name the data: `micro`,
    /// or where the test sets were read.
    pub const EVALUATION: &'static str = "eval-all";
    /// The setting of such an evaluation that tells whose the questions are, where they are not the
    /// test sets'.
    pub const QUESTIONS: &'static str = "questions";
    /// Its value for questions of one's own.
    pub const OWN: &'static str = "own";

    pub(crate) fn of(profile: Option<&ProfileStamp>) -> Self {
        match profile {
            None => RunKind::Unknown,
            Some(profile) if profile.name == PAPER => RunKind::PaperScale,
            Some(profile) if profile.name == Self::EVALUATION => {
                let setting =
                    |key: &str| profile.resolved.get(key).and_then(|value| value.as_str());
                match setting("data") {
                    _ if setting(Self::QUESTIONS) == Some(Self::OWN) => RunKind::OwnQuestions,
                    Some("micro") => RunKind::MicroEvaluation,
                    _ => RunKind::Evaluation,
                }
            }
            Some(profile) => RunKind::Replication(profile.name.clone()),
        }
    }

    /// The title of a table; says that it is not the paper's where it is not.
    pub(crate) fn title(&self) -> String {
        match self {
            RunKind::PaperScale => "Accuracy on the six test sets, beside the paper's".to_string(),
            RunKind::Replication(profile) => {
                format!("Arms trained at micro scale (profile '{profile}'), not the paper's table")
            }
            RunKind::MicroEvaluation => {
                "Given models on the micro world's questions, not the paper's table".to_string()
            }
            RunKind::Evaluation => "Given models on the test sets, beside the paper's".to_string(),
            RunKind::OwnQuestions => {
                "Given models on questions of your own, each column by the rule of its set"
                    .to_string()
            }
            RunKind::Unknown => "Records of an unknown profile, not the paper's table".to_string(),
        }
    }

    /// What a verdict on the claim is a verdict on.
    pub(crate) fn claim(&self) -> String {
        match self {
            RunKind::PaperScale => "The paper's claim".to_string(),
            RunKind::Replication(profile) => {
                format!("IAPO against GRPO at equal updates, micro scale (profile '{profile}')")
            }
            RunKind::MicroEvaluation => {
                "The paper's claim, tested on given models at micro scale".to_string()
            }
            RunKind::Evaluation => "The paper's claim, tested on given models".to_string(),
            RunKind::OwnQuestions => {
                "The paper's claim, tested on given models and questions of your own".to_string()
            }
            RunKind::Unknown => {
                "The paper's claim, tested on records of an unknown profile".to_string()
            }
        }
    }

    /// How the measured rows compare with the paper's, where that needs saying.
    pub(crate) fn comparison(&self) -> &'static str {
        match self {
            RunKind::PaperScale => "",
            RunKind::Evaluation => {
                " The same test sets; n tells where a part of one was asked, and the models are others."
            }
            RunKind::Replication(_)
            | RunKind::MicroEvaluation
            | RunKind::OwnQuestions
            | RunKind::Unknown => {
                " Other models on other questions: compare the order and the signs, not the sizes."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_manifest_tells_what_was_evaluated() {
        let of = |name: &str, resolved| {
            RunKind::of(Some(&ProfileStamp {
                name: name.to_string(),
                hash: "00".to_string(),
                resolved,
            }))
        };
        assert_eq!(of("paper", json!({})), RunKind::PaperScale);
        assert_eq!(
            of("smoke", json!({"data": "micro"})),
            RunKind::Replication("smoke".to_string())
        );
        assert_eq!(
            of("eval-all", json!({"data": "micro"})),
            RunKind::MicroEvaluation
        );
        for data in [json!({"data": "hub"}), json!({"data": "/data"}), json!({})] {
            assert_eq!(of("eval-all", data), RunKind::Evaluation);
        }
        assert_eq!(
            of("eval-all", json!({"data": "/data", "questions": "own"})),
            RunKind::OwnQuestions
        );
        assert_eq!(RunKind::of(None), RunKind::Unknown);
    }
}
