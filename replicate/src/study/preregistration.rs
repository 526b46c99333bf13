//! What is fixed before a counted seed is run: `preregistration.toml`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::Result;

use super::files::{self, problem};

/// The value of a setting that is still to be decided.
pub const UNDECIDED: &str = "undecided";

/// Training seeds below this one were used before the study was planned.
const FIRST_FREE_SEED: u64 = 1000;

/// Seeds, worlds, settings, tests and the rule of a study.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preregistration {
    /// Training seeds.
    pub seeds: Seeds,
    /// Worlds of the tuning seeds; that of the counted ones follows from the commit.
    pub worlds: Worlds,
    /// Settings of the profile that hold for all arms, by dotted key, chosen with plain GRPO alone.
    pub settings: BTreeMap<String, toml::Value>,
    /// Settings that the tuning parts decide, by dotted key; the counted parts use them.
    pub tuned: BTreeMap<String, toml::Value>,
    /// How a test is decided.
    pub rule: DecisionRule,
    /// The primary tests.
    pub tests: Vec<PrimaryTest>,
}

/// Training seeds by what they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seeds {
    /// Those that settings are chosen with.
    pub tuning: SeedRange,
    /// Those that are counted.
    pub counted: SeedRange,
}

/// Consecutive seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedRange {
    /// The first.
    pub first: u64,
    /// How many.
    pub count: u64,
}

impl SeedRange {
    /// The seeds, at most `most` of them.
    pub fn seeds(self, most: Option<u64>) -> std::ops::Range<u64> {
        self.first..self.first + most.unwrap_or(self.count).min(self.count)
    }

    fn end(self) -> Option<u64> {
        self.first.checked_add(self.count)
    }
}

/// Seeds of the worlds that settings are chosen in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Worlds {
    /// `world.seed` of the parts that tune.
    pub tuning: u64,
}

/// How a primary test is decided.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecisionRule {
    /// What is compared.
    pub measure: Measure,
    /// Which answers are counted; the others stand beside them.
    pub answers: Answers,
    /// Where intervals and p values come from.
    pub interval: IntervalRule,
    /// How several tests are corrected for.
    pub correction: Correction,
    /// Error rate of all primary tests together.
    pub alpha: f64,
    /// The smallest effect of interest, points.
    pub smallest_effect: f64,
    /// How often the counted seeds are looked at.
    pub looks: u32,
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// The mean over the six sets of the accuracy on each.
    MacroAverage,
}

/// Which answers are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answers {
    /// The likeliest token at each step.
    Greedy,
    /// One sample at the temperature that is trained.
    Sampled,
}

/// Where intervals and p values come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IntervalRule {
    /// Crossed random effects: seed, question, residual; Satterthwaite's degrees of freedom.
    CrossedRandomEffects,
}

/// How several tests are corrected for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Correction {
    /// Holm's step-down procedure.
    Holm,
}

/// A primary test: an arm above each of others.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrimaryTest {
    /// `H1` and on.
    pub name: String,
    /// The arm that is said to be better.
    pub arm: String,
    /// The arms that it must exceed; of several, all (intersection-union).
    pub over: Vec<String>,
    /// The test that must hold before this one is made.
    #[serde(default)]
    pub requires: Option<String>,
}

impl Preregistration {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// No such file, unknown or missing keys, seeds that were used before, a test of another one that
    /// is not there.
    pub fn read(path: &Path) -> Result<Self> {
        let text = files::read_text(path)?;
        Self::parse(&text).map_err(|text| problem(path, text))
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let read: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        match read.problem() {
            Some(text) => Err(text),
            None => Ok(read),
        }
    }

