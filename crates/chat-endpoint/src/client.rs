//! One server, asked by a bounded number of threads, each request until it has an answer or has
//! used up its attempts.
//!
//! The wait before attempt k+1 is `first_wait · 2^(k-1)`, at most `longest_wait`, plus a jitter
//! drawn uniformly from (0, that); where the server says when to come back, that instead, for all
//! threads, plus the first wait's jitter so that they do not come back at once.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use agent::Conversation;
use backon::{BackoffBuilder, ExponentialBuilder};
use ureq::http::{HeaderMap, StatusCode, Uri};

use crate::cache::{Cache, Cached};
use crate::error::Error;
use crate::key::ApiKey;
use crate::outage::Outage;
use crate::pause::Pause;
use crate::retry_after;
use crate::usage::{Prices, Usage};
use crate::wire::{self, Reply, SamplingParameters, cache_key};

/// A completion's body is kilobytes; this is a guard against a server that never ends.
const LONGEST_ANSWER: u64 = 16 << 20;

/// Attempts for one request at a server that has never answered: a wrong address shows within
/// seconds, where one that answered before may be coming back.
const FIRST_ATTEMPTS: u32 = 3;

/// Where to ask, and how patiently.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The API's base address, `http://localhost:8000/v1`; `/v1` is added where the address has
    /// no path.
    pub url: String,
    /// The model's name on that server.
    pub model: String,
    /// Requests in flight at once.
    pub concurrency: usize,
    /// Time allowed for one attempt, from connecting to the last byte.
    pub timeout: Duration,
    /// Attempts for one request; at an address where nobody ever answered, three at most.
    pub attempts: u32,
    /// The wait after the first failed attempt.
    pub first_wait: Duration,
    /// No wait is longer (before jitter); a server that asks for more has its request given up.
    pub longest_wait: Duration,
    /// Seed of the jitter.
    pub seed: u64,
    /// What tokens cost, where that is known.
    pub prices: Option<Prices>,
    /// Requests in a row without a connection after which no other is sent; `None`: each is tried.
    pub give_up_after: Option<u32>,
}

impl Settings {
    /// Four requests in flight, two minutes an attempt, eight attempts with waits from one second
    /// to one minute, never giving the server up.
    pub fn new(url: impl Into<String>, model: impl Into<String>) -> Self {
        Settings {
            url: url.into(),
            model: model.into(),
            concurrency: 4,
            timeout: Duration::from_secs(120),
            attempts: 8,
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_secs(60),
            seed: 0,
            prices: None,
            give_up_after: None,
        }
    }
}

/// A server, a key, a cache. Shared by reference between threads.
#[derive(Debug)]
pub struct Client {
    settings: Settings,
    /// The address of chat completions.
    url: String,
    agent: ureq::Agent,
    key: Option<ApiKey>,
    cache: Option<Cache>,
    pause: Pause,
    usage: Mutex<Usage>,
    outage: Outage,
    /// Whether the server has ever answered, were it with an error.
    answered: AtomicBool,
}

