//! The bootstrap over seeds and figures.
//!
//! An arm's accuracy on a set is the mean over seeds of the share of right answers. Every seed
//! answers the same questions, so the two levels are crossed: a replicate draws figures with
//! replacement within each set, the same for all seeds and arms, and seeds with replacement, the
//! same for all sets (Owen 2007, "The pigeonhole bootstrap"). Intervals are percentiles.
//!
//! Choices:
//! - Of S seeds a replicate draws S − 1 (Rao & Wu 1988): S of S would give the spread between
//!   seeds a factor (S − 1) / S too little, a third at three seeds. A single seed stays as it is,
//!   and the interval then says nothing about seeds.
//! - The crossed bootstrap counts the part of the noise that belongs to one seed *and* one
//!   question three times, so intervals are rather too wide; few seeds have heavier tails than a
//!   percentile knows, which works the other way. A test holds the coverage between the two.
//! - Arms compared with each other are drawn together: the same figures, and the same seeds when
//!   they were trained with the same ones.

use seeded_random::{Draw, Generator, Stream};

use super::level::LEVEL;
use super::proportion::wilson;
use super::scores::SetScores;

/// How to resample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// Replicates. The ends of a 95 % interval stand on 2.5 % of them.
    pub resamples: usize,
    /// Seed of the resampling, not of any training.
    pub seed: u64,
}

impl Default for Bootstrap {
    /// 4,000 replicates: the ends' own noise is about 4 % of the half-width.
    fn default() -> Self {
        Bootstrap {
            resamples: 4000,
            seed: 0,
        }
    }
}

/// A number with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The observed value.
    pub value: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
    /// The standard deviation of the replicates.
    pub standard_error: f64,
}

impl Estimate {
    /// The percentile interval of `replicates` around `value`; without replicates no wider than
    /// the value.
    pub(super) fn of(value: f64, mut replicates: Vec<f64>) -> Self {
        if replicates.is_empty() {
            return Estimate {
                value,
                low: value,
                high: value,
                standard_error: 0.0,
            };
        }
        replicates.sort_by(f64::total_cmp);
        let n = replicates.len() as f64;
        let mean = replicates.iter().sum::<f64>() / n;
        let square = replicates
            .iter()
            .map(|one| (one - mean).powi(2))
            .sum::<f64>();
        let tail = (1.0 - LEVEL) / 2.0;
        Estimate {
            value,
            low: quantile(&replicates, tail),
            high: quantile(&replicates, 1.0 - tail),
            standard_error: (square / (n - 1.0).max(1.0)).sqrt(),
        }
    }
}

/// The quantile of sorted values with linear interpolation (numpy's default, type 7).
fn quantile(sorted: &[f64], at: f64) -> f64 {
    let place = at * (sorted.len() - 1) as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (place - below as f64) * (sorted[above] - sorted[below])
}

/// What the bootstrap needs of an arm: right and judged answers by set, seed and figure. Arms that
/// are drawn together have the same sets and, within each, the same figures.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub seeds: Vec<u64>,
    pub sets: Vec<Counts>,
}

/// `right[seed][figure]` of `judged[seed][figure]` answers.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    pub figures: usize,
    pub right: Vec<Vec<u32>>,
    pub judged: Vec<Vec<u32>>,
}

impl Counts {
    /// The counts of one set.
    pub fn of(scores: &SetScores) -> Self {
        let mut counts = Counts {
            figures: scores.figures,
            right: vec![vec![0; scores.figures]; scores.scores.len()],
            judged: vec![vec![0; scores.figures]; scores.scores.len()],
        };
        for (seed, answers) in scores.scores.iter().enumerate() {
            for (score, &figure) in answers.iter().zip(&scores.figure) {
                if let Some(right) = score {
                    counts.judged[seed][figure] += 1;
                    counts.right[seed][figure] += u32::from(*right);
                }
            }
        }
        counts
    }

    /// Mean over `seeds` of the share of right answers, figures weighted; `None` when no seed has
    /// a judged answer of positive weight.
    fn accuracy(&self, seeds: &[usize], weights: &[u32]) -> Option<f64> {
        let (mut sum, mut count) = (0.0, 0);
        for &seed in seeds {
            let (mut right, mut judged) = (0u64, 0u64);
            for ((&weight, &r), &j) in weights
                .iter()
                .zip(&self.right[seed])
                .zip(&self.judged[seed])
            {
                right += u64::from(weight * r);
                judged += u64::from(weight * j);
            }
            if judged > 0 {
                sum += right as f64 / judged as f64;
                count += 1;
            }
        }
        (count > 0).then(|| sum / f64::from(count))
    }

    /// The observed accuracy.
    pub fn observed(&self) -> Option<f64> {
        let seeds: Vec<usize> = (0..self.right.len()).collect();
        self.accuracy(&seeds, &vec![1; self.figures])
    }
}