    fn problem(&self) -> Option<String> {
        let Seeds { tuning, counted } = self.seeds;
        for (name, range) in [("tuning", tuning), ("counted", counted)] {
            if range.first < FIRST_FREE_SEED {
                return Some(format!(
                    "seeds.{name}.first is {}: expected at least {FIRST_FREE_SEED}; seeds below were \
                     used before the study",
                    range.first
                ));
            }
            if range.count == 0 || range.end().is_none() {
                return Some(format!(
                    "seeds.{name}.count is {}: expected at least 1",
                    range.count
                ));
            }
        }
        if tuning.first < counted.first + counted.count
            && counted.first < tuning.first + tuning.count
        {
            return Some(
                "seeds.tuning and seeds.counted overlap: a seed is for one of them".into(),
            );
        }
        let rule = &self.rule;
        if !(rule.alpha > 0.0 && rule.alpha < 1.0) {
            return Some(format!(
                "rule.alpha is {}: expected between 0 and 1",
                rule.alpha
            ));
        }
        if !(rule.smallest_effect > 0.0 && rule.smallest_effect.is_finite()) {
            return Some(format!(
                "rule.smallest_effect is {}: expected points above 0",
                rule.smallest_effect
            ));
        }
        for test in &self.tests {
            if test.over.is_empty() {
                return Some(format!(
                    "tests.{}: 'over' is empty: expected an arm",
                    test.name
                ));
            }
            if let Some(other) = &test.requires
                && !self.tests.iter().any(|known| known.name == *other)
            {
                return Some(format!(
                    "tests.{}: requires '{other}', which is no test",
                    test.name
                ));
            }
        }
        None
    }

    /// The keys of `settings` and `tuned` that are still to be decided.
    pub fn undecided(&self) -> Vec<String> {
        let of = |name: &str, table: &BTreeMap<String, toml::Value>| -> Vec<String> {
            let open = table.iter().filter(|(_, value)| !is_decided(value));
            open.map(|(key, _)| format!("{name}.\"{key}\"")).collect()
        };
        let mut all = of("settings", &self.settings);
        all.extend(of("tuned", &self.tuned));
        all
    }
}

/// Whether a value is one.
pub(super) fn is_decided(value: &toml::Value) -> bool {
    value.as_str() != Some(UNDECIDED)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
[seeds]
tuning = { first = 1000, count = 4 }
counted = { first = 2000, count = 20 }
[worlds]
tuning = 7
[settings]
"grpo.samples" = 8
[tuned]
"arms.torl.penalty" = "undecided"
[rule]
measure = "macro-average"
answers = "greedy"
interval = "crossed-random-effects"
correction = "holm"
alpha = 0.05
smallest_effect = 1.0
looks = 1
[[tests]]
name = "H1"
arm = "iapo"
over = ["vtool-r1"]
"#;

    #[test]
    fn what_is_undecided_is_named() {
        let read = Preregistration::parse(TEXT).unwrap();
        assert_eq!(read.undecided(), ["tuned.\"arms.torl.penalty\""]);
        assert_eq!(read.seeds.counted.seeds(Some(3)), 2000..2003);
        assert_eq!(read.seeds.counted.seeds(None), 2000..2020);
        assert_eq!(read.seeds.tuning.seeds(Some(9)), 1000..1004);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let errors: Vec<String> = [
            ("first = 1000", "first = 7"),
            ("first = 2000", "first = 1003"),
            ("count = 4", "count = 0"),
            ("alpha = 0.05", "alpha = 5"),
            ("smallest_effect = 1.0", "smallest_effect = -1.0"),
            ("correction = \"holm\"", "correction = \"none\""),
            ("looks = 1", "looks = 1\nlucks = 1"),
            ("over = [\"vtool-r1\"]", "over = []"),
            (
                "over = [\"vtool-r1\"]",
                "over = [\"trm\"]\nrequires = \"H9\"",
            ),
        ]
        .iter()
        .map(|(from, to)| {
            let text = TEXT.replace(from, to);
            let error = Preregistration::parse(&text).unwrap_err();
            error.lines().last().unwrap_or_default().to_owned()
        })
        .collect();
        insta::assert_snapshot!(errors.join("\n"));
    }
}
