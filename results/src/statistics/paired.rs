//! Two arms on the same questions.

use super::bootstrap::{Bootstrap, Counts, Estimate, Sample};
use super::crossed::{CrossedEstimate, SetDifferences, crossed};
use super::proportion::{McNemar, mcnemar, probability_of_improvement};
use super::scores::{ArmScores, SetScores};
use crate::record::{ArmName, SETS};

/// `first − second`, by set and averaged over the six, on the questions that both answered and
/// that were judged for every seed of both.
#[derive(Clone, Debug)]
pub struct PairedDifference {
    /// The arm that is subtracted from.
    pub first: ArmName,
    /// The arm that is subtracted.
    pub second: ArmName,
    /// The macro average's difference with the bootstrap's interval.
    pub average: Estimate,
    /// The difference in each set, in the order of [`SETS`].
    pub sets: Vec<SetDifference>,
    /// The macro average's difference with seeds and questions at random: what the rule looks at.
    pub crossed: CrossedEstimate,
    /// P(X > Y) over seeds, averaged over sets, as rliable means it.
    pub probability_of_improvement: f64,
    /// Share of the bootstrap's replicates whose difference is above 0, ties counted half. No
    /// probability of anything but the bootstrap's.
    pub share_above_zero: f64,
    /// Questions compared, over all sets.
    pub questions: usize,
    /// Seeds of the first and of the second arm.
    pub seeds: (usize, usize),
    /// McNemar's test over all questions, for each seed that both arms have.
    pub mcnemar: Vec<(u64, McNemar)>,
    /// The macro average's difference for each seed that both arms have; where one of them has a
    /// single seed, for each seed of the other.
    pub by_seed: Vec<(u64, f64)>,
}

/// The difference in one set.
#[derive(Clone, Debug)]
pub struct SetDifference {
    /// The set.
    pub set: &'static str,
    /// `first − second`.
    pub difference: Estimate,
    /// Questions compared.
    pub questions: usize,
}

