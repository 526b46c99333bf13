//! A judge behind an OpenAI-compatible endpoint.
//!
//! Verdicts are kept through the client's cache of completions, whose key holds the model and the
//! whole prompt, and so question, gold and prediction. A reply that cannot be read is asked for
//! again as often as the judge's source does, each time with another seed, so that the cache does
//! not give the same reply back.

use agent::{Block, Conversation, Message, MessagePart, Role};

use super::{Case, Judge, Judgement, Rubric};
use crate::{TestSet, Verdict};
use chat_endpoint::{Client, Error, SamplingParameters};

/// Longest reply where the source sets no limit.
const DEFAULT_TOKENS: u32 = 1024;

/// The limit up to which a reply that was cut off is asked for again with twice the tokens
/// (CharXiv's rule).
const LONGEST_REPLY: u32 = 1024;

/// What ends a judge's run.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// The endpoint.
    #[error("the judge cannot go on")]
    Endpoint(#[from] Error),
}

/// Judges with the model of a [`Client`].
#[derive(Debug)]
pub struct EndpointJudge<'a> {
    client: &'a Client,
    /// `None`: the rubric of each case's set.
    rubric: Option<Rubric>,
}

impl<'a> EndpointJudge<'a> {
    /// A judge that grades each case as the authors of its set do.
    pub fn of_sets(client: &'a Client) -> Self {
        EndpointJudge {
            client,
            rubric: None,
        }
    }

    /// A judge that grades every case by `rubric`.
    pub fn with_rubric(client: &'a Client, rubric: Rubric) -> Self {
        EndpointJudge {
            client,
            rubric: Some(rubric),
        }
    }
}

/// A case that has no verdict yet.
struct Open {
    index: usize,
    rubric: Rubric,
    prompt: String,
    conversation: Conversation,
    max_tokens: u32,
}

impl Judge for EndpointJudge<'_> {
    fn rubric(&self, set: TestSet) -> Rubric {
        self.rubric.unwrap_or_else(|| Rubric::of_set(set))
    }

    fn judge(&self, cases: &[Case<'_>]) -> Result<Vec<Judgement>, JudgeError> {
        let mut judgements = vec![
            Judgement {
                verdict: Verdict::NotJudged,
                reason: "CharXiv's grading needs the question's category, 1 to 4".to_owned(),
            };
            cases.len()
        ];
        let mut open: Vec<Open> = cases
            .iter()
            .enumerate()
            .filter_map(|(index, case)| {
                let rubric = self.rubric(case.set);
                let prompt = rubric.prompt(case)?;
                Some(Open {
                    index,
                    rubric,
                    conversation: vec![Message {
                        role: Role::User,
                        parts: vec![MessagePart::text(Block::P, prompt.as_str())],
                    }]
                    .into(),
                    prompt,
                    max_tokens: rubric.settings().max_tokens.unwrap_or(DEFAULT_TOKENS),
                })
            })
            .collect();

        for attempt in 0.. {
            open.retain(|case| attempt < case.rubric.settings().attempts.max(1));
            if open.is_empty() {
                break;
            }
            let requests: Vec<(&Conversation, SamplingParameters)> = open
                .iter()
                .map(|case| (&case.conversation, parameters(case, attempt)))
                .collect();
            let replies = self.client.chat_all(&requests)?;
            let mut unread = Vec::new();
            for (mut case, reply) in open.into_iter().zip(replies) {
                let judgement = &mut judgements[case.index];
                match reply {
                    // The client has tried as often as it may.
                    Err(error) => judgement.reason = error.to_string(),
                    Ok(reply) => {
                        let text = reply.completion.text;
                        match case.rubric.verdict(&case.prompt, &text) {
                            Some(verdict) => {
                                *judgement = Judgement {
                                    verdict,
                                    reason: text,
                                };
                            }
                            None => {
                                judgement.reason =
                                    format!("the judge's reply is no verdict: {text}");
                                if !reply.completion.stopped {
                                    let longer = case.max_tokens.saturating_mul(2);
                                    case.max_tokens =
                                        longer.min(LONGEST_REPLY.max(case.max_tokens));
                                }
                                unread.push(case);
                            }
                        }
                    }
                }
            }
            open = unread;
        }
        Ok(judgements)
    }
}

fn parameters(case: &Open, attempt: u32) -> SamplingParameters {
    let settings = case.rubric.settings();
    let seed = match (settings.seed, attempt) {
        (None, 0) => None,
        (seed, attempt) => Some((seed.unwrap_or(0) & 0x7fff_ffff) as u32 + attempt),
    };
    SamplingParameters {
        temperature: settings.temperature,
        top_p: None,
        max_tokens: case.max_tokens,
        seed,
        json_object: settings.json,
    }
}
