//! One arm's row: its accuracy on each set and the macro average, with intervals.

use super::bootstrap::{Bootstrap, Counts, Estimate, Sample};
use super::scores::{ArmScores, CellAccuracy};

/// One arm on one set, as the table shows it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell {
    /// No record.
    Missing,
    /// Too many answers without a verdict for the accuracy to mean anything.
    Invalid {
        /// Share of answers without a verdict.
        not_judged: f64,
        /// Questions.
        questions: usize,
    },
    /// An accuracy.
    Measured {
        /// Counts and accuracy.
        outcome: CellAccuracy,
        /// The accuracy with its interval.
        estimate: Estimate,
    },
}

/// One arm's row.
#[derive(Clone, Debug)]
pub struct ArmEstimates {
    /// One cell per set, in the order of [`crate::SETS`].
    pub cells: Vec<Cell>,
    /// The unweighted mean over the six sets; `None` unless all six are measured.
    pub average: Option<Estimate>,
}

/// The accuracies of one arm. A set in which more than `not_judged_limit` of the answers have no
/// verdict is invalid.
pub fn estimate(arm: &ArmScores, not_judged_limit: f64, bootstrap: &Bootstrap) -> ArmEstimates {
    let accuracies: Vec<Option<CellAccuracy>> = arm
        .sets
        .iter()
        .map(|set| set.as_ref().and_then(|set| set.cell()))
        .collect();
    let valid = |index: usize| accuracies[index].filter(|cell| cell.not_judged <= not_judged_limit);
    let places: Vec<usize> = (0..arm.sets.len())
        .filter(|&index| valid(index).is_some())
        .collect();
    let sample = Sample {
        seeds: arm.seeds.clone(),
        sets: places
            .iter()
            .filter_map(|&index| arm.sets[index].as_ref())
            .map(Counts::of)
            .collect(),
    };
    let replicates = bootstrap.replicates(std::slice::from_ref(&sample));
    let replicates = &replicates[0];
    let mut figures = 0;
    let mut sum = 0.0;
    let cells = (0..arm.sets.len())
        .map(|index| match (&arm.sets[index], valid(index)) {
            (None, _) => Cell::Missing,
            (Some(set), None) => Cell::Invalid {
                not_judged: accuracies[index].map_or(1.0, |cell| cell.not_judged),
                questions: set.questions.len(),
            },
            (Some(_), Some(outcome)) => {
                let place = places.partition_point(|&place| place < index);
                figures += outcome.figures;
                sum += outcome.accuracy;
                let estimate =
                    Bootstrap::estimate(outcome.accuracy, &replicates.sets[place], outcome.figures);
                Cell::Measured { outcome, estimate }
            }
        })
        .collect();
    let average = (places.len() == arm.sets.len())
        .then(|| Bootstrap::estimate(sum / places.len() as f64, &replicates.mean, figures));
    ArmEstimates { cells, average }
}
