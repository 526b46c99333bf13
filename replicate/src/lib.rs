//! The recipe: profiles, stages, training, evaluation.

pub mod alignment;
pub mod attribution_map;
pub mod attribution_settings;
pub mod call_content;
pub mod compute;
pub mod deviations;
mod error;
pub mod evaluation;
pub mod gates;
pub mod packing;
pub mod policy;
pub mod pretrain;
pub mod profile;
pub mod progress;
pub mod provenance;
pub mod stages;
mod state;
pub mod training;

pub use error::{Error, Result};
