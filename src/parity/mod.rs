//! Our numbers beside those of the reference libraries, check by check.
//!
//! A parity folder holds inputs and expected outputs of transformers, Captum and TRL (see
//! `golden/parity/README.md` for the layout). The cases are found in the folder itself, so that
//! folders with other seeds, sizes and configurations run unchanged. Every check is told as it is made; a
//! case that cannot be computed is a failed check.

mod blocks;
mod checks;
mod completeness;
mod folder;
mod generation;
mod grads;
mod grpo;
mod ig;
mod images;
mod model;
mod text;
mod tolerances;
mod vision;

use std::path::Path;

use anyhow::{Result, bail};
use candle_core::Device;
use regex::Regex;

pub use checks::{Check, Sink};
use checks::{CheckSummary, Checks};
use folder::Folder;

/// What came of a folder's checks.
pub struct ParityReport {
    pub summary: CheckSummary,
    /// The groups of the layout of which the folder has nothing.
    pub absent: Vec<&'static str>,
}

/// Runs every check of the folder `dir` whose name matches `only`, each given to `sink`; models run on
/// `device`, in f32.
///
/// # Errors
/// When the folder cannot be read, has no checks (or none that match), or `sink` fails.
/// A failed check is not an error: it is counted in the summary.
pub fn run<'a>(
    dir: &Path,
    device: &Device,
    only: Option<&'a Regex>,
    sink: &'a mut Sink<'a>,
) -> Result<ParityReport> {
    let folder = Folder::open(dir, device)?;
    let mut checks = Checks::new(folder.tolerances()?, only, sink);
    checks.case("manifest.json", |checks| completeness::run(&folder, checks))?;
    checks.case("images", |checks| images::run(&folder, checks))?;
    checks.case("texts", |checks| text::run(&folder, checks))?;
    for checkpoint in folder.checkpoints()? {
        // Loaded by the first group that needs it, and kept for the others.
        let mut loaded = folder::Loaded::new(&folder, &checkpoint);
        let group = |name: &str| format!("{name} of {checkpoint}");
        checks.case(&group("vision"), |checks| {
            vision::run(&folder, &mut loaded, checks)
        })?;
        checks.case(&group("model"), |checks| {
            model::run(&folder, &mut loaded, checks)
        })?;
        checks.case(&group("generation"), |checks| {
            generation::run(&folder, &mut loaded, checks)
        })?;
        checks.case(&group("grads"), |checks| {
            grads::run(&folder, &mut loaded, checks)
        })?;
        checks.case(&group("ig"), |checks| ig::run(&folder, &mut loaded, checks))?;
    }
    checks.case("ig", |checks| ig::divergences(&folder, checks))?;
    checks.case("ig", |checks| blocks::run(&folder, checks))?;
    checks.case("grpo", |checks| grpo::run(&folder, checks))?;
    let summary = checks.summary();
    if summary.passed + summary.failed == 0 {
        bail!(
            "nothing was checked: {} has no cases of the parity layout{}",
            dir.display(),
            if only.is_some() {
                " that --only matches"
            } else {
                ""
            }
        );
    }
    Ok(ParityReport {
        summary,
        absent: completeness::absent(&folder)?,
    })
}
