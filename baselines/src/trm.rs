//! TRM: the outcome plus a verifier's judgement of the tool call.
//!
//! `r = outcome + weight · v`, `v = 1` when the verifier approves the call and `−1` when it rejects
//! it. The paper's verifier is GPT-4o. At the micro scale it is one with the generator's knowledge
//! (a call is right when it focuses exactly on what the question names) whose judgement is flipped
//! with a stated probability.

use agent::{Episode, ToolOutcome};
use benchmarks::micro::Focus;
use seeded_random::{Draw, Stream};

/// Whether a call focuses exactly on one of the right focuses.
pub fn call_is_right(episode: &Episode, right: &[Focus]) -> bool {
    let Some(call) = &episode.call else {
        return false;
    };
    let sorted = |names: &[String]| {
        let mut names = names.to_vec();
        names.sort();
        names.dedup();
        names
    };
    episode.outcome.succeeded()
        && right.iter().any(|focus| {
            focus.axis == call.tool.axis && sorted(&focus.names) == sorted(&call.names)
        })
}

/// The term of an episode; `None` without a call. `stream` is the episode's own.
pub fn term(
    episode: &Episode,
    right: &[Focus],
    weight: f32,
    error_rate: f64,
    stream: Stream,
) -> Option<f32> {
    if episode.outcome == ToolOutcome::NotCalled {
        return None;
    }
    let flipped = stream.purpose("verifier").generator().unit() < error_rate;
    let approved = call_is_right(episode, right) != flipped;
    Some(if approved { weight } else { -weight })
}
