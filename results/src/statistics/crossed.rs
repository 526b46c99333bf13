//! The difference of two arms with seeds and questions both drawn at random: the rule's interval.
//!
//! `d[s][k][q]` is what the two arms' scores differ by on question q of set s after training with
//! seed k; the arms share questions and seeds. Every seed answers every question, so the factors
//! are crossed:
//!
//! ```text
//! d[s][k][q] = μ_s + A[s][k] + B[s][q] + E[s][k][q]      μ = (1/S) Σ_s μ_s
//! ```
//!
//! with K seeds, S sets and Q_s questions. μ is estimated by the mean of the sets' means D; with
//! m_k the mean of the sets' means for seed k, d̄[s][·][q] a question's mean over seeds, and
//! e[s][k][q] = d[s][k][q] − d̄[s][k][·] − d̄[s][·][q] + d̄[s][·][·]:
//!
//! ```text
//! T_seed     = Σ_k (m_k − D)² / (K − 1) / K                                 ν = K − 1
//! T_question = Σ_s t_s,  t_s = Σ_q (d̄[s][·][q] − d̄[s][·][·])² / (Q_s − 1) / (S² Q_s)
//!                                                                           ν_s = Q_s − 1
//! T_residual = Σ_s r_s,  r_s = Σ_kq e² / ((K − 1)(Q_s − 1)) / (S² Q_s K)    ν_s = (K − 1)(Q_s − 1)
//! V = T_residual + max(0, T_seed − T_residual) + max(0, T_question − T_residual)
//! ν = V² / Σ T_i² / ν_i over the terms that V is made of
//! ```
//!
//! and the interval is D ± t_{0.975, ν} √V. The mean squares are those of the two-way crossed
//! analysis of variance with one observation a cell (Searle, Casella & McCulloch 1992, Variance
//! Components, chapter 4); where no component is negative V = T_seed + T_question − T_residual
//! without bias, and for such balanced data it equals REML's (`golden/statistics`). ν is
//! Satterthwaite's (1946, Biometrics Bulletin 2). Seeds and questions both as random factors:
//! Clark 1973; Baayen, Davidson & Bates 2008.
//!
//! What this does beyond the textbook's balanced case:
//! - Sets have variances of their own and weigh the same, whatever their number of questions. A
//!   seed's effect may differ by set: T_seed sees its mean over sets, which is what moves D.
//! - Questions about one figure are one unit. With F_s figures, the unit's value is
//!   d̄[s][k][·] + (F_s / Q_s) Σ_{q in figure} (d[s][k][q] − d̄[s][k][·]), whose mean is the mean over
//!   questions and whose spread is the clustered one (Miller 2024, arXiv 2411.00640); with a
//!   question a figure it is d itself.
//! - Arms of different seeds are two blocks: T_seed and T_residual are taken for each arm alone and
//!   added, T_question is that of the difference. Seeds that both happen to have are then treated
//!   as independent.
//! - An arm, or a pair, with one seed has no T_seed and no T_residual: its answers' noise is in
//!   T_question and the interval says nothing about seeds.

use serde::Serialize;
use statrs::distribution::{Continuous, ContinuousCDF, Normal, StudentsT};

use super::level::LEVEL;

/// The values of one block (an arm, or a pair of arms with the same seeds): `[set][seed][figure]`.
pub type SetDifferences = Vec<Vec<Vec<f64>>>;

/// A difference with seeds and questions at random. Shares of 1, not points.
#[derive(Clone, Debug, PartialEq)]
pub struct CrossedEstimate {
    /// The mean of the sets' means, D.
    pub value: f64,
    /// √V.
    pub standard_error: f64,
    /// Satterthwaite's ν; infinite where V is 0.
    pub degrees_of_freedom: f64,
    /// What V is made of.
    pub components: VarianceComponents,
}

/// Variance components, none negative. The plan of an experiment is made from them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct VarianceComponents {
    /// Between seeds, of the mean over sets; both arms' added where their seeds differ. `None`
    /// where no block has two seeds.
    pub seed: Option<f64>,
    /// Between questions, the mean over sets.
    pub question: f64,
    /// Of one seed on one question, the mean over sets; 0 where no block has two seeds.
    pub residual: f64,
}

