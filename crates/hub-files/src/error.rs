//! What can be wrong with a download.

#[cfg(feature = "hub")]
use std::path::Path;
use std::path::PathBuf;

/// Files that are not on this machine and cannot be had, or are not what they should be.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// A host that cannot be reached or lacks a file, or a file that is not what its host or the
    /// lock file says it is.
    #[error("download: {0}")]
    Download(String),
    /// A file or folder that cannot be read or written.
    #[error("cannot read or write {}", .file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A checkpoint that is not on this machine and cannot be had.
    #[error("no checkpoint '{name}': {problem}")]
    NoCheckpoint {
        /// Its name as given.
        name: String,
        /// What is wrong and what to type.
        problem: String,
    },
}

#[cfg(feature = "hub")]
pub(crate) fn problem(text: String) -> DownloadError {
    DownloadError::Download(text)
}

#[cfg(feature = "hub")]
pub(crate) fn io(file: &Path, source: std::io::Error) -> DownloadError {
    DownloadError::Io {
        file: file.to_owned(),
        source,
    }
}

/// Why a host did not answer.
#[cfg(feature = "hub")]
#[derive(Debug)]
pub(crate) struct Failure {
    pub reason: String,
    /// Asking again would not help.
    pub lasting: bool,
}

#[cfg(feature = "hub")]
impl Failure {
    pub fn lasting(reason: impl Into<String>) -> Self {
        Failure {
            reason: reason.into(),
            lasting: true,
        }
    }

    pub fn passing(reason: String) -> Self {
        Failure {
            reason,
            lasting: false,
        }
    }
}
