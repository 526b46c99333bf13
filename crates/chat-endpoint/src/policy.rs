//! A model behind an endpoint as the agent's policy.

use agent::{Completion, CompletionRequest, Conversation, Policy};

use crate::client::Client;
use crate::error::Error;
use crate::request::SamplingParameters;

/// Completes conversations with a [`Client`]. Completions carry text alone: endpoints give no
/// token ids that are ours. A model's thinking is no part of it ([`Reply::answer`](crate::Reply::answer)).
#[derive(Debug)]
pub struct EndpointPolicy<'a> {
    client: &'a Client,
    parameters: SamplingParameters,
}

impl<'a> EndpointPolicy<'a> {
    /// A policy that decodes with `parameters`; when it samples (`temperature` above 0), each
    /// request's own seed replaces theirs, and a request without one is greedy.
    pub fn new(client: &'a Client, parameters: SamplingParameters) -> Self {
        EndpointPolicy { client, parameters }
    }
}

impl Policy for EndpointPolicy<'_> {
    type Error = Error;

    fn complete(
        &mut self,
        requests: &[CompletionRequest<'_>],
    ) -> Result<Vec<Result<Completion, Error>>, Error> {
        let requests: Vec<(&Conversation, SamplingParameters)> = requests
            .iter()
            .map(|request| {
                (
                    request.conversation,
                    self.parameters.of_request(request.seed),
                )
            })
            .collect();
        let replies = self.client.chat_all(&requests)?;
        Ok(replies
            .into_iter()
            .map(|reply| {
                reply.map(|reply| Completion {
                    text: reply.answer().to_owned(),
                    stopped: reply.completion.stopped,
                    ..Completion::default()
                })
            })
            .collect())
    }
}
