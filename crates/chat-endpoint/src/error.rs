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
    /// Status 200 and a chat completion that lacks something.
    #[error("the answer has the wrong schema: expected {expected}, found {found}")]
    WrongSchema {
        /// The field and type that was looked for.
        expected: &'static str,
        /// The beginning of what stood there.
        found: String,
    },
    /// Status 200 and an error in the body, alone or beside a choice.
    #[error("the server answers with status 200 and an error: {message}")]
    InAnswer {
        /// The beginning of the error.
        message: String,
    },
    /// A completion that ended in a way that is not known to be good, or in none.
    #[error("the completion ended with `{reason}`, not with `stop` or `length`")]
    BadEnd {
        /// The server's `finish_reason`.
        reason: String,
    },
    /// Status 200 and something other than a chat completion, from a server that gave completions
    /// before.
    #[error("the answer is no chat completion but {found}")]
    NotACompletion {
        /// What it is, and its beginning.
        found: String,
    },
    /// The same from a server that never gave a completion.
    #[error(
        "{url} answers, but not with a chat completion: found {found}; give the base address of an \
         OpenAI-compatible API, like http://localhost:8000/v1"
    )]
    WrongAddress {
        /// The address asked.
        url: String,
        /// What came instead, and its beginning.
        found: String,
    },
    /// A status that says that nobody serves such requests there: a redirect, 404, 405, 415 and
    /// others, from a server that never gave a completion.
    #[error(
        "{url} does not serve chat completions of this model (status {status}): {message}; check the \
         address and the model's name"
    )]
    NotServed {
        /// The address asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The beginning of the server's answer.
        message: String,
    },
    /// The server does not take a parameter that every request has.
    #[error("the server refuses the parameter `{parameter}` (status {status}): {message}")]
    ParameterRefused {
        /// The parameter's name.
        parameter: &'static str,
        /// The HTTP status.
        status: u16,
        /// The beginning of the server's answer.
        message: String,
    },
    /// Nothing is left of the completion after the model's thinking.
    #[error(
        "all {}tokens went into reasoning and none into an answer; raise --max-new-tokens",
        .tokens.map(|tokens| format!("{tokens} ")).unwrap_or_default()
    )]
    ReasoningOnly {
        /// Tokens of the completion, where the server counts them.
        tokens: Option<u64>,
    },
    /// The server took a part of the completion for a call of a tool of its own interface.
    #[error(
        "the server took the completion for a native call of `{name}`, where the text was asked for; \
         start it without its parser of tool calls (vLLM: without --enable-auto-tool-choice)"
    )]
    NativeToolCall {
        /// The tool's name, as far as it is known.
        name: String,
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
    /// The account has no credit left (402, or 429 with the code `insufficient_quota`).
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
        self.is_of_answer()
            || matches!(
                self,
                Error::Timeout { .. }
                    | Error::Unreachable { .. }
                    | Error::RateLimited { .. }
                    | Error::Server { .. }
                    | Error::Cut { .. }
            )
    }

    /// Whether the server is there and answers, but with what is no completion to count.
    pub fn is_of_answer(&self) -> bool {
        matches!(
            self,
            Error::MalformedJson { .. }
                | Error::WrongSchema { .. }
                | Error::InAnswer { .. }
                | Error::BadEnd { .. }
                | Error::NotACompletion { .. }
                | Error::Filtered
        )
    }

    /// Whether the server only asks to be left alone for a while.
    pub fn is_busy(&self) -> bool {
        match self {
            Error::RateLimited { .. } => true,
            Error::Server { retry_after, .. } => retry_after.is_some(),
            _ => false,
        }
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
                | Error::WrongAddress { .. }
                | Error::NotServed { .. }
                | Error::ParameterRefused { .. }
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
