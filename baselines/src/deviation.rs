//! Where settings depart from the paper's.

use serde::{Deserialize, Serialize};

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
