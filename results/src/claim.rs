//! Whether the paper's claim held.
//!
//! The claim: averaged over the six sets, IAPO is better than VTool-R1 (+3.0 points in the paper,
//! +2.1 against the best baseline). The rule looks at the paired difference of the macro averages
//! and its 95 % interval with seeds and questions at random (statistics/crossed.rs); the bootstrap
//! over figures and seeds stands beside it and decides nothing:
//!
//! - HELD: the whole interval is above 0.
//! - NOT HELD: the whole interval is below 0; or, under the `paper` profile only, it has 0 in it
//!   and lies wholly below the paper's difference, so that a gain of the claimed size is excluded
//!   and none is shown.
//! - UNDECIDED: anything else; the smallest difference that this many seeds and questions detect
//!   is then stated.
//! - NOT TESTED: the records do not allow the comparison, and the line says why.
//!
//! Against "the best baseline" the same rule asks for an interval above 0 against *every* baseline:
//! picking the best one afterwards would need a correction, all of them together do not
//! (intersection-union test, Berger 1982). Any profile but `paper` tests the claim's sign in a
//! small world; sizes are not comparable there, and the line says so first.

use std::fmt;

use crate::numbers::{interval, number, p_value, points};
use crate::options::TableOptions;
use crate::paper::Paper;
use crate::record::ArmName;
use crate::run_kind::RunKind;
use crate::runs::Runs;
use crate::statistics::{ArmScores, CrossedEstimate, Incomparable, PairedDifference, compare};

/// The rule's outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The interval is above 0.
    Held,
    /// The interval is below 0, or excludes the paper's gain without showing any.
    NotHeld,
    /// Neither.
    Undecided,
    /// The records do not allow the comparison.
    NotTested,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Decision::Held => "HELD",
            Decision::NotHeld => "NOT HELD",
            Decision::Undecided => "UNDECIDED",
            Decision::NotTested => "NOT TESTED",
        })
    }
}

impl Decision {
    /// The rule. Differences are shares of 1; `claimed` is set at the paper's scale only.
    pub fn of(difference: &CrossedEstimate, claimed: Option<f64>) -> Self {
        let (low, high) = (difference.low(), difference.high());
        if low > 0.0 {
            Decision::Held
        } else if high < 0.0 || claimed.is_some_and(|claimed| high < claimed) {
            Decision::NotHeld
        } else {
            Decision::Undecided
        }
    }
}

/// IAPO against one other arm.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The other arm.
    pub against: ArmName,
    /// The paired difference, or why there is none.
    pub difference: Result<PairedDifference, Incomparable>,
    /// The rule's outcome.
    pub decision: Decision,
}

/// The claim, tested.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The claimed arm: the paper's form, or a variant of it.
    pub arm: ArmName,
    /// Its name for people.
    arm_label: String,
    /// Runs of the two arms whose training ended in alarm: with any, there is no verdict.
    void: Vec<String>,
    /// What the runs are.
    pub run_kind: RunKind,
    /// The claim itself: against VTool-R1.
    pub main: Comparison,
    /// The same against every baseline together.
    pub best_baseline: Decision,
    /// The arm against every other arm, in the order of the table.
    pub others: Vec<Comparison>,
    /// The paper's difference to [`Claim::main`], in points.
    pub claimed: f64,
    claimed_best: f64,
}

