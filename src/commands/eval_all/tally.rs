//! What became of the questions, over all models of a command.

use std::collections::BTreeMap;

/// What the questions of a command came to, those of earlier commands included.
#[derive(Debug, Default)]
pub(super) struct Tally {
    judged: usize,
    /// Questions without a verdict by the reason.
    open: BTreeMap<String, usize>,
    /// What the servers were paid, in the currency of the prices.
    spent: f64,
}

impl Tally {
    /// Counts a question that has a verdict.
    pub fn judge(&mut self) {
        self.judged += 1;
    }

    /// Counts a question that has none.
    pub fn leave_open(&mut self, reason: Option<&str>) {
        let reason = reason.unwrap_or("no reason is known").to_owned();
        *self.open.entry(reason).or_default() += 1;
    }

    /// Counts what a run was charged.
    pub fn charge(&mut self, cost: f64) {
        self.spent += cost;
    }

    /// What was paid so far.
    pub fn spent(&self) -> f64 {
        self.spent
    }

    /// Adds what another run came to.
    pub fn add(&mut self, other: Tally) {
        self.spent += other.spent;
        self.judged += other.judged;
        for (reason, count) in other.open {
            *self.open.entry(reason).or_default() += count;
        }
    }

    /// The commonest reason and all questions' number, where there were questions and none of
    /// them has a verdict.
    pub fn nothing_judged(&self) -> Option<(&str, usize)> {
        if self.judged > 0 {
            return None;
        }
        let (reason, _) = self.open.iter().max_by_key(|(_, count)| **count)?;
        Some((reason.as_str(), self.open.values().sum()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commonest_reason_is_told_where_nothing_has_a_verdict() {
        let mut tally = Tally::default();
        assert_eq!(tally.nothing_judged(), None, "nothing was asked");
        tally.leave_open(Some("no server"));
        let mut other = Tally::default();
        other.leave_open(Some("no server"));
        other.leave_open(None);
        tally.add(other);
        assert_eq!(tally.nothing_judged(), Some(("no server", 3)));
        tally.judge();
        assert_eq!(tally.nothing_judged(), None);
    }
}
