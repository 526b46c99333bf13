//! Questions whose published gold is admitted to be wrong, from `golden/errata.toml`.

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::numbers::percent;
use crate::record::{ArmName, Record};
use crate::runs::Runs;

/// The errata that are known.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Errata {
    errata: Vec<Erratum>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Erratum {
    set: String,
    qa_id: String,
    /// The published gold, as records have it.
    gold: String,
    /// Who admits it.
    source: String,
}

impl Errata {
    /// The committed file, which the command carries in itself.
    ///
    /// # Errors
    /// Unknown or missing keys.
    pub fn committed() -> Result<Self> {
        Errata::parse(include_str!("../../golden/errata.toml"))
    }

    /// Reads the file's text.
    ///
    /// # Errors
    /// Unknown or missing keys.
    pub fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error| Error::Errata(error.to_string()))
    }

    fn of(&self, record: &Record) -> Option<&Erratum> {
        self.errata.iter().find(|known| {
            (known.set == record.set) && known.qa_id == record.qa_id && known.gold == record.gt
        })
    }

    /// What runs would show without these questions: a sentence a set that has any.
    pub fn notes(&self, runs: &Runs) -> Vec<String> {
        let mut sets: Vec<&str> = Vec::new();
        for known in &self.errata {
            if !sets.contains(&known.set.as_str()) {
                sets.push(&known.set);
            }
        }
        sets.into_iter()
            .filter_map(|set| self.note(set, runs))
            .collect()
    }

    fn note(&self, set: &str, runs: &Runs) -> Option<String> {
        let mut found: Vec<&Erratum> = Vec::new();
        for record in runs.records().filter(|record| record.set == set) {
            if let Some(known) = self.of(record)
                && !found.iter().any(|other| other.qa_id == known.qa_id)
            {
                found.push(known);
            }
        }
        if found.is_empty() {
            return None;
        }
        let arms: Vec<String> = runs
            .arms()
            .iter()
            .filter_map(|arm| self.beside(set, arm, runs))
            .collect();
        let questions: Vec<String> = found
            .iter()
            .map(|known| format!("{} ({})", known.qa_id, known.source))
            .collect();
        Some(format!(
            "{set}: the published gold of {} is wrong by its authors' word; the table counts it. \
             Without: {}.",
            questions.join(", "),
            arms.join(", ")
        ))
    }

    /// An arm's accuracy as published and without errata, over all seeds; `None` where nothing is left.
    fn beside(&self, set: &str, arm: &ArmName, runs: &Runs) -> Option<String> {
        let (mut published, mut without) = (Share::default(), Share::default());
        for record in runs.records() {
            if record.set != set || record.arm != *arm {
                continue;
            }
            published.add(record);
            if self.of(record).is_none() {
                without.add(record);
            }
        }
        Some(format!(
            "{arm} {} instead of {}",
            percent(without.value()?),
            percent(published.value()?)
        ))
    }
}

/// Right answers among judged ones.
#[derive(Default)]
struct Share {
    right: u64,
    judged: u64,
}

impl Share {
    fn add(&mut self, record: &Record) {
        if let Some(right) = record.verdict.is_right() {
            self.judged += 1;
            self.right += u64::from(right);
        }
    }

    fn value(&self) -> Option<f64> {
        (self.judged > 0).then(|| self.right as f64 / self.judged as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn errata_are_counted_beside_the_published_gold() {
        let mut runs = fixture::checked(4);
        assert!(Errata::committed().unwrap().notes(&runs).is_empty());
        let errata = Errata::parse(
            "[[errata]]\nset = \"charxiv\"\nqa_id = \"q0\"\ngold = \"7\"\nsource = \"its authors\"\n",
        )
        .unwrap();
        // One run: of four questions the first is wrong by the published gold, the others are right.
        runs.runs.truncate(1);
        for record in &mut runs.runs[0].records {
            let right = record.qa_id != "q0";
            record.verdict = match right {
                true => benchmarks::Verdict::Right,
                false => benchmarks::Verdict::Wrong,
            };
        }
        let notes = errata.notes(&runs);
        assert_eq!(
            notes,
            [
                "charxiv: the published gold of q0 (its authors) is wrong by its authors' word; the table \
              counts it. Without: untrained 100.0 instead of 75.0."
            ]
        );
        // A corrected edition has another gold.
        for record in &mut runs.runs[0].records {
            record.gt = "8".to_string();
        }
        assert!(errata.notes(&runs).is_empty());
        assert!(Errata::parse("[[errata]]\nset = \"charxiv\"\n").is_err());
    }
}
