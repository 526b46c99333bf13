//! The recipe: profiles, stages, training, evaluation.

pub mod alarms;
pub mod alignment;
pub mod attribution_map;
pub mod call_content;
mod call_gradients;
mod called_prompt;
pub mod checkpoint;
mod completions;
pub mod compute;
pub mod deviations;
pub mod encoding;
mod error;
pub mod evaluation;
pub mod gates;
pub mod interrupt;
pub mod kept_turns;
pub mod packing;
pub mod plan;
pub mod policy;
pub mod pretrain;
pub mod probe;
pub mod profile;
pub mod progress;
pub mod provenance;
pub mod records;
pub mod stages;
mod state;
pub mod study;
pub mod training;

pub use error::{Error, Result};
