//! Shares of one evaluation: folders side by side, each of a process of its own, read as one run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::integrity::RECORDS;
use crate::runs::Run;

/// The name of the folder of share `number` of `count`.
pub fn share_name(number: usize, count: usize) -> String {
    format!("shard-{number}-of-{count}")
}

/// Which share of how many a folder's name tells.
pub fn share_of(name: &str) -> Option<(usize, usize)> {
    let (number, count) = name.strip_prefix("shard-")?.split_once("-of-")?;
    Some((number.parse().ok()?, count.parse().ok()?))
}

/// A run with all of its shares.
#[derive(Default)]
struct Whole {
    /// Where the first part of it is told.
    path: PathBuf,
    questions: BTreeSet<(String, String)>,
    /// Of each count of shares, those that are there.
    shares: BTreeMap<usize, BTreeSet<usize>>,
}

/// What is not answered, and where: every run of a folder answers the same questions, one that was
/// evaluated in shares all of them together.
pub(crate) fn unanswered(runs: &[Run]) -> impl Iterator<Item = (PathBuf, String)> {
    let mut wholes: BTreeMap<PathBuf, Whole> = BTreeMap::new();
    for run in runs {
        let (mut name, mut share) = (PathBuf::new(), None);
        for part in &run.folder {
            match part.to_str().and_then(share_of) {
                Some(found) => share = Some(found),
                None => name.push(part),
            }
        }
        let whole = wholes.entry(name).or_insert_with(|| Whole {
            path: run.folder.join(RECORDS),
            ..Whole::default()
        });
        if let Some((number, count)) = share {
            whole.shares.entry(count).or_default().insert(number);
        }
        let ids = run.records.iter();
        whole
            .questions
            .extend(ids.map(|record| (record.set.clone(), record.qa_id.clone())));
    }
    let all: BTreeSet<(String, String)> = wholes
        .values()
        .flat_map(|whole| whole.questions.iter().cloned())
        .collect();
    wholes.into_values().flat_map(move |whole| {
        let missing: Vec<_> = all.difference(&whole.questions).collect();
        let questions = missing.first().map(|(set, id)| {
            format!(
                "{} of {} questions that other runs answered are missing, the first is {id} of {set}",
                missing.len(),
                all.len()
            )
        });
        let shares = whole.shares.iter().filter_map(|(count, there)| {
            let number = (1..=*count).find(|number| !there.contains(number))?;
            Some(format!(
                "share {number} of {count} is missing: it was not evaluated into the same --out"
            ))
        });
        let found: Vec<(PathBuf, String)> = questions
            .into_iter()
            .chain(shares)
            .map(|what| (whole.path.clone(), what))
            .collect();
        found
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    /// A run whose questions are dealt to the shares `there` of three.
    fn shares(there: &[usize]) -> Vec<Run> {
        let whole = fixture::runs(6).remove(0);
        let share = |number: &usize| {
            let mut run = whole.clone();
            run.folder = PathBuf::from("out")
                .join(share_name(*number, 3))
                .join("m/seed-0");
            run.records = run
                .records
                .into_iter()
                .skip(number - 1)
                .step_by(3)
                .collect();
            run
        };
        there.iter().map(share).collect()
    }

    #[test]
    fn a_name_tells_its_share() {
        assert_eq!(share_of(&share_name(2, 3)), Some((2, 3)));
        for other in ["seed-0", "shard-2", "shard-a-of-3"] {
            assert_eq!(share_of(other), None, "{other}");
        }
    }

    #[test]
    fn shares_answer_together_and_a_missing_one_is_named() {
        assert_eq!(unanswered(&shares(&[1, 2, 3])).count(), 0);
        let found: Vec<_> = unanswered(&shares(&[1, 3])).collect();
        assert_eq!(found.len(), 1);
        assert!(
            found[0].1.starts_with("share 2 of 3 is missing"),
            "{found:?}"
        );
        // Beside another model, whose questions are then known.
        let mut runs = shares(&[1, 3]);
        let mut other = fixture::runs(6).remove(0);
        other.folder = PathBuf::from("out/other/seed-0");
        runs.push(other);
        let found: Vec<_> = unanswered(&runs).collect();
        assert!(
            found[0]
                .1
                .contains("questions that other runs answered are missing"),
            "{found:?}"
        );
        assert_eq!(found.len(), 2);
    }
}
