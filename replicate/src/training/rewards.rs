//! From outcomes and evidence to rewards and advantages.

use std::collections::BTreeMap;

use baselines::{GroupEvidence, Reward, group_rewards};
use grpo::{ScaleByStd, advantages_of_shaped, zero_variance_share};
use results::UpdateMetrics;
use seeded_random::Stream;

use super::evidence::Measured;
use super::rollout::RolloutGroup;
use crate::Result;

/// What the episodes of an update are worth, one after the other.
pub struct Valued {
    /// Outcome and auxiliary term together; NaN for an episode without a verdict.
    pub rewards: Vec<f32>,
    /// Advantages; 0 for an episode without a verdict.
    pub advantages: Vec<f32>,
    outcomes: Vec<f32>,
    zero_variance: f64,
    penalty_alone: f64,
    penalty_correlation: Option<f64>,
    penalty_auc: Option<f64>,
}

/// Values every episode. `stream` is the update's.
pub fn value(
    reward: &Reward,
    groups: &[RolloutGroup],
    measured: &Measured,
    stream: &Stream,
    scale: ScaleByStd,
) -> Result<Valued> {
    let (mut rewards, mut outcomes, mut group_of) = (Vec::new(), Vec::new(), Vec::new());
    let mut alone = 0usize;
    let mut correlations = Vec::new();
    let (mut ranked, mut pairs) = (0.0, 0usize);
    for (index, (group, calls)) in groups.iter().zip(&measured.groups).enumerate() {
        let tools: Vec<_> = group.episodes.iter().map(|e| &e.outcome).collect();
        let terms = reward.method().terms(&GroupEvidence {
            outcomes: &tools,
            call_of: &calls.call_of,
            calls: &calls.calls,
            stream: &stream.index(index as u64),
        });
        let own: Vec<f32> = group
            .outcomes
            .iter()
            .map(|o| o.unwrap_or(f32::NAN))
            .collect();
        let valued = group_rewards(&own, &terms, reward.method().without_call());
        let tied = |values: &[f32]| {
            let mut known = values.iter().filter(|value| !value.is_nan());
            known
                .next()
                .is_none_or(|first| known.all(|value| value == first))
        };
        alone += usize::from(tied(&own) && !tied(&valued));
        let right: Vec<Option<bool>> = group
            .episodes
            .iter()
            .map(|episode| {
                let truth = group.item.truth.as_ref()?;
                episode.outcome.called().then(|| truth.approves(episode))
            })
            .collect();
        correlations.extend(correlation_with_wrong(&terms, &right));
        let (own_ranked, own_pairs) = ranked_pairs(&terms, &right);
        ranked += own_ranked;
        pairs += own_pairs;
        rewards.extend(valued);
        outcomes.extend(own);
        group_of.extend(std::iter::repeat_n(index, group.episodes.len()));
    }
    Ok(Valued {
        advantages: advantages_of_shaped(&rewards, &outcomes, &group_of, scale)?,
        zero_variance: zero_variance_share(&rewards, &group_of)?,
        penalty_alone: alone as f64 / groups.len().max(1) as f64,
        penalty_correlation: (!correlations.is_empty())
            .then(|| correlations.iter().sum::<f64>() / correlations.len() as f64),
        penalty_auc: (pairs > 0).then(|| ranked / pairs as f64),
        rewards,
        outcomes,
    })
}

/// Correlation, within one prompt, of the penalty (minus the term) with a call's being wrong; `None`
/// where either does not vary.
fn correlation_with_wrong(terms: &[Option<f32>], right: &[Option<bool>]) -> Option<f64> {
    let pairs: Vec<(f64, f64)> = terms
        .iter()
        .zip(right)
        .filter_map(|(term, right)| Some((-f64::from((*term)?), f64::from(!(*right)?))))
        .collect();
    let n = pairs.len() as f64;
    let mean = |of: &dyn Fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(&|p| p.0), mean(&|p| p.1));
    let cross = mean(&|p| (p.0 - x) * (p.1 - y));
    let (xx, yy) = (mean(&|p| (p.0 - x).powi(2)), mean(&|p| (p.1 - y).powi(2)));
    (xx > 0.0 && yy > 0.0).then(|| cross / (xx * yy).sqrt())
}