/// Replicates of one arm: `sets[set][replicate]` and the mean over the sets. A replicate that drew
/// no judged answer is NaN in its set and in the mean.
#[derive(Clone, Debug)]
pub(super) struct Replicates {
    pub sets: Vec<Vec<f64>>,
    pub mean: Vec<f64>,
}

impl Bootstrap {
    /// Draws all `samples` together.
    pub(super) fn replicates(&self, samples: &[Sample]) -> Vec<Replicates> {
        let root = Stream::new(self.seed).purpose("bootstrap");
        let sets = samples
            .iter()
            .map(|sample| sample.sets.len())
            .max()
            .unwrap_or(0);
        let mut figure_draws: Vec<Generator> = (0..sets)
            .map(|set| root.purpose("figures").index(set as u64).generator())
            .collect();
        // Keyed by the seeds themselves: arms trained with the same seeds are drawn alike.
        let mut seed_draws: Vec<Generator> = samples
            .iter()
            .map(|sample| {
                sample
                    .seeds
                    .iter()
                    .fold(root.purpose("seeds"), |stream, seed| stream.index(*seed))
                    .generator()
            })
            .collect();
        let empty = Replicates {
            sets: vec![Vec::with_capacity(self.resamples); sets],
            mean: Vec::with_capacity(self.resamples),
        };
        let mut replicates = vec![empty; samples.len()];
        let mut weights: Vec<Vec<u32>> = vec![Vec::new(); sets];
        for _ in 0..self.resamples {
            for (set, weights) in weights.iter_mut().enumerate() {
                let figures = samples
                    .iter()
                    .find_map(|sample| sample.sets.get(set))
                    .map_or(0, |counts| counts.figures);
                weights.clear();
                weights.resize(figures, 0);
                for _ in 0..figures {
                    weights[figure_draws[set].below(figures)] += 1;
                }
            }
            for ((sample, draws), out) in samples.iter().zip(&mut seed_draws).zip(&mut replicates) {
                let seeds: Vec<usize> = match sample.seeds.len() {
                    1 => vec![0],
                    count => (1..count).map(|_| draws.below(count)).collect(),
                };
                let mut sum = 0.0;
                for (set, counts) in sample.sets.iter().enumerate() {
                    let accuracy = counts.accuracy(&seeds, &weights[set]).unwrap_or(f64::NAN);
                    out.sets[set].push(accuracy);
                    sum += accuracy;
                }
                out.mean.push(sum / sample.sets.len() as f64);
            }
        }
        replicates
    }

