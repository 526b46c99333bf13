//! What every method tells of itself.

use crate::deviation::Deviation;
use crate::without_call::WithoutCall;
use crate::{Evidence, GroupEvidence};

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
pub(crate) fn weight_problem(key: &str, value: f64) -> Option<String> {
    (!value.is_finite() || value < 0.0)
        .then(|| format!("{key} is {value}: expected a finite number, at least 0"))
}