/// What a block's mean squares say; T as in the file's head.
struct Terms {
    value: f64,
    seeds: usize,
    seed: f64,
    /// `(r_s, ν_s)` by set; empty with one seed.
    residual: Vec<(f64, f64)>,
}

/// The estimate over blocks whose values add up: one of paired differences, or the first arm's
/// scores and the negated scores of the second. All have the same sets and figures. `None` where
/// a set has fewer than two figures, or a block no seed.
pub fn crossed(blocks: &[SetDifferences]) -> Option<CrossedEstimate> {
    let sets = blocks.first()?.len();
    let figures = |set: usize| blocks[0][set].first().map_or(0, Vec::len);
    let whole = |block: &SetDifferences| {
        block.len() == sets
            && block.iter().enumerate().all(|(set, seeds)| {
                !seeds.is_empty()
                    && seeds.len() == block[0].len()
                    && seeds.iter().all(|seed| seed.len() == figures(set))
            })
    };
    if sets == 0 || !blocks.iter().all(whole) || (0..sets).any(|set| figures(set) < 2) {
        return None;
    }
    let terms: Vec<Terms> = blocks.iter().map(Terms::of).collect();
    let weight = 1.0 / (sets * sets) as f64;
    let question: Vec<(f64, f64)> = (0..sets)
        .map(|set| {
            let count = figures(set);
            let means: Vec<f64> = (0..count)
                .map(|figure| {
                    blocks
                        .iter()
                        .map(|block| mean(block[set].iter().map(|seed| seed[figure])))
                        .sum()
                })
                .collect();
            (weight * variance(&means) / count as f64, (count - 1) as f64)
        })
        .collect();

    let total = |parts: &[(f64, f64)]| parts.iter().map(|(part, _)| part).sum::<f64>();
    let residual: Vec<(f64, f64)> = terms
        .iter()
        .flat_map(|block| block.residual.clone())
        .collect();
    let mut variance = total(&residual);
    // Each term counts as often as V has it: a term that is added and taken away is not there.
    let mut used: Vec<(f64, f64)> = Vec::new();
    let question_above = total(&question) - total(&residual);
    let residual_in_question = question_above > 0.0 || residual.is_empty();
    if residual_in_question {
        variance += question_above;
        used.extend(&question);
    }
    for block in &terms {
        let own = total(&block.residual);
        if block.seeds > 1 && block.seed > own {
            variance += block.seed - own;
            used.push((block.seed, (block.seeds - 1) as f64));
            if residual_in_question {
                used.extend(&block.residual);
            }
        } else if !residual_in_question {
            used.extend(&block.residual);
        }
    }
    let spread: f64 = used
        .iter()
        .map(|(part, freedom)| part * part / freedom)
        .sum();
    let seeded = terms.iter().any(|block| block.seeds > 1);
    let per_question = |part: &dyn Fn(usize) -> f64| {
        mean((0..sets).map(|set| part(set) * figures(set) as f64 / weight))
    };
    let residual_of =
        |block: &Terms, set: usize| block.residual.get(set).map_or(0.0, |(part, _)| *part);
    Some(CrossedEstimate {
        value: terms.iter().map(|block| block.value).sum(),
        standard_error: variance.sqrt(),
        degrees_of_freedom: if spread > 0.0 {
            variance * variance / spread
        } else {
            f64::INFINITY
        },
        components: VarianceComponents {
            seed: seeded.then(|| {
                terms
                    .iter()
                    .map(|block| {
                        (block.seed - total(&block.residual)).max(0.0) * block.seeds as f64
                    })
                    .sum()
            }),
            question: per_question(&|set| {
                question[set].0
                    - terms
                        .iter()
                        .map(|block| residual_of(block, set))
                        .sum::<f64>()
            })
            .max(0.0),
            residual: per_question(&|set| {
                terms
                    .iter()
                    .map(|block| residual_of(block, set) * block.seeds as f64)
                    .sum()
            }),
        },
    })
}

