//! Where a client asks, and how patiently.

use std::time::Duration;

use ureq::http::Uri;

use crate::error::Error;
use crate::usage::Prices;

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
    /// Attempts for one request, not counting those that a server was too busy for; three at most
    /// at an address where nobody ever answered, four where the answers are no completions.
    pub attempts: u32,
    /// The wait after the first failed attempt.
    pub first_wait: Duration,
    /// No wait between attempts is longer (before jitter), unless the server asks for it.
    pub longest_wait: Duration,
    /// How long the server may give no completion, all waits and attempts together, until it is
    /// given up; no request waits longer either.
    pub max_wait: Duration,
    /// Seed of the jitter.
    pub seed: u64,
    /// What tokens cost, where that is known.
    pub prices: Option<Prices>,
    /// Requests in a row without a connection after which no other is sent; `None`: each is tried,
    /// within `max_wait`.
    pub give_up_after: Option<u32>,
}

impl Settings {
    /// Four requests in flight, two minutes an attempt, eight attempts with waits from one second
    /// to one minute, the server given up after a quarter of an hour without a completion.
    pub fn new(url: impl Into<String>, model: impl Into<String>) -> Self {
        Settings {
            url: url.into(),
            model: model.into(),
            concurrency: 4,
            timeout: Duration::from_secs(120),
            attempts: 8,
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_secs(60),
            max_wait: Duration::from_secs(900),
            seed: 0,
            prices: None,
            give_up_after: None,
        }
    }

    /// The address of chat completions, and whether it is on this machine.
    ///
    /// # Errors
    /// [`Error::Setting`] for what cannot work.
    pub(crate) fn address(&self) -> Result<(String, bool), Error> {
        let settings = self;
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
        let is_local = host == "localhost" || host == "[::1]" || host.starts_with("127.");
        Ok((url, is_local))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting_error(change: impl FnOnce(&mut Settings)) -> String {
        let mut settings = Settings::new("http://localhost:8000/v1", "m");
        change(&mut settings);
        settings.address().unwrap_err().to_string()
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
            let (url, _) = Settings::new(given, "m").address().unwrap();
            assert_eq!(url, asked);
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
}