impl Claim {
    /// Tests the claim on `runs`, with `arm` in the place of the paper's IAPO.
    pub fn test(runs: &Runs, arm: &ArmName, paper: &Paper, options: &TableOptions) -> Self {
        let claim = &paper.claim;
        let run_kind = runs.run_kind();
        let at_scale = run_kind == RunKind::PaperScale;
        let first = ArmScores::collect(arm, runs.records());
        let against = |arm: &ArmName| {
            let second = ArmScores::collect(arm, runs.records());
            let difference = compare(
                &first,
                &second,
                options.not_judged_limit,
                &options.bootstrap,
            );
            let claimed = (at_scale && *arm == claim.against).then_some(claim.difference / 100.0);
            // Between trained arms one seed says nothing about seeds, whatever its interval.
            let trained = |name: &str| ![ArmName::UNTRAINED, ArmName::TEACHER].contains(&name);
            let single = first.seeds.len() < 2 || second.seeds.len() < 2;
            let decision = match &difference {
                Ok(_) if single && trained(arm.name()) => Decision::Undecided,
                Ok(difference) => Decision::of(&difference.crossed, claimed),
                Err(_) => Decision::NotTested,
            };
            Comparison {
                against: arm.clone(),
                difference,
                decision,
            }
        };
        let main = against(&claim.against);
        let others: Vec<Comparison> = runs
            .arms()
            .iter()
            .filter(|other| *other != arm)
            .map(against)
            .collect();
        let baselines: Vec<Decision> = ArmName::BASELINES
            .iter()
            .map(|name| {
                let found = others
                    .iter()
                    .find(|comparison| comparison.against.name() == *name);
                found.map_or(Decision::NotTested, |comparison| comparison.decision)
            })
            .collect();
        let any = |decision| baselines.contains(&decision);
        let best_baseline = if any(Decision::NotTested) {
            Decision::NotTested
        } else if any(Decision::NotHeld) {
            Decision::NotHeld
        } else if any(Decision::Undecided) {
            Decision::Undecided
        } else {
            Decision::Held
        };
        Claim {
            arm: arm.clone(),
            arm_label: runs.label(arm),
            void: [arm, &claim.against]
                .into_iter()
                .flat_map(|arm| runs.ended_in_alarm(arm))
                .collect(),
            run_kind,
            main,
            best_baseline,
            others,
            claimed: claim.difference,
            claimed_best: claim.best_baseline_difference,
        }
    }

    /// What is being tested: never the paper's table unless the profile is `paper`.
    pub fn label(&self) -> String {
        let claim = self.run_kind.claim();
        match self.arm_label == ArmName::IAPO {
            true => claim,
            false => claim.replacen("IAPO", "A variant of IAPO", 1),
        }
    }

    /// The verdict in one line.
    pub fn line(&self) -> String {
        if !self.void.is_empty() {
            return format!(
                "{}: VOID: training ended in alarm: {}. What these runs show is not what the methods do.",
                self.label(),
                self.void.join("; ")
            );
        }
        let head = format!(
            "{}: {}: {} - {}",
            self.label(),
            self.main.decision,
            self.arm_label,
            self.main.against
        );
        match &self.main.difference {
            Err(reason) => format!("{head}: {reason}."),
            Ok(difference) => format!(
                "{head} = {} points (95 % interval {}, p {}, seeds and questions at random; {}; {}; {}). The paper: {:+.1}.",
                points(difference.crossed.value),
                rule_interval(&difference.crossed),
                p_value(difference.crossed.p_value()),
                beside(difference),
                size(difference),
                detectable(difference),
                self.claimed
            ),
        }
    }

    /// How this verdict sits beside that of a recorded run, in one line; `None` where either has no
    /// difference to show. Nothing is tested: the two may share questions and seeds.
    pub fn beside(&self, recorded: &Claim) -> Option<String> {
        let own = &self.main.difference.as_ref().ok()?.crossed;
        let known = &recorded.main.difference.as_ref().ok()?.crossed;
        // A form stands in brackets in old runs and in the arm's name in new ones.
        let form = |label: &str| label.replace(" (", "-").replace(')', "");
        let overlap = own.low() <= known.high() && known.low() <= own.high();
        Some(format!(
            "recorded: {}: {} - {} = {} points {}{}; the two intervals {}",
            recorded.main.decision,
            recorded.arm_label,
            recorded.main.against,
            points(known.value),
            rule_interval(known),
            match form(&self.arm_label) == form(&recorded.arm_label) {
                true => "",
                false => ", another form of IAPO than this run's",
            },
            if overlap { "overlap" } else { "do not overlap" }
        ))
    }

