//! How far judges agree on the same answers: percent, Cohen's κ, Krippendorff's α.
//!
//! `κ = (p − e) / (1 − e)`, with `p` the share of the answers on which two judges agree and `e` what
//! two judges with their shares of right and wrong would agree on by chance (Cohen 1960); of more than
//! two judges the mean over their pairs (Light 1971). `α = 1 − D / E` for nominal values, with the
//! observed and the expected disagreement of the coincidences, where an answer that `m` judges gave a
//! verdict counts with weight `1 / (m − 1)` a pair (Krippendorff 2004, section 11.3). A verdict that
//! was not had is missing, not a third value.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::format::plain_table;
use crate::numbers::{number, percent};
use crate::record::SETS;
use crate::runs::Runs;

/// How far judges agree on the answers to a set, or to all of them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// The set, or `all`.
    pub set: String,
    /// Answers with two or more verdicts.
    pub answers: usize,
    /// Answers left out, since the judges were shown different ones.
    pub other_answers: usize,
    /// Share of the pairs of verdicts that agree; absent without one.
    pub agreed: Option<f64>,
    /// Cohen's κ; absent where chance alone would agree always, as with judges that know one verdict.
    pub kappa: Option<f64>,
    /// Krippendorff's α; absent likewise.
    pub alpha: Option<f64>,
}

/// The verdicts of each judge on one answer.
type Verdicts = Vec<Option<bool>>;

/// Set, question, model and seed of an answer.
type AnswerKey<'r> = (&'r str, &'r str, &'r str, u64);

/// The answer that a judge was shown, and whether it found it right.
type Shown<'r> = (&'r str, Option<bool>);

/// How far the judges of several experiments agree on the answers that all of them were shown: set by
/// set, then all together.
pub fn agreement(judged: &[Runs]) -> Vec<Agreement> {
    let mut shown: BTreeMap<AnswerKey<'_>, Vec<Option<Shown<'_>>>> = BTreeMap::new();
    for (judge, runs) in judged.iter().enumerate() {
        for record in runs.records() {
            let key = (
                record.set.as_str(),
                record.qa_id.as_str(),
                record.arm.name(),
                record.seed,
            );
            let own = shown.entry(key).or_insert_with(|| vec![None; judged.len()]);
            own[judge] = Some((&record.prediction, record.verdict.is_right()));
        }
    }
    let mut sets: BTreeMap<&str, (Vec<Verdicts>, usize)> = BTreeMap::new();
    for ((set, ..), own) in shown {
        let (answers, others) = sets.entry(set).or_default();
        // What one judge alone was shown says nothing.
        let Some(given) = own.iter().copied().collect::<Option<Vec<_>>>() else {
            continue;
        };
        match given
            .iter()
            .all(|(prediction, _)| *prediction == given[0].0)
        {
            true => answers.push(given.into_iter().map(|(_, right)| right).collect()),
            false => *others += 1,
        }
    }
    let place = |set: &str| SETS.iter().position(|known| *known == set);
    let mut names: Vec<&str> = sets.keys().copied().collect();
    names.sort_by_key(|set| (place(set).is_none(), place(set)));
    let mut found: Vec<Agreement> = names
        .iter()
        .map(|set| of_verdicts(set, &sets[set].0, sets[set].1))
        .collect();
    if found.len() > 1 {
        let all: Vec<Verdicts> = names.iter().flat_map(|set| sets[set].0.clone()).collect();
        let others = names.iter().map(|set| sets[set].1).sum();
        found.push(of_verdicts("all", &all, others));
    }
    found
}

fn of_verdicts(set: &str, answers: &[Verdicts], other_answers: usize) -> Agreement {
    let judges = answers.first().map_or(0, Vec::len);
    let (mut pairs, mut agreed) = (0, 0);
    let mut kappas = Vec::new();
    for first in 0..judges {
        for second in first + 1..judges {
            // [first is right][second is right]
            let mut counts = [[0usize; 2]; 2];
            for own in answers {
                if let (Some(one), Some(other)) = (own[first], own[second]) {
                    counts[usize::from(one)][usize::from(other)] += 1;
                }
            }
            pairs += counts.iter().flatten().sum::<usize>();
            agreed += counts[0][0] + counts[1][1];
            kappas.push(kappa(counts));
        }
    }
    let kappas: Option<Vec<f64>> = kappas.into_iter().collect();
    let kappas = kappas.filter(|all| !all.is_empty());
    Agreement {
        set: set.to_owned(),
        answers: answers
            .iter()
            .filter(|own| own.iter().flatten().count() > 1)
            .count(),
        other_answers,
        agreed: (pairs > 0).then(|| agreed as f64 / pairs as f64),
        kappa: kappas.map(|all| all.iter().sum::<f64>() / all.len() as f64),
        alpha: alpha(answers),
    }
}

