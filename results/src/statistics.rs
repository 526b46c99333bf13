//! How sure a number is: intervals, paired differences, several tests at once, power.
//!
//! Differences of arms are judged by crossed random effects of seed and question
//! ([`crossed`](crate::statistics::crossed)); beside them stands the bootstrap over figures and
//! seeds ([`Bootstrap`](crate::statistics::Bootstrap)), which also gives the cells' intervals.

mod bootstrap;
mod cells;
mod crossed;
mod hypotheses;
mod level;
mod line;
mod paired;
mod proportion;
mod scores;
pub mod simulation;

pub use bootstrap::{Bootstrap, Estimate};
pub use cells::{ArmEstimates, Cell, estimate};
pub use crossed::{
    CrossedEstimate, Design, SetDifferences, VarianceComponents, crossed, over_seeds,
};
pub use hypotheses::{Conclusion, Hypothesis, Outcome, decide, holm, intersection_union};
pub use level::{LEVEL, Z_LEVEL};
pub use line::LineFit;
pub use paired::{Incomparable, PairedDifference, SetDifference, compare};
pub use proportion::{McNemar, mcnemar, probability_of_improvement, wilson};
pub use scores::{ArmScores, CellAccuracy, SetScores, clustered_standard_error};
