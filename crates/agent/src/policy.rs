//! What answers a conversation: a local model, an endpoint, a test double.

use crate::Conversation;

/// One completion to make: the conversation, and how it is drawn.
#[derive(Clone, Debug)]
pub struct CompletionRequest<'a> {
    /// The chat up to the policy's turn. Requests that share a conversation (the same address)
    /// may share its prefill.
    pub conversation: &'a Conversation,
    /// Seed of this sample at the policy's temperature; `None` takes the likeliest token at every
    /// step, whatever the temperature.
    pub seed: Option<u64>,
}

/// What a policy said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Completion {
    /// The decoded text, special tokens removed.
    pub text: String,
    /// The prompt as tokens, when the policy is a local model; empty otherwise.
    pub prompt_ids: Vec<u32>,
    /// The sampled tokens, the stop token included; empty for endpoints.
    pub token_ids: Vec<u32>,
    /// Log-probability of each sampled token at the sampling temperature; empty for endpoints.
    pub log_probs: Vec<f32>,
    /// Whether a stop token ended it (otherwise the length limit did).
    pub stopped: bool,
}

/// A policy completes conversations, many at once.
pub trait Policy {
    /// What can go wrong.
    type Error: std::error::Error + Send + Sync + 'static;

    /// A completion for each request, in order. A request that fails for a reason of its own
    /// (a network error) is an `Err` in its place; the outer error ends the run.
    fn complete(
        &mut self,
        requests: &[CompletionRequest<'_>],
    ) -> Result<Vec<Result<Completion, Self::Error>>, Self::Error>;
}
