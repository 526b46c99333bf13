//! The paper's numbers, from `golden/paper.toml`: known cells with their sources, the rest
//! `unreported`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::record::{ArmName, SETS};

/// The paper's table, in percent.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paper {
    /// The paper's title.
    pub title: String,
    /// Its identifier on arXiv.
    pub arxiv: String,
    /// The student whose table it is.
    pub student: String,
    /// Where numbers come from, by the name that cells use.
    pub sources: BTreeMap<String, String>,
    /// The claim.
    pub claim: PaperClaim,
    /// Cells by arm, then by set or `average`.
    arms: BTreeMap<ArmName, BTreeMap<String, PaperCell>>,
}

/// The paper's claim, in points of the macro average.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaperClaim {
    /// The arm that is claimed to be better.
    pub arm: ArmName,
    /// The arm that it is compared with.
    pub against: ArmName,
    /// By how many points.
    pub difference: f64,
    /// The paper's best baseline.
    pub best_baseline: ArmName,
    /// By how many points it is better than that.
    pub best_baseline_difference: f64,
    /// Who says so.
    pub source: String,
}

/// A cell of the paper's table.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
enum PaperCell {
    Known(Known),
    Word(String),
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    value: f64,
    source: String,
}

/// The word that stands for a number that is not known.
pub(crate) const UNREPORTED: &str = "unreported";

impl Paper {
    /// The committed file, which the command carries in itself.
    pub fn committed() -> Result<Self> {
        Paper::parse(include_str!("../../golden/paper.toml"))
    }

    /// Reads the file's text.
    ///
    /// # Errors
    /// An unknown key, a cell that is neither a number with a known source nor `unreported`, a
    /// missing or unknown column, or a claim that contradicts the averages.
    pub fn parse(text: &str) -> Result<Self> {
        let paper: Paper = toml::from_str(text).map_err(|error| Error::Paper(error.to_string()))?;
        for (arm, cells) in &paper.arms {
            for column in SETS.into_iter().chain(["average"]) {
                if !cells.contains_key(column) {
                    return Err(Error::Paper(format!(
                        "arms.{arm} has no '{column}': write \"{UNREPORTED}\" where it is not known"
                    )));
                }
            }
            for (column, cell) in cells {
                if column != "average" && !SETS.contains(&column.as_str()) {
                    return Err(Error::Paper(format!(
                        "arms.{arm}.{column}: not one of the six sets or 'average'"
                    )));
                }
                match cell {
                    PaperCell::Word(word) if word != UNREPORTED => {
                        return Err(Error::Paper(format!(
                            "arms.{arm}.{column} is '{word}': expected \"{UNREPORTED}\" or {{ value, source }}"
                        )));
                    }
                    PaperCell::Known(known) if !paper.sources.contains_key(&known.source) => {
                        return Err(Error::Paper(format!(
                            "arms.{arm}.{column} names the source '{}', which [sources] does not have",
                            known.source
                        )));
                    }
                    PaperCell::Known(known) if !(0.0..=100.0).contains(&known.value) => {
                        return Err(Error::Paper(format!(
                            "arms.{arm}.{column} is {}: expected percent",
                            known.value
                        )));
                    }
                    _ => {}
                }
            }
        }
        let claim = &paper.claim;
        for (against, difference) in [
            (&claim.against, claim.difference),
            (&claim.best_baseline, claim.best_baseline_difference),
        ] {
            let averages = paper
                .value(&claim.arm, "average")
                .zip(paper.value(against, "average"));
            if averages.is_some_and(|(a, b)| (a - b - difference).abs() > 0.051) {
                return Err(Error::Paper(format!(
                    "the claim says {} is {difference:+.1} points from {against}, the averages say otherwise",
                    claim.arm
                )));
            }
        }
        Ok(paper)
    }

    /// The arms of the paper's table, in our order.
    pub fn arms(&self) -> Vec<&ArmName> {
        let mut arms: Vec<&ArmName> = self.arms.keys().collect();
        arms.sort_by(|a, b| a.rank().cmp(&b.rank()));
        arms
    }

    /// A known cell in percent; `None` where it is unreported. `column` is a set or `average`.
    pub fn value(&self, arm: &ArmName, column: &str) -> Option<f64> {
        match self.arms.get(arm)?.get(column)? {
            PaperCell::Known(known) => Some(known.value),
            PaperCell::Word(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_has_a_number() {
        let paper = Paper::committed().unwrap();
        let mut known = Vec::new();
        for arm in paper.arms() {
            for column in SETS.into_iter().chain(["average"]) {
                if let Some(value) = paper.value(arm, column) {
                    known.push(format!("{arm} {column} {value}"));
                }
            }
        }
        insta::assert_snapshot!(known.join("\n"));
    }

    #[test]
    fn guesses_are_refused() {
        let text = include_str!("../../golden/paper.toml");
        let errors: Vec<String> = [
            text.replacen("vwtq = \"unreported\"", "vwtq = \"about 60\"", 1),
            text.replacen(
                "vwtq = \"unreported\"",
                "vwtq = { value = 60.0, source = \"memory\" }",
                1,
            ),
            text.replacen(
                "vwtq = \"unreported\"",
                "vwtq = { value = 600.0, source = \"notes\" }",
                1,
            ),
            text.replacen("vwtq = \"unreported\"", "", 1),
            text.replacen(
                "vwtq = \"unreported\"",
                "vwtq = \"unreported\"\nocr = \"unreported\"",
                1,
            ),
            text.replacen("difference = 3.0", "difference = 4.0", 1),
        ]
        .iter()
        .map(|text| Paper::parse(text).unwrap_err().to_string())
        .collect();
        insta::assert_snapshot!(errors.join("\n"));
    }
}
