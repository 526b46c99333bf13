//! Two experiments side by side: which settings differ, how every arm differs, which answers flip.
//!
//! Arms are paired by question, across profiles, where both were asked the same questions with the
//! same gold answers on the same figures. Differences are `second − first`, by the same estimator
//! as the verdict's (statistics/crossed.rs).

use std::collections::{BTreeMap, HashMap};

use benchmarks::Verdict;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::options::TableOptions;
use crate::record::{ArmName, Record};
use crate::runs::Runs;
use crate::settings::{SettingDifference, differing_settings};
use crate::statistics::{ArmScores, Incomparable, PairedDifference, compare};

/// Settings that say what was to be run, or what a run is called.
const NO_DIFFERENCE: [&str; 5] = ["name", "seeds", "first_seed", "arms", "trained"];

/// Two experiments, compared.
#[derive(Clone, Debug)]
pub struct RunComparison {
    /// The settings that differ, with the arms whose runs have them; none where an experiment has
    /// no manifest.
    pub settings: Vec<DifferingSetting>,
    /// The arms that both have, in the order of the table.
    pub arms: Vec<ArmComparison>,
    /// Arms that only the first has.
    pub only_first: Vec<ArmName>,
    /// Arms that only the second has.
    pub only_second: Vec<ArmName>,
    /// Questions that both were asked.
    pub common_questions: usize,
}

/// A setting that differs, and where.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DifferingSetting {
    /// The setting with both values.
    #[serde(flatten)]
    pub setting: SettingDifference,
    /// The arms whose runs differ in it.
    pub arms: Vec<ArmName>,
}

/// One arm in both experiments.
#[derive(Clone, Debug)]
pub struct ArmComparison {
    /// The arm.
    pub arm: ArmName,
    /// `second − first` on the common questions, or why there is none.
    pub difference: std::result::Result<PairedDifference, Incomparable>,
    /// Answers that changed, over the seeds that both have.
    pub flips: Flips,
}

/// Answers that changed from the first to the second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flips {
    /// Wrong in the first, right in the second.
    pub gained: usize,
    /// Right in the first, wrong in the second.
    pub lost: usize,
    /// Answers with a verdict in both.
    pub compared: usize,
    /// Those that changed, by question: set, id, seeds gained, seeds lost.
    pub questions: Vec<FlippedQuestion>,
}

/// A question whose answer changed for some seed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlippedQuestion {
    /// The set.
    pub set: String,
    /// The question.
    pub qa_id: String,
    /// Seeds that became right.
    pub gained: Vec<u64>,
    /// Seeds that became wrong.
    pub lost: Vec<u64>,
}

/// A question within its set.
type QuestionKey<'r> = (&'r str, &'r str);

impl RunComparison {
    /// Compares two experiments.
    ///
    /// # Errors
    /// No question in common, or one whose gold answer or figure differs: other data.
    pub fn new(first: &Runs, second: &Runs, options: &TableOptions) -> Result<Self> {
        let common = common_questions(first, second)?;
        let shared =
            |record: &&Record| common.contains_key(&(record.set.as_str(), record.qa_id.as_str()));
        let (of_first, of_second) = (first.arms(), second.arms());
        let arms = of_first.iter().filter(|arm| of_second.contains(arm));
        let arms = arms.map(|arm| {
            let one = ArmScores::collect(arm, first.records().filter(shared));
            let other = ArmScores::collect(arm, second.records().filter(shared));
            ArmComparison {
                arm: arm.clone(),
                difference: compare(&other, &one, options.not_judged_limit, &options.bootstrap),
                flips: flips(arm, first, second),
            }
        });
        let only = |own: &[ArmName], other: &[ArmName]| -> Vec<ArmName> {
            let alone = own.iter().filter(|arm| !other.contains(arm));
            alone.cloned().collect()
        };
        Ok(RunComparison {
            settings: settings(first, second),
            arms: arms.collect(),
            only_first: only(&of_first, &of_second),
            only_second: only(&of_second, &of_first),
            common_questions: common.len(),
        })
    }
}

/// The questions that both were asked.
fn common_questions<'r>(
    first: &'r Runs,
    second: &'r Runs,
) -> Result<HashMap<QuestionKey<'r>, &'r Record>> {
    let place = |runs: &Runs| {
        let run = runs.runs.first();
        run.map_or(String::new(), |run| run.folder.display().to_string())
    };
    let refused = |reason: String| Error::Mixed {
        first: place(first),
        second: place(second),
        reason,
    };
    let known: HashMap<QuestionKey<'_>, &Record> = first
        .records()
        .map(|record| ((record.set.as_str(), record.qa_id.as_str()), record))
        .collect();
    let mut common = HashMap::new();
    for record in second.records() {
        let key = (record.set.as_str(), record.qa_id.as_str());
        let Some((key, before)) = known.get_key_value(&key) else {
            continue;
        };
        if let Some(reason) = before.other_data(record) {
            return Err(refused(reason));
        }
        common.insert(*key, *before);
    }
    match common.is_empty() {
        true => Err(refused("they have no question in common".to_owned())),
        false => Ok(common),
    }
}

