//! What can go wrong, with what was expected and found.

use std::path::PathBuf;

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a loss or an update could not be computed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A slice or tensor whose length does not match its companions.
    #[error("{what}: expected {expected} entries, found {found}")]
    Length {
        /// The argument.
        what: &'static str,
        /// Entries that fit.
        expected: usize,
        /// Entries that were given.
        found: usize,
    },
    /// A token of a sequence that has no advantage.
    #[error("token {token} belongs to sequence {sequence}, but there are {count} advantages")]
    Sequence {
        /// The token's position.
        token: usize,
        /// Its sequence.
        sequence: usize,
        /// Number of sequences.
        count: usize,
    },
    /// A setting outside of its range, or without what it needs.
    #[error("{what}: {why}")]
    Setting {
        /// The setting.
        what: &'static str,
        /// What is wrong and what to give instead.
        why: String,
    },
    /// A value that is infinite or not a number.
    #[error("{what} is {value}: finite values are needed")]
    NonFinite {
        /// Where the value was met.
        what: String,
        /// The value.
        value: f64,
    },
    /// A gradient or saved state whose shape is not its parameter's.
    #[error("{what} of parameter `{name}`: expected shape {expected:?}, found {found:?}")]
    Shape {
        /// Gradient or state.
        what: &'static str,
        /// The parameter.
        name: String,
        /// The parameter's shape.
        expected: Vec<usize>,
        /// What was found.
        found: Vec<usize>,
    },
    /// A gradient for a parameter that is not being optimised.
    #[error("there is a gradient for `{name}`, which is not among the parameters of this step")]
    UnknownParameter {
        /// The parameter.
        name: String,
    },
    /// A state file that does not belong to these parameters.
    #[error("optimiser state {path}: {why}")]
    State {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// A state file that cannot be read or written.
    #[error("cannot read or write the optimiser state {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// `value` if it is finite, else an error that names it.
pub(crate) fn finite(what: impl FnOnce() -> String, value: f64) -> Result<f64> {
    if value.is_finite() {
        Ok(value)
    } else {
        Err(Error::NonFinite {
            what: what(),
            value,
        })
    }
}

/// An error unless `found` entries are as many as `expected`.
pub(crate) fn expect_length(what: &'static str, expected: usize, found: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Length {
        what,
        expected,
        found,
    })
}
