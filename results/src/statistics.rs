//! How sure a number is: intervals, paired differences, power.
//!
//! The unit of sampling is the figure (questions about one figure are not independent) and the
//! training seed. Both are resampled, see [`bootstrap`](crate::statistics::bootstrap).

mod bootstrap;
mod cells;
mod normal;
mod paired;
mod proportion;
mod scores;

pub use bootstrap::{Bootstrap, Estimate};
pub use cells::{ArmEstimates, Cell, estimate};
pub use normal::{LEVEL, Z_LEVEL, minimum_detectable_effect};
pub use paired::{Incomparable, PairedDifference, SetDifference, compare};
pub use proportion::{McNemar, mcnemar, wilson};
pub use scores::{ArmScores, CellAccuracy, SetScores, clustered_standard_error};
