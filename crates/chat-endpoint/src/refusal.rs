//! What a status other than 200, or an error in an answer, stands for.

use std::time::Duration;

use serde_json::Value;

use crate::error::Error;
use crate::excerpt::excerpt;

/// A server's refusal.
pub(crate) struct Refusal<'a> {
    /// The HTTP status, or the code of an error in the body.
    pub status: u16,
    /// How long the server asks to be left alone.
    pub retry_after: Option<Duration>,
    /// The body, without the key.
    pub body: &'a str,
    /// The parameters that the request had.
    pub sent: &'a [&'static str],
}

impl Refusal<'_> {
    /// The error that it stands for, at a server that gave completions before. At one that never
    /// did, `url` names it in what ends the run.
    pub fn error(&self, url: Option<&str>) -> Error {
        let Refusal {
            status,
            retry_after,
            body,
            ..
        } = *self;
        let message = excerpt(body);
        match status {
            401 | 403 => Error::Unauthorized { status, message },
            402 => Error::QuotaExhausted { message },
            429 if body.contains("insufficient_quota") => Error::QuotaExhausted { message },
            429 => Error::RateLimited {
                retry_after,
                message,
            },
            // Not implemented: it never will be.
            408 | 409 | 425 | 500 | 502.. => Error::Server {
                status,
                retry_after,
                message,
            },
            400 | 422 => match (self.refused_parameter(), url) {
                (Some(parameter), _) => Error::ParameterRefused {
                    parameter,
                    status,
                    message,
                },
                (None, Some(url)) if body.contains("model_not_found") => {
                    not_served(url, status, message)
                }
                (None, _) => Error::Rejected { status, message },
            },
            // What is too large is so for one question.
            411 | 413 | 414 | 431 => Error::Rejected { status, message },
            _ => match url {
                Some(url) => not_served(url, status, message),
                None => Error::Rejected { status, message },
            },
        }
    }

    /// The parameter of the request that the server does not take at all, whatever its value is.
    fn refused_parameter(&self) -> Option<&'static str> {
        const NOT_TAKEN: [&str; 15] = [
            "unsupported",
            "not supported",
            "not support",
            "n't support",
            "unrecognized",
            "unrecognised",
            "unknown",
            "unexpected",
            "not permitted",
            "not allowed",
            "extra_forbidden",
            "deprecated",
            "only the default",
            "no longer",
            "max_completion_tokens' instead",
        ];
        let body: Option<Value> = serde_json::from_str(self.body).ok();
        let error = body.as_ref().map(|body| body.get("error").unwrap_or(body));
        let field = |name: &str| error.and_then(|error| error.get(name)?.as_str());
        let message = field("message").unwrap_or(self.body).to_lowercase();
        let code = field("code").unwrap_or_default();
        if !NOT_TAKEN
            .iter()
            .any(|words| message.contains(words) || code.contains(words))
        {
            return None;
        }
        let is_sent = |name: &str| self.sent.iter().find(|sent| **sent == name).copied();
        let named = field("param").and_then(|param| is_sent(param.rsplit('.').next()?));
        named.or_else(|| {
            let places = self
                .sent
                .iter()
                .filter_map(|name| Some((place_of_word(&message, name)?, *name)));
            places.min().map(|(_, name)| name)
        })
    }
}

fn not_served(url: &str, status: u16, message: String) -> Error {
    Error::NotServed {
        url: url.to_owned(),
        status,
        message,
    }
}

/// Where `word` stands in `text` as a whole word.
fn place_of_word(text: &str, word: &str) -> Option<usize> {
    let is_of_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(word).map(|(at, _)| at).find(|at| {
        !text[..*at].ends_with(is_of_word) && !text[at + word.len()..].starts_with(is_of_word)
    })
}

/// The error that an error object in an answer with status 200 stands for: by its code where that
/// is one that no repetition mends.
pub(crate) fn in_answer(error: &Value) -> Error {
    let text = match error {
        Value::String(text) => text.clone(),
        _ => match error.get("message").and_then(Value::as_str) {
            Some(message) => message.to_owned(),
            None => error.to_string(),
        },
    };
    let code = error.get("code").and_then(|code| match code {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    });
    let is_quota = error.to_string().contains("insufficient_quota");
    match code {
        _ if is_quota => Error::QuotaExhausted {
            message: excerpt(&text),
        },
        Some(code @ (400..=407 | 410..=424 | 426..=451)) => Refusal {
            status: code as u16,
            retry_after: None,
            body: &text,
            sent: &[],
        }
        .error(None),
        _ if is_of_address(&text) => Error::NotACompletion {
            found: format!("an error: {}", excerpt(&text)),
        },
        _ => Error::InAnswer {
            message: excerpt(&text),
        },
    }
}

