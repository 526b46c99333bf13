//! What can go wrong with the files of a run.

use std::path::PathBuf;

/// An error of this crate. Each names what was read, what was found, and what to do next; the
/// system's or the parser's own words are its source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried: `read`, `write`, `list`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A JSON file does not hold what it should.
    #[error("{}: not a file of this version of iapo, or damaged", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's reason, with its own line and column.
        source: serde_json::Error,
    },
    /// A line of a JSON Lines file does not hold what it should.
    #[error("{}, line {line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Why it is refused.
        reason: String,
    },
    /// A value that must not be written.
    #[error("refusing to write {}, row {row}: {reason}", path.display())]
    Refused {
        /// The file that was to be written.
        path: PathBuf,
        /// The row, from 1.
        row: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// Fewer lines than a checkpoint says were written.
    #[error(
        "{}: has {found} whole lines, the checkpoint says {expected}: the file was cut; start this run again without --resume",
        path.display()
    )]
    TooFewLines {
        /// The file.
        path: PathBuf,
        /// Lines that the checkpoint counts.
        expected: usize,
        /// Lines found.
        found: usize,
    },
    /// A file that is not what was written.
    #[error("{}: damaged: expected {expected}, found {found}; {advice}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What it must hold.
        expected: String,
        /// What it holds.
        found: String,
        /// What to do.
        advice: String,
    },
    /// An arm's name that cannot be a folder's.
    #[error("arm '{0}': expected a name of a-z, 0-9 and '-', as in 'vtool-r1'")]
    ArmName(String),
    /// A folder without runs.
    #[error(
        "{}: no run in it: expected <arm>/seed-<n>/records.jsonl, as `iapo replicate --out DIR` writes them",
        path.display()
    )]
    NoRuns {
        /// The folder that was searched.
        path: PathBuf,
    },
    /// Runs that cannot stand in one table.
    #[error("{first} and {second} cannot share a table: {reason}")]
    Mixed {
        /// One of them.
        first: String,
        /// The other.
        second: String,
        /// Why.
        reason: String,
    },
    /// `golden/paper.toml` says something impossible.
    #[error("paper.toml: {0}")]
    Paper(String),
    /// `golden/errata.toml` says something impossible.
    #[error("errata.toml: {0}")]
    Errata(String),
    /// A plot could not be drawn.
    #[error("cannot draw {what}: {reason}")]
    Plot {
        /// The plot.
        what: &'static str,
        /// The drawing library's reason.
        reason: String,
    },
}

impl Error {
    pub(crate) fn io(
        action: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| Error::Io {
            action,
            path,
            source,
        }
    }
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
