//! What a server does not take of a request, and what is sent instead.

use serde::{Deserialize, Serialize};

/// The changes that a client made to all its requests because the server refused them as they
/// were. For a manifest: [`Adaptations::sentences`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adaptations {
    /// The limit is sent as `max_completion_tokens` instead of `max_tokens`. It means the same,
    /// and so a completion's cache key stays as it is.
    pub max_completion_tokens: bool,
    /// No temperature is sent, so the server samples with its own. That changes what is sampled,
    /// and is part of a completion's cache key.
    pub no_temperature: bool,
}

impl Adaptations {
    /// Each change in words; none where there is none.
    pub fn sentences(&self) -> Vec<&'static str> {
        let told = [
            (
                self.max_completion_tokens,
                "the server refuses max_tokens: max_completion_tokens was sent",
            ),
            (
                self.no_temperature,
                "the server refuses the temperature: none was sent, and it sampled with its own",
            ),
        ];
        let made = |(is_made, sentence)| if is_made { Some(sentence) } else { None };
        told.into_iter().filter_map(made).collect()
    }

    /// These and the one that mends a refusal of `parameter`; `None` where none does.
    pub(crate) fn mending(mut self, parameter: &str) -> Option<Self> {
        let change = match parameter {
            "max_tokens" => &mut self.max_completion_tokens,
            "temperature" => &mut self.no_temperature,
            _ => return None,
        };
        (!std::mem::replace(change, true)).then_some(self)
    }

    /// These and those of `other`.
    pub(crate) fn and(self, other: Self) -> Self {
        Adaptations {
            max_completion_tokens: self.max_completion_tokens || other.max_completion_tokens,
            no_temperature: self.no_temperature || other.no_temperature,
        }
    }
}
