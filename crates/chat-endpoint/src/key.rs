//! The API key: from the environment, to one header, and nowhere else.

use std::fmt;

/// A secret. It has no `Display` and no serialisation, and its `Debug` does not show it.
#[derive(Clone)]
pub struct ApiKey(String);

impl ApiKey {
    /// The key in the environment variable `variable`; `None` where it is unset or blank, which
    /// suits local servers.
    pub fn from_env(variable: &str) -> Option<Self> {
        let key = std::env::var(variable).ok()?;
        let key = key.trim();
        (!key.is_empty()).then(|| ApiKey(key.to_owned()))
    }

    /// The header's value.
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// `text` without the key: some servers quote it when they refuse it.
    pub(crate) fn blot_out(&self, text: &str) -> String {
        text.replace(&self.0, "[key]")
    }

    #[cfg(test)]
    pub(crate) fn for_test(key: &str) -> Self {
        ApiKey(key.to_owned())
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(hidden)")
    }
}
