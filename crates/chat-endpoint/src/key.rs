//! The API key: from the environment, to one header, and nowhere else.

use std::fmt;

use serde_json::Value;

/// What people set where a server of their own wants any key.
const PLACEHOLDERS: [&str; 9] = [
    "empty", "none", "null", "dummy", "token", "test", "fake", "local", "ollama",
];

/// No secret has fewer characters.
const SHORTEST_SECRET: usize = 4;

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

    /// `text` without the key: some servers quote it, in refusals and in answers. A word that only
    /// stands where a local server wants some key is no secret, and may be an answer's word.
    pub(crate) fn blot_out(&self, text: &str) -> String {
        let is_placeholder = PLACEHOLDERS
            .iter()
            .any(|word| word.eq_ignore_ascii_case(&self.0));
        if is_placeholder || self.0.chars().count() < SHORTEST_SECRET {
            return text.to_owned();
        }
        text.replace(&self.0, "[key]")
    }

    /// The same in every string of a JSON value, the names of fields included.
    pub(crate) fn blot_out_of(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.blot_out(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.blot_out_of(item)),
            Value::Object(fields) => {
                *fields = std::mem::take(fields)
                    .into_iter()
                    .map(|(name, mut value)| {
                        self.blot_out_of(&mut value);
                        (self.blot_out(&name), value)
                    })
                    .collect();
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
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
