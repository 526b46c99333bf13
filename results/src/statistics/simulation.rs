//! How often an interval holds the truth: made experiments with a known difference.
//!
//! In an experiment both arms answer the same questions after training with the same seeds. A
//! question's chance of a right answer is uniform in [0.3, 0.7] for both arms; on top come the
//! question's own leaning to one arm, the seeds' effects and the true difference:
//!
//! ```text
//! p_first[k][q] = base_q + δ + lean_q + a_k      p_second[k][q] = base_q + b_k
//! ```
//!
//! with `lean_q` uniform of standard deviation 0.07 and `a_k`, `b_k` normal of standard deviation
//! 0.01 each: between seeds the difference then has the 1.4 points, and between questions the 7
//! points, of the recorded run. Answers are independent draws. δ is 0.02; probabilities outside
//! [0, 1] do not occur (the seeds' effects would have to be 10 standard deviations).

use seeded_random::{Draw, Stream};

use super::bootstrap::{Bootstrap, Counts, Estimate, Sample};
use super::crossed::{CrossedEstimate, Design, crossed};

/// The true difference.
const TRUTH: f64 = 0.02;
/// Standard deviation of one arm's seeds.
const SEED_SPREAD: f64 = 0.01;
/// Standard deviation of a question's leaning.
const LEANING: f64 = 0.07;

/// An interval's record over the experiments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coverage {
    /// Experiments.
    pub experiments: usize,
    /// Share of the intervals that hold the true difference.
    pub covered: f64,
    /// Mean width, a share of 1.
    pub width: f64,
}

/// Answers of one arm: `[set][seed][question]`.
type Answers = Vec<Vec<Vec<bool>>>;

fn experiment(design: Design, stream: &Stream) -> (Answers, Answers) {
    let mut draws = stream.generator();
    let mut effects = || -> Vec<f64> {
        (0..design.seeds)
            .map(|_| SEED_SPREAD * draws.normal())
            .collect()
    };
    let (first, second) = (effects(), effects());
    let mut answers = (Vec::new(), Vec::new());
    for _ in 0..design.sets {
        let questions: Vec<(f64, f64)> = (0..design.questions)
            .map(|_| {
                let base = 0.3 + 0.4 * draws.unit();
                // A uniform of width w has the standard deviation w / √12.
                (
                    base,
                    base + TRUTH + LEANING * 12f64.sqrt() * (draws.unit() - 0.5),
                )
            })
            .collect();
        let mut of = |effects: &[f64], chance: fn(&(f64, f64)) -> f64| -> Vec<Vec<bool>> {
            effects
                .iter()
                .map(|effect| {
                    questions
                        .iter()
                        .map(|one| draws.unit() < chance(one) + effect)
                        .collect()
                })
                .collect()
        };
        answers.0.push(of(&first, |one| one.1));
        answers.1.push(of(&second, |one| one.0));
    }
    answers
}

/// The crossed random effects' coverage and the share of experiments in which a difference is shown.
pub fn coverage_of_crossed(design: Design, experiments: usize, seed: u64) -> Coverage {
    coverage(design, experiments, seed, |first, second, _| {
        let number = |answer: &bool| f64::from(u8::from(*answer));
        let differences = first
            .iter()
            .zip(second)
            .map(|(first, second)| {
                first
                    .iter()
                    .zip(second)
                    .map(|(a, b)| {
                        a.iter()
                            .zip(b)
                            .map(|(a, b)| number(a) - number(b))
                            .collect()
                    })
                    .collect()
            })
            .collect();
        crossed(&[differences]).map(|estimate: CrossedEstimate| (estimate.low(), estimate.high()))
    })
}

/// The bootstrap's coverage.
pub fn coverage_of_bootstrap(
    design: Design,
    experiments: usize,
    seed: u64,
    resamples: usize,
) -> Coverage {
    coverage(design, experiments, seed, |first, second, index| {
        let sample = |answers: &Answers| Sample {
            seeds: (0..design.seeds as u64).collect(),
            sets: answers
                .iter()
                .map(|seeds| Counts {
                    figures: design.questions,
                    right: seeds
                        .iter()
                        .map(|seed| seed.iter().map(|right| u32::from(*right)).collect())
                        .collect(),
                    judged: vec![vec![1; design.questions]; design.seeds],
                })
                .collect(),
        };
        let bootstrap = Bootstrap {
            resamples,
            seed: index,
        };
        let replicates = bootstrap.replicates(&[sample(first), sample(second)]);
        let differences = replicates[0].mean.iter().zip(&replicates[1].mean);
        let estimate = Estimate::of(0.0, differences.map(|(a, b)| a - b).collect());
        Some((estimate.low, estimate.high))
    })
}

fn coverage(
    design: Design,
    experiments: usize,
    seed: u64,
    interval: impl Fn(&Answers, &Answers, u64) -> Option<(f64, f64)>,
) -> Coverage {
    let root = Stream::new(seed).purpose("coverage");
    let (mut covered, mut width, mut made) = (0.0, 0.0, 0);
    for index in 0..experiments as u64 {
        let (first, second) = experiment(design, &root.index(index));
        let Some((low, high)) = interval(&first, &second, index) else {
            continue;
        };
        covered += f64::from(u8::from(low <= TRUTH && TRUTH <= high));
        width += high - low;
        made += 1;
    }
    let count = f64::from(made).max(1.0);
    Coverage {
        experiments: made as usize,
        covered: covered / count,
        width: width / count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At the study's sizes 95 % intervals hold the truth 95 times in 100: within a binomial band of
    /// 3.3 standard errors, which a right interval leaves once in a thousand.
    #[test]
    fn crossed_intervals_cover_as_often_as_they_say() {
        for (seeds, sets, questions) in [(20, 6, 500), (12, 6, 500), (8, 6, 200), (3, 6, 167)] {
            let design = Design {
                seeds,
                sets,
                questions,
            };
            let found = coverage_of_crossed(design, 300, 7);
            assert_eq!(found.experiments, 300);
            let band = 3.3 * (0.95f64 * 0.05 / 300.0).sqrt();
            assert!((found.covered - 0.95).abs() < band, "{design:?}: {found:?}");
        }
    }
}
