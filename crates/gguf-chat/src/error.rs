//! What can go wrong with a GGUF file and with a question to it.

use std::path::PathBuf;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a model cannot be opened, or gives no reply.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that cannot be read.
    #[error("cannot read {path}: {reason}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        reason: String,
    },
    /// A file that is no GGUF file, or lacks what a chat needs.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        reason: String,
    },
    /// A question that this model does not take.
    #[error("{0}")]
    Question(String),
    /// A computation that failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}
