//! What can go wrong between a question and its completion.

use std::time::Duration;

use crate::cache::CacheError;

/// A request that brought no completion, and why.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No complete answer within the time allowed for one attempt.
    #[error("no answer from {url} within {} s; raise the timeout or lower the concurrency", .after.as_secs_f64())]
    Timeout {
        /// The address asked.
        url: String,
        /// The time allowed for one attempt.
        after: Duration,
    },
    /// No connection: the name does not resolve, nothing listens, TLS fails.
    #[error("cannot reach {url}: {reason}; is the server running?")]
    Unreachable {
        /// The address asked.
        url: String,
        /// What the connection said.
        reason: String,
    },
    /// Status 429.
    #[error("rate limited{}: {message}", .retry_after.map(|wait| format!(", retry after {:.1} s", wait.as_secs_f64())).unwrap_or_default())]
    RateLimited {
        /// How long the server asked to be left alone.
        retry_after: Option<Duration>,
        /// The beginning of the server's answer.
        message: String,
    },
    /// Status 5xx, or 408, 409, 425: worth another try.
    #[error("the server failed with status {status}: {message}")]
    Server {
        /// The HTTP status.
        status: u16,
        /// How long the server asked to be left alone.
        retry_after: Option<Duration>,
        /// The beginning of the server's answer.
        message: String,
    },
    /// The connection broke in the middle of an exchange.
    #[error("the connection was cut: {reason}")]
    Cut {
        /// What the transport said.
        reason: String,
    },
    /// Status 200 and a body that is not JSON.
    #[error("the answer is not JSON ({reason}): {excerpt}")]
    MalformedJson {
        /// What the JSON parser said.
        reason: String,
        /// The beginning of the body.
        excerpt: String,
    },
    /// Status 200 and JSON of another shape.
    #[error("the answer has the wrong schema: expected {expected}, found {found}")]
    WrongSchema {
        /// The field and type that was looked for.
        expected: &'static str,
        /// The beginning of what stood there.
        found: String,
    },
    /// The body is longer than any completion can be.
    #[error("the answer is longer than {limit} bytes")]
    TooLong {
        /// The limit in bytes.
        limit: u64,
    },
    /// Status 401 or 403.
    #[error(
        "the server refuses the key (status {status}): {message}; set the key's environment variable"
    )]
    Unauthorized {
        /// The HTTP status.
        status: u16,
        /// The beginning of the server's answer, the key blotted out.
        message: String,
    },
    /// The account has no credit left (429 with the code `insufficient_quota`).
    #[error("the account's quota is used up: {message}")]
    QuotaExhausted {
        /// The beginning of the server's answer.
        message: String,
    },
    /// Any other status: the same request would be refused again.
    #[error("the server refuses the request with status {status}: {message}")]
    Rejected {
        /// The HTTP status.
        status: u16,
        /// The beginning of the server's answer.
        message: String,
    },
    /// The server withheld the completion (`finish_reason` is `content_filter`).
    #[error("the server's content filter withheld the completion")]
    Filtered,
    /// The last of the allowed attempts failed too.
    #[error("gave up after {attempts} attempts: {last}")]
    Exhausted {
        /// How many attempts were made.
        attempts: u32,
        /// What the last one met. Told in the message, which is what records keep, and so no
        /// source.
        last: Box<Error>,
    },
    /// Not asked, because earlier requests showed that it would fail too.
    #[error("not asked: the requests before it showed that it would fail too")]
    NotAsked,
    /// An image could not be encoded as PNG.
    #[error("cannot encode an image of {width}x{height} pixels as PNG: {reason}")]
    Image {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// What the encoder said.
        reason: String,
    },
    /// A setting that cannot work.
    #[error("endpoint setting `{setting}`: expected {expected}, found {found}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// The cache on disk.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

impl Error {
    /// Whether the same request may succeed a moment later.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Error::Timeout { .. }
                | Error::Unreachable { .. }
                | Error::RateLimited { .. }
                | Error::Server { .. }
                | Error::Cut { .. }
                | Error::MalformedJson { .. }
                | Error::WrongSchema { .. }
        )
    }

    /// Whether no model was reached: no connection, no answer in time, one that was cut, or a
    /// gateway with nothing behind it.
    pub fn is_of_connection(&self) -> bool {
        match self {
            Error::Timeout { .. }
            | Error::Unreachable { .. }
            | Error::Cut { .. }
            | Error::Server {
                status: 502..=504, ..
            } => true,
            Error::Exhausted { last, .. } => last.is_of_connection(),
            _ => false,
        }
    }

    /// Whether every further request would fail in the same way, so that the run should end.
    pub fn ends_run(&self) -> bool {
        matches!(
            self,
            Error::Unauthorized { .. }
                | Error::QuotaExhausted { .. }
                | Error::Setting { .. }
                | Error::Cache(_)
        )
    }

    /// How long the server asked to be left alone, if it did.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::RateLimited { retry_after, .. } | Error::Server { retry_after, .. } => {
                *retry_after
            }
            _ => None,
        }
    }
}
