//! An arm's finished cells as numbers.

use std::path::Path;

use results::statistics::ArmScores;
use results::{ArmName, Record, Run, UpdateMetrics};

use crate::Result;

use super::super::cell::StudyCell;
use super::composition::Composition;

/// An arm over its seeds.
pub struct ArmRuns {
    /// The arm.
    pub name: ArmName,
    /// Greedy answers.
    pub greedy: ArmScores,
    /// Answers sampled at the temperature of training; without a set where none were drawn.
    pub sampled: ArmScores,
    /// What the greedy answers are made of.
    pub composition: Composition,
    /// By seed in order, one line an update.
    pub metrics: Vec<Vec<UpdateMetrics>>,
    /// Updates in all, with those before the arm's own.
    pub updates: usize,
}

impl ArmRuns {
    /// The arm of runs in given folders.
    pub fn load<'f>(name: &ArmName, folders: impl IntoIterator<Item = &'f Path>) -> Result<Self> {
        let (mut greedy, mut sampled) = (Vec::new(), Vec::new());
        let mut composition = Composition::default();
        let mut metrics = Vec::new();
        let mut updates = 0;
        for folder in folders {
            let run = Run::load(folder)?;
            for record in run.records {
                composition.add(&record);
                if let Some(answer) = &record.sampled {
                    sampled.push(Record {
                        verdict: answer.verdict,
                        arm: name.clone(),
                        ..slim(&record)
                    });
                }
                greedy.push(Record {
                    arm: name.clone(),
                    ..slim(&record)
                });
            }
            if let Some(manifest) = &run.manifest {
                updates = manifest.updates.values().sum::<u64>() as usize;
            }
            metrics.push(run.metrics);
        }
        Ok(ArmRuns {
            greedy: ArmScores::collect(name, &greedy),
            sampled: ArmScores::collect(name, &sampled),
            name: name.clone(),
            composition,
            metrics,
            updates,
        })
    }

    /// The arm of a variant's finished cells.
    pub fn of_cells(cells: &[&StudyCell], name: &str, out: &Path) -> Result<Self> {
        let arm: ArmName = name.parse()?;
        let folders: Vec<_> = cells
            .iter()
            .filter(|cell| cell.arm == arm)
            .map(|cell| cell.folder(out))
            .collect();
        Self::load(&arm, folders.iter().map(|folder| folder.as_path()))
    }

    /// The mean over seeds of what a seed's last update says.
    pub fn at_the_end(&self, value: impl Fn(&UpdateMetrics) -> Option<f64>) -> Option<f64> {
        mean(self.last(value).into_iter().flatten())
    }

    /// What each seed's last update says.
    pub fn last(&self, value: impl Fn(&UpdateMetrics) -> Option<f64>) -> Vec<Option<f64>> {
        let last = |lines: &Vec<UpdateMetrics>| lines.last().and_then(&value);
        self.metrics.iter().map(last).collect()
    }

    /// The mean over all updates of the arm's own stage.
    pub fn over_updates(&self, value: impl Fn(&UpdateMetrics) -> Option<f64>) -> Option<f64> {
        let own = self.metrics.iter().flatten();
        mean(
            own.filter(|line| line.stage == self.name.name())
                .filter_map(value),
        )
    }
}

/// Divergence from the teacher on the probe, right and wrong calls together.
pub fn divergence(line: &UpdateMetrics) -> Option<f64> {
    let found = line.alignment.as_ref()?;
    Some((found.right + found.wrong) / 2.0)
}

/// The mean; `None` of nothing.
pub fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0usize);
    for value in values {
        sum += value;
        count += 1;
    }
    (count > 0).then(|| sum / count as f64)
}

/// A record without what scores do not read: hundreds of thousands are held at once.
fn slim(record: &Record) -> Record {
    Record {
        prediction: String::new(),
        gt: String::new(),
        reason: None,
        call: None,
        tool_reason: None,
        sampled: None,
        checkpoint: String::new(),
        ..record.clone()
    }
}
