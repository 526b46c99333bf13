//! What answers a conversation: a local model, an endpoint, a test double.

use crate::Conversation;

/// What a policy calls a completion that a later request may go on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CompletionId(pub u64);

/// One completion to make: the conversation, and how it is drawn.
#[derive(Clone, Debug)]
pub struct CompletionRequest<'a> {
    /// The chat up to the policy's turn. Requests that share a conversation (the same address)
    /// may share its prefill.
    pub conversation: &'a Conversation,
    /// Seed of this sample at the policy's temperature; `None` takes the likeliest token at every
    /// step, whatever the temperature.
    pub seed: Option<u64>,
    /// The completion of the call of [`Policy::complete`] before this one that the conversation goes on
    /// with: a policy that kept what it computed of that turn need not compute it again. It does where
    /// its tokens or its images are others, or where it kept nothing; an endpoint keeps nothing.
    pub follows: Option<CompletionId>,
    /// Whether a request of the next call may go on with this completion.
    pub may_be_followed: bool,
}

impl<'a> CompletionRequest<'a> {
    /// A request that follows nothing and that nothing follows.
    pub fn new(conversation: &'a Conversation, seed: Option<u64>) -> Self {
        CompletionRequest {
            conversation,
            seed,
            follows: None,
            may_be_followed: false,
        }
    }
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
    /// For a request that goes on with it; absent where the policy kept nothing.
    pub id: Option<CompletionId>,
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

    /// First turns in parts, by their places among `requests`: a part's later turns are asked before the
    /// next part's first, so that what is kept of a part fits. Every request is in one part; all are in
    /// one unless a policy keeps something.
    ///
    /// # Errors
    /// What ends the run.
    fn parts(
        &mut self,
        requests: &[CompletionRequest<'_>],
    ) -> Result<Vec<Vec<usize>>, Self::Error> {
        Ok(vec![(0..requests.len()).collect()])
    }
}
