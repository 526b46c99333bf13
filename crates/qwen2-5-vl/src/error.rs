//! What can go wrong between a checkpoint's files and a sampled token.

use std::path::PathBuf;

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Errors of loading, running and saving a model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot read or write {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// `config.json` is not one of a model that this crate can build.
    #[error("{origin}: {message}")]
    Config {
        /// The file, or `configuration` for one made in memory.
        origin: String,
        /// What was found, what was expected.
        message: String,
    },
    /// A checkpoint's files are damaged, incomplete or of another model.
    #[error("{}: {message}", path.display())]
    Checkpoint {
        /// The file or folder.
        path: PathBuf,
        /// What was found, what was expected, what to do.
        message: String,
    },
    /// Image features, grids and image tokens do not agree.
    #[error("{0}")]
    Images(String),
    /// One of several prompts is at fault.
    #[error("prompt {index}: {error}")]
    Prompt {
        /// Which one, from 0.
        index: usize,
        /// What is wrong with it. Told in the message, and so no source.
        error: Box<Error>,
    },
    /// An argument that no model could serve.
    #[error("{0}")]
    Argument(String),
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// A fused operation failed.
    #[error(transparent)]
    Fused(#[from] fused_ops::Error),
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Error::Io { path, source }
    }

    /// The error with the number of the prompt, from 0, that it is about.
    pub fn of_prompt(index: usize) -> impl Fn(Self) -> Self {
        move |error| Error::Prompt {
            index,
            error: Box::new(error),
        }
    }

    pub(crate) fn checkpoint(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Error::Checkpoint {
            path: path.into(),
            message: message.into(),
        }
    }
}

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Candle(error) => error,
            other => candle_core::Error::wrap(other),
        }
    }
}
