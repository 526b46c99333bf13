//! What a file of scored rows comes to: counts, accuracy, interval.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::Verdict;

/// What a file came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ScoreSummary {
    /// Rows read.
    pub rows: u64,
    /// Rows that are right.
    pub right: u64,
    /// Rows in the denominator: all but those that no judge has judged.
    pub n: u64,
    /// Rows without a verdict. Those that say both true and false (VTabFact) are in `n` as well,
    /// as in the official accuracy.
    pub not_judged: u64,
    /// Rows that are right under ChartQA's rule with years exact; `None` where that rule was not
    /// used.
    pub right_years_exact: Option<u64>,
    /// Rows by reason; a judge's words are counted under its verdict.
    pub reasons: BTreeMap<String, u64>,
}

impl ScoreSummary {
    /// Whether no row at all has a verdict.
    pub fn nothing_judged(&self) -> bool {
        self.rows == self.not_judged
    }

    /// Share of right rows, if there is a denominator.
    pub fn accuracy(&self) -> Option<f64> {
        (self.n > 0).then(|| self.right as f64 / self.n as f64)
    }

    /// Wilson's score interval of the accuracy at 95 %:
    /// `(p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n)`, z = 1.96 (Wilson 1927).
    pub fn interval(&self) -> Option<(f64, f64)> {
        const Z: f64 = 1.959_963_984_540_054;
        let (p, n) = (self.accuracy()?, self.n as f64);
        let scale = 1.0 + Z * Z / n;
        let centre = (p + Z * Z / (2.0 * n)) / scale;
        let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt() / scale;
        Some(((centre - half).max(0.0), (centre + half).min(1.0)))
    }

    /// Counts one row.
    pub(super) fn count(&mut self, verdict: Verdict, in_denominator: bool, reason: &str) {
        self.rows += 1;
        self.right += u64::from(verdict == Verdict::Right);
        self.not_judged += u64::from(verdict == Verdict::NotJudged);
        self.n += u64::from(in_denominator);
        match self.reasons.get_mut(reason) {
            Some(count) => *count += 1,
            None => {
                self.reasons.insert(reason.to_owned(), 1);
            }
        }
    }

    /// Counts the second verdict of a row under ChartQA's rule.
    pub(super) fn count_years_exact(&mut self, verdict: Verdict) {
        *self.right_years_exact.get_or_insert_default() += u64::from(verdict == Verdict::Right);
    }

    /// Adds the counts of other rows.
    pub(super) fn add(&mut self, other: &ScoreSummary) {
        self.rows += other.rows;
        self.right += other.right;
        self.n += other.n;
        self.not_judged += other.not_judged;
        if let Some(right) = other.right_years_exact {
            *self.right_years_exact.get_or_insert_default() += right;
        }
        for (reason, count) in &other.reasons {
            *self.reasons.entry(reason.clone()).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_wilsons() {
        let summary = ScoreSummary {
            rows: 10,
            right: 8,
            n: 10,
            ..ScoreSummary::default()
        };
        let (low, high) = summary.interval().expect("an interval");
        // The formula in double precision, computed apart from this code.
        assert!((low - 0.490_162_471_536_641_83).abs() < 1e-12, "{low}");
        assert!((high - 0.943_317_848_545_624_7).abs() < 1e-12, "{high}");
        assert_eq!(ScoreSummary::default().interval(), None);
    }
}
