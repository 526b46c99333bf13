//! A visual question, the prompt with its blocks, the tool, the answer.
//!
//! The agent's episode has at most two turns (IAPO, arXiv 2606.11652; VTool-R1): the first either
//! answers or calls one visual tool; the edited image comes back as an observation and the second
//! turn answers. The text of the model is parsed and never executed.

mod conversation;
mod episode;
mod policy;
mod prompt;
mod task;

pub use conversation::{Block, Conversation, ConversationId, Message, MessagePart, Role};
pub use episode::{
    Episode, EpisodeOptions, Observation, ToolOutcome, Turn, run_episodes, use_tool,
};
pub use policy::{Completion, CompletionId, CompletionRequest, Policy};
pub use prompt::{ObservationMode, PromptStyle, final_answer, first_turn, second_turn};
pub use task::Task;

/// The example of the README, run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
