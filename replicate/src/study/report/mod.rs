//! What a study's records say, as one page with pictures: `<out>/report.md`.
//!
//! The tuning parts are shown as far as they are there. The counted parts are looked at once: their
//! section says how many cells are missing until all cells of the tested arms are there.

mod arms;
mod composition;
mod counted;
mod map;
mod mechanism;
mod page;
mod screening;
mod tuning;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::Result;

use super::cell::StudyCell;
use super::freeze::Freeze;
use super::part::{Part, Phase};
use super::plan::Study;
use super::status::{State, state};

pub use page::Page;

/// The page's file name.
pub const REPORT: &str = "report.md";

/// Finished cells of one part and label.
pub(super) struct VariantCells<'c> {
    pub label: &'c str,
    pub cells: Vec<&'c StudyCell>,
}

impl VariantCells<'_> {
    /// Its arms in the order of the file.
    fn arms(&self) -> Vec<&str> {
        let mut arms: Vec<&str> = Vec::new();
        for cell in &self.cells {
            if !arms.contains(&cell.arm.name()) {
                arms.push(cell.arm.name());
            }
        }
        arms
    }
}

/// The cells of a study that are finished, and how many there should be.
pub(super) struct MadeCells<'s> {
    study: &'s Study,
    out: &'s Path,
    cells: Vec<(StudyCell, bool)>,
}

impl MadeCells<'_> {
    /// The cells of a part: how many are finished, how many there are.
    fn count(&self, part: &str) -> (usize, usize) {
        let own = || self.cells.iter().filter(|(cell, _)| cell.part == part);
        (own().filter(|(_, done)| *done).count(), own().count())
    }

    /// The counted parts whose arms the primary tests name, with the profile's own settings.
    fn tested_parts(&self) -> Vec<&Part> {
        let tests = &self.study.preregistration.tests;
        let named = |arm: &String| {
            let mut tested = tests.iter();
            tested.any(|test| test.arm == *arm || test.over.contains(arm))
        };
        let parts = self.study.parts.iter();
        parts
            .filter(|part| {
                let plain = part.base_seed.is_none() && part.set.is_empty();
                plain
                    && part.phase == Phase::Counted
                    && part.variants.is_empty()
                    && part.arms.iter().any(named)
            })
            .collect()
    }

    /// The finished cells of a part, by variant.
    fn variants(&self, part: &str) -> Vec<VariantCells<'_>> {
        let mut found: Vec<VariantCells<'_>> = Vec::new();
        for (cell, done) in &self.cells {
            if cell.part != part || !done {
                continue;
            }
            match found.iter_mut().find(|known| known.label == cell.label) {
                Some(known) => known.cells.push(cell),
                None => found.push(VariantCells {
                    label: &cell.label,
                    cells: vec![cell],
                }),
            }
        }
        found
    }
}

/// The page.
///
/// # Errors
/// A finished run that cannot be read.
pub fn report(study: &Study, freeze: Option<&Freeze>, out: &Path) -> Result<Page> {
    let cells = study.cells(freeze)?;
    let frozen = freeze.is_some();
    let cells = cells
        .into_iter()
        .map(|cell| {
            let done = state(&cell, out, frozen)? == State::Done;
            Ok((cell, done))
        })
        .collect::<Result<Vec<_>>>()?;
    let made = MadeCells { study, out, cells };
    let mut page = Page::default();
    let text = &mut page.text;
    text.push_str(
        "# The study\n\nWritten by `iapo study --report` from the runs in this folder; nothing \
                    in it is typed by hand. What is tested and by which rule stands in \
                    `preregistration.toml` beside `parts.toml`.\n",
    );
    if let Some(freeze) = freeze {
        let _ = write!(
            text,
            "\nFrozen by commit `{}`; the counted world's seed is {}.\n",
            freeze.commit,
            freeze.world_seed()
        );
    }
    text.push_str("\n## Cells\n\n");
    let rows: Vec<Vec<String>> = study
        .parts
        .iter()
        .map(|part| {
            let (done, all) = made.count(&part.name);
            let phase = match part.phase {
                Phase::World => "chooses the world",
                Phase::Tuning => "tunes",
                Phase::Counted => "counted",
            };
            vec![
                part.name.clone(),
                phase.to_owned(),
                all.to_string(),
                done.to_string(),
            ]
        })
        .collect();
    text.push_str(&results::markdown_table(
        &["part", "what for", "cells", "finished"],
        &rows,
    ));
    text.push('\n');
    counted::sections(&made, &mut page)?;
    for part in &study.parts {
        match part.phase {
            Phase::World => screening::section(&made, &part.name, &mut page.text)?,
            Phase::Tuning => tuning::section(&made, part, &mut page)?,
            Phase::Counted => {}
        }
    }
    Ok(page)
}

/// Writes the page with its pictures and returns its path.
///
/// # Errors
/// As [`report`]; a page that cannot be written.
pub fn write_report(study: &Study, freeze: Option<&Freeze>, out: &Path) -> Result<PathBuf> {
    let page = report(study, freeze, out)?;
    let path = out.join(REPORT);
    for (name, svg) in &page.pictures {
        results::write_atomically(&out.join(name), svg.as_bytes())?;
    }
    results::write_atomically(&path, page.text.as_bytes())?;
    Ok(path)
}
