//! The names of a study's files, and how an error names one.

use std::path::{Path, PathBuf};

use crate::{Error, Result, error};

/// What every cell starts from.
pub const PROFILE: &str = "profile.toml";
/// Which arms and seeds with which changes.
pub const PARTS: &str = "parts.toml";
/// Seeds, settings, tests, rule.
pub const PREREGISTRATION: &str = "preregistration.toml";
/// Seconds that things take, for estimates; no part of what is frozen.
pub const COSTS: &str = "costs.toml";
/// The folder of the stages that cells share.
pub const SHARED: &str = "shared";
/// The reason why a cell failed, in its folder.
pub const ERROR: &str = "error.txt";
/// What a cell's process said, in its folder.
pub const LOG: &str = "log.txt";
/// What is still to be made.
pub const JOBS: &str = "jobs.jsonl";

/// An error that names a file or folder.
pub fn problem(path: &Path, problem: impl Into<String>) -> Error {
    Error::RunDirectory {
        path: path.to_owned(),
        problem: problem.into(),
    }
}

/// A file's text.
pub fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(error::at(path))
}

/// The folder of the stages that the cells in `out` share.
pub fn shared(out: &Path) -> PathBuf {
    out.join(SHARED)
}
