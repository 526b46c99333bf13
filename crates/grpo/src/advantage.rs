//! Group-relative advantages.
//!
//! `A_i = (r_i − mean_g) / (max(std, floor) + eps)` over the group g of samples of one prompt, std
//! with Bessel's correction. Sources: DeepSeekMath (arXiv 2402.03300); TRL 1.16 (`eps` 1e-4, group,
//! batch or no scaling); without scaling, Dr. GRPO (arXiv 2503.20783). Deviations: arithmetic in
//! f64; the floor, which keeps f32 residue in a nearly tied group from being blown up; a group whose
//! rewards are exactly equal gets exactly 0.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, expect_length};

/// Whether and how advantages are divided by a standard deviation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "by", deny_unknown_fields)]
pub enum ScaleByStd {
    /// By the standard deviation of the sample's own group.
    Group {
        /// Added to the divisor; TRL's is 1e-4.
        eps: f64,
        /// Least standard deviation to divide by; 0 for none.
        floor: f64,
    },
    /// By the standard deviation over all samples (rewards, not centred ones, as TRL).
    Batch {
        /// Added to the divisor; TRL's is 1e-4.
        eps: f64,
        /// Least standard deviation to divide by; 0 for none.
        floor: f64,
    },
    /// By the standard deviation of the group's *outcomes*, where rewards are outcomes with a shaping
    /// term added ([`advantages_of_shaped`]). A group whose outcomes are all equal is not divided, so
    /// that a shaping term keeps its weight there.
    Outcome {
        /// Added to the divisor.
        eps: f64,
        /// Least standard deviation to divide by; 0 for none.
        floor: f64,
    },
    /// Not at all (Dr. GRPO).
    None,
}

/// Advantages of samples from their rewards; `groups` names each sample's group, in any order.
///
/// A group of one sample, or of equal rewards, gets exactly 0.
///
/// # Errors
/// Lengths that differ, a negative or non-finite `eps` or `floor`, a reward that is not finite.
pub fn advantages(rewards: &[f32], groups: &[usize], scale: ScaleByStd) -> Result<Vec<f32>> {
    for (sample, &reward) in rewards.iter().enumerate() {
        finite_reward(sample, reward)?;
    }
    advantages_of_scored(rewards, groups, scale)
}

/// As [`advantages`], but a NaN reward marks a sample that was not scored: it is left out of its
/// group's mean and standard deviation and gets the advantage 0, as in TRL.
///
/// # Errors
/// As [`advantages`], infinite rewards included.
pub fn advantages_of_scored(
    rewards: &[f32],
    groups: &[usize],
    scale: ScaleByStd,
) -> Result<Vec<f32>> {
    scaled(rewards, rewards, groups, scale)
}

/// As [`advantages_of_scored`] for rewards that are outcomes with a shaping term added:
/// [`ScaleByStd::Outcome`] divides by the deviation of `outcomes`, the other scales do not read them.
/// [`advantages`] and [`advantages_of_scored`] take the rewards themselves for the outcomes.
///
/// # Errors
/// As [`advantages_of_scored`].
pub fn advantages_of_shaped(
    rewards: &[f32],
    outcomes: &[f32],
    groups: &[usize],
    scale: ScaleByStd,
) -> Result<Vec<f32>> {
    expect_length("outcomes", rewards.len(), outcomes.len())?;
    scaled(rewards, outcomes, groups, scale)
}

fn scaled(
    rewards: &[f32],
    outcomes: &[f32],
    groups: &[usize],
    scale: ScaleByStd,
) -> Result<Vec<f32>> {
    let by_group = scored_by_group(rewards, groups)?;
    let (eps, floor) = match scale {
        ScaleByStd::Group { eps, floor }
        | ScaleByStd::Batch { eps, floor }
        | ScaleByStd::Outcome { eps, floor } => (eps, floor),
        ScaleByStd::None => (0.0, 0.0),
    };
    for (what, value) in [("scale.eps", eps), ("scale.floor", floor)] {
        if !(value >= 0.0 && value.is_finite()) {
            return Err(Error::Setting {
                what,
                why: format!("{value} is not a finite non-negative number"),
            });
        }
    }
    let all: Vec<f64> = by_group.values().flatten().copied().collect();
    let batch = Moments::of(&all);
    let groups_moments: BTreeMap<usize, Moments> = by_group
        .iter()
        .map(|(&group, rewards)| (group, Moments::of(rewards)))
        .collect();
    let outcome_moments: BTreeMap<usize, Moments> = match scale {
        ScaleByStd::Outcome { .. } => scored_by_group(outcomes, groups)?
            .iter()
            .map(|(&group, outcomes)| (group, Moments::of(outcomes)))
            .collect(),
        _ => BTreeMap::new(),
    };
    let one = |(&reward, group): (&f32, &usize)| {
        let moments = &groups_moments[group];
        if reward.is_nan() || moments.tied {
            return 0.0;
        }
        let divisor = match scale {
            ScaleByStd::Group { .. } => moments.std.max(floor) + eps,
            ScaleByStd::Batch { .. } => batch.std.max(floor) + eps,
            ScaleByStd::Outcome { .. } => match &outcome_moments[group] {
                outcomes if outcomes.tied => 1.0,
                outcomes => outcomes.std.max(floor) + eps,
            },
            ScaleByStd::None => 1.0,
        };
        ((f64::from(reward) - moments.mean) / divisor) as f32
    };
    Ok(rewards.iter().zip(groups).map(one).collect())
}

/// Share of groups whose scored rewards are all exactly equal, and which therefore teach nothing.
/// Groups without a scored sample count as such; 0 when there are no groups.
///
/// # Errors
/// Lengths that differ or an infinite reward; NaN marks a sample that was not scored.
pub fn zero_variance_share(rewards: &[f32], groups: &[usize]) -> Result<f64> {
    let by_group = scored_by_group(rewards, groups)?;
    let tied = by_group.values().filter(|rewards| is_tied(rewards)).count();
    Ok(tied as f64 / by_group.len().max(1) as f64)
}

struct Moments {
    mean: f64,
    /// Bessel-corrected; 0 for fewer than two rewards.
    std: f64,
    tied: bool,
}

impl Moments {
    fn of(rewards: &[f64]) -> Self {
        let n = rewards.len() as f64;
        let mean = rewards.iter().sum::<f64>() / n.max(1.0);
        let squares: f64 = rewards.iter().map(|r| (r - mean) * (r - mean)).sum();
        Moments {
            mean,
            std: (squares / (n - 1.0).max(1.0)).sqrt(),
            tied: is_tied(rewards),
        }
    }
}

fn is_tied(rewards: &[f64]) -> bool {
    rewards.windows(2).all(|pair| pair[0] == pair[1])
}

/// The scored rewards of each group; groups whose samples are all unscored are kept, empty.
fn scored_by_group(rewards: &[f32], groups: &[usize]) -> Result<BTreeMap<usize, Vec<f64>>> {
    expect_length("groups", rewards.len(), groups.len())?;
    let mut by_group: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for (sample, (&reward, &group)) in rewards.iter().zip(groups).enumerate() {
        let scored = by_group.entry(group).or_default();
        if !reward.is_nan() {
            scored.push(finite_reward(sample, reward)?);
        }
    }
    Ok(by_group)
}

fn finite_reward(sample: usize, reward: f32) -> Result<f64> {
    crate::error::finite(
        || format!("the reward of sample {sample}"),
        f64::from(reward),
    )
}