impl Client {
    /// A client of the server at `settings.url`. Nothing is asked yet.
    ///
    /// # Errors
    /// [`Error::Setting`] for an address that is not http(s), no model, or no concurrency or
    /// attempts.
    pub fn new(
        settings: Settings,
        key: Option<ApiKey>,
        cache: Option<Cache>,
    ) -> Result<Self, Error> {
        let setting = |setting, expected, found: &dyn std::fmt::Display| Error::Setting {
            setting,
            expected,
            found: found.to_string(),
        };
        let address = "an address like http://localhost:8000/v1";
        let uri: Uri = settings
            .url
            .parse()
            .map_err(|_| setting("url", address, &settings.url))?;
        let (Some("http" | "https"), Some(host)) = (uri.scheme_str(), uri.host()) else {
            return Err(setting("url", address, &settings.url));
        };
        if uri
            .authority()
            .is_some_and(|authority| authority.as_str().contains('@'))
        {
            return Err(setting(
                "url",
                "no user or password in the address",
                &"some",
            ));
        }
        if settings.model.is_empty() {
            return Err(setting("model", "the model's name on the server", &"''"));
        }
        if settings.concurrency == 0 {
            return Err(setting("concurrency", "at least 1", &0));
        }
        if settings.attempts == 0 {
            return Err(setting("attempts", "at least 1", &0));
        }

        let base = settings.url.trim_end_matches('/');
        let url = if base.ends_with("/chat/completions") {
            base.to_owned()
        } else if uri.path() == "/" || uri.path().is_empty() {
            format!("{base}/v1/chat/completions")
        } else {
            format!("{base}/chat/completions")
        };
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // A redirect would carry images, and perhaps the key, to another host.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(settings.timeout))
            .max_idle_connections_per_host(settings.concurrency)
            .user_agent(concat!("iapo/", env!("CARGO_PKG_VERSION")));
        if host == "localhost" || host == "[::1]" || host.starts_with("127.") {
            config = config.proxy(None);
        }
        Ok(Client {
            url,
            agent: config.build().new_agent(),
            key,
            cache,
            pause: Pause::default(),
            usage: Mutex::new(Usage {
                cost: settings.prices.map(|_| 0.0),
                ..Usage::default()
            }),
            outage: Outage::default(),
            answered: AtomicBool::new(false),
            settings,
        })
    }