    /// The interval of one cell, and Wilson's over the figures where every replicate is the same
    /// (all answers right, or all wrong): the bootstrap cannot see beyond what it was given.
    pub(super) fn estimate(value: f64, replicates: &[f64], figures: usize) -> Estimate {
        let finite: Vec<f64> = replicates
            .iter()
            .copied()
            .filter(|one| one.is_finite())
            .collect();
        let estimate = Estimate::of(value, finite);
        if estimate.high > estimate.low {
            return estimate;
        }
        let n = figures as f64;
        let (low, high) = wilson(value * n, n);
        Estimate {
            low,
            high,
            ..estimate
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(
        seeds: usize,
        figures: usize,
        right: impl Fn(usize, usize) -> u32,
        judged: u32,
    ) -> Sample {
        Sample {
            seeds: (0..seeds as u64).collect(),
            sets: vec![Counts {
                figures,
                right: (0..seeds)
                    .map(|seed| (0..figures).map(|figure| right(seed, figure)).collect())
                    .collect(),
                judged: vec![vec![judged; figures]; seeds],
            }],
        }
    }

    fn error_of(sample: &Sample, resamples: usize) -> f64 {
        let replicates = Bootstrap { resamples, seed: 3 }.replicates(std::slice::from_ref(sample));
        Estimate::of(0.0, replicates[0].mean.clone()).standard_error
    }

    #[test]
    fn quantiles_equal_numpy() {
        // numpy 2.4.6: [np.quantile([3, -1, 4, 1.5, 9, 2.5, 6], q) for q in (0, .025, .3, .5, .975, 1)]
        let mut values = [3.0, -1.0, 4.0, 1.5, 9.0, 2.5, 6.0];
        values.sort_by(f64::total_cmp);
        for (at, expected) in [
            (0.0, -1.0),
            (0.025, -0.625),
            (0.3, 2.3),
            (0.5, 3.0),
            (0.975, 8.55),
            (1.0, 9.0),
        ] {
            assert!((quantile(&values, at) - expected).abs() < 1e-12, "{at}");
        }
    }

    #[test]
    fn one_seed_and_a_question_a_figure_is_the_binomial_error() {
        let sample = sample(1, 200, |_, figure| u32::from(figure < 60), 1);
        let analytic = (0.3f64 * 0.7 / 200.0).sqrt();
        assert!((error_of(&sample, 20_000) / analytic - 1.0).abs() < 0.02);
    }

    #[test]
    fn questions_of_one_figure_move_together() {
        // Four questions a figure, all right or all wrong: 50 independent draws, not 200.
        let sample = sample(1, 50, |_, figure| 4 * u32::from(figure < 15), 4);
        let analytic = (0.3f64 * 0.7 / 50.0).sqrt();
        assert!((error_of(&sample, 20_000) / analytic - 1.0).abs() < 0.02);
    }

    #[test]
    fn seeds_spread_by_their_unbiased_variance() {
        // Each seed all right or all wrong, so figures carry no variance: 1, 0, 0 has s² = 1/3,
        // and the mean of three the variance 1/9. Drawing 3 of 3 would give 2/27.
        let three = sample(3, 10, |seed, _| u32::from(seed == 0), 1);
        assert!((error_of(&three, 40_000).powi(2) - 1.0 / 9.0).abs() < 0.002);
        let two = sample(2, 10, |seed, _| u32::from(seed == 0), 1);
        assert!((error_of(&two, 40_000).powi(2) - 1.0 / 4.0).abs() < 0.003);
    }

    #[test]
    fn arms_with_the_same_seeds_are_drawn_together() {
        let one = sample(
            3,
            40,
            |seed, figure| u32::from((figure * 7 + seed * 3) % 5 < 2),
            1,
        );
        let replicates = Bootstrap {
            resamples: 50,
            seed: 1,
        }
        .replicates(&[one.clone(), one.clone()]);
        assert_eq!(replicates[0].mean, replicates[1].mean);
        let other = Sample {
            seeds: vec![7, 8, 9],
            ..one.clone()
        };
        let replicates = Bootstrap {
            resamples: 50,
            seed: 1,
        }
        .replicates(&[one, other]);
        assert_ne!(replicates[0].mean, replicates[1].mean);
    }

    /// Repeats a made experiment with effects of the seed, of the question and of both, and counts
    /// how often the interval holds the truth.
    #[test]
    fn intervals_cover_about_as_often_as_they_say() {
        let (experiments, figures) = (400, 60);
        for (seeds, at_least, at_most) in [(1, 0.91, 0.98), (3, 0.92, 0.995), (8, 0.93, 0.998)] {
            let mut covered = 0;
            for experiment in 0..experiments {
                let mut draws = Stream::new(5)
                    .index(seeds as u64)
                    .index(experiment)
                    .generator();
                // With a single seed the interval is about that seed, so it has no effect here.
                let spread = if seeds == 1 { 0.0 } else { 0.06 };
                let seed_effect: Vec<f64> = (0..seeds).map(|_| spread * draws.normal()).collect();
                let question: Vec<f64> = (0..figures).map(|_| 0.4 * draws.unit()).collect();
                let scores: Vec<Vec<u32>> = seed_effect
                    .iter()
                    .map(|effect| {
                        question
                            .iter()
                            .map(|own| u32::from(draws.unit() < 0.3 + own + effect))
                            .collect()
                    })
                    .collect();
                let sample = sample(seeds, figures, |seed, figure| scores[seed][figure], 1);
                let bootstrap = Bootstrap {
                    resamples: 400,
                    seed: experiment,
                };
                let replicates = bootstrap.replicates(std::slice::from_ref(&sample));
                let estimate = Estimate::of(0.0, replicates[0].mean.clone());
                covered += u32::from(estimate.low <= 0.5 && 0.5 <= estimate.high);
            }
            let share = f64::from(covered) / experiments as f64;
            assert!(
                (at_least..=at_most).contains(&share),
                "{seeds} seeds: {share}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn replicates_are_shares_and_repeat(seeds in 1usize..4, figures in 1usize..20, salt: u64) {
            let sample = sample(seeds, figures, |seed, figure| u32::from((seed + figure + salt as usize % 7).is_multiple_of(3)), 1);
            let bootstrap = Bootstrap { resamples: 40, seed: salt };
            let first = bootstrap.replicates(std::slice::from_ref(&sample));
            let second = bootstrap.replicates(std::slice::from_ref(&sample));
            prop_assert_eq!(&first[0].mean, &second[0].mean);
            prop_assert!(first[0].mean.iter().all(|share| (0.0..=1.0).contains(share)));
            let estimate = Bootstrap::estimate(sample.sets[0].observed().unwrap(), &first[0].mean, figures);
            prop_assert!(estimate.low <= estimate.high && estimate.low >= 0.0 && estimate.high <= 1.0);
        }
    }
}
