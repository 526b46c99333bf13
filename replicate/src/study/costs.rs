//! How long cells take: measured where runs of the arm are there, else as `costs.toml` says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use results::{Manifest, UpdateMetrics};
use serde::Deserialize;

use crate::Result;

use super::cell::StudyCell;
use super::files::{self, problem};

/// Seconds of one core.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Costs {
    /// An update, by arm; `<part>/<arm>` is looked up first, `other` last.
    pub update: BTreeMap<String, f64>,
    /// A test question.
    pub question: f64,
    /// A base from nothing: student and teacher.
    pub base: f64,
}

/// What cells take.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CostEstimate {
    /// Seconds of one core.
    pub seconds: f64,
    /// The part of them that rests on runs in the folder, not on `costs.toml`.
    pub measured: f64,
}

impl Costs {
    /// Reads the file beside a study; what is measured in `out` takes the place of its figures.
    ///
    /// # Errors
    /// No such file, unknown or missing keys, metrics that cannot be read.
    pub fn read(study: &Path) -> Result<Self> {
        let path = study.join(files::COSTS);
        let costs: Costs = toml::from_str(&files::read_text(&path)?)
            .map_err(|error| problem(&path, error.to_string()))?;
        match costs.update.contains_key(OTHER) {
            true => Ok(costs),
            false => Err(problem(&path, format!("update.{OTHER} is missing"))),
        }
    }

    /// Estimates of cells in order, each with the shared stages that no earlier one needs and that
    /// are not made.
    pub fn estimate(&self, cells: &[StudyCell], out: &Path) -> Result<Vec<CostEstimate>> {
        let measured = Measured::read(cells, out)?;
        let mut planned: BTreeSet<PathBuf> = BTreeSet::new();
        let mut estimates = Vec::with_capacity(cells.len());
        for cell in cells {
            let mut estimate = CostEstimate::default();
            let mut add = |(seconds, measured): (f64, bool)| {
                estimate.seconds += seconds;
                estimate.measured += if measured { seconds } else { 0.0 };
            };
            let schedule = &cell.profile.schedule;
            let questions = cell.profile.evaluation.questions * results::SETS.len();
            add(self.updates(&measured, cell, cell.arm.name(), cell.updates()));
            add(self.questions(&measured, questions));
            for folder in cell.needs(out) {
                if !planned.insert(folder.clone()) {
                    continue;
                }
                if folder == cell.teacher_folder(out) {
                    add(self.updates(&measured, cell, "teacher", schedule.teacher));
                    add(self.questions(&measured, questions));
                } else if folder == cell.cold_start_folder(out) {
                    add(self.updates(&measured, cell, "cold-start", schedule.cold_start));
                } else {
                    add((self.base, false));
                }
            }
            estimates.push(estimate);
        }
        Ok(estimates)
    }

    fn updates(
        &self,
        measured: &Measured,
        cell: &StudyCell,
        stage: &str,
        updates: usize,
    ) -> (f64, bool) {
        let own = format!("{}/{stage}", cell.part);
        let (seconds, known) = match measured.update.get(&own) {
            Some((seconds, count)) => (seconds / *count as f64, true),
            None => {
                let keys = [own.as_str(), stage, OTHER];
                let found = keys.iter().find_map(|key| self.update.get(*key));
                (found.copied().unwrap_or_default(), false)
            }
        };
        (seconds * updates as f64, known)
    }

    fn questions(&self, measured: &Measured, questions: usize) -> (f64, bool) {
        match measured.question {
            (_, 0) => (self.question * questions as f64, false),
            (seconds, count) => (seconds / count as f64 * questions as f64, true),
        }
    }
}

const OTHER: &str = "other";

/// Seconds and counts of finished runs.
#[derive(Default)]
struct Measured {
    /// Seconds and updates by `<part>/<stage>`.
    update: BTreeMap<String, (f64, u64)>,
    /// Seconds and questions.
    question: (f64, u64),
}

impl Measured {
    fn read(cells: &[StudyCell], out: &Path) -> Result<Self> {
        let mut found = Measured::default();
        for cell in cells {
            for folder in [cell.folder(out), cell.teacher_folder(out)] {
                found.add(&cell.part, &folder)?;
            }
        }
        Ok(found)
    }

    fn add(&mut self, part: &str, folder: &Path) -> Result<()> {
        let manifest = folder.join(results::MANIFEST);
        let metrics = folder.join(results::METRICS);
        if !results::is_stored(&manifest) || !results::is_stored(&metrics) {
            return Ok(());
        }
        let manifest: Manifest = results::read_json(&manifest)?;
        if let Some(seconds) = manifest.seconds.get("evaluation") {
            self.question.0 += seconds;
            self.question.1 += manifest.questions.values().sum::<u64>();
        }
        for line in results::read_lines::<UpdateMetrics>(&metrics)? {
            let place = self.update.entry(format!("{part}/{}", line.stage));
            let (seconds, count) = place.or_default();
            *seconds += line.seconds.values().sum::<f64>();
            *count += 1;
        }
        Ok(())
    }
}
