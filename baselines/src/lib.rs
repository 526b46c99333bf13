//! What an episode is worth: one file per method, each a pure function of what was measured.
//!
//! A method gives every episode that called a tool a term, which [`group_rewards`] adds to the
//! outcome (1 for a right answer, 0 for a wrong one). What it needs to know about a call is its
//! [`Evidence`]; whoever trains measures that once for each distinct call of a prompt and hands it
//! over as [`CallEvidence`]. Nothing here runs a model.
//!
//! A new method is a file of its own, a line in the list of modules, a variant of [`Reward`], and a
//! table `[arms.NAME]` in a profile.

pub mod attribution_settings;
mod deviation;
pub mod distill;
mod evidence;
mod group;
pub mod iapo;
mod method;
pub mod own_log_prob;
pub mod random_penalty;
mod reward;
pub mod shuffled;
pub mod torl;
pub mod trm;
pub mod vtool_r1;
mod without_call;

pub use deviation::{Deviation, NOT_TOLD};
pub use evidence::{CallEvidence, Evidence, GroupEvidence, TeacherRole};
pub use group::group_rewards;
pub use method::RewardMethod;
pub use reward::{Arm, Reward};
pub use without_call::WithoutCall;
