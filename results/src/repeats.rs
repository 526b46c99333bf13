//! Questions that were asked several times: pass@k, and how far answers of one model differ.
//!
//! Of a question with `c` right answers among `n`, pass@k is the chance that at least one of `k` drawn
//! without replacement is right, `1 − C(n − c, k) / C(n, k)` (Chen et al. 2021, arXiv 2107.03374,
//! equation 1), and pass^k the chance that all are, `C(c, k) / C(n, k)` (Yao et al. 2024, arXiv
//! 2406.12045). Both are means over questions; `n` is the number of seeds of a run's folder. A question
//! without a verdict in one of them is left out, not wrong.

use std::collections::{BTreeMap, BTreeSet};

use benchmarks::Verdict;
use serde::Serialize;

use crate::format::plain_table;
use crate::numbers::percent;
use crate::record::{ArmName, SETS};
use crate::runs::Runs;

/// A model's repeated answers to one set, or the mean over its sets.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Repeats {
    /// The model.
    pub arm: ArmName,
    /// The set, or `average`: the mean of the sets, each weighing the same.
    pub set: String,
    /// Questions with a verdict each time.
    pub questions: usize,
    /// Questions that lack one.
    pub left_out: usize,
    /// How often each was asked.
    pub epochs: usize,
    /// Standard deviation of the accuracy from one time to another; absent for the average.
    pub deviation: Option<f64>,
    /// pass@k by k: 1, its doubles below the number of epochs, and that number.
    pub pass_at: BTreeMap<usize, f64>,
    /// Share of the questions that were right each time: pass^k at the number of epochs.
    pub always: f64,
}

/// The chance that one of `k` answers is right, of `n` answers with `right` right ones.
fn pass_at(n: usize, right: usize, k: usize) -> f64 {
    if n - right < k {
        return 1.0;
    }
    // C(n − c, k) / C(n, k) as a product, which neither overflows nor cancels.
    let none: f64 = (n - right + 1..=n)
        .map(|i| 1.0 - k as f64 / i as f64)
        .product();
    1.0 - none
}

/// The numbers of answers that pass@k is told for.
fn drawn(epochs: usize) -> Vec<usize> {
    let doubles = std::iter::successors(Some(1), |k| Some(2 * k));
    let mut all: Vec<usize> = doubles.take_while(|&k| k < epochs).collect();
    all.push(epochs);
    all
}

/// The repeats of every model that was asked more than once, set by set, each with its average.
pub fn repeats(runs: &Runs) -> Vec<Repeats> {
    let mut found = Vec::new();
    for arm in runs.arms() {
        let own = || runs.records().filter(|record| record.arm == arm);
        let seeds: BTreeSet<u64> = own().map(|record| record.seed).collect();
        if seeds.len() < 2 {
            continue;
        }
        let mut sets: Vec<&str> = SETS.to_vec();
        for record in own() {
            if !sets.contains(&record.set.as_str()) {
                sets.push(&record.set);
            }
        }
        let before = found.len();
        for set in sets {
            let mut verdicts: BTreeMap<&str, BTreeMap<u64, Verdict>> = BTreeMap::new();
            for record in own().filter(|record| record.set == set) {
                let question = verdicts.entry(&record.qa_id).or_default();
                question.insert(record.seed, record.verdict);
            }
            if !verdicts.is_empty() {
                found.push(of_set(&arm, set, &seeds, &verdicts));
            }
        }
        let average = average(&arm, seeds.len(), &found[before..]);
        found.extend(average);
    }
    found
}

fn of_set(
    arm: &ArmName,
    set: &str,
    seeds: &BTreeSet<u64>,
    verdicts: &BTreeMap<&str, BTreeMap<u64, Verdict>>,
) -> Repeats {
    let n = seeds.len();
    // Of each question whether it was right, by epoch.
    let whole: Vec<Vec<bool>> = verdicts
        .values()
        .map(|own| own.values().filter_map(|verdict| verdict.is_right()))
        .map(Iterator::collect::<Vec<bool>>)
        .filter(|answers| answers.len() == n)
        .collect();
    let questions = whole.len();
    let mean = |value: &dyn Fn(&Vec<bool>) -> f64| match questions {
        0 => f64::NAN,
        _ => whole.iter().map(value).sum::<f64>() / questions as f64,
    };
    let right = |answers: &Vec<bool>| answers.iter().filter(|right| **right).count();
    let by_epoch: Vec<f64> = (0..n)
        .map(|epoch| mean(&|answers| f64::from(u8::from(answers[epoch]))))
        .collect();
    let centre = by_epoch.iter().sum::<f64>() / n as f64;
    let squares: f64 = by_epoch.iter().map(|value| (value - centre).powi(2)).sum();
    Repeats {
        arm: arm.clone(),
        set: set.to_owned(),
        questions,
        left_out: verdicts.len() - questions,
        epochs: n,
        deviation: Some((squares / (n - 1) as f64).sqrt()),
        pass_at: drawn(n)
            .into_iter()
            .map(|k| (k, mean(&|answers| pass_at(n, right(answers), k))))
            .collect(),
        always: mean(&|answers| f64::from(u8::from(right(answers) == n))),
    }
}

