//! What every method tells of itself.

use serde::{Deserialize, Serialize};

use crate::{Evidence, GroupEvidence, WithoutCall};

/// A setting that differs from the paper's, or that the paper does not tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deviation {
    /// The setting.
    pub setting: String,
    /// The paper's value, or `not told`.
    pub paper: String,
    /// The value here.
    pub here: String,
    /// Why.
    pub why: String,
}

impl Deviation {
    /// One line of the list.
    pub fn new(setting: &str, paper: &str, here: impl ToString, why: &str) -> Self {
        Deviation {
            setting: setting.to_owned(),
            paper: paper.to_owned(),
            here: here.to_string(),
            why: why.to_owned(),
        }
    }
}

/// What the paper is not known to tell.
pub const NOT_TOLD: &str = "not told";

/// A method with its settings: what an episode is worth beside its outcome.
pub trait RewardMethod {
    /// What must be measured of each distinct call.
    fn evidence(&self) -> Evidence;

    /// The term of every episode of a group; `None` for an episode without a call.
    fn terms(&self, group: &GroupEvidence<'_>) -> Vec<Option<f32>>;

    /// What an episode without a call gets.
    fn without_call(&self) -> WithoutCall;

    /// What is wrong with the settings, by key, if anything is.
    fn problem(&self) -> Option<String>;

    /// Where the settings depart from the paper's. Every key is among them, or is the paper's.
    fn deviations(&self) -> Vec<Deviation>;
}

/// What is wrong with a weight that must be finite and not negative, if anything is.
pub(crate) fn weight_problem(key: &str, value: f32) -> Option<String> {
    (!value.is_finite() || value < 0.0)
        .then(|| format!("{key} is {value}: expected a finite number, at least 0"))
}
