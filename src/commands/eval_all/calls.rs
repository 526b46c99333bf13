//! What became of the tool calls of a run, counted by kind.

use std::collections::BTreeMap;

use agent::ToolOutcome;
use benchmarks::Verdict;
use benchmarks::evaluation::Answered;
use visual_tools::{NearMissCounts, Parsed, RefusalCounts, near_miss, parse};

/// Calls that the parser refused, that could not be carried out, or that do not have the form that is
/// read.
#[derive(Debug, Default)]
pub(super) struct CallCounts {
    refused: RefusalCounts,
    near_misses: NearMissCounts,
    failed: u64,
}

impl CallCounts {
    /// Counts the call of an answer. Those of answers without a verdict are counted once they have one:
    /// they come again.
    pub fn add(&mut self, answered: &Answered) {
        let Some(episode) = &answered.episode else {
            return;
        };
        if answered.verdict == Verdict::NotJudged {
            return;
        }
        let first = episode.turns.first();
        match episode.outcome {
            // The episode keeps the refusal's words; the kind is read from the call again.
            ToolOutcome::Refused(_) => {
                if let Some(Parsed::Refused(refusal)) =
                    first.map(|turn| parse(&turn.completion.text))
                {
                    self.refused.add(&refusal);
                }
            }
            ToolOutcome::Failed(_) => self.failed += 1,
            ToolOutcome::NotCalled => {
                if let Some(kind) = first.and_then(|turn| near_miss(&turn.completion.text)) {
                    self.near_misses.add(kind);
                }
            }
            ToolOutcome::Succeeded => {}
        }
    }

    /// Adds the counts to those of a manifest, by name.
    pub fn write(&self, counts: &mut BTreeMap<String, u64>) -> serde_json::Result<()> {
        let mut add = |name: String, count: u64| *counts.entry(name).or_default() += count;
        for (reason, count) in &self.refused.0 {
            if let serde_json::Value::String(reason) = serde_json::to_value(reason)? {
                add(format!("tool_refused_{reason}"), *count as u64);
            }
        }
        for (kind, count) in &self.near_misses.0 {
            add(format!("tool_near_miss_{kind}"), *count as u64);
        }
        if self.failed > 0 {
            add("tool_failed".to_owned(), self.failed);
        }
        Ok(())
    }
}