    /// The settings it was made with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What it has done so far.
    pub fn usage(&self) -> Usage {
        *self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the server was given up ([`Settings::give_up_after`]); `None` while it is not. From then
    /// on only the cache answers.
    pub fn given_up(&self) -> Option<String> {
        self.outage.longer_than(self.settings.give_up_after?)
    }

    /// Completions of all `requests`, in their order, a failed one as an error in its place.
    ///
    /// # Errors
    /// What ends the run ([`Error::ends_run`]): the rest is then not asked. Completions that came
    /// before are in the cache.
    pub fn chat_all(
        &self,
        requests: &[(&Conversation, SamplingParameters)],
    ) -> Result<Vec<Result<Reply, Error>>, Error> {
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let threads = self.settings.concurrency.min(requests.len());
        let mut answered: Vec<(usize, Result<Reply, Error>)> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    scope.spawn(|| {
                        let mut answered = Vec::new();
                        loop {
                            let index = next.fetch_add(1, Ordering::Relaxed);
                            let Some((conversation, parameters)) = requests.get(index) else {
                                return answered;
                            };
                            let reply = if stop.load(Ordering::Relaxed) {
                                Err(Error::NotAsked)
                            } else {
                                self.chat(conversation, parameters)
                            };
                            if reply.as_ref().is_err_and(Error::ends_run) {
                                stop.store(true, Ordering::Relaxed);
                            }
                            answered.push((index, reply));
                        }
                    })
                })
                .collect();
            workers
                .into_iter()
                .flat_map(|worker| match worker.join() {
                    Ok(answered) => answered,
                    Err(panic) => std::panic::resume_unwind(panic),
                })
                .collect()
        });
        if let Some(place) = answered
            .iter()
            .position(|(_, reply)| reply.as_ref().is_err_and(Error::ends_run))
            && let (_, Err(error)) = answered.swap_remove(place)
        {
            return Err(error);
        }
        answered.sort_by_key(|(index, _)| *index);
        Ok(answered.into_iter().map(|(_, reply)| reply).collect())
    }

    /// One completion: from the cache, or from the server and then into the cache.
    ///
    /// # Errors
    /// [`Error::Exhausted`] when every attempt failed in a way that another might not have, the
    /// error itself where no further attempt could help.
    pub fn chat(
        &self,
        conversation: &Conversation,
        parameters: &SamplingParameters,
    ) -> Result<Reply, Error> {
        let key = cache_key(&self.settings.model, conversation, parameters);
        if let Some(completion) = self.cache.as_ref().and_then(|cache| cache.get(&key)) {
            self.count(|usage| usage.from_cache += 1);
            return Ok(Reply {
                completion,
                from_cache: true,
            });
        }
        if self.given_up().is_some() {
            return Err(Error::NotAsked);
        }
        let reply = wire::body(&self.settings.model, conversation, parameters)
            .and_then(|body| self.persist(&body, &key));
        let completion = match reply {
            Ok(completion) => completion,
            Err(error) => {
                self.count(|usage| usage.failed += 1);
                return Err(error);
            }
        };
        if let Some(cache) = &self.cache {
            cache.put(key, completion.clone())?;
        }
        self.count(|usage| {
            usage.completions += 1;
            match (completion.prompt_tokens, completion.completion_tokens) {
                (None, None) => usage.uncounted += 1,
                (prompt, completion) => {
                    let (prompt, completion) = (prompt.unwrap_or(0), completion.unwrap_or(0));
                    usage.prompt_tokens += prompt;
                    usage.completion_tokens += completion;
                    if let (Some(prices), Some(cost)) = (self.settings.prices, &mut usage.cost) {
                        *cost += (prompt as f64 * prices.prompt
                            + completion as f64 * prices.completion)
                            / 1e6;
                    }
                }
            }
        });
        Ok(Reply {
            completion,
            from_cache: false,
        })
    }

    /// Attempts until one succeeds, cannot succeed, or was the last.
    fn persist(&self, body: &str, key: &blake3::Hash) -> Result<Cached, Error> {
        let reply = self.attempts(body, key);
        self.outage.note(reply.as_ref().err());
        reply
    }

    fn attempts(&self, body: &str, key: &blake3::Hash) -> Result<Cached, Error> {
        let settings = &self.settings;
        // Each request has a jitter of its own, the same in every run.
        let [a, b, c, d, e, f, g, h, ..] = *key.as_bytes();
        let mut waits = ExponentialBuilder::new()
            .with_min_delay(settings.first_wait)
            .with_max_delay(settings.longest_wait)
            .without_max_times()
            .with_jitter()
            .with_jitter_seed(settings.seed ^ u64::from_le_bytes([a, b, c, d, e, f, g, h]))
            .build();
        let mut wait = waits.next().unwrap_or(settings.first_wait);
        let jitter = wait.saturating_sub(settings.first_wait);
        let mut attempts = 0;
        loop {
            self.pause.wait();
            attempts += 1;
            self.count(|usage| usage.requests += 1);
            let error = match self.attempt(body) {
                Ok(completion) => return Ok(completion),
                Err(error) if !error.is_transient() => return Err(error),
                Err(error) => error,
            };
            let asked = error.retry_after();
            let too_long = asked.is_some_and(|asked| asked > settings.longest_wait);
            let never_there = matches!(error, Error::Unreachable { .. })
                && !self.answered.load(Ordering::Relaxed)
                && attempts >= FIRST_ATTEMPTS;
            let last = attempts >= settings.attempts || never_there || self.given_up().is_some();
            if last || too_long {
                return Err(Error::Exhausted {
                    attempts,
                    last: Box::new(error),
                });
            }
            if let Some(asked) = asked {
                self.pause.extend_to(asked);
                wait = asked + jitter;
            }
            // Counted before the wait, so that whoever watches sees what it is for.
            self.count(|usage| usage.retries += 1);
            std::thread::sleep(wait);
            wait = waits.next().unwrap_or(settings.longest_wait);
        }
    }

    fn attempt(&self, body: &str) -> Result<Cached, Error> {
        let mut request = self
            .agent
            .post(&self.url)
            .header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("authorization", key.bearer());
        }
        let mut response = request.send(body).map_err(|error| self.failure(error))?;
        self.answered.store(true, Ordering::Relaxed);
        let status = response.status();
        let answer = response
            .body_mut()
            .with_config()
            .limit(LONGEST_ANSWER)
            .lossy_utf8(true)
            .read_to_string();
        if status == StatusCode::OK {
            let completion = answer
                .map_err(|error| self.failure(error))
                .and_then(|answer| wire::read(&answer))?;
            if let Some(wait) = retry_after::used_up(|name| header(response.headers(), name)) {
                self.pause.extend_to(wait.min(self.settings.longest_wait));
            }
            return Ok(completion);
        }
        // The status says enough where the text that explains it cannot be read.
        Err(self.refusal(status, response.headers(), &answer.unwrap_or_default()))
    }

    /// The error of an exchange that did not end.
    fn failure(&self, error: ureq::Error) -> Error {
        let url = self.url.clone();
        match error {
            ureq::Error::Timeout(_) => Error::Timeout {
                url,
                after: self.settings.timeout,
            },
            ureq::Error::Io(error) if error.kind() == ErrorKind::TimedOut => Error::Timeout {
                url,
                after: self.settings.timeout,
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
    fn refusal(&self, status: StatusCode, headers: &HeaderMap, answer: &str) -> Error {
        let message = match &self.key {
            Some(key) => wire::excerpt(&key.blot_out(answer)),
            None => wire::excerpt(answer),
        };
        let retry_after = retry_after::retry_after(|name| header(headers, name), SystemTime::now());
        match status.as_u16() {
            401 | 403 => Error::Unauthorized {
                status: status.as_u16(),
                message,
            },
            429 if answer.contains("insufficient_quota") => Error::QuotaExhausted { message },
            429 => Error::RateLimited {
                retry_after,
                message,
            },
            status @ (408 | 409 | 425 | 500..) => Error::Server {
                status,
                retry_after,
                message,
            },
            status => Error::Rejected { status, message },
        }
    }

    fn count(&self, change: impl FnOnce(&mut Usage)) {
        change(&mut self.usage.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting_error(change: impl FnOnce(&mut Settings)) -> String {
        let mut settings = Settings::new("http://localhost:8000/v1", "m");
        change(&mut settings);
        Client::new(settings, None, None).unwrap_err().to_string()
    }

    #[test]
    fn addresses() {
        for (given, asked) in [
            (
                "http://localhost:8000",
                "http://localhost:8000/v1/chat/completions",
            ),
            (
                "http://localhost:8000/",
                "http://localhost:8000/v1/chat/completions",
            ),
            (
                "http://localhost:8000/v1/",
                "http://localhost:8000/v1/chat/completions",
            ),
            (
                "https://a.example/openai",
                "https://a.example/openai/chat/completions",
            ),
            (
                "https://a.example/v1/chat/completions",
                "https://a.example/v1/chat/completions",
            ),
        ] {
            let client = Client::new(Settings::new(given, "m"), None, None).unwrap();
            assert_eq!(client.url, asked);
        }
    }

    #[test]
    fn settings_that_cannot_work() {
        for url in ["", "localhost:8000", "ftp://a/b", "/v1", "http://"] {
            let error = setting_error(|settings| settings.url = url.into());
            assert!(
                error.contains("endpoint setting `url`: expected an address"),
                "{url}: {error}"
            );
        }
        let error = setting_error(|settings| settings.url = "http://me:secret@host/v1".into());
        assert!(!error.contains("secret"), "{error}");
        assert!(setting_error(|settings| settings.model.clear()).contains("`model`"));
        assert!(setting_error(|settings| settings.concurrency = 0).contains("`concurrency`"));
        assert!(setting_error(|settings| settings.attempts = 0).contains("`attempts`"));
    }

    #[test]
    fn the_key_is_in_no_debug_output_and_no_error() {
        let key = ApiKey::for_test("sk-very-secret");
        let client =
            Client::new(Settings::new("http://localhost:1", "m"), Some(key), None).unwrap();
        assert!(!format!("{client:?}").contains("very-secret"));
        let error = client.refusal(
            StatusCode::UNAUTHORIZED,
            &HeaderMap::new(),
            "Incorrect API key provided: sk-very-secret.",
        );
        assert!(!format!("{error} {error:?}").contains("very-secret"));
        assert!(error.to_string().contains("[key]"));
    }
}
