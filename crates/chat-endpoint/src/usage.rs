//! What a client did, in requests, tokens and money.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a vendor charges, in its currency per million tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prices {
    /// For tokens of the prompt.
    pub prompt: f64,
    /// For tokens of the completion.
    pub completion: f64,
}

/// What a client has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Requests sent, every attempt counted.
    pub requests: u64,
    /// Completions had from the server.
    pub completions: u64,
    /// Completions had from the cache; their tokens are not counted again.
    pub from_cache: u64,
    /// Requests that brought no completion.
    pub failed: u64,
    /// Attempts beyond the first of a request.
    pub retries: u64,
    /// Tokens of prompts, as the server counts them.
    pub prompt_tokens: u64,
    /// Tokens of completions, as the server counts them.
    pub completion_tokens: u64,
    /// Completions whose tokens the server did not count.
    pub uncounted: u64,
    /// Price of the counted tokens, where prices are set.
    pub cost: Option<f64>,
}

impl Usage {
    /// The counts by name, in the order of the fields.
    pub fn counts(&self) -> [(&'static str, u64); 8] {
        [
            ("requests", self.requests),
            ("completions", self.completions),
            ("from_cache", self.from_cache),
            ("failed", self.failed),
            ("retries", self.retries),
            ("prompt_tokens", self.prompt_tokens),
            ("completion_tokens", self.completion_tokens),
            ("uncounted", self.uncounted),
        ]
    }

    /// What was done since `before`, an earlier reading of the same client.
    pub fn since(&self, before: &Usage) -> Usage {
        Usage {
            requests: self.requests - before.requests,
            completions: self.completions - before.completions,
            from_cache: self.from_cache - before.from_cache,
            failed: self.failed - before.failed,
            retries: self.retries - before.retries,
            prompt_tokens: self.prompt_tokens - before.prompt_tokens,
            completion_tokens: self.completion_tokens - before.completion_tokens,
            uncounted: self.uncounted - before.uncounted,
            cost: self.cost.map(|cost| cost - before.cost.unwrap_or(0.0)),
        }
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} completions from the server and {} from the cache, {} failed, {} retries; \
             {} prompt and {} completion tokens",
            self.completions,
            self.from_cache,
            self.failed,
            self.retries,
            self.prompt_tokens,
            self.completion_tokens,
        )?;
        if self.uncounted > 0 {
            write!(f, " and those of {} completions uncounted", self.uncounted)?;
        }
        match self.cost {
            Some(cost) => write!(f, ", cost {cost:.4}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_since_is_the_difference() {
        let before = Usage {
            requests: 3,
            completions: 2,
            prompt_tokens: 100,
            cost: Some(0.5),
            ..Usage::default()
        };
        let now = Usage {
            requests: 5,
            completions: 3,
            retries: 1,
            prompt_tokens: 160,
            cost: Some(0.75),
            ..before
        };
        let expected = Usage {
            requests: 2,
            completions: 1,
            retries: 1,
            prompt_tokens: 60,
            cost: Some(0.25),
            ..Usage::default()
        };
        assert_eq!(now.since(&before), expected);
        assert_eq!(
            expected.to_string(),
            "1 completions from the server and 0 from the cache, 0 failed, 1 retries; \
             60 prompt and 0 completion tokens, cost 0.2500"
        );
    }
}
