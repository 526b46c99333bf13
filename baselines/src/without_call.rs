//! What an episode gets that called no tool.

use serde::{Deserialize, Serialize};

use crate::deviation::{Deviation, NOT_TOLD};

/// The auxiliary term of an episode that called no tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WithoutCall {
    /// The smallest term of the group's calls: not calling is no way out of a penalty.
    GroupWorst,
    /// The mean term of the group's calls: neutral within the group.
    GroupMean,
    /// Zero.
    Zero,
}

impl WithoutCall {
    /// As a deviation: the paper does not tell it.
    pub fn deviation(self) -> Deviation {
        Deviation::new(
            "an episode without a call",
            NOT_TOLD,
            match self {
                WithoutCall::GroupWorst => "gets the worst term of its group",
                WithoutCall::GroupMean => "gets the mean term of its group",
                WithoutCall::Zero => "gets no term",
            },
            "whether not calling is a way out",
        )
    }
}
