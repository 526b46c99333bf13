//! Group relative policy optimisation: from rewards and log-probabilities to new weights.
//!
//! [`advantages`] turns the rewards of groups of episodes into advantages, [`loss`] those and the
//! log-probabilities of packed tokens into a differentiable loss with its [`Metrics`],
//! [`Gradients`] collects gradients over micro-batches, [`clip_grad_norm`] bounds them and
//! [`AdamW`] updates the parameters at the rate of a [`LearningRateSchedule`]. Nothing here knows a model.
//!
//! ```
//! use candle_core::{Device, Tensor, Var};
//! use grpo::{
//!     AdamW, AdamWOptions, Clip, Gradients, LossAggregation, LossInputs, LossOptions, RatioLevel,
//!     ScaleByStd, advantages, clip_grad_norm, loss,
//! };
//!
//! # fn main() -> Result<(), grpo::Error> {
//! // Two samples of one prompt, the first rewarded; three tokens, packed.
//! let weights = Var::new(&[-0.5f32, -1.0, -0.7], &Device::Cpu)?;
//! let parameters = vec![("weights".to_owned(), weights.clone())];
//! let scale = ScaleByStd::Group { eps: 1e-4, floor: 0.0 };
//! let options = LossOptions {
//!     clip: Clip { low: 0.2, high: 0.28, dual: None },
//!     ratio: RatioLevel::Token,
//!     kl: None,
//!     aggregation: LossAggregation::TokenMean,
//! };
//! let inputs = LossInputs {
//!     log_probs: weights.as_tensor(), // a model's, of the tokens that were sampled
//!     old: Some(&[-0.5, -1.0, -0.7]),
//!     reference: None,
//!     entropy: None,
//!     sequence: &[0, 0, 1],
//!     advantages: &advantages(&[1.0, 0.0], &[0, 0], scale)?,
//!     mask: None,
//!     totals: None,
//! };
//! let output = loss(&inputs, &options)?;
//! assert_eq!(output.metrics.mean_ratio, 1.0);
//!
//! let mut gradients = Gradients::new();
//! gradients.accumulate(&parameters, &output.loss.backward()?)?;
//! clip_grad_norm(&mut gradients, Some(1.0))?;
//! let mut optimizer = AdamW::new(AdamWOptions {
//!     beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01,
//! })?;
//! optimizer.step(&parameters, &gradients, 1e-2)?;
//! assert!(weights.to_vec1::<f32>()?[0] > -0.5);
//! # Ok(())
//! # }
//! ```

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
pub use optimizer::{AdamW, AdamWOptions};
pub use options::{Clip, KlEstimator, KlPenalty, LossAggregation, LossOptions, RatioLevel};
pub use schedule::{Decay, LearningRateSchedule};
pub use turns::{TrainedTurns, turn_mask};
