//! Records as numbers: one arm's scores by test set, seed and question.

use std::collections::{BTreeMap, BTreeSet};

use crate::record::{ArmName, Record, SETS};

/// One arm's scores on the six sets.
#[derive(Clone, Debug)]
pub struct ArmScores {
    /// The arm.
    pub arm: ArmName,
    /// Its seeds, ascending.
    pub seeds: Vec<u64>,
    /// Its scores by set, in the order of [`SETS`]; `None` where it has no record.
    pub sets: Vec<Option<SetScores>>,
    /// Share of all answers whose first turn called a tool.
    pub tool_call_rate: f64,
    /// Share of the calls that ran; `None` when there were none.
    pub tool_success_rate: Option<f64>,
}

/// One arm on one set.
#[derive(Clone, Debug)]
pub struct SetScores {
    /// The questions, sorted by identifier.
    pub questions: Vec<String>,
    /// The figure of each question, as an index below `figures`.
    pub figure: Vec<usize>,
    /// How many figures there are.
    pub figures: usize,
    /// `scores[seed][question]`: `None` where there is no verdict or no record.
    pub scores: Vec<Vec<Option<bool>>>,
}

/// One arm's accuracy on one set, without its interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CellAccuracy {
    /// Mean over the seeds of the share of judged questions that were right.
    pub accuracy: f64,
    /// Questions.
    pub questions: usize,
    /// Figures.
    pub figures: usize,
    /// Seeds with at least one verdict.
    pub seeds: usize,
    /// Share of answers without a verdict.
    pub not_judged: f64,
    /// Standard error over questions clustered by figure, seeds averaged first.
    pub clustered_standard_error: f64,
}

impl ArmScores {
    /// The scores of `arm` among `records`. Sets other than the six are left out.
    pub fn collect<'a>(arm: &ArmName, records: impl IntoIterator<Item = &'a Record>) -> Self {
        let records: Vec<&Record> = records
            .into_iter()
            .filter(|record| record.arm == *arm && SETS.contains(&record.set.as_str()))
            .collect();
        let seeds: Vec<u64> = records
            .iter()
            .map(|record| record.seed)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let sets = SETS
            .iter()
            .map(|set| {
                let of_set: Vec<&Record> = records
                    .iter()
                    .copied()
                    .filter(|record| record.set == *set)
                    .collect();
                (!of_set.is_empty()).then(|| SetScores::collect(&of_set, &seeds))
            })
            .collect();
        let called = records.iter().filter(|record| record.tool_called).count();
        let succeeded = records
            .iter()
            .filter(|record| record.tool_succeeded)
            .count();
        ArmScores {
            arm: arm.clone(),
            seeds,
            sets,
            tool_call_rate: called as f64 / records.len().max(1) as f64,
            tool_success_rate: (called > 0).then(|| succeeded as f64 / called as f64),
        }
    }
}

impl ArmScores {
    /// The scores of some of the seeds; those that the arm does not have are left out. The rates of
    /// calls stay those of all.
    pub fn of_seeds(&self, seeds: &[u64]) -> Self {
        let kept: Vec<usize> = (0..self.seeds.len())
            .filter(|&index| seeds.contains(&self.seeds[index]))
            .collect();
        let mut chosen = self.clone();
        chosen.seeds = kept.iter().map(|&index| self.seeds[index]).collect();
        for set in chosen.sets.iter_mut().flatten() {
            set.scores = kept
                .iter()
                .map(|&index| set.scores[index].clone())
                .collect();
        }
        chosen
    }

    /// The mean over the sets of the accuracy on each; `None` where a set has no verdict.
    pub fn macro_average(&self) -> Option<f64> {
        let mut sum = 0.0;
        for set in &self.sets {
            sum += set.as_ref()?.cell()?.accuracy;
        }
        Some(sum / self.sets.len().max(1) as f64)
    }
}