/// Of the pairs of a wrong and a right call for one prompt, in how many the wrong one has the larger
/// penalty (a tie counts a half), and how many pairs there are.
fn ranked_pairs(terms: &[Option<f32>], right: &[Option<bool>]) -> (f64, usize) {
    let of = |wanted: bool| {
        let calls = terms.iter().zip(right);
        let calls = calls.filter(move |(_, right)| **right == Some(wanted));
        calls.filter_map(|(term, _)| *term).collect::<Vec<_>>()
    };
    let (wrong, right) = (of(false), of(true));
    let ranked = wrong
        .iter()
        .flat_map(|wrong| right.iter().map(move |right| (wrong, right)))
        .map(|(wrong, right)| match wrong.total_cmp(right) {
            std::cmp::Ordering::Less => 1.0,
            std::cmp::Ordering::Equal => 0.5,
            std::cmp::Ordering::Greater => 0.0,
        })
        .sum();
    (ranked, wrong.len() * right.len())
}

impl Valued {
    /// A line of metrics with what is known of the episodes.
    pub fn metrics(&self, groups: &[RolloutGroup], reward: &Reward) -> UpdateMetrics {
        let judged = self.outcomes.iter().filter(|o| !o.is_nan()).count().max(1) as f64;
        let mean = |values: &mut dyn Iterator<Item = f32>| {
            values.filter(|v| !v.is_nan()).map(f64::from).sum::<f64>() / judged
        };
        let episodes = || groups.iter().flat_map(|group| &group.episodes);
        let count = episodes().count().max(1) as f64;
        let called = episodes().filter(|e| e.outcome.called()).count();
        let ran = episodes().filter(|e| e.outcome.succeeded()).count();
        let outcome = mean(&mut self.outcomes.iter().copied());
        let mut reward_parts = BTreeMap::from([("outcome".to_owned(), outcome)]);
        if !matches!(reward, Reward::VtoolR1(_)) {
            let terms = self.rewards.iter().zip(&self.outcomes).map(|(r, o)| r - o);
            reward_parts.insert(reward.name(), mean(&mut { terms }));
        }
        UpdateMetrics {
            reward: mean(&mut self.rewards.iter().copied()),
            reward_parts,
            accuracy: outcome,
            tool_call_rate: called as f64 / count,
            tool_success_rate: (called > 0).then(|| ran as f64 / called as f64),
            zero_variance_groups: self.zero_variance,
            penalty_alone: Some(self.penalty_alone),
            penalty_correlation: self.penalty_correlation,
            penalty_auc: self.penalty_auc,
            ..UpdateMetrics::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_penalty_that_finds_wrong_calls_correlates() {
        let terms = [Some(-1.0), Some(0.0), None, Some(-1.0), Some(0.0)];
        let right = [Some(false), Some(true), None, Some(false), Some(true)];
        let found = correlation_with_wrong(&terms, &right).unwrap();
        assert!((found - 1.0).abs() < 1e-12);
        assert_eq!(correlation_with_wrong(&terms, &[Some(true); 5]), None);
        assert_eq!(correlation_with_wrong(&[None; 5], &right), None);
    }

    #[test]
    fn pairs_of_one_prompt_are_ranked_by_the_penalty_and_ties_count_half() {
        let right = [Some(false), Some(true), None, Some(true), Some(true)];
        let terms = [Some(-1.0), Some(0.0), Some(-9.0), Some(-1.0), Some(-2.0)];
        assert_eq!(ranked_pairs(&terms, &right), (1.5, 3));
        assert_eq!(ranked_pairs(&terms, &[Some(true); 5]), (0.0, 0));
        assert_eq!(ranked_pairs(&[None; 5], &right), (0.0, 0));
    }
}