impl Terms {
    fn of(block: &SetDifferences) -> Self {
        let sets = block.len();
        let seeds = block[0].len();
        let by_seed: Vec<f64> = (0..seeds)
            .map(|seed| mean(block.iter().map(|set| mean(set[seed].iter().copied()))))
            .collect();
        let mut residual = Vec::new();
        if seeds > 1 {
            for set in block {
                let figures = set[0].len();
                let of_seed: Vec<f64> = set.iter().map(|seed| mean(seed.iter().copied())).collect();
                let all = mean(of_seed.iter().copied());
                let mut square = 0.0;
                for figure in 0..figures {
                    let of_figure = mean(set.iter().map(|seed| seed[figure]));
                    for (seed, own) in set.iter().zip(&of_seed) {
                        square += (seed[figure] - own - of_figure + all).powi(2);
                    }
                }
                let freedom = ((seeds - 1) * (figures - 1)) as f64;
                let cells = (sets * sets * figures * seeds) as f64;
                residual.push((square / freedom / cells, freedom));
            }
        }
        Terms {
            value: mean(by_seed.iter().copied()),
            seeds,
            seed: if seeds > 1 {
                variance(&by_seed) / seeds as f64
            } else {
                0.0
            },
            residual,
        }
    }
}

/// The mean of a measurement that is made once a seed, with Student's interval over seeds; `None` of
/// fewer than two.
pub fn over_seeds(values: &[f64]) -> Option<CrossedEstimate> {
    let count = values.len();
    if count < 2 {
        return None;
    }
    let between = variance(values);
    Some(CrossedEstimate {
        value: mean(values.iter().copied()),
        standard_error: (between / count as f64).sqrt(),
        degrees_of_freedom: (count - 1) as f64,
        components: VarianceComponents {
            seed: Some(between),
            question: 0.0,
            residual: 0.0,
        },
    })
}

impl CrossedEstimate {
    /// The two-sided interval of `level` (0.95 for [`LEVEL`]).
    pub fn interval(&self, level: f64) -> (f64, f64) {
        let half = quantile(0.5 + level / 2.0, self.degrees_of_freedom) * self.standard_error;
        (self.value - half, self.value + half)
    }

    /// The lower end of the 95 % interval.
    pub fn low(&self) -> f64 {
        self.interval(LEVEL).0
    }

    /// The upper end of the 95 % interval.
    pub fn high(&self) -> f64 {
        self.interval(LEVEL).1
    }

    /// The difference that a two-sided test at `alpha` finds with probability `power` in a
    /// repetition of this experiment.
    pub fn detectable_effect(&self, alpha: f64, power: f64) -> f64 {
        detectable(self.standard_error, self.degrees_of_freedom, alpha, power)
    }

    /// The two-sided p-value of a true difference of 0; 1 where value and error are both 0.
    pub fn p_value(&self) -> f64 {
        if self.value == 0.0 {
            return 1.0;
        }
        let t = self.value.abs() / self.standard_error;
        2.0 * upper_tail(t, self.degrees_of_freedom)
    }
}

/// The size of an experiment: sets of equally many questions, one question per figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Design {
    /// Training seeds of each arm, the same for both.
    pub seeds: usize,
    /// Sets.
    pub sets: usize,
    /// Questions of a set.
    pub questions: usize,
}

impl VarianceComponents {
    /// The difference that a two-sided test at `alpha` finds with probability `power` in an
    /// experiment of this design: `(t_{1 − α/2, ν} + t_{power, ν}) √V`, V and ν from the expected
    /// mean squares (Bloom 1995 with t for z). The components are taken as known: with eight seeds
    /// the seeds' standard deviation is known within a factor of about 0.65 to 2.
    pub fn detectable_effect(&self, design: Design, alpha: f64, power: f64) -> f64 {
        let (error, freedom) = self.expected(design);
        detectable(error, freedom, alpha, power)
    }

    /// √V and ν where the mean squares are what is expected of them.
    fn expected(&self, design: Design) -> (f64, f64) {
        let Design {
            seeds,
            sets,
            questions,
        } = design;
        let asked = (sets * questions) as f64;
        let residual = self.residual / (asked * seeds as f64);
        let of_question = self.question / asked + residual;
        let question_freedom = (sets * (questions - 1)) as f64;
        let Some(seed) = self.seed.filter(|_| seeds > 1) else {
            return (of_question.sqrt(), question_freedom);
        };
        let between = (seeds - 1) as f64;
        let of_seed = seed / seeds as f64 + residual;
        let variance = of_seed + of_question - residual;
        let spread = of_seed.powi(2) / between
            + of_question.powi(2) / question_freedom
            + residual.powi(2) / (between * question_freedom);
        (variance.sqrt(), variance * variance / spread)
    }
}