impl SetScores {
    fn collect(records: &[&Record], seeds: &[u64]) -> Self {
        let questions: BTreeMap<&str, &str> = records
            .iter()
            .map(|record| (record.qa_id.as_str(), record.cluster()))
            .collect();
        let figures: BTreeSet<&str> = questions.values().copied().collect();
        let figures: BTreeMap<&str, usize> = figures
            .into_iter()
            .enumerate()
            .map(|(index, name)| (name, index))
            .collect();
        let place: BTreeMap<&str, usize> = questions
            .keys()
            .enumerate()
            .map(|(index, id)| (*id, index))
            .collect();
        let mut scores = vec![vec![None; questions.len()]; seeds.len()];
        for record in records {
            if let Ok(seed) = seeds.binary_search(&record.seed) {
                scores[seed][place[record.qa_id.as_str()]] = record.verdict.is_right();
            }
        }
        SetScores {
            figure: questions.values().map(|name| figures[name]).collect(),
            questions: questions.into_keys().map(str::to_string).collect(),
            figures: figures.len(),
            scores,
        }
    }

    /// The share of right answers among the judged ones by seed; seeds without a verdict are left
    /// out.
    pub fn accuracy_by_seed(&self) -> Vec<f64> {
        self.scores
            .iter()
            .filter_map(|seed| share_right(seed))
            .collect()
    }

    /// The accuracy; `None` when nothing was judged.
    pub fn cell(&self) -> Option<CellAccuracy> {
        let shares = self.accuracy_by_seed();
        if shares.is_empty() {
            return None;
        }
        let asked = self.scores.len() * self.questions.len();
        let judged: usize = self
            .scores
            .iter()
            .map(|seed| seed.iter().flatten().count())
            .sum();
        let mut values = Vec::new();
        let mut figures = Vec::new();
        for question in 0..self.questions.len() {
            let column: Vec<Option<bool>> = self.scores.iter().map(|seed| seed[question]).collect();
            if let Some(share) = share_right(&column) {
                values.push(share);
                figures.push(self.figure[question]);
            }
        }
        Some(CellAccuracy {
            accuracy: shares.iter().sum::<f64>() / shares.len() as f64,
            questions: self.questions.len(),
            figures: self.figures,
            seeds: shares.len(),
            not_judged: 1.0 - judged as f64 / asked as f64,
            clustered_standard_error: clustered_standard_error(&values, &figures),
        })
    }
}

fn share_right(scores: &[Option<bool>]) -> Option<f64> {
    let judged = scores.iter().flatten().count();
    let right = scores.iter().flatten().filter(|&&right| right).count();
    (judged > 0).then(|| right as f64 / judged as f64)
}

/// The standard error of the mean of `values` when those of one cluster are not independent:
/// `√(Σ_c (Σ_{i∈c} (s_i − s̄))²) / n` (Miller 2024, arXiv 2411.00640, equation 4; lmms-eval's).
/// 0 for no values.
pub fn clustered_standard_error(values: &[f64], clusters: &[usize]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let mut sums: BTreeMap<usize, f64> = BTreeMap::new();
    for (value, cluster) in values.iter().zip(clusters) {
        *sums.entry(*cluster).or_default() += value - mean;
    }
    sums.values().map(|sum| sum * sum).sum::<f64>().sqrt() / n
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clustered_error_equals_numpy() {
        // numpy 2.4.6:
        //   s = np.array([1, 0, 1, 1, 0, 0, 1, 1, 1, 0.]); g = np.array([0, 0, 1, 1, 1, 2, 3, 3, 3, 3])
        //   np.sqrt(sum((s - s.mean())[g == k].sum() ** 2 for k in set(g))) / len(s)
        let values = [1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0];
        let clusters = [0, 0, 1, 1, 1, 2, 3, 3, 3, 3];
        assert!((clustered_standard_error(&values, &clusters) - 0.0894427190999916).abs() < 1e-15);
        // A cluster each: the usual √(p (1 − p) / n).
        let own: Vec<usize> = (0..10).collect();
        assert!((clustered_standard_error(&values, &own) - (0.24f64 / 10.0).sqrt()).abs() < 1e-15);
    }
}