/// The mean over sets that have questions; `None` without one.
fn average(arm: &ArmName, epochs: usize, sets: &[Repeats]) -> Option<Repeats> {
    let sets: Vec<&Repeats> = sets.iter().filter(|set| set.questions > 0).collect();
    if sets.is_empty() {
        return None;
    }
    let mean = |value: &dyn Fn(&Repeats) -> f64| {
        sets.iter().map(|set| value(set)).sum::<f64>() / sets.len() as f64
    };
    Some(Repeats {
        arm: arm.clone(),
        set: "average".to_owned(),
        questions: sets.iter().map(|set| set.questions).sum(),
        left_out: sets.iter().map(|set| set.left_out).sum(),
        epochs,
        deviation: None,
        pass_at: drawn(epochs)
            .into_iter()
            .map(|k| (k, mean(&|set| set.pass_at[&k])))
            .collect(),
        always: mean(&|set| set.always),
    })
}

/// The repeats as a table for the terminal, in percent; empty where there are none.
pub fn repeats_table(repeats: &[Repeats]) -> String {
    let Some(most) = repeats.iter().map(|own| own.epochs).max() else {
        return String::new();
    };
    let ks = drawn(most);
    let mut header = vec!["model".to_owned(), "set".into(), "questions".into()];
    header.extend(ks.iter().map(|k| format!("pass@{k}")));
    header.extend(["always".into(), "± of a time".into(), "left out".into()]);
    let rows: Vec<Vec<String>> = repeats
        .iter()
        .map(|own| {
            let mut row = vec![
                own.arm.to_string(),
                own.set.clone(),
                own.questions.to_string(),
            ];
            // What was not measured is a dash there.
            let share = |value: Option<f64>| percent(value.unwrap_or(f64::NAN));
            row.extend(ks.iter().map(|k| share(own.pass_at.get(k).copied())));
            row.push(share(Some(own.always)));
            row.push(share(own.deviation));
            row.push(own.left_out.to_string());
            row
        })
        .collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    plain_table(&header, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    /// Counts the subsets themselves.
    fn by_hand(n: usize, right: usize, k: usize) -> f64 {
        let subsets = (0u32..1 << n).filter(|subset| subset.count_ones() as usize == k);
        let (mut all, mut with_one) = (0, 0);
        for subset in subsets {
            all += 1;
            with_one += u32::from(subset & ((1 << right) - 1) != 0);
        }
        f64::from(with_one) / f64::from(all)
    }

    #[test]
    fn pass_at_k_is_the_share_of_the_subsets_with_a_right_answer() {
        for n in 1..=7 {
            for right in 0..=n {
                for k in 1..=n {
                    let (found, expected) = (pass_at(n, right, k), by_hand(n, right, k));
                    assert!((found - expected).abs() < 1e-12, "{n} {right} {k}: {found}");
                }
            }
        }
        assert_eq!(
            [drawn(2), drawn(4), drawn(5)],
            [vec![1, 2], vec![1, 2, 4], vec![1, 2, 4, 5]]
        );
    }

    #[test]
    fn repeats_are_told_of_models_that_were_asked_more_than_once() {
        let mut runs = fixture::checked(10);
        let open = runs
            .runs
            .iter_mut()
            .flat_map(|run| &mut run.records)
            .find(|record| record.arm.name() == ArmName::IAPO && record.set == SETS[0]);
        let open = open.unwrap();
        open.verdict = Verdict::NotJudged;
        let found = repeats(&runs);
        // Five trained arms have three seeds; each has six sets and their average.
        assert_eq!(found.len(), 5 * 7);
        for own in &found {
            let [one, two, three] = [1, 2, 3].map(|k| own.pass_at[&k]);
            assert!(own.always <= one && one <= two && two <= three, "{own:?}");
        }
        let iapo = found.iter().find(|own| own.arm.name() == ArmName::IAPO);
        let iapo = iapo.unwrap();
        assert_eq!((iapo.questions, iapo.left_out, iapo.epochs), (9, 1, 3));
        // pass@1 is the accuracy.
        let own = runs
            .records()
            .filter(|record| record.arm.name() == ArmName::TORL && record.set == SETS[1]);
        let (right, all) = own.fold((0, 0), |(right, all), record| {
            (
                right + usize::from(record.verdict == Verdict::Right),
                all + 1,
            )
        });
        let torl = found
            .iter()
            .find(|own| own.arm.name() == ArmName::TORL && own.set == SETS[1]);
        let accuracy = right as f64 / all as f64;
        assert!((torl.unwrap().pass_at[&1] - accuracy).abs() < 1e-12);
        let text = repeats_table(&found);
        assert!(
            text.starts_with("model") && text.contains("average"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 36);
        assert_eq!(repeats_table(&[]), "");
    }
}
