//! Why predictions could not be scored.

use std::io;
use std::path::PathBuf;

use crate::judge::JudgeError;

/// Why rows could not be scored.
#[derive(Debug, thiserror::Error)]
pub enum PredictionsError {
    /// The predictions could not be read.
    #[error("cannot read the predictions {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// The scored rows could not be written.
    #[error("cannot write the scored rows to {}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// A row is not what the scorer needs.
    #[error("{}, line {line}: {problem}", .path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// The row's line, from 1 (in a JSON list or object: the row's number).
        line: usize,
        /// What was expected and what was found.
        problem: String,
    },
    /// No scorer fits.
    #[error("{0}")]
    NoScorer(String),
    /// The judge failed for good.
    #[error(transparent)]
    Judge(#[from] JudgeError),
}
