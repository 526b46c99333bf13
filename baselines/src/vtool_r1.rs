//! VTool-R1: GRPO with the outcome reward alone.
//!
//! `r = 1` for a right final answer, `0` otherwise (VTool-R1, arXiv 2505.19255, the judge's verdict;
//! here the set's scorer). It reports that punishing failed calls drives the use of tools to zero.
//! Deviations: the loss covers the assistant tokens of both turns, where the published second
//! version masks the first turn out once it holds a call (`grpo.trained_turns` says which).

use serde::{Deserialize, Serialize};

use crate::deviation::Deviation;
use crate::method::RewardMethod;
use crate::{Evidence, GroupEvidence, WithoutCall};

/// The method, which has no settings: `method = "vtool-r1"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VtoolR1 {}

impl RewardMethod for VtoolR1 {
    fn evidence(&self) -> Evidence {
        Evidence::Outcome
    }

    /// There is no auxiliary term: 0 for every episode.
    fn terms(&self, group: &GroupEvidence<'_>) -> Vec<Option<f32>> {
        vec![Some(0.0); group.outcomes.len()]
    }

    fn without_call(&self) -> WithoutCall {
        WithoutCall::Zero
    }

    fn problem(&self) -> Option<String> {
        None
    }

    fn deviations(&self) -> Vec<Deviation> {
        Vec::new()
    }
}
