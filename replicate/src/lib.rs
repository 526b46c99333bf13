//! The recipe: profiles, stages, training, evaluation.

pub mod alignment;
pub mod deviations;
mod error;
pub mod evaluation;
pub mod gates;
pub mod packing;
pub mod policy;
pub mod pretrain;
pub mod profile;
mod state;
pub mod stages;
pub mod progress;
pub mod training;

pub use error::{Error, Result};