/// Settings that differ between the runs of an arm, each once with its arms.
fn settings(first: &Runs, second: &Runs) -> Vec<DifferingSetting> {
    let resolved = |runs: &Runs| -> BTreeMap<ArmName, serde_json::Value> {
        let manifests = runs.runs.iter().filter_map(|run| run.manifest.as_ref());
        manifests
            .map(|manifest| (manifest.arm.clone(), manifest.profile.resolved.clone()))
            .collect()
    };
    let (one, other) = (resolved(first), resolved(second));
    let mut found: Vec<DifferingSetting> = Vec::new();
    for (arm, settings) in &one {
        let Some(others) = other.get(arm) else {
            continue;
        };
        for setting in differing_settings(settings, others) {
            let top = setting.key.split('.').next().unwrap_or_default();
            // What a run was to train is told by its arms; an arm's own table is a setting.
            if NO_DIFFERENCE.contains(&top) && !setting.key.starts_with("arms.") {
                continue;
            }
            match found.iter_mut().find(|known| known.setting == setting) {
                Some(known) => known.arms.push(arm.clone()),
                None => found.push(DifferingSetting {
                    setting,
                    arms: vec![arm.clone()],
                }),
            }
        }
    }
    found
}

fn flips(arm: &ArmName, first: &Runs, second: &Runs) -> Flips {
    let before: HashMap<(u64, QuestionKey<'_>), Verdict> = first
        .records()
        .filter(|record| record.arm == *arm)
        .map(|record| {
            let question = (record.set.as_str(), record.qa_id.as_str());
            ((record.seed, question), record.verdict)
        })
        .collect();
    let mut flips = Flips::default();
    let mut questions: BTreeMap<QuestionKey<'_>, (Vec<u64>, Vec<u64>)> = BTreeMap::new();
    for record in second.records().filter(|record| record.arm == *arm) {
        let question = (record.set.as_str(), record.qa_id.as_str());
        let Some(before) = before.get(&(record.seed, question)) else {
            continue;
        };
        match (before, record.verdict) {
            (Verdict::NotJudged, _) | (_, Verdict::NotJudged) => continue,
            (Verdict::Wrong, Verdict::Right) => {
                flips.gained += 1;
                questions.entry(question).or_default().0.push(record.seed);
            }
            (Verdict::Right, Verdict::Wrong) => {
                flips.lost += 1;
                questions.entry(question).or_default().1.push(record.seed);
            }
            _ => {}
        }
        flips.compared += 1;
    }
    let told =
        |((set, id), (gained, lost)): (QuestionKey<'_>, (Vec<u64>, Vec<u64>))| FlippedQuestion {
            set: set.to_owned(),
            qa_id: id.to_owned(),
            gained,
            lost,
        };
    flips.questions = questions.into_iter().map(told).collect();
    flips
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::statistics::Bootstrap;

    fn options() -> TableOptions {
        TableOptions {
            bootstrap: Bootstrap {
                resamples: 200,
                seed: 0,
            },
            ..TableOptions::default()
        }
    }

    #[test]
    fn a_run_beside_itself_differs_in_nothing() {
        let runs = fixture::checked(8);
        let compared = RunComparison::new(&runs, &runs, &options()).unwrap();
        assert!(compared.settings.is_empty());
        assert_eq!(compared.common_questions, 48);
        for arm in &compared.arms {
            assert_eq!(arm.difference.as_ref().unwrap().crossed.value, 0.0);
            assert_eq!((arm.flips.gained, arm.flips.lost), (0, 0));
        }
    }

    #[test]
    fn settings_flips_and_arms_of_one_alone_are_named() {
        let first = fixture::checked(8);
        let mut changed = fixture::runs(8);
        changed.retain(|run| run.records[0].arm.name() != ArmName::TORL);
        for run in &mut changed {
            run.manifest.as_mut().unwrap().profile.resolved["updates"] = 90.into();
        }
        let run = changed
            .iter_mut()
            .find(|run| run.records[0].arm.name() == ArmName::IAPO)
            .unwrap();
        let record = &mut run.records[0];
        let (seed, was_right) = (record.seed, record.verdict == Verdict::Right);
        record.verdict = match was_right {
            true => Verdict::Wrong,
            false => Verdict::Right,
        };
        let second = Runs::new(changed).unwrap();
        let compared = RunComparison::new(&first, &second, &options()).unwrap();
        assert_eq!(compared.settings.len(), 1);
        assert_eq!(compared.settings[0].setting.key, "updates");
        assert_eq!(compared.settings[0].arms.len(), 6);
        assert_eq!(compared.only_first[0].name(), ArmName::TORL);
        assert!(compared.only_second.is_empty());
        let iapo = &compared
            .arms
            .iter()
            .find(|arm| arm.arm.name() == ArmName::IAPO);
        let iapo = iapo.unwrap();
        let expected = if was_right { -1.0 } else { 1.0 } / (6.0 * 8.0 * 3.0);
        let found = iapo.difference.as_ref().unwrap();
        assert!((found.crossed.value - expected).abs() < 1e-12);
        assert_eq!(iapo.flips.questions.len(), 1);
        let question = &iapo.flips.questions[0];
        let flipped = if was_right {
            &question.lost
        } else {
            &question.gained
        };
        assert_eq!(flipped, &[seed]);
        let by_seed: f64 = found.by_seed.iter().map(|(_, value)| value / 3.0).sum();
        assert!((by_seed - expected).abs() < 1e-12);
    }

    #[test]
    fn other_data_are_refused() {
        let first = fixture::checked(4);
        let mut other = fixture::runs(4);
        for run in &mut other {
            run.records[0].gt = "9".to_owned();
        }
        let error = RunComparison::new(&first, &Runs::new(other).unwrap(), &options());
        let error = error.unwrap_err().to_string();
        assert!(error.contains("these are different data"), "{error}");
        let mut other = fixture::runs(4);
        for record in other.iter_mut().flat_map(|run| &mut run.records) {
            record.qa_id = format!("other-{}", record.qa_id);
        }
        let error = RunComparison::new(&first, &Runs::new(other).unwrap(), &options());
        let error = error.unwrap_err().to_string();
        assert!(error.contains("no question in common"), "{error}");
    }
}