/// Whether an error's words say that nothing is served at that path: some servers say so with
/// status 200.
fn is_of_address(text: &str) -> bool {
    let text = text.to_lowercase();
    [
        "unexpected endpoint",
        "unknown endpoint",
        "unknown path",
        "unknown url",
        "invalid url",
        "no route",
        "route not found",
        "path not found",
        "page not found",
    ]
    .iter()
    .any(|words| text.contains(words))
        || text.trim() == "not found"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, body: &str, url: Option<&str>) -> Error {
        Refusal {
            status,
            retry_after: None,
            body,
            sent: &["temperature", "max_tokens", "seed"],
        }
        .error(url)
    }

    #[test]
    fn a_parameter_that_is_not_taken_is_told_from_a_value_that_is_not() {
        for (body, expected) in [
            (
                r#"{"error":{"message":"Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.","type":"invalid_request_error","param":"max_tokens","code":"unsupported_parameter"}}"#,
                Some("max_tokens"),
            ),
            (
                r#"{"error":{"message":"Unsupported value: 'temperature' does not support 0.0 with this model. Only the default (1) value is supported.","param":"temperature","code":"unsupported_value"}}"#,
                Some("temperature"),
            ),
            (
                r#"{"error":"`temperature` is deprecated for this model"}"#,
                Some("temperature"),
            ),
            (
                r#"{"detail":[{"type":"extra_forbidden","loc":["body","seed"],"msg":"Extra inputs are not permitted","input":1}]}"#,
                Some("seed"),
            ),
            (
                "use max_completion_tokens; max_tokens is no longer supported",
                Some("max_tokens"),
            ),
            (
                r#"{"message":"Unrecognized request argument supplied: max_tokens"}"#,
                Some("max_tokens"),
            ),
            (
                r#"{"object":"error","message":"'max_tokens' or 'max_completion_tokens' is too large: 512. This model's maximum context length is 256 tokens","code":400,"param":"max_tokens"}"#,
                None,
            ),
            (
                r#"{"error":{"message":"image input is not supported"}}"#,
                None,
            ),
            (r#"{"error":{"message":"top_p is not supported"}}"#, None),
            (
                r#"{"error":{"message":"temperatures are not supported"}}"#,
                None,
            ),
            ("image too large", None),
            ("", None),
        ] {
            for (status, url) in [(400, None), (422, Some("http://a"))] {
                match (refused(status, body, url), expected) {
                    (Error::ParameterRefused { parameter, .. }, Some(expected)) => {
                        assert_eq!(parameter, expected, "{body}");
                    }
                    (Error::Rejected { .. }, None) => {}
                    (error, _) => panic!("{body}: {error:?}"),
                }
            }
        }
    }

    #[test]
    fn a_server_that_never_answered_well_may_be_the_wrong_one() {
        for status in [204, 301, 307, 404, 405, 406, 410, 415, 421, 501] {
            let error = refused(status, "no", Some("http://a"));
            assert!(matches!(error, Error::NotServed { .. }), "{error:?}");
            assert!(
                error.ends_run() && error.to_string().contains("http://a"),
                "{error}"
            );
            let error = refused(status, "no", None);
            assert!(matches!(error, Error::Rejected { .. }), "{error:?}");
            assert!(!error.ends_run() && !error.is_transient());
        }
        let body = r#"{"error":{"code":"model_not_found","message":"no such model"}}"#;
        assert!(matches!(
            refused(400, body, Some("u")),
            Error::NotServed { .. }
        ));
        for status in [413, 431] {
            assert!(matches!(
                refused(status, "", Some("u")),
                Error::Rejected { .. }
            ));
        }
        for status in [408, 409, 425, 500, 502, 503, 504, 520, 529, 599] {
            assert!(refused(status, "", Some("u")).is_transient(), "{status}");
        }
    }
}
