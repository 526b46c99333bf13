//! What the tuning parts say: for every arm the values that were tried, by validation accuracy at the
//! end of training.

use std::fmt::Write;

use results::{UpdateMetrics, number};

use crate::Result;

use super::super::part::Part;
use super::MadeCells;
use super::arms::{ArmRuns, divergence, mean};

/// The tables of a part that tunes.
pub(super) fn section(made: &MadeCells<'_>, part: &Part, text: &mut String) -> Result<()> {
    let variants = made.variants(&part.name);
    if variants.is_empty() {
        return Ok(());
    }
    let (done, all) = made.count(&part.name);
    let _ = write!(
        text,
        "\n## Part {}: tuning\n\nGreedy accuracy on validation questions after the last update, \
         percent, by tuning seed ({done} of {all} cells). The chosen value is the one with the best \
         mean. The probe is the divergence from the teacher on calls that are given, right and wrong \
         together. Seconds are the clock's, whatever else the machine did.\n\n",
        part.name
    );
    let header = [
        "variant",
        "mean",
        "by seed",
        "calls",
        "KL",
        "probe",
        "penalty alone",
        "correlation",
        "seconds an update",
        "of it attribution",
    ];
    let mut rows = Vec::new();
    for variant in &variants {
        for arm in variant.arms() {
            let arm = ArmRuns::of_cells(&variant.cells, arm, made.out)?;
            let accuracy = arm.last(|line| line.validation.as_ref().map(|found| found.accuracy));
            let by_seed: Vec<String> = accuracy
                .iter()
                .map(|share| number(share.map(|share| 100.0 * share), 1))
                .collect();
            rows.push(vec![
                variant.label.to_owned(),
                number(mean(accuracy.into_iter().flatten()).map(|m| 100.0 * m), 2),
                by_seed.join(" "),
                number(arm.at_the_end(|line| Some(line.tool_call_rate)), 2),
                number(arm.at_the_end(|line| Some(line.kl)), 3),
                number(arm.at_the_end(divergence), 3),
                number(arm.over_updates(|line| line.penalty_alone), 2),
                number(arm.over_updates(|line| line.penalty_correlation), 2),
                number(arm.over_updates(|line| Some(training_seconds(line))), 2),
                number(
                    arm.over_updates(|line| line.seconds.get("attribution").copied()),
                    2,
                ),
            ]);
        }
    }
    text.push_str(&results::markdown_table(&header, &rows));
    text.push('\n');
    Ok(())
}

/// Seconds of an update without validation.
pub(super) fn training_seconds(line: &UpdateMetrics) -> f64 {
    let parts = line.seconds.iter();
    parts
        .filter(|(part, _)| !matches!(part.as_str(), "validation" | "probe"))
        .map(|(_, seconds)| seconds)
        .sum()
}