    /// The line, the best-baseline line, a line for every other arm, and the rule.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            self.line(),
            format!(
                "Against every baseline ({}): {}. The paper: {:+.1} against its best.",
                ArmName::BASELINES.join(", "),
                self.best_baseline,
                self.claimed_best
            ),
        ];
        lines.extend(self.others.iter().map(|comparison| {
            let head = format!("{} - {}", self.arm_label, comparison.against);
            match &comparison.difference {
                Err(reason) => format!("{head}: not compared: {reason}"),
                Ok(difference) => {
                    let tests: Vec<String> = difference
                        .mcnemar
                        .iter()
                        .map(|(seed, test)| format!("{seed}: {}", p_value(test.mid)))
                        .collect();
                    format!(
                        "{head}: {} points {}, p {}, {}; {}; {}{}",
                        points(difference.crossed.value),
                        rule_interval(&difference.crossed),
                        p_value(difference.crossed.p_value()),
                        match comparison.decision {
                            Decision::Held => "better",
                            Decision::NotHeld if difference.crossed.high() < 0.0 => "worse",
                            Decision::NotHeld => "without the claimed gain",
                            _ => "undecided",
                        },
                        beside(difference),
                        size(difference),
                        if tests.is_empty() {
                            String::new()
                        } else {
                            format!("; McNemar mid-p by seed: {}", tests.join(", "))
                        }
                    )
                }
            }
        }));
        lines.push(self.rule());
        lines
    }

    /// The rule in words.
    pub fn rule(&self) -> String {
        let size = if self.run_kind == RunKind::PaperScale {
            format!(" or, with 0 in it, below the paper's {:+.1}", self.claimed)
        } else {
            String::new()
        };
        format!(
            "Rule: HELD if the 95 % interval of the difference is above 0, NOT HELD if it is below 0{size}, UNDECIDED otherwise. \
             The interval is that of crossed random effects of seed and question (Satterthwaite); p is uncorrected. \
             Bootstrap: over figures and seeds, with the share of its replicates above 0. \
             P(X > Y): a seed of the first arm against one of the second on one set, ties half, averaged over sets (rliable's probability of improvement)."
        )
    }
}

fn size(difference: &PairedDifference) -> String {
    let (first, second) = difference.seeds;
    let seeds = match (first, second) {
        (1, 1) => "1 seed each, so nothing is said about seeds".to_string(),
        (a, b) if a == b => format!("{a} seeds each"),
        (a, b) => format!("{a} and {b} seeds"),
    };
    format!("{} questions, {seeds}", difference.questions)
}

/// What a repetition of this experiment would find four times in five.
fn detectable(difference: &PairedDifference) -> String {
    let crossed = &difference.crossed;
    format!(
        "detectable with 80 % power: {}",
        number(Some(100.0 * crossed.detectable_effect(0.05, 0.8)), 1)
    )
}

/// The interval that the rule looks at, with the digits that a decision near 0 needs.
fn rule_interval(crossed: &CrossedEstimate) -> String {
    format!(
        "[{:+.2}, {:+.2}]",
        100.0 * crossed.low(),
        100.0 * crossed.high()
    )
}

/// What stands beside the rule.
fn beside(difference: &PairedDifference) -> String {
    format!(
        "bootstrap {}, {:.2} of it above 0; P(X > Y) {:.2}",
        interval(&difference.average),
        difference.share_above_zero,
        difference.probability_of_improvement
    )
}

#[cfg(test)]
mod tests {
    use benchmarks::Verdict;

    use super::*;
    use crate::fixture;
    use crate::statistics::{Bootstrap, VarianceComponents, Z_LEVEL};

    fn estimate(low: f64, high: f64) -> CrossedEstimate {
        CrossedEstimate {
            value: (low + high) / 2.0,
            standard_error: (high - low) / (2.0 * Z_LEVEL),
            degrees_of_freedom: f64::INFINITY,
            components: VarianceComponents {
                seed: None,
                question: 0.0,
                residual: 0.0,
            },
        }
    }

    #[test]
    fn the_rule() {
        let cases = [
            (0.001, 0.05, Decision::Held, Decision::Held),
            (-0.05, -0.001, Decision::NotHeld, Decision::NotHeld),
            (-0.01, 0.05, Decision::Undecided, Decision::Undecided),
            // Zero is in it and +3.0 is not: excluded at the paper's scale, open at any other.
            (-0.01, 0.02, Decision::Undecided, Decision::NotHeld),
            // A small gain is still a gain.
            (0.001, 0.02, Decision::Held, Decision::Held),
            (-1e-5, 0.05, Decision::Undecided, Decision::Undecided),
        ];
        for (low, high, micro, paper) in cases {
            assert_eq!(
                Decision::of(&estimate(low, high), None),
                micro,
                "[{low}, {high}]"
            );
            assert_eq!(
                Decision::of(&estimate(low, high), Some(0.03)),
                paper,
                "[{low}, {high}] at scale"
            );
        }
    }

    fn options() -> TableOptions {
        TableOptions {
            bootstrap: Bootstrap {
                resamples: 1000,
                seed: 0,
            },
            ..TableOptions::default()
        }
    }

    fn test(runs: Vec<crate::Run>) -> Claim {
        Claim::test(
            &Runs::new(runs).unwrap(),
            &ArmName::IAPO.parse().unwrap(),
            &Paper::committed().unwrap(),
            &options(),
        )
    }