fn kappa(counts: [[usize; 2]; 2]) -> Option<f64> {
    let n = counts.iter().flatten().sum::<usize>() as f64;
    let first = [0, 1].map(|value| (counts[value][0] + counts[value][1]) as f64 / n);
    let second = [0, 1].map(|value| (counts[0][value] + counts[1][value]) as f64 / n);
    let by_chance = first[0] * second[0] + first[1] * second[1];
    let agreed = (counts[0][0] + counts[1][1]) as f64 / n;
    (n > 0.0 && by_chance < 1.0).then(|| (agreed - by_chance) / (1.0 - by_chance))
}

fn alpha(answers: &[Verdicts]) -> Option<f64> {
    let mut values = [0.0, 0.0];
    let mut disagreeing = 0.0;
    for own in answers {
        let given: Vec<bool> = own.iter().flatten().copied().collect();
        if given.len() < 2 {
            continue;
        }
        let right = given.iter().filter(|value| **value).count() as f64;
        let wrong = given.len() as f64 - right;
        values[0] += wrong;
        values[1] += right;
        disagreeing += right * wrong / (given.len() - 1) as f64;
    }
    let expected = values[0] * values[1] / (values[0] + values[1] - 1.0);
    (expected > 0.0).then(|| 1.0 - disagreeing / expected)
}

/// The agreements as a table for the terminal.
pub fn agreement_table(found: &[Agreement]) -> String {
    let header = ["set", "answers", "agreed %", "κ", "α", "other answers"];
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|own| {
            vec![
                own.set.clone(),
                own.answers.to_string(),
                percent(own.agreed.unwrap_or(f64::NAN)),
                number(own.kappa, 3),
                number(own.alpha, 3),
                own.other_answers.to_string(),
            ]
        })
        .collect();
    plain_table(&header, &rows)
}

#[cfg(test)]
mod tests {
    use benchmarks::Verdict;

    use super::*;
    use crate::fixture;

    fn repeated(counts: &[(usize, Verdicts)]) -> Vec<Verdicts> {
        let all = counts.iter();
        all.flat_map(|(count, own)| std::iter::repeat_n(own.clone(), *count))
            .collect()
    }

    /// A textbook's table: 20 and 15 on which both agree, 5 and 10 on which they do not.
    #[test]
    fn kappa_and_alpha_of_a_table_by_hand() {
        let (yes, no) = (Some(true), Some(false));
        let answers = repeated(&[
            (20, vec![yes, yes]),
            (5, vec![yes, no]),
            (10, vec![no, yes]),
            (15, vec![no, no]),
        ]);
        let found = of_verdicts("vwtq", &answers, 0);
        assert_eq!((found.answers, found.agreed), (50, Some(0.7)));
        // (.7 − .5) / (1 − .5); 1 − 99 · 15 / (55 · 45).
        assert!((found.kappa.unwrap() - 0.4).abs() < 1e-12);
        assert!((found.alpha.unwrap() - 0.4).abs() < 1e-12);

        // Three judges, of whom one is silent at times: the pairs' weights are 1 / (m − 1).
        let answers = repeated(&[(2, vec![yes, yes, no]), (1, vec![no, no, None])]);
        let found = of_verdicts("vwtq", &answers, 0);
        // Values: 4 right, 4 wrong; disagreement 2 · (2 · 1) / 2 = 2; expected 16 / 7.
        assert!((found.alpha.unwrap() - (1.0 - 2.0 / (16.0 / 7.0))).abs() < 1e-12);
        assert_eq!(found.agreed, Some(3.0 / 7.0));
    }

    #[test]
    fn what_cannot_be_told_is_absent() {
        let always = repeated(&[(4, vec![Some(true), Some(true)])]);
        let found = of_verdicts("vwtq", &always, 0);
        assert_eq!(
            (found.agreed, found.kappa, found.alpha),
            (Some(1.0), None, None)
        );
        let none = repeated(&[(4, vec![Some(true), None])]);
        let found = of_verdicts("vwtq", &none, 0);
        assert_eq!((found.answers, found.agreed, found.kappa), (0, None, None));
        assert!(agreement_table(&[found]).contains('–'));
    }

    #[test]
    fn answers_are_paired_and_other_answers_are_not_compared() {
        let one = fixture::checked(4);
        let mut other = fixture::checked(4);
        let same = agreement(&[one.clone(), other.clone()]);
        assert_eq!(same.len(), SETS.len() + 1);
        assert_eq!(same[0].set, SETS[0]);
        assert!(same.iter().all(|own| own.agreed == Some(1.0)));
        let answers = same.last().unwrap().answers;

        let mut changed = other.runs.iter_mut().flat_map(|run| &mut run.records);
        changed.next().unwrap().prediction = "another".to_owned();
        let flipped = changed.next().unwrap();
        flipped.verdict = match flipped.verdict {
            Verdict::Right => Verdict::Wrong,
            _ => Verdict::Right,
        };
        changed.next().unwrap().verdict = Verdict::NotJudged;
        let found = agreement(&[one, other]);
        let all = found.last().unwrap();
        assert_eq!((all.answers, all.other_answers), (answers - 2, 1));
        let expected = 1.0 - 1.0 / (answers - 2) as f64;
        assert!((all.agreed.unwrap() - expected).abs() < 1e-12);
    }
}
