//! One question's way through both turns.

use std::sync::Arc;

use image::RgbImage;
use visual_tools::{Parsed, Style, ToolCall, apply, parse};

use crate::{
    Completion, CompletionRequest, Conversation, ObservationMode, Policy, PromptStyle, Task,
    final_answer, first_turn, second_turn,
};

/// One exchange: what the policy saw and what it said.
#[derive(Clone, Debug)]
pub struct Turn {
    /// The chat before the completion.
    pub conversation: Conversation,
    /// The policy's words.
    pub completion: Completion,
}

/// What became of the first turn's tool call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolOutcome {
    /// The first turn held no call.
    NotCalled,
    /// There was code, and the parser refused it.
    Refused(String),
    /// The call was understood and could not be carried out.
    Failed(String),
    /// The edited image went into the second turn.
    Succeeded,
}

impl ToolOutcome {
    /// Whether the policy tried to call a tool.
    pub fn called(&self) -> bool {
        *self != ToolOutcome::NotCalled
    }

    /// Whether a call was carried out.
    pub fn succeeded(&self) -> bool {
        *self == ToolOutcome::Succeeded
    }
}

/// What came back from the tool.
pub type Observation = Option<Arc<RgbImage>>;

/// A finished episode.
#[derive(Clone, Debug)]
pub struct Episode {
    /// One turn without a call, two with one.
    pub turns: Vec<Turn>,
    /// The call, when the parser accepted it.
    pub call: Option<ToolCall>,
    /// What became of it.
    pub outcome: ToolOutcome,
    /// The edited image, when there is one.
    pub observation: Observation,
    /// The final answer, when the last turn gave one.
    pub answer: Option<String>,
}

/// How episodes are run.
#[derive(Clone, Debug)]
pub struct EpisodeOptions {
    /// The prompt's wording.
    pub prompt: PromptStyle,
    /// What the second turn sees.
    pub observation: ObservationMode,
    /// How the tools draw.
    pub tools: Style,
}

/// Runs one episode for each `(task, seed)`: all first turns together, then all second turns; where the
/// second turn goes on with the first, by the parts that the policy wants.
///
/// An episode without a seed is greedy, whatever the policy's temperature. The seed of the second
/// turn is derived from the first's, so an episode does not depend on its companions. An episode whose
/// request failed is an `Err` in its place.
pub fn run_episodes<P: Policy>(
    policy: &mut P,
    tasks: &[(&Task, Option<u64>)],
    options: &EpisodeOptions,
) -> Result<Vec<Result<Episode, P::Error>>, P::Error> {
    // Samples of one task share its conversation, so that a policy can share the prefill.
    let mut conversations: Vec<(*const Task, Conversation)> = Vec::new();
    let mut conversation_of = Vec::with_capacity(tasks.len());
    for (task, _) in tasks {
        let address: *const Task = *task;
        let index = match conversations
            .iter()
            .rposition(|(known, _)| *known == address)
        {
            Some(index) => index,
            None => {
                conversations.push((address, first_turn(task, options.prompt)));
                conversations.len() - 1
            }
        };
        conversation_of.push(index);
    }
    // A second turn that asks anew has nothing of the first.
    let goes_on = options.observation == ObservationMode::Append;
    let requests: Vec<CompletionRequest> = tasks
        .iter()
        .zip(&conversation_of)
        .map(|((_, seed), &index)| CompletionRequest {
            may_be_followed: goes_on,
            ..CompletionRequest::new(&conversations[index].1, *seed)
        })
        .collect();
    let parts = match goes_on {
        true => policy.parts(&requests)?,
        false => vec![(0..requests.len()).collect()],
    };
    let mut episodes: Vec<Option<Result<Episode, P::Error>>> = tasks.iter().map(|_| None).collect();
    for part in parts {
        let asked: Vec<CompletionRequest> =
            part.iter().map(|&index| requests[index].clone()).collect();
        let asked_tasks: Vec<&Task> = part.iter().map(|&index| tasks[index].0).collect();
        let found = both_turns(policy, &asked_tasks, &asked, options)?;
        for (index, episode) in part.into_iter().zip(found) {
            episodes[index] = Some(episode);
        }
    }
    Ok(episodes
        .into_iter()
        .map(|episode| episode.expect("a policy's parts hold every request"))
        .collect())
}

/// An episode for each first turn that is asked, with its task.
fn both_turns<P: Policy>(
    policy: &mut P,
    tasks: &[&Task],
    asked: &[CompletionRequest<'_>],
    options: &EpisodeOptions,
) -> Result<Vec<Result<Episode, P::Error>>, P::Error> {
    let first = policy.complete(asked)?;
    let mut episodes: Vec<Result<Episode, P::Error>> = Vec::with_capacity(tasks.len());
    let mut pending = Vec::new();
    for (index, completion) in first.into_iter().enumerate() {
        let (task, request) = (tasks[index], &asked[index]);
        let episode = completion.map(|completion| {
            let conversation = request.conversation.clone();
            let (call, outcome, observation) = use_tool(task, &completion.text, &options.tools);
            if outcome.called() {
                let observed = match (&observation, &outcome) {
                    (Some(image), _) => Ok(image),
                    (None, ToolOutcome::Refused(why) | ToolOutcome::Failed(why)) => {
                        Err(why.as_str())
                    }
                    // A call that succeeded has an observation.
                    (None, _) => Err(""),
                };
                let next = second_turn(
                    task,
                    &conversation,
                    &completion.text,
                    observed,
                    options.prompt,
                    options.observation,
                );
                let follows = completion.id.filter(|_| request.may_be_followed);
                pending.push((index, next, request.seed.map(second_seed), follows));
            }
            let answer = if outcome.called() {
                None
            } else {
                final_answer(&completion.text).map(str::to_owned)
            };
            Episode {
                turns: vec![Turn {
                    conversation,
                    completion,
                }],
                call,
                outcome,
                observation,
                answer,
            }
        });
        episodes.push(episode);
    }

    let requests: Vec<CompletionRequest> = pending
        .iter()
        .map(|(_, conversation, seed, follows)| CompletionRequest {
            follows: *follows,
            ..CompletionRequest::new(conversation, *seed)
        })
        .collect();
    let second = policy.complete(&requests)?;
    for ((index, conversation, ..), completion) in pending.into_iter().zip(second) {
        match (completion, &mut episodes[index]) {
            (Ok(completion), Ok(episode)) => {
                episode.answer = final_answer(&completion.text).map(str::to_owned);
                episode.turns.push(Turn {
                    conversation,
                    completion,
                });
            }
            (Err(error), episode) => *episode = Err(error),
            // Only finished first turns are pending.
            (Ok(_), Err(_)) => {}
        }
    }
    Ok(episodes)
}

/// Parses a completion's code and applies the tool it calls.
pub fn use_tool(
    task: &Task,
    completion: &str,
    style: &Style,
) -> (Option<ToolCall>, ToolOutcome, Observation) {
    match parse(completion) {
        Parsed::NoTool => (None, ToolOutcome::NotCalled, None),
        Parsed::Refused(refusal) => (None, ToolOutcome::Refused(refusal.to_string()), None),
        Parsed::Call(call) => match apply(&task.image, &call, &task.boxes, style) {
            Ok(image) => (Some(call), ToolOutcome::Succeeded, Some(Arc::new(image))),
            Err(error) => (Some(call), ToolOutcome::Failed(error.to_string()), None),
        },
    }
}

/// SplitMix64's finaliser: a seed for the second turn that is unrelated to the first's.
fn second_seed(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
