//! Answers counted by what was asked and called.

use std::collections::BTreeMap;

use benchmarks::Verdict;
use results::Record;

/// Right answers among judged ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    right: u64,
    judged: u64,
}

impl Tally {
    fn add(&mut self, verdict: Verdict) {
        let Some(right) = verdict.is_right() else {
            return;
        };
        self.judged += 1;
        self.right += u64::from(right);
    }

    /// The share of right ones; `None` of nothing.
    pub fn share(self) -> Option<f64> {
        (self.judged > 0).then(|| self.right as f64 / self.judged as f64)
    }
}

/// An arm's greedy answers by what was asked and called, all seeds and sets together.
#[derive(Clone, Debug, Default)]
pub struct Composition {
    /// By kind of question.
    pub by_kind: BTreeMap<String, Tally>,
    /// By the number of entries that the question names.
    pub by_named: BTreeMap<u32, Tally>,
    /// After a call on what the question asks for.
    pub right_focus: Tally,
    /// After another call that ran.
    pub wrong_focus: Tally,
    /// The rest.
    pub without_figure: Tally,
}

impl Composition {
    /// Counts an answer.
    pub fn add(&mut self, record: &Record) {
        if let Some(kind) = &record.kind {
            self.by_kind
                .entry(kind.clone())
                .or_default()
                .add(record.verdict);
        }
        if let Some(named) = record.named {
            self.by_named.entry(named).or_default().add(record.verdict);
        }
        let place = match (record.tool_succeeded, record.right_focus) {
            (true, Some(true)) => &mut self.right_focus,
            (true, _) => &mut self.wrong_focus,
            (false, _) => &mut self.without_figure,
        };
        place.add(record.verdict);
    }

    /// The share of all judged answers that a part has.
    pub fn share_of(&self, part: Tally) -> Option<f64> {
        let all = self.right_focus.judged + self.wrong_focus.judged + self.without_figure.judged;
        (all > 0).then(|| part.judged as f64 / all as f64)
    }
}
