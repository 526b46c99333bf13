//! Our numbers beside those of the reference libraries, check by check.
//!
//! A parity folder holds inputs and expected outputs of transformers, Captum and TRL (see
//! `golden/parity/README.md` for the layout). The cases are found in the folder itself, so that
//! folders with other seeds, sizes and configurations run unchanged. Every check is one line; a case
//! that cannot be computed is a failed check.

mod blocks;
mod checks;
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

use std::io::Write;
use std::path::Path;

use anyhow::{Result, bail};
use regex::Regex;

use checks::Checks;
pub use checks::Summary;
use folder::Folder;

/// Runs every check of the folder `dir` whose name matches `only`, a line each on `out`.
///
/// # Errors
/// When the folder cannot be read, has no checks (or none that match), or `out` cannot be written.
/// A failed check is not an error: it is counted in the summary.
pub fn run(dir: &Path, only: Option<&Regex>, out: &mut dyn Write) -> Result<Summary> {
    let folder = Folder::open(dir)?;
    let mut checks = Checks::new(folder.tolerances()?, only, out);
    images::run(&folder, &mut checks)?;
    text::run(&folder, &mut checks)?;
    for checkpoint in folder.checkpoints()? {
        // Loaded by the first group that needs it, and kept for the others.
        let mut loaded = folder::Loaded::new(&folder, &checkpoint);
        vision::run(&folder, &mut loaded, &mut checks)?;
        model::run(&folder, &mut loaded, &mut checks)?;
        generation::run(&folder, &mut loaded, &mut checks)?;
        grads::run(&folder, &mut loaded, &mut checks)?;
        ig::run(&folder, &mut loaded, &mut checks)?;
    }
    ig::divergences(&folder, &mut checks)?;
    blocks::run(&folder, &mut checks)?;
    grpo::run(&folder, &mut checks)?;
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
    Ok(summary)
}