/// Why two arms have no macro average to compare.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Incomparable {
    /// An arm has no records.
    #[error("arm '{0}' has no records")]
    NoRecords(String),
    /// Sets that at least one arm was not asked.
    #[error("not evaluated by both: {}", .0.join(", "))]
    MissingSets(Vec<&'static str>),
    /// Sets with too few verdicts.
    #[error("too many answers not judged: {}", .0.join(", "))]
    NotJudged(Vec<&'static str>),
    /// Sets where the two arms have no judged question in common.
    #[error("no judged question in common: {}", .0.join(", "))]
    Disjoint(Vec<&'static str>),
    /// A set with a single figure in common, which has no spread.
    #[error("a set has fewer than two figures that both were asked about")]
    SingleFigure,
}

/// Compares two arms on all six sets. A set in which more than `not_judged_limit` of either arm's
/// answers have no verdict makes the comparison impossible.
pub fn compare(
    first: &ArmScores,
    second: &ArmScores,
    not_judged_limit: f64,
    bootstrap: &Bootstrap,
) -> Result<PairedDifference, Incomparable> {
    for arm in [first, second] {
        if arm.seeds.is_empty() {
            return Err(Incomparable::NoRecords(arm.arm.to_string()));
        }
    }
    let (mut missing, mut unjudged, mut disjoint) = (Vec::new(), Vec::new(), Vec::new());
    let mut pairs = Vec::new();
    for (index, set) in SETS.into_iter().enumerate() {
        let (Some(a), Some(b)) = (&first.sets[index], &second.sets[index]) else {
            missing.push(set);
            continue;
        };
        let judged = |scores: &SetScores| {
            scores
                .cell()
                .is_some_and(|cell| cell.not_judged <= not_judged_limit)
        };
        if !judged(a) || !judged(b) {
            unjudged.push(set);
            continue;
        }
        match common(a, b) {
            Some(pair) => pairs.push((set, pair)),
            None => disjoint.push(set),
        }
    }
    if !missing.is_empty() {
        return Err(Incomparable::MissingSets(missing));
    }
    if !unjudged.is_empty() {
        return Err(Incomparable::NotJudged(unjudged));
    }
    if !disjoint.is_empty() {
        return Err(Incomparable::Disjoint(disjoint));
    }

    let sample = |seeds: &[u64], of: fn(&Pair) -> &SetScores| Sample {
        seeds: seeds.to_vec(),
        sets: pairs.iter().map(|(_, pair)| Counts::of(of(pair))).collect(),
    };
    let samples = [
        sample(&first.seeds, |pair| &pair.first),
        sample(&second.seeds, |pair| &pair.second),
    ];
    let replicates = bootstrap.replicates(&samples);
    let minus = |a: &[f64], b: &[f64]| -> Vec<f64> {
        a.iter()
            .zip(b)
            .map(|(a, b)| a - b)
            .filter(|difference| difference.is_finite())
            .collect()
    };
    let observed = |index: usize| {
        // Every common question was judged for every seed.
        samples[0].sets[index].observed().unwrap_or(0.0)
            - samples[1].sets[index].observed().unwrap_or(0.0)
    };
    let sets: Vec<SetDifference> = pairs
        .iter()
        .enumerate()
        .map(|(index, (set, pair))| SetDifference {
            set,
            difference: Estimate::of(
                observed(index),
                minus(&replicates[0].sets[index], &replicates[1].sets[index]),
            ),
            questions: pair.first.questions.len(),
        })
        .collect();
    let value = sets.iter().map(|set| set.difference.value).sum::<f64>() / sets.len() as f64;
    let differences = minus(&replicates[0].mean, &replicates[1].mean);
    // A tie of two sums over six sets differs by rounding.
    let ahead: f64 = differences
        .iter()
        .map(|&one| {
            if one.abs() < 1e-12 {
                0.5
            } else {
                f64::from(u8::from(one > 0.0))
            }
        })
        .sum();
    let blocks = if first.seeds == second.seeds {
        vec![block(
            &pairs,
            |pair| &pair.first,
            |pair, seed, question| {
                score(&pair.first, seed, question) - score(&pair.second, seed, question)
            },
        )]
    } else {
        vec![
            block(
                &pairs,
                |pair| &pair.first,
                |pair, seed, question| score(&pair.first, seed, question),
            ),
            block(
                &pairs,
                |pair| &pair.second,
                |pair, seed, question| -score(&pair.second, seed, question),
            ),
        ]
    };
    let by_seed = |of: fn(&Pair) -> &SetScores| -> Vec<Vec<f64>> {
        pairs
            .iter()
            .map(|(_, pair)| of(pair).accuracy_by_seed())
            .collect()
    };
    Ok(PairedDifference {
        crossed: crossed(&blocks).ok_or(Incomparable::SingleFigure)?,

        first: first.arm.clone(),
        second: second.arm.clone(),
        probability_of_improvement: probability_of_improvement(
            &by_seed(|pair| &pair.first),
            &by_seed(|pair| &pair.second),
        )
        .unwrap_or(0.5),
        share_above_zero: ahead / differences.len().max(1) as f64,
        average: Estimate::of(value, differences),
        questions: sets.iter().map(|set| set.questions).sum(),
        sets,
        seeds: (first.seeds.len(), second.seeds.len()),
        mcnemar: seed_tests(first, second, &pairs),
        by_seed: seed_differences(first, second, &pairs),
    })
}

struct Pair {
    first: SetScores,
    second: SetScores,
}

/// A score as a number. In a [`Pair`] every question was judged for every seed.
fn score(scores: &SetScores, seed: usize, question: usize) -> f64 {
    f64::from(u8::from(scores.scores[seed][question] == Some(true)))
}

/// The values of `of` by set, seed of `arm` and figure; see the head of crossed.rs for figures with
/// several questions.
fn block(
    pairs: &[(&'static str, Pair)],
    arm: fn(&Pair) -> &SetScores,
    of: impl Fn(&Pair, usize, usize) -> f64,
) -> SetDifferences {
    let units = |pair: &Pair, seed: usize| {
        let scores = arm(pair);
        let questions = scores.questions.len();
        let mean = (0..questions)
            .map(|question| of(pair, seed, question))
            .sum::<f64>()
            / questions as f64;
        let mut units = vec![mean; scores.figures];
        let scale = scores.figures as f64 / questions as f64;
        for (question, &figure) in scores.figure.iter().enumerate() {
            units[figure] += scale * (of(pair, seed, question) - mean);
        }
        units
    };
    pairs
        .iter()
        .map(|(_, pair)| {
            (0..arm(pair).scores.len())
                .map(|seed| units(pair, seed))
                .collect()
        })
        .collect()
}

/// Both arms restricted to the questions that every seed of both answered with a verdict.
fn common(first: &SetScores, second: &SetScores) -> Option<Pair> {
    let judged = |scores: &SetScores, question: usize| {
        scores.scores.iter().all(|seed| seed[question].is_some())
    };
    let mut kept = Vec::new();
    for (a, id) in first.questions.iter().enumerate() {
        if let Ok(b) = second.questions.binary_search(id)
            && judged(first, a)
            && judged(second, b)
        {
            kept.push((a, b));
        }
    }
    // Figures are numbered anew, by the first arm's numbers, so that both draw the same.
    let mut figures: Vec<usize> = kept.iter().map(|&(a, _)| first.figure[a]).collect();
    figures.sort_unstable();
    figures.dedup();
    let figure: Vec<usize> = kept
        .iter()
        .map(|&(a, _)| figures.partition_point(|&known| known < first.figure[a]))
        .collect();
    let restrict = |scores: &SetScores, places: Vec<usize>| SetScores {
        questions: places
            .iter()
            .map(|&place| scores.questions[place].clone())
            .collect(),
        figure: figure.clone(),
        figures: figures.len(),
        scores: scores
            .scores
            .iter()
            .map(|seed| places.iter().map(|&place| seed[place]).collect())
            .collect(),
    };
    (!kept.is_empty()).then(|| Pair {
        first: restrict(first, kept.iter().map(|&(a, _)| a).collect()),
        second: restrict(second, kept.iter().map(|&(_, b)| b).collect()),
    })
}

fn seed_tests(
    first: &ArmScores,
    second: &ArmScores,
    pairs: &[(&'static str, Pair)],
) -> Vec<(u64, McNemar)> {
    let mut tests = Vec::new();
    for (a, seed) in first.seeds.iter().enumerate() {
        let Ok(b) = second.seeds.binary_search(seed) else {
            continue;
        };
        let (mut only_first, mut only_second) = (0, 0);
        for (_, pair) in pairs {
            for scores in pair.first.scores[a].iter().zip(&pair.second.scores[b]) {
                match scores {
                    (Some(true), Some(false)) => only_first += 1,
                    (Some(false), Some(true)) => only_second += 1,
                    _ => {}
                }
            }
        }
        tests.push((*seed, mcnemar(only_first, only_second)));
    }
    tests
}

fn seed_differences(
    first: &ArmScores,
    second: &ArmScores,
    pairs: &[(&'static str, Pair)],
) -> Vec<(u64, f64)> {
    let places: Vec<(u64, usize, usize)> = match (first.seeds.len(), second.seeds.len()) {
        (_, 1) => (0..)
            .zip(&first.seeds)
            .map(|(a, seed)| (*seed, a, 0))
            .collect(),
        (1, _) => (0..)
            .zip(&second.seeds)
            .map(|(b, seed)| (*seed, 0, b))
            .collect(),
        _ => (0..)
            .zip(&first.seeds)
            .filter_map(|(a, seed)| Some((*seed, a, second.seeds.binary_search(seed).ok()?)))
            .collect(),
    };
    // Every common question was judged for every seed.
    let share = |scores: &SetScores, seed: usize| {
        let right = (0..scores.questions.len()).map(|question| score(scores, seed, question));
        right.sum::<f64>() / scores.questions.len().max(1) as f64
    };
    places
        .into_iter()
        .map(|(seed, a, b)| {
            let sets = pairs
                .iter()
                .map(|(_, pair)| share(&pair.first, a) - share(&pair.second, b));
            (seed, sets.sum::<f64>() / pairs.len().max(1) as f64)
        })
        .collect()
}