fn detectable(error: f64, freedom: f64, alpha: f64, power: f64) -> f64 {
    (quantile(1.0 - alpha / 2.0, freedom) + quantile(power, freedom)) * error
}

pub(super) fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0);
    for value in values {
        sum += value;
        count += 1;
    }
    sum / f64::from(count)
}

/// Unbiased; two values or more.
fn variance(values: &[f64]) -> f64 {
    let center = mean(values.iter().copied());
    let square: f64 = values.iter().map(|value| (value - center).powi(2)).sum();
    square / (values.len() - 1) as f64
}

/// Beyond this many degrees of freedom t is the normal distribution within 3 in a million.
const MANY: f64 = 1e6;

/// Student's t quantile; NaN where `freedom` is not positive.
fn quantile(at: f64, freedom: f64) -> f64 {
    if freedom > MANY {
        return Normal::standard().inverse_cdf(at);
    }
    let Ok(student) = StudentsT::new(0.0, 1.0, freedom) else {
        return f64::NAN;
    };
    let mut found = student.inverse_cdf(at);
    // The library's inverse is found by a search of few digits where `freedom` is large.
    for _ in 0..3 {
        found -= (student.cdf(found) - at) / student.pdf(found);
    }
    found
}

/// The chance of more than `at`; NaN where `freedom` is not positive.
fn upper_tail(at: f64, freedom: f64) -> f64 {
    if at.is_infinite() {
        0.0
    } else if freedom > MANY {
        Normal::standard().sf(at)
    } else {
        StudentsT::new(0.0, 1.0, freedom).map_or(f64::NAN, |student| student.sf(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Case {
        name: String,
        data: Vec<Vec<f64>>,
        value: f64,
        standard_error: f64,
        degrees_of_freedom: f64,
        low: f64,
        high: f64,
        p: f64,
        seed: f64,
        question: f64,
        residual: f64,
    }

    /// The reference is found by a search and finite differences: `golden/statistics/make.py`.
    #[test]
    fn balanced_data_give_what_reml_and_satterthwaite_give() {
        let text = include_str!("../../../golden/statistics/crossed.json");
        let cases: Vec<Case> = serde_json::from_str(text).unwrap();
        assert_eq!(cases.len(), 4);
        for case in cases {
            let found = crossed(&[vec![case.data]]).unwrap();
            let p = found.p_value();
            for (what, found, expected, tolerance) in [
                ("value", found.value, case.value, 1e-12),
                (
                    "standard error",
                    found.standard_error,
                    case.standard_error,
                    1e-6,
                ),
                (
                    "degrees of freedom",
                    found.degrees_of_freedom,
                    case.degrees_of_freedom,
                    1e-4,
                ),
                ("low", found.low(), case.low, 1e-5),
                ("high", found.high(), case.high, 1e-5),
                ("p", p, case.p, 1e-4),
                ("seed", found.components.seed.unwrap(), case.seed, 1e-6),
                ("question", found.components.question, case.question, 1e-6),
                ("residual", found.components.residual, case.residual, 1e-6),
            ] {
                assert!(
                    (found - expected).abs() <= tolerance * expected.abs(),
                    "{}, {what}: {found} against {expected}",
                    case.name
                );
            }
        }
    }

    // scipy 1.17.1: df, stats.t.ppf(.975, df), stats.t.ppf(.8, df), stats.t.sf(2.5, df)
    const QUANTILES: [(f64, f64, f64, f64); 5] = [
        (
            1e5,
            1.9599877075346095,
            0.8416248279969009,
            0.0062104595962795255,
        ),
        (
            1.0,
            12.706204736174694,
            1.3763819204711738,
            0.12111894159084341,
        ),
        (
            2.7,
            3.3921483831737507,
            0.995889377027529,
            0.04853970722146734,
        ),
        (
            9.458345,
            2.245556534275033,
            0.8812930950282806,
            0.016342906647541504,
        ),
        (
            300.0,
            1.9679030112610865,
            0.8428210111613936,
            0.006476554602159591,
        ),
    ];

    #[test]
    fn quantiles_equal_scipys() {
        for (freedom, q975, q80, tail) in QUANTILES {
            assert!(
                (quantile(0.975, freedom) / q975 - 1.0).abs() < 1e-8,
                "{freedom}"
            );
            assert!(
                (quantile(0.8, freedom) / q80 - 1.0).abs() < 1e-8,
                "{freedom}"
            );
            assert!(
                (upper_tail(2.5, freedom) / tail - 1.0).abs() < 1e-8,
                "{freedom}"
            );
        }
        assert!((quantile(0.975, f64::INFINITY) - 1.959_963_985).abs() < 1e-6);
    }

    #[test]
    fn arms_that_do_not_differ_have_no_difference() {
        let zero = vec![vec![vec![0.0; 5]; 3]; 2];
        let found = crossed(&[zero]).unwrap();
        assert_eq!(
            (found.low(), found.high(), found.p_value()),
            (0.0, 0.0, 1.0)
        );
        assert!(crossed(&[]).is_none());
        assert!(crossed(&[vec![vec![vec![1.0]]]]).is_none());
        // Blocks of other shapes are refused, not indexed past their end.
        assert!(crossed(&[vec![vec![vec![1.0, 2.0]]], vec![vec![vec![1.0]]]]).is_none());
    }

    #[test]
    fn one_seed_says_nothing_about_seeds() {
        let single = vec![vec![vec![1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]]];
        let found = crossed(&[single]).unwrap();
        assert_eq!(found.components.seed, None);
        // The usual error of a mean.
        let expected = (variance(&[1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]) / 8.0).sqrt();
        assert!((found.standard_error - expected).abs() < 1e-15);
        assert!((found.degrees_of_freedom - 7.0).abs() < 1e-12);
    }

    #[test]
    fn the_plan_agrees_with_what_it_was_made_from() {
        // Expected mean squares at the design itself are those that the components came from.
        let text = include_str!("../../../golden/statistics/crossed.json");
        let cases: Vec<Case> = serde_json::from_str(text).unwrap();
        let case = &cases[0];
        let design = Design {
            seeds: case.data.len(),
            sets: 1,
            questions: case.data[0].len(),
        };
        let found = crossed(&[vec![case.data.clone()]]).unwrap();
        let (error, freedom) = found.components.expected(design);
        assert!((error - found.standard_error).abs() < 1e-12);
        assert!((freedom - found.degrees_of_freedom).abs() < 1e-9);
        let effect = |seeds| {
            let design = Design { seeds, ..design };
            found.components.detectable_effect(design, 0.05, 0.8)
        };
        assert!(effect(16) < effect(8) && effect(8) < effect(4));
    }

    #[test]
    fn twenty_seeds_find_what_the_study_plans_for() {
        // iapo - vtool-r1 of results/runs/micro: T_seed 2.429e-5, T_question 1.264e-5 and
        // T_residual 8.655e-6 with 8 seeds and 6 x 200 questions.
        let components = VarianceComponents {
            seed: Some(8.0 * (2.429e-5 - 8.655e-6)),
            question: 1200.0 * (1.264e-5 - 8.655e-6),
            residual: 9600.0 * 8.655e-6,
        };
        let planned = Design {
            seeds: 20,
            sets: 6,
            questions: 500,
        };
        // scipy 1.17.1, with V and its degrees of freedom written out:
        //   V = seed/20 + question/3000 + residual/60000
        let points = 100.0 * components.detectable_effect(planned, 0.0125, 0.9);
        assert!((points - 1.21058).abs() < 1e-3, "{points}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn components_add_up_and_none_is_negative(
            seeds in 1usize..5,
            figures in 2usize..8,
            salt in any::<u64>(),
        ) {
            use seeded_random::{Draw, Stream};
            let mut draws = Stream::new(salt).generator();
            let mut block = |seeds: usize| -> SetDifferences {
                (0..3)
                    .map(|_| (0..seeds).map(|_| (0..figures).map(|_| draws.unit()).collect()).collect())
                    .collect()
            };
            let (one, other) = (block(seeds), block(2));
            for blocks in [vec![one.clone()], vec![one, other]] {
                let found = crossed(&blocks).unwrap();
                let parts = found.components;
                prop_assert!(parts.seed.unwrap_or(0.0) >= 0.0 && parts.question >= 0.0 && parts.residual >= 0.0);
                prop_assert!(found.standard_error.is_finite() && found.degrees_of_freedom > 0.0);
                prop_assert!(found.low() <= found.value && found.value <= found.high());
                prop_assert!((0.0..=1.0).contains(&found.p_value()));
            }
        }
    }
}
