//! The counted parts: the primary tests by the preregistered rule, all arms, and whether alignment
//! happened.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;

use results::plot::{DifferenceGroup, DifferenceRow};
use results::statistics::{
    ArmScores, Bootstrap, Conclusion, CrossedEstimate, Hypothesis, Outcome, PairedDifference,
    compare, decide, over_seeds,
};
use results::{ArmName, SETS, TableOptions, markdown_table, number, p_value};

use crate::{Error, Result};

use super::super::cell::StudyCell;
use super::super::files;
use super::super::part::{Part, Phase};
use super::super::preregistration::PrimaryTest;
use super::MadeCells;
use super::arms::{ArmRuns, divergence};
use super::page::{self, Page};
use super::tuning::training_seconds;
use super::{map, mechanism};

/// The sections of all counted parts; nothing where no arm is tested.
pub(super) fn sections(made: &MadeCells<'_>, page: &mut Page) -> Result<()> {
    let tested = made.tested_parts();
    let cells = |parts: &[&Part]| {
        parts.iter().fold((0, 0), |(done, all), part| {
            let (own, of) = made.count(&part.name);
            (done + own, all + of)
        })
    };
    let (done, all) = cells(&tested);
    if all == 0 {
        return Ok(());
    }
    page.text.push_str("\n## Primary tests\n\n");
    if done < all {
        let names: Vec<&str> = tested.iter().map(|part| part.name.as_str()).collect();
        let _ = writeln!(
            page.text,
            "{done} of {all} cells of part {} are there. They are looked at once, when all are.",
            names.join(" and ")
        );
        return Ok(());
    }
    let trained = TrainedArms::of_parts(made, &tested, "main")?;
    primary_tests(made, &trained, page)?;
    page.text.push_str("\n## All arms\n\n");
    trained.describe(&mut page.text)?;
    trained.explain(page)?;
    let others = made.study.parts.iter().filter(|part| {
        part.phase == Phase::Counted && !tested.iter().any(|known| known.name == part.name)
    });
    for part in others {
        let (done, all) = made.count(&part.name);
        let _ = write!(page.text, "\n## Part {}\n\n", part.name);
        if done < all {
            let _ = writeln!(page.text, "{done} of {all} cells are there.");
            continue;
        }
        let variants = part
            .all_variants()
            .into_iter()
            .map(|variant| {
                let trained = TrainedArms::of_parts(made, &[part], &variant.label)?;
                Ok((variant.label, trained))
            })
            .collect::<Result<Vec<_>>>()?;
        if variants.len() > 1 {
            map::section(&part.name, &variants, page)?;
        }
        for (label, trained) in &variants {
            let _ = write!(page.text, "### {label}\n\n");
            trained.describe(&mut page.text)?;
            page.text.push('\n');
        }
    }
    Ok(())
}

/// Arms that were trained with the same settings, beside their bases and teachers.
pub(super) struct TrainedArms {
    /// In the order of the files.
    pub arms: Vec<ArmRuns>,
    /// The untrained student and the teachers.
    references: Vec<ArmRuns>,
}

impl TrainedArms {
    fn of_parts(made: &MadeCells<'_>, parts: &[&Part], label: &str) -> Result<Self> {
        let cells: Vec<&StudyCell> = made
            .cells
            .iter()
            .filter(|(cell, done)| {
                *done && cell.label == label && parts.iter().any(|part| part.name == cell.part)
            })
            .map(|(cell, _)| cell)
            .collect();
        let mut names: Vec<&str> = Vec::new();
        for cell in &cells {
            if !names.contains(&cell.arm.name()) {
                names.push(cell.arm.name());
            }
        }
        let arms = names
            .into_iter()
            .map(|name| ArmRuns::of_cells(&cells, name, made.out))
            .collect::<Result<Vec<_>>>()?;
        let reference = |name: &str, folder: fn(&StudyCell, &std::path::Path) -> PathBuf| {
            let folders: BTreeSet<PathBuf> =
                cells.iter().map(|cell| folder(cell, made.out)).collect();
            let name: ArmName = name.parse()?;
            ArmRuns::load(&name, folders.iter().map(PathBuf::as_path))
        };
        let references = vec![
            reference(ArmName::UNTRAINED, StudyCell::untrained_folder)?,
            reference(ArmName::TEACHER, StudyCell::teacher_folder)?,
        ];
        Ok(TrainedArms { arms, references })
    }

    /// Its teachers, over seeds.
    pub fn teacher(&self) -> Option<&ArmRuns> {
        let mut known = self.references.iter();
        known.find(|arm| arm.name.name() == ArmName::TEACHER)
    }

    /// An arm by its name.
    pub fn arm(&self, name: &str) -> Option<&ArmRuns> {
        self.arms.iter().find(|arm| arm.name.name() == name)
    }

    /// Every arm's difference to plain GRPO, of those that have such answers.
    fn beside_plain(&self, answers: fn(&ArmRuns) -> &ArmScores) -> Result<Vec<DifferenceRow>> {
        let Some(plain) = self.arm(ArmName::VTOOL_R1) else {
            return Ok(Vec::new());
        };
        let others = self.arms.iter().filter(|arm| arm.name != plain.name);
        others
            .filter(|arm| answers(arm).macro_average().is_some())
            .map(|arm| {
                let found = paired(answers(arm), answers(plain))?;
                Ok(page::row(arm.name.to_string(), &found))
            })
            .collect()
    }

