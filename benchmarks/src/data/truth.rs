//! What the generator of a question knows beyond its answer.

use agent::{Episode, ToolOutcome};

use crate::micro::Focus;

/// The structure of a generated question: enough to verify a call, and to make a right or a wrong
/// one as an oracle would.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truth {
    /// What is asked of the named entries, for example `largest`.
    pub kind: &'static str,
    /// How many entries the question is about.
    pub named: usize,
    /// A completion that calls a tool on exactly what the question names.
    pub right_call: String,
    /// A completion that calls a tool on other entries of the same figure, where there are any.
    pub wrong_call: Option<String>,
    /// The focuses that are right.
    pub(super) right: Vec<Focus>,
}

impl Truth {
    /// Whether an episode's call was carried out and focuses on exactly what the question names.
    pub fn approves(&self, episode: &Episode) -> bool {
        let Some(call) = &episode.call else {
            return false;
        };
        let sorted = |names: &[String]| {
            let mut names = names.to_vec();
            names.sort();
            names.dedup();
            names
        };
        episode.outcome == ToolOutcome::Succeeded
            && self.right.iter().any(|focus| {
                focus.axis == call.tool.axis && sorted(&focus.names) == sorted(&call.names)
            })
    }
}
