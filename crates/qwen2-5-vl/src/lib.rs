//! Qwen2.5-VL on candle: loads, generates and trains.
//!
//! The model works on *packed* tokens: flat `(tokens, hidden)` tensors whose sequences stand one
//! after the other, and a [`fused_ops::AttentionLayout`] that says who sees whom. There is no
//! padding anywhere.

mod config;
mod error;
mod positions;

pub use config::{Config, TextConfig, VisionConfig};
pub use error::{Error, Result};
pub use positions::{Grid, Positions};
