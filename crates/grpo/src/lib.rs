//! Group relative policy optimisation: from rewards and log-probabilities to new weights.
//!
//! [`advantages`] turns the rewards of groups of episodes into advantages, [`loss`] those and the
//! log-probabilities of packed tokens into a differentiable loss with its [`Metrics`],
//! [`Gradients`] collects gradients over micro-batches, [`clip_grad_norm`] bounds them and
//! [`AdamW`] updates the parameters at the rate of a [`LearningRateSchedule`]. Nothing here knows a model.

mod advantage;
mod error;
mod gradients;
mod loss;
mod metrics;
pub mod optimizer;
mod options;
mod schedule;
mod turns;

pub use advantage::{
    ScaleByStd, advantages, advantages_of_scored, advantages_of_shaped, zero_variance_share,
};
pub use error::{Error, Result};
pub use gradients::{Gradients, clip_grad_norm};
pub use loss::{LossInputs, LossOutput, Totals, loss};
pub use metrics::Metrics;
pub use optimizer::{AdamW, AdamWOptions, OptimizerPlace};
pub use options::{Clip, KlEstimator, KlPenalty, LossAggregation, LossOptions, RatioLevel};
pub use schedule::{Decay, LearningRateSchedule};
pub use turns::{TrainedTurns, turn_mask};

/// The example of the README, run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