    /// The arms' accuracies, what they do, what they cost; then each beside plain GRPO.
    fn describe(&self, text: &mut String) -> Result<()> {
        let percent = |share: Option<f64>| number(share.map(|share| 100.0 * share), 1);
        let mut header = vec!["arm", "seeds"];
        header.extend(SETS);
        header.extend(["average", "at T = 1", "calls", "run"]);
        let rows: Vec<Vec<String>> =
            self.references
                .iter()
                .chain(&self.arms)
                .map(|arm| {
                    let mut row = vec![arm.name.to_string(), arm.greedy.seeds.len().to_string()];
                    row.extend(arm.greedy.sets.iter().map(|set| {
                        percent(set.as_ref().and_then(|set| Some(set.cell()?.accuracy)))
                    }));
                    row.push(percent(arm.greedy.macro_average()));
                    row.push(percent(arm.sampled.macro_average()));
                    row.push(number(Some(arm.greedy.tool_call_rate), 2));
                    row.push(number(arm.greedy.tool_success_rate, 2));
                    row
                })
                .collect();
        text.push_str("Accuracy in percent, greedy unless it says T = 1.\n\n");
        text.push_str(&markdown_table(&header, &rows));
        text.push_str(
            "\n\nBeside plain GRPO (`vtool-r1`) on the same seeds, points with 95 % intervals (crossed \
             random effects), not corrected for their number. The divergence from the teacher's \
             block shares is that of the fixed probe after the last update, of right and wrong calls \
             together; the gap to it is the arm's less plain GRPO's.\n\n",
        );
        let Some(plain) = self.arm(ArmName::VTOOL_R1) else {
            return Ok(());
        };
        let header = [
            "arm",
            "updates",
            "greedy",
            "p",
            "P(X > Y)",
            "at T = 1",
            "divergence",
            "less vtool-r1's",
            "correlation",
            "seconds an update",
            "of it attribution",
        ];
        let mut rows = Vec::new();
        for arm in &self.arms {
            let is_plain = arm.name == plain.name;
            let greedy = (!is_plain)
                .then(|| paired(&arm.greedy, &plain.greedy))
                .transpose()?;
            let sampled = match is_plain || arm.sampled.macro_average().is_none() {
                true => None,
                false => Some(paired(&arm.sampled, &plain.sampled)?),
            };
            let dash = || results::NOT_MEASURED.to_owned();
            let shown = |found: &Option<PairedDifference>| {
                found
                    .as_ref()
                    .map_or_else(dash, |found| with_interval(&found.crossed))
            };
            rows.push(vec![
                arm.name.to_string(),
                arm.updates.to_string(),
                shown(&greedy),
                greedy
                    .as_ref()
                    .map_or_else(dash, |found| p_value(found.crossed.p_value())),
                greedy.as_ref().map_or_else(dash, |found| {
                    number(Some(found.probability_of_improvement), 2)
                }),
                shown(&sampled),
                number(arm.at_the_end(divergence), 4),
                alignment_gap(arm, plain).map_or_else(dash, |gap| {
                    format!("{:+.4} [{:+.4}, {:+.4}]", gap.value, gap.low(), gap.high())
                }),
                number(arm.over_updates(|line| line.penalty_correlation), 2),
                number(arm.over_updates(|line| Some(training_seconds(line))), 2),
                number(
                    arm.over_updates(|line| line.seconds.get("attribution").copied()),
                    2,
                ),
            ]);
        }
        text.push_str(&markdown_table(&header, &rows));
        text.push('\n');
        Ok(())
    }
}

impl TrainedArms {
    /// What the arms' gains are made of and what they cost.
    fn explain(&self, page: &mut Page) -> Result<()> {
        let arms: Vec<&ArmRuns> = self.arms.iter().collect();
        let all: Vec<&ArmRuns> = self.references.iter().chain(&self.arms).collect();
        mechanism::composition(&all, &mut page.text);
        mechanism::through_training(&arms, page)?;
        if let [untrained, teacher] = self.references.as_slice() {
            mechanism::price(&arms, untrained, teacher, &mut page.text);
        }
        Ok(())
    }
}

/// The probe's divergence of an arm less plain GRPO's, over the seeds that both have.
fn alignment_gap(arm: &ArmRuns, plain: &ArmRuns) -> Option<CrossedEstimate> {
    if arm.name == plain.name {
        return None;
    }
    let of = |arm: &ArmRuns| -> Vec<(u64, f64)> {
        let values = arm.last(divergence);
        let seeds = arm.greedy.seeds.iter().copied();
        seeds
            .zip(values)
            .filter_map(|(seed, value)| Some((seed, value?)))
            .collect()
    };
    let plain = of(plain);
    let differences: Vec<f64> = of(arm)
        .iter()
        .filter_map(|(seed, value)| {
            let (_, other) = plain.iter().find(|(known, _)| known == seed)?;
            Some(value - other)
        })
        .collect();
    over_seeds(&differences)
}

