//! VTool-R1: GRPO with the outcome reward alone.
//!
//! `r = 1` for a right final answer, `0` otherwise (VTool-R1, arXiv 2505.19255, the judge's verdict;
//! here the set's scorer). It reports that punishing failed calls drives the use of tools to zero.
//! Deviations: the loss covers the assistant tokens of both turns, where the published second
//! version masks the first turn out once it holds a call (`grpo.trained_turns` says which).

use crate::GroupEvidence;

/// There is no auxiliary term: 0 for every episode.
pub fn terms(group: &GroupEvidence<'_>) -> Vec<Option<f32>> {
    vec![Some(0.0); group.outcomes.len()]
}
