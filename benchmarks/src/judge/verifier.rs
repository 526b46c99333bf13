//! A verifier of tool calls behind an OpenAI-compatible endpoint: is this call a sensible way to the
//! answer?
//!
//! TRM (ICLR 2026, OpenReview LnBEASInVr) trains a model for it; in IAPO's comparison GPT-4o is asked.
//! Its words are not published, so these are ours: the figure, the question, the names of the
//! figure's regions and the call; the answer is 1 or 0. Verdicts are kept through the client's cache,
//! whose key holds all of that. A reply that cannot be read is asked for again with another seed; a
//! call that cannot be verified has no verdict.

use std::sync::Arc;

use agent::{Block, Conversation, Message, MessagePart, Role, Task};

use super::{JudgeError, reply};
use crate::Verdict;
use crate::sources::bare_question;
use chat_endpoint::{Client, SamplingParameters};
use visual_tools::NamedBoxes;

/// Longest reply, tokens: a verdict, with room for thoughts.
const LONGEST_REPLY: u32 = 512;

/// Replies that cannot be read, until the call is given up.
const ATTEMPTS: u32 = 3;

/// Verifies with the model of a [`Client`].
#[derive(Debug)]
pub struct EndpointVerifier<'a> {
    client: &'a Client,
}

impl<'a> EndpointVerifier<'a> {
    /// A verifier behind a client.
    pub fn new(client: &'a Client) -> Self {
        EndpointVerifier { client }
    }

    /// Whether each call, the text of a first turn, is right; `None` for one without a verdict, which
    /// is never taken for a wrong one.
    ///
    /// # Errors
    /// Only what makes every further call fail too. What was verified before is in the cache.
    pub fn verify(&self, calls: &[(&Task, &str)]) -> Result<Vec<Option<bool>>, JudgeError> {
        let mut verdicts = vec![None; calls.len()];
        let mut open: Vec<(usize, Conversation)> = calls
            .iter()
            .enumerate()
            .map(|(index, (task, call))| (index, conversation(task, call)))
            .collect();
        for attempt in 0..ATTEMPTS {
            if open.is_empty() {
                break;
            }
            let parameters = SamplingParameters {
                seed: (attempt > 0).then_some(attempt),
                ..SamplingParameters::greedy(LONGEST_REPLY)
            };
            let requests: Vec<(&Conversation, SamplingParameters)> = open
                .iter()
                .map(|(_, conversation)| (conversation, parameters.clone()))
                .collect();
            let replies = self.client.chat_all(&requests)?;
            let mut unread = Vec::new();
            for ((index, conversation), reply) in open.into_iter().zip(replies) {
                // The client has tried a request that failed as often as it may.
                let Ok(reply) = reply else { continue };
                match reply::bit(&reply.completion.text) {
                    Some(verdict) => verdicts[index] = Some(verdict == Verdict::Right),
                    None => unread.push((index, conversation)),
                }
            }
            open = unread;
        }
        Ok(verdicts)
    }
}

fn conversation(task: &Task, call: &str) -> Conversation {
    let boxes = &task.boxes;
    let text = format!(
        "A program may edit this figure before it answers a question about it. Judge the edit it asks \
         for, not the answer: is it carried out on the parts of the figure that the question is about, \
         and on no others?\n\nQuestion: {}\nColumns: {}\nRows: {}\nValues of the x axis: {}\nValues of \
         the y axis: {}\n\nThe program's words:\n{call}\n\nReply with 1 if the edit is right and 0 if \
         it is not, and nothing else.",
        bare_question(&task.request),
        names(&boxes.columns),
        names(&boxes.rows),
        names(&boxes.x_values),
        names(&boxes.y_values),
    );
    Conversation::new(vec![Message {
        role: Role::User,
        parts: vec![
            MessagePart::Image(Arc::clone(&task.image)),
            MessagePart::text(Block::P, text),
        ],
    }])
}

fn names(boxes: &NamedBoxes) -> String {
    let names: Vec<&str> = boxes.0.iter().map(|(name, _)| name.as_str()).collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join("; "),
    }
}
