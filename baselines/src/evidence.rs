//! What the methods know about the tool calls of one prompt's group of episodes.

use agent::ToolOutcome;
use seeded_random::Stream;
use serde::{Deserialize, Serialize};

/// What is measured of one distinct call of a prompt. A field is `None` where no method asked for it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CallEvidence {
    /// Whether the call is right, by who knows: the generator's truth, or a verifier.
    pub right: Option<bool>,
    /// Mean log-probability of the call's tokens under the teacher, nats.
    pub teacher_log_prob: Option<f32>,
    /// Mean log-probability of the call's tokens under the policy that sampled it, nats.
    pub own_log_prob: Option<f32>,
    /// Divergence of the policy's block attribution from the teacher's, at least 0.
    pub divergence: Option<f64>,
}

/// Whose attribution the policy's is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TeacherRole {
    /// The stronger model, trained first (the paper's).
    Teacher,
    /// Control: the policy as it was after its own cold start.
    OwnStart,
    /// Control: the student before any reinforcement learning, which is no stronger.
    Untrained,
}

/// What a method needs to have measured of each distinct call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Nothing beyond what the tool did.
    Outcome,
    /// [`CallEvidence::right`], by the generator's truth.
    Truth,
    /// [`CallEvidence::right`], by a verifier behind an endpoint. An episode whose call it could not
    /// verify is left out of its group.
    Verifier,
    /// [`CallEvidence::teacher_log_prob`].
    TeacherLogProb,
    /// [`CallEvidence::own_log_prob`].
    OwnLogProb,
    /// [`CallEvidence::divergence`], from this teacher.
    Divergence(TeacherRole),
}

/// One prompt's group of episodes with what is known of their calls.
pub struct GroupEvidence<'a> {
    /// What became of each episode's tool call.
    pub outcomes: &'a [&'a ToolOutcome],
    /// For each episode which of `calls` it made; `None` without a call.
    pub call_of: &'a [Option<usize>],
    /// The distinct calls of the group, in the order in which they were first made.
    pub calls: &'a [CallEvidence],
    /// Randomness of this group alone.
    pub stream: &'a Stream,
}

impl GroupEvidence<'_> {
    /// A value of each distinct call as one of each episode; `None` where none was made or the
    /// value is not known.
    pub fn per_episode(&self, values: &[Option<f32>]) -> Vec<Option<f32>> {
        self.call_of
            .iter()
            .map(|call| call.and_then(|call| values.get(call).copied().flatten()))
            .collect()
    }

    /// A value computed from the evidence of each distinct call, for each episode.
    pub fn from_calls(&self, value: impl Fn(&CallEvidence) -> Option<f32>) -> Vec<Option<f32>> {
        let values: Vec<Option<f32>> = self.calls.iter().map(value).collect();
        self.per_episode(&values)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Terms of a group whose episodes all made the call of the same number.
    pub(crate) fn terms_of(
        calls: &[CallEvidence],
        terms: impl Fn(&GroupEvidence<'_>) -> Vec<Option<f32>>,
    ) -> Vec<Option<f32>> {
        let call_of: Vec<Option<usize>> = (0..calls.len()).map(Some).chain([None]).collect();
        let (ran, none) = (ToolOutcome::Succeeded, ToolOutcome::NotCalled);
        let outcomes: Vec<&ToolOutcome> = std::iter::repeat_n(&ran, calls.len())
            .chain([&none])
            .collect();
        let stream = Stream::new(7);
        terms(&GroupEvidence {
            outcomes: &outcomes,
            call_of: &call_of,
            calls,
            stream: &stream,
        })
    }

    #[test]
    fn equal_calls_share_their_value() {
        let calls = [CallEvidence::default(), CallEvidence::default()];
        let outcome = ToolOutcome::Succeeded;
        let stream = Stream::new(0);
        let group = GroupEvidence {
            outcomes: &[&outcome, &outcome, &outcome],
            call_of: &[Some(1), None, Some(1)],
            calls: &calls,
            stream: &stream,
        };
        let values = group.per_episode(&[Some(1.0), Some(2.0)]);
        assert_eq!(values, [Some(2.0), None, Some(2.0)]);
    }
}
