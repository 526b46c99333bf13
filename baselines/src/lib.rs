//! The methods IAPO is compared with, one file each: what an episode is worth beside its outcome.
//!
//! Every method gives an episode that called a tool an auxiliary term; [`group_rewards`] decides
//! what an episode without a call gets, and adds the outcome.

pub mod distill;
mod group;
pub mod torl;
pub mod trm;
pub mod vtool_r1;

pub use group::{WithoutCall, group_rewards};
