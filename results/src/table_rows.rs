//! The cells of a table as text, which all forms of it share.

use crate::paper::UNREPORTED;
use crate::record::SETS;
use crate::table::{Shown, Table, TableRow};

/// The names of the columns.
pub(crate) fn header() -> Vec<String> {
    ["arm"]
        .into_iter()
        .chain(SETS)
        .chain(["average", "calls", "run"])
        .map(str::to_string)
        .collect()
}

/// The paper's rows as words, with empty rates.
pub(crate) fn paper_rows(table: &Table) -> Vec<Vec<String>> {
    table
        .paper
        .iter()
        .map(|row| {
            let mut cells = vec![format!("{} (paper)", row.arm)];
            cells.extend(
                row.values.iter().map(|value| {
                    value.map_or(UNREPORTED.to_string(), |value| format!("{value:.1}"))
                }),
            );
            cells.extend([UNREPORTED.to_string(), UNREPORTED.to_string()]);
            cells
        })
        .collect()
}

/// The measured rows, their accuracies as `show` writes them.
pub(crate) fn rows(table: &Table, show: impl Fn(&Shown) -> String) -> Vec<Vec<String>> {
    let row = |row: &TableRow| {
        let mut cells = vec![row.label.clone()];
        cells.extend(row.shown().iter().map(&show));
        cells.extend(row.rates());
        cells
    };
    table.rows.iter().map(row).collect()
}
