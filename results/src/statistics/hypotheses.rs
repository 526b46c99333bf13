//! Several tests at once, and what each of them says.
//!
//! - Holm (1979): of m p-values the i-th smallest is multiplied by m − i + 1, made monotone and held
//!   at 1; rejecting those at most α errs on any true null with probability at most α.
//! - Intersection-union (Berger 1982): a gain over *all* of several arms is shown where each
//!   single gain is; its p-value is the largest of theirs, and nothing is corrected.
//! - A test that waits for another (`after`) is not rejected unless that one is: this only takes
//!   rejections away from Holm's, so α holds.
//! - No useful gain: the upper end of the 95 % interval is below the smallest effect of interest (a
//!   one-sided test of non-superiority at 2.5 %, Schuirmann 1987). It is not corrected for the
//!   number of tests, and says so nowhere else: it claims no effect.

use std::fmt;

use super::crossed::CrossedEstimate;

/// A test: a gain, or a gain over all of several arms.
#[derive(Clone, Debug)]
pub struct Hypothesis {
    /// Its name, for example `H2`.
    pub name: String,
    /// The differences that must all be above 0; one but for an intersection-union test.
    pub differences: Vec<CrossedEstimate>,
    /// The name of the test without whose gain this one is not made.
    pub after: Option<String>,
}

/// What a test says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conclusion {
    /// A gain: the corrected p-value is at most α and the difference above 0.
    Superior,
    /// The upper end of the interval is below the smallest effect of interest.
    NoUsefulGain,
    /// A loss: the corrected p-value is at most α and the difference below 0.
    Inferior,
    /// Neither gain nor loss is shown, and a useful gain not excluded.
    Undecided,
    /// The test that it waits for showed no gain, or there was nothing to compare.
    NotTested,
}

impl fmt::Display for Conclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Conclusion::Superior => "superior",
            Conclusion::NoUsefulGain => "no useful gain",
            Conclusion::Inferior => "inferior",
            Conclusion::Undecided => "undecided",
            Conclusion::NotTested => "not tested",
        })
    }
}

/// A test's outcome.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The test's name.
    pub name: String,
    /// Two-sided, uncorrected; of an intersection-union test the largest.
    pub p: f64,
    /// After Holm.
    pub holm: f64,
    /// What it says.
    pub conclusion: Conclusion,
}

/// Holm's adjusted p-values, in the order given. NaN counts as 1.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let known = |p: f64| if p.is_nan() { 1.0 } else { p };
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| known(p_values[a]).total_cmp(&known(p_values[b])));
    let mut adjusted = vec![1.0; p_values.len()];
    let mut largest = 0.0f64;
    for (rank, &index) in order.iter().enumerate() {
        let factor = (p_values.len() - rank) as f64;
        largest = largest.max((factor * known(p_values[index])).min(1.0));
        adjusted[index] = largest;
    }
    adjusted
}

/// The p-value of a gain in all `differences`: the largest two-sided one, 1 where a difference is
/// not above 0 or there is none.
pub fn intersection_union(differences: &[CrossedEstimate]) -> f64 {
    let p = |one: &CrossedEstimate| if one.value > 0.0 { one.p_value() } else { 1.0 };
    differences.iter().map(p).reduce(f64::max).unwrap_or(1.0)
}

/// All tests together at level `alpha`; `smallest` is the smallest effect of interest, a share of 1.
pub fn decide(hypotheses: &[Hypothesis], alpha: f64, smallest: f64) -> Vec<Outcome> {
    let p_values: Vec<f64> = hypotheses
        .iter()
        .map(|one| match one.differences.as_slice() {
            [single] => single.p_value(),
            several => intersection_union(several),
        })
        .collect();
    let adjusted = holm(&p_values);
    let superior = |index: usize| {
        adjusted[index] <= alpha
            && hypotheses[index]
                .differences
                .iter()
                .all(|one| one.value > 0.0)
    };
    let mut outcomes = Vec::new();
    for (index, one) in hypotheses.iter().enumerate() {
        let met = one.after.as_ref().is_none_or(|name| {
            let place = hypotheses.iter().position(|other| other.name == *name);
            place.is_some_and(superior)
        });
        let conclusion = if one.differences.is_empty() || !met {
            Conclusion::NotTested
        } else if superior(index) {
            Conclusion::Superior
        } else if let [single] = one.differences.as_slice()
            && adjusted[index] <= alpha
            && single.value < 0.0
        {
            Conclusion::Inferior
        } else if one.differences.iter().any(|one| one.high() < smallest) {
            // Over all of several arms there is no useful gain where there is none over one.
            Conclusion::NoUsefulGain
        } else {
            Conclusion::Undecided
        };
        outcomes.push(Outcome {
            name: one.name.clone(),
            p: p_values[index],
            holm: adjusted[index],
            conclusion,
        });
    }
    outcomes
}

#[cfg(test)]
mod tests {
    use super::super::crossed::VarianceComponents;
    use super::*;

    fn difference(value: f64, standard_error: f64) -> CrossedEstimate {
        CrossedEstimate {
            value,
            standard_error,
            degrees_of_freedom: 30.0,
            components: VarianceComponents {
                seed: Some(0.0),
                question: 0.0,
                residual: 0.0,
            },
        }
    }

    fn test(name: &str, differences: Vec<CrossedEstimate>, after: Option<&str>) -> Hypothesis {
        Hypothesis {
            name: name.to_string(),
            differences,
            after: after.map(str::to_string),
        }
    }

    #[test]
    fn holm_equals_statsmodels() {
        // statsmodels 0.15.0: multipletests([.01, .04, .03, .005, .2], method="holm")[1]
        let expected = [0.04, 0.09, 0.09, 0.025, 0.2];
        for (found, expected) in holm(&[0.01, 0.04, 0.03, 0.005, 0.2]).iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
        assert_eq!(holm(&[0.5, f64::NAN]), [1.0, 1.0]);
        assert!(holm(&[]).is_empty());
    }

    #[test]
    fn each_conclusion_is_reached() {
        let outcomes = decide(
            &[
                test("gain", vec![difference(0.02, 0.004)], None),
                test("nothing", vec![difference(0.001, 0.003)], None),
                test("loss", vec![difference(-0.03, 0.004)], None),
                test("open", vec![difference(0.01, 0.006)], None),
                test(
                    "all",
                    vec![difference(0.02, 0.004), difference(0.03, 0.004)],
                    Some("gain"),
                ),
                test(
                    "not all",
                    vec![difference(0.02, 0.004), difference(0.01, 0.008)],
                    Some("gain"),
                ),
                test("waits", vec![difference(0.05, 0.004)], Some("open")),
                test("empty", Vec::new(), None),
            ],
            0.05,
            0.01,
        );
        let said: Vec<String> = outcomes
            .iter()
            .map(|one| format!("{}: {}", one.name, one.conclusion))
            .collect();
        assert_eq!(
            said,
            [
                "gain: superior",
                "nothing: no useful gain",
                "loss: inferior",
                "open: undecided",
                "all: superior",
                "not all: undecided",
                "waits: not tested",
                "empty: not tested"
            ]
        );
    }

    #[test]
    fn over_all_means_over_the_least() {
        let (near, far) = (difference(0.01, 0.005), difference(0.05, 0.005));
        let both = intersection_union(&[far.clone(), near.clone()]);
        assert_eq!(both, near.p_value());
        assert_eq!(intersection_union(&[far, difference(-0.01, 0.001)]), 1.0);
        assert_eq!(intersection_union(&[]), 1.0);
    }
}
