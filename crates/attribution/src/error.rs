//! What can go wrong, with what was expected and found.

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an attribution could not be computed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tensor or slice of the wrong shape.
    #[error("{what}: expected shape {expected}, found {found:?}")]
    Shape {
        /// The argument.
        what: &'static str,
        /// The shape that fits, in words.
        expected: String,
        /// The shape that was given.
        found: Vec<usize>,
    },
    /// A slice whose length does not match the tokens or blocks that it describes.
    #[error("{what}: expected {expected} entries, found {found}")]
    Length {
        /// The argument.
        what: &'static str,
        /// Entries that fit.
        expected: usize,
        /// Entries that were given.
        found: usize,
    },
    /// A token labelled with a block that does not exist.
    #[error("token {token} is labelled block {label}, but there are {count} blocks")]
    Label {
        /// The token's position.
        token: usize,
        /// Its label.
        label: usize,
        /// Number of blocks.
        count: usize,
    },
    /// A setting outside of its range.
    #[error("{what}: {why}")]
    Setting {
        /// The setting.
        what: &'static str,
        /// What is wrong and what to give instead.
        why: String,
    },
    /// A value that is infinite or not a number.
    #[error("{what} is {value}: an attribution needs finite values")]
    NonFinite {
        /// Where the value was met.
        what: String,
        /// The value.
        value: f64,
    },
    /// The function's result has no gradient with respect to its input.
    #[error(
        "the function's result does not depend differentiably on its input: an operator without \
         a backward pass cut the graph, or the input was detached"
    )]
    NoGradient,
    /// Attention rollout was asked for without attention matrices.
    #[error(
        "attention rollout needs the model's attention matrices, which these functions do not give"
    )]
    NoAttentions,
    /// A tensor operation failed, the caller's function included.
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
