//! From auxiliary terms to the rewards of one group.

use crate::without_call::WithoutCall;

/// `outcome + term` for each episode of a group. Episodes without a call (`None`) get the term
/// that `without_call` says; 0 when nobody in the group called.
pub fn group_rewards(
    outcomes: &[f32],
    terms: &[Option<f32>],
    without_call: WithoutCall,
) -> Vec<f32> {
    let called: Vec<f32> = terms.iter().flatten().copied().collect();
    let filler = match without_call {
        _ if called.is_empty() => 0.0,
        WithoutCall::GroupWorst => called.iter().copied().fold(f32::INFINITY, f32::min),
        WithoutCall::GroupMean => called.iter().sum::<f32>() / called.len() as f32,
        WithoutCall::Zero => 0.0,
    };
    outcomes
        .iter()
        .zip(terms)
        .map(|(outcome, term)| outcome + term.unwrap_or(filler))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_calling_is_no_way_out_of_a_penalty() {
        let (outcomes, terms) = ([1.0, 0.0, 1.0], [Some(-0.5), Some(-0.25), None]);
        let rewards = |rule| group_rewards(&outcomes, &terms, rule);
        assert_eq!(rewards(WithoutCall::GroupWorst), [0.5, -0.25, 0.5]);
        assert_eq!(rewards(WithoutCall::GroupMean), [0.5, -0.25, 0.625]);
        assert_eq!(rewards(WithoutCall::Zero), [0.5, -0.25, 1.0]);
    }

    #[test]
    fn a_group_without_calls_has_its_outcomes() {
        let rewards = group_rewards(&[1.0, 0.0], &[None, None], WithoutCall::GroupWorst);
        assert_eq!(rewards, [1.0, 0.0]);
    }
}