    #[test]
    fn a_recorded_verdict_stands_beside_it() {
        let claim = test(fixture::runs(30));
        let line = claim.beside(&claim).unwrap();
        assert!(
            line.starts_with("recorded: ") && line.ends_with("the two intervals overlap"),
            "{line}"
        );
        let mut other = claim.clone();
        other.main.difference.as_mut().unwrap().crossed = estimate(-0.9, -0.8);
        other.arm_label = "iapo (occlusion)".to_owned();
        let line = claim.beside(&other).unwrap();
        assert!(
            line.contains("another form") && line.ends_with("the two intervals do not overlap"),
            "{line}"
        );
    }

    #[test]
    fn one_seed_decides_nothing() {
        let mut runs = fixture::runs(100);
        runs.retain(|run| run.records[0].seed == 0);
        let claim = test(runs);
        assert!(claim.main.difference.is_ok());
        assert_eq!(claim.main.decision, Decision::Undecided);
        assert_ne!(claim.best_baseline, Decision::Held);
    }

    #[test]
    fn training_that_ended_in_alarm_has_no_verdict() {
        let mut runs = fixture::runs(100);
        let run = runs
            .iter_mut()
            .find(|run| run.records[0].arm.name() == ArmName::IAPO)
            .unwrap();
        run.metrics.last_mut().unwrap().alarms = vec!["call_rate".to_string()];
        let line = test(runs).line();
        assert!(
            line.contains("VOID") && line.contains("call_rate"),
            "{line}"
        );
    }

    #[test]
    fn verdict_lines() {
        let mut shown = Vec::new();
        shown.push(test(fixture::runs(100)).lines().join("\n"));
        // Few questions: the same effect cannot be told.
        shown.push(test(fixture::runs(6)).line());
        // The paper's own scale has no such label, and its rule has the size in it.
        let mut runs = fixture::runs(100);
        for run in &mut runs {
            run.manifest.as_mut().unwrap().profile.name = "paper".to_string();
        }
        let claim = test(runs);
        shown.push(format!("{}\n{}", claim.line(), claim.rule()));
        // Swap the arms' records: the claim must fail.
        let mut runs = fixture::runs(100);
        for run in &mut runs {
            run.manifest = None;
            for record in &mut run.records {
                let name = match record.arm.name() {
                    ArmName::IAPO => ArmName::TEACHER,
                    ArmName::TEACHER => ArmName::IAPO,
                    ArmName::VTOOL_R1 => ArmName::DISTILL,
                    ArmName::DISTILL => ArmName::VTOOL_R1,
                    other => other,
                };
                record.arm = name.parse().unwrap();
            }
        }
        let swapped = test(runs);
        shown.push(swapped.line());
        insta::assert_snapshot!(shown.join("\n\n"));
    }

    #[test]
    fn what_cannot_be_compared_is_not_tested() {
        let mut lines = Vec::new();
        let mut runs = fixture::runs(10);
        runs.retain(|run| run.records[0].arm.name() != ArmName::VTOOL_R1);
        let claim = test(runs);
        assert_eq!(
            (claim.main.decision, claim.best_baseline),
            (Decision::NotTested, Decision::NotTested)
        );
        lines.push(claim.line());
        let mut runs = fixture::runs(10);
        for run in &mut runs {
            run.records.retain(|record| {
                record.arm.name() != ArmName::IAPO || !record.set.starts_with("vwtq")
            });
        }
        lines.push(test(runs).line());
        let mut runs = fixture::runs(10);
        for run in &mut runs {
            for record in run
                .records
                .iter_mut()
                .filter(|record| record.set == "charxiv")
                .take(2)
            {
                record.verdict = Verdict::NotJudged;
            }
        }
        lines.push(test(runs).line());
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn an_arm_does_not_differ_from_itself() {
        let mut runs = fixture::runs(20);
        runs.retain(|run| run.records[0].arm.name() == ArmName::IAPO);
        let mut copies = runs.clone();
        for run in &mut copies {
            run.manifest = None;
            for record in &mut run.records {
                record.arm = ArmName::VTOOL_R1.parse().unwrap();
            }
        }
        runs.extend(copies);
        let claim = test(runs);
        let difference = claim.main.difference.unwrap();
        assert_eq!(
            (difference.average.low, difference.average.high),
            (0.0, 0.0)
        );
        assert_eq!(
            (difference.crossed.low(), difference.crossed.high()),
            (0.0, 0.0)
        );
        assert_eq!(difference.share_above_zero, 0.5);
        assert_eq!(difference.probability_of_improvement, 0.5);
        assert_eq!(claim.main.decision, Decision::Undecided);
    }
}
