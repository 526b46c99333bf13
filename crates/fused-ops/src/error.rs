//! What can go wrong in an operator.

use candle_core::Tensor;

/// The result of an operator.
pub type Result<T> = std::result::Result<T, Error>;

/// An operator refused its input, or candle failed underneath.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An argument's shape does not fit the operator or another argument.
    #[error("{operator}: {argument} must have shape {expected}, found {found:?}")]
    Shape {
        /// The operator that refused.
        operator: &'static str,
        /// The argument at fault.
        argument: &'static str,
        /// The shape that was expected, in words.
        expected: String,
        /// The shape that was passed.
        found: Vec<usize>,
    },
    /// An argument's value is outside the operator's domain.
    #[error("{operator}: {reason}")]
    Value {
        /// The operator that refused.
        operator: &'static str,
        /// What was wrong and what was expected.
        reason: String,
    },
    /// An attention layout that is not well formed.
    #[error("attention layout: {0}")]
    Layout(String),
    /// The environment asks for something that there is none of.
    #[error("{0}")]
    Environment(String),
    /// candle failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Candle(error) => error,
            other => candle_core::Error::wrap(other),
        }
    }
}

/// The [`Error::Shape`] for `tensor`.
pub(crate) fn shape_error(
    operator: &'static str,
    argument: &'static str,
    expected: impl Into<String>,
    tensor: &Tensor,
) -> Error {
    Error::Shape {
        operator,
        argument,
        expected: expected.into(),
        found: tensor.dims().to_vec(),
    }
}

/// The [`Error::Value`] with `reason`.
pub(crate) fn value_error(operator: &'static str, reason: impl Into<String>) -> Error {
    Error::Value {
        operator,
        reason: reason.into(),
    }
}