/// Two arms on the seeds that both have.
pub(super) fn paired(first: &ArmScores, second: &ArmScores) -> Result<PairedDifference> {
    let seeds: Vec<u64> = first
        .seeds
        .iter()
        .copied()
        .filter(|seed| second.seeds.contains(seed))
        .collect();
    let options = TableOptions::default();
    // The rule's interval alone is shown.
    let few = Bootstrap {
        resamples: 1,
        ..options.bootstrap
    };
    compare(
        &first.of_seeds(&seeds),
        &second.of_seeds(&seeds),
        options.not_judged_limit,
        &few,
    )
    .map_err(|reason| Error::Profile {
        origin: format!("{} beside {}", first.arm, second.arm),
        problem: format!("cannot be compared: {reason}"),
    })
}

/// A difference with its interval in points, to the second decimal: verdicts turn on its ends.
pub(super) fn with_interval(found: &CrossedEstimate) -> String {
    let [value, low, high] = [found.value, found.low(), found.high()].map(|share| 100.0 * share);
    format!("{value:+.2} [{low:+.2}, {high:+.2}]")
}

/// The tests of the preregistration by its rule.
fn primary_tests(made: &MadeCells<'_>, trained: &TrainedArms, page: &mut Page) -> Result<()> {
    let given = &made.study.preregistration;
    let missing = |arm: &str| {
        let place = made.study.folder().join(files::PREREGISTRATION);
        files::problem(&place, format!("arm '{arm}' has no finished cell"))
    };
    let mut hypotheses = Vec::new();
    let mut drawn = Vec::new();
    for test in &given.tests {
        let arm = trained.arm(&test.arm).ok_or_else(|| missing(&test.arm))?;
        let differences = test
            .over
            .iter()
            .map(|over| {
                let other = trained.arm(over).ok_or_else(|| missing(over))?;
                let found = paired(&arm.greedy, &other.greedy)?;
                let label = format!("{}: {} − {over}", test.name, test.arm);
                drawn.push(page::row(label, &found));
                Ok(found.crossed)
            })
            .collect::<Result<Vec<_>>>()?;
        hypotheses.push(Hypothesis {
            name: test.name.clone(),
            differences,
            after: test.requires.clone(),
        });
    }
    let rule = &given.rule;
    let outcomes = decide(&hypotheses, rule.alpha, rule.smallest_effect / 100.0);
    let text = &mut page.text;
    let _ = write!(
        text,
        "Greedy macro average; Holm at {} over {} tests; smallest effect of interest {:.1} points; \
         looks at the counted seeds: {}.\n\n",
        rule.alpha,
        given.tests.len(),
        rule.smallest_effect,
        rule.looks
    );
    let mut rows = Vec::new();
    for ((test, hypothesis), outcome) in given.tests.iter().zip(&hypotheses).zip(&outcomes) {
        for (over, difference) in test.over.iter().zip(&hypothesis.differences) {
            rows.push(vec![
                test.name.clone(),
                format!("{} − {over}", test.arm),
                with_interval(difference),
                p_value(difference.p_value()),
                p_value(outcome.holm),
                outcome.conclusion.to_string(),
            ]);
        }
    }
    text.push_str(&markdown_table(
        &["test", "difference", "points", "p", "Holm", "verdict"],
        &rows,
    ));
    text.push('\n');
    for (test, outcome) in given.tests.iter().zip(&outcomes) {
        if outcome.conclusion == Conclusion::Superior {
            let _ = writeln!(text, "\n{}", by_alignment(trained, test, outcome));
        }
    }
    let groups = vec![
        DifferenceGroup {
            title: "Primary tests, greedy".to_owned(),
            rows: drawn,
        },
        DifferenceGroup {
            title: "All arms beside vtool-r1, greedy".to_owned(),
            rows: trained.beside_plain(|arm| &arm.greedy)?,
        },
        DifferenceGroup {
            title: "The same at T = 1".to_owned(),
            rows: trained.beside_plain(|arm| &arm.sampled)?,
        },
    ];
    let svg = page::differences("Differences", rule.smallest_effect, groups)?;
    page.picture("differences", "Differences with intervals and seeds", svg);
    Ok(())
}

/// A gain is by alignment only where the probe's divergence is below plain GRPO's.
fn by_alignment(trained: &TrainedArms, test: &PrimaryTest, outcome: &Outcome) -> String {
    let gap = trained
        .arm(&test.arm)
        .zip(trained.arm(ArmName::VTOOL_R1))
        .and_then(|(arm, plain)| alignment_gap(arm, plain));
    match gap {
        Some(gap) if gap.high() < 0.0 => format!(
            "{}: the probe's divergence from the teacher is {:.4} below plain GRPO's [{:.4}, {:.4}].",
            outcome.name,
            -gap.value,
            -gap.high(),
            -gap.low()
        ),
        _ => format!(
            "{}: the gain is not by alignment: the probe's divergence from the teacher is not below \
             plain GRPO's.",
            outcome.name
        ),
    }
}
