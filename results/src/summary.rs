//! The table for a first screen: four columns.

use std::fmt::Write;

use crate::numbers::{NOT_MEASURED, percent, points};
use crate::table::{Table, TableRow};

/// Arm, average with its interval, difference to VTool-R1 with the rule's, questions and seeds.
pub(crate) fn summary(table: &Table) -> String {
    let mut text = "| arm | average | difference to vtool-r1 | n × seeds |\n|---|---:|---:|---:|\n"
        .to_string();
    for row in &table.rows {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} × {} |",
            row.label,
            average(row),
            difference(row),
            row.questions,
            row.seeds
        );
    }
    text
}

fn average(row: &TableRow) -> String {
    match &row.estimates.average {
        Some(estimate) => format!(
            "{} [{}, {}]",
            percent(estimate.value),
            percent(estimate.low),
            percent(estimate.high)
        ),
        None => NOT_MEASURED.to_string(),
    }
}

fn difference(row: &TableRow) -> String {
    match &row.difference {
        // Two places, as the verdict has them: an end near 0 must show its side.
        Some(crossed) => format!(
            "{} [{:+.2}, {:+.2}]",
            points(crossed.value),
            100.0 * crossed.low(),
            100.0 * crossed.high()
        ),
        None => NOT_MEASURED.to_string(),
    }
}
