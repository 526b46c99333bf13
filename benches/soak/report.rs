//! What was tried, what happened, what fell: printed, and `results/reliability.md`.

use std::fmt::Write;

/// What was found and mended before: a run of today no longer shows it.
const FOUND: &str = include_str!("found.md");

/// Counts of outcomes by fault, in the order in which they came.
#[derive(Default)]
pub struct Trials {
    rows: Vec<(String, String, usize)>,
    /// Fault, outcome, details.
    fallen: Vec<(String, String, String)>,
}

impl Trials {
    /// One trial; `fell` says what was wrong, if anything.
    pub fn add(&mut self, fault: &str, outcome: &str, fell: Option<String>) {
        if let Some(details) = fell {
            eprintln!("FELL: {fault}: {outcome}: {details}");
            self.fallen
                .push((fault.to_owned(), outcome.to_owned(), details));
        }
        let row = self
            .rows
            .iter_mut()
            .find(|row| row.0 == fault && row.1 == outcome);
        match row {
            Some(row) => row.2 += 1,
            None => self.rows.push((fault.to_owned(), outcome.to_owned(), 1)),
        }
    }

    /// Trials that fell.
    pub fn fallen(&self) -> usize {
        self.fallen.len()
    }

    /// Kills that met a running process.
    fn kills(&self) -> usize {
        let met = |row: &&(String, String, usize)| {
            row.0.starts_with("SIG") && !row.1.starts_with("finished before")
        };
        self.rows.iter().filter(met).map(|row| row.2).sum()
    }

    /// The report: `how` is the command and the machine.
    pub fn markdown(&self, how: &str, mutated: &str) -> String {
        let mut text = format!(
            "# Reliability\n\nWritten by `just soak`: {how}\n\nA trial falls where something is lost, doubled, \
             shown with other numbers, or where a command panics, hangs or gives no reason. `replicate` is the \
             smoke profile at its smallest with two arms, `eval-all` the micro student on 24 questions; \"same \
             bytes\" compares the hashes of all records and metrics, and the gates, with an undisturbed run. A third of the kills \
             waits for a file that is being written.{}\n\n{} kills met a running process; {} of {} trials fell.\n\n\
             | fault | outcome | trials |\n|---|---|---|\n",
            super::shards::HOW,
            self.kills(),
            self.fallen(),
            self.rows.iter().map(|row| row.2).sum::<usize>()
        );
        let mut sorted: Vec<_> = self.rows.iter().collect();
        let first = |fault: &str| self.rows.iter().position(|row| row.0 == fault);
        sorted.sort_by_key(|row| first(&row.0));
        for (fault, outcome, count) in sorted {
            let _ = writeln!(text, "| {fault} | {outcome} | {count} |");
        }
        text.push_str("\n## What fell\n\n");
        if self.fallen.is_empty() {
            text.push_str("Nothing.\n");
        }
        for (fault, outcome, details) in &self.fallen {
            let _ = writeln!(text, "- {fault}: {outcome}: {details}");
        }
        text.push_str(mutated);
        text.push_str(FOUND);
        text
    }
}
