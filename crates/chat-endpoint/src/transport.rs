//! One exchange with a server, bounded in bytes and time.

use std::io::ErrorKind;
use std::time::{Duration, SystemTime};

use ureq::http::{HeaderMap, StatusCode};

use crate::cache::Cached;
use crate::error::Error;
use crate::key::ApiKey;
use crate::refusal::Refusal;
use crate::settings::Settings;
use crate::{response, retry_after};

/// A completion's body is kilobytes; this is a guard against a server that never ends.
const LONGEST_ANSWER: u64 = 16 << 20;

/// A server's address, and the key for it.
#[derive(Debug)]
pub(crate) struct Transport {
    /// The address of chat completions.
    pub url: String,
    agent: ureq::Agent,
    key: Option<ApiKey>,
    timeout: Duration,
}

/// What came of one exchange.
pub(crate) struct Exchange {
    /// The completion, or what came instead.
    pub outcome: Result<Cached, Error>,
    /// Whether anything answered, were it with an error.
    pub is_answered: bool,
    /// How long the server's allowance is used up.
    pub used_up: Option<Duration>,
}

impl Transport {
    /// For the server at `settings.url`.
    pub(crate) fn new(settings: &Settings, key: Option<ApiKey>) -> Result<Self, Error> {
        let (url, is_local) = settings.address()?;
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // A redirect would carry images, and perhaps the key, to another host.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(settings.timeout))
            .max_idle_connections_per_host(settings.concurrency)
            .user_agent(concat!("iapo/", env!("CARGO_PKG_VERSION")));
        if is_local {
            config = config.proxy(None);
        }
        Ok(Transport {
            url,
            agent: config.build().new_agent(),
            key,
            timeout: settings.timeout,
        })
    }

    /// Sends `body`, whose parameters are `sent`. `is_proven`: the server gave completions before.
    pub(crate) fn exchange(&self, body: &str, sent: &[&'static str], is_proven: bool) -> Exchange {
        let mut request = self
            .agent
            .post(&self.url)
            .header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("authorization", key.bearer());
        }
        let mut response = match request.send(body) {
            Ok(response) => response,
            Err(error) => {
                return Exchange {
                    outcome: Err(self.failure(error)),
                    is_answered: false,
                    used_up: None,
                };
            }
        };
        let status = response.status();
        let answer = response
            .body_mut()
            .with_config()
            .limit(LONGEST_ANSWER)
            .read_to_vec();
        let outcome = match status {
            StatusCode::OK => answer
                .map_err(|error| self.failure(error))
                .and_then(|answer| response::read(&answer, self.key.as_ref()))
                .map_err(|error| match error {
                    Error::NotACompletion { found } if !is_proven => Error::WrongAddress {
                        url: self.url.clone(),
                        found,
                    },
                    error => error,
                }),
            // The status says enough where the text that explains it cannot be read.
            _ => Err(self.refusal(
                status,
                response.headers(),
                &String::from_utf8_lossy(&answer.unwrap_or_default()),
                sent,
                is_proven,
            )),
        };
        Exchange {
            used_up: retry_after::used_up(|name| header(response.headers(), name)),
            outcome,
            is_answered: true,
        }
    }

    /// The error of an exchange that did not end.
    fn failure(&self, error: ureq::Error) -> Error {
        let url = self.url.clone();
        match error {
            ureq::Error::Timeout(_) => Error::Timeout {
                url,
                after: self.timeout,
            },
            ureq::Error::Io(error) if error.kind() == ErrorKind::TimedOut => Error::Timeout {
                url,
                after: self.timeout,
            },
            ureq::Error::BodyExceedsLimit(limit) => Error::TooLong { limit },
            ureq::Error::Io(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionRefused
                        | ErrorKind::HostUnreachable
                        | ErrorKind::NetworkUnreachable
                        | ErrorKind::AddrNotAvailable
                ) =>
            {
                Error::Unreachable {
                    url,
                    reason: error.to_string(),
                }
            }
            error @ (ureq::Error::HostNotFound
            | ureq::Error::ConnectionFailed
            | ureq::Error::ConnectProxyFailed(_)
            | ureq::Error::Tls(_)
            | ureq::Error::Rustls(_)) => Error::Unreachable {
                url,
                reason: error.to_string(),
            },
            error => Error::Cut {
                reason: error.to_string(),
            },
        }
    }

    /// The error that a status other than 200 stands for.
    fn refusal(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        answer: &str,
        sent: &[&'static str],
        is_proven: bool,
    ) -> Error {
        let mut body = answer.to_owned();
        if status.is_redirection() {
            let to = header(headers, "location").unwrap_or("nowhere");
            let to = to.split(['?', '#']).next().unwrap_or(to);
            body = format!(
                "it sends on to {to}, where a request is not carried for the key's sake; give the \
                 final address"
            );
        }
        if let Some(key) = &self.key {
            body = key.blot_out(&body);
        }
        Refusal {
            status: status.as_u16(),
            retry_after: retry_after::retry_after(|name| header(headers, name), SystemTime::now()),
            body: &body,
            sent,
        }
        .error((!is_proven).then_some(&self.url))
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> Error {
        let key = ApiKey::for_test("sk-very-secret");
        let settings = Settings::new("http://localhost:1", "m");
        let transport = Transport::new(&settings, Some(key)).unwrap();
        assert!(!format!("{transport:?}").contains("very-secret"));
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        let status = StatusCode::from_u16(status).unwrap();
        transport.refusal(status, &headers, body, &[], false)
    }

    #[test]
    fn the_key_is_in_no_debug_output_and_no_error() {
        let error = refused(401, &[], "Incorrect API key provided: sk-very-secret.");
        assert!(!format!("{error} {error:?}").contains("very-secret"));
        assert!(error.to_string().contains("[key]"));
        let location = "https://b.example/v1?key=other#sk-very-secret";
        let error = refused(307, &[("location", location)], "");
        assert!(!format!("{error} {error:?}").contains("secret"));
        assert!(
            error.to_string().contains("https://b.example/v1,"),
            "{error}"
        );
        assert!(matches!(error, Error::NotServed { status: 307, .. }));
    }
}
