//! Attribution of a log-probability to the tokens and blocks of a prompt.
//!
//! A method turns a function `f` of a prompt's input embeddings into one score a token
//! ([`Attribution`]); [`Blocks`] sums scores to block masses; [`Distribution`] and [`Divergence`]
//! compare two models' masses. Nothing here knows a model: `f` is a closure over a batch of
//! embedding matrices, `(nodes, tokens, hidden)` to `(nodes)`.
//!
//! ```
//! use attribution::{Aggregation, Blocks, Distribution, Divergence, Quadrature, integrated_gradients};
//! use candle_core::{Device, Tensor};
//!
//! # fn main() -> Result<(), attribution::Error> {
//! let input = Tensor::new(&[[1f32, 2.0], [3.0, -1.0], [0.5, 0.5]], &Device::Cpu)?;
//! let baseline = input.zeros_like()?;
//! let mut f = |x: &Tensor| x.sqr()?.sum((1, 2));
//! let quadrature = Quadrature::GaussLegendre { nodes: 4 };
//! let result = integrated_gradients(&input, &baseline, &quadrature, 2, &mut f)?;
//! assert!(result.gap.abs() < 1e-5);
//!
//! let blocks = Blocks::new(vec![0, 0, 1], 2)?;
//! let masses = blocks.masses(&result.scores, Aggregation::Absolute, None)?;
//! let student = Distribution::new(&masses, 1e-8)?;
//! let teacher = Distribution::new(&[1.0, 1.0], 1e-8)?;
//! assert!(Divergence::Kl.between(&student, &teacher)? > 0.0);
//! # Ok(())
//! # }
//! ```

mod baseline;
mod blocks;
mod divergence;
mod error;
mod gradients;
mod method;
mod occlusion;
mod quadrature;
mod rollout;
mod staircase;

pub use baseline::Baseline;
pub use blocks::{BlockMass, Blocks};
pub use divergence::{Distribution, Divergence, jensen_shannon, kl, reverse_kl, total_variation};
pub use error::{Error, Result};
pub use gradients::{gradient_x_input, integrated_gradients};
pub use method::{AttributedFunction, Attribution, AttributionRequest, Method};
pub use occlusion::occlusion;
pub use quadrature::{Node, Quadrature, Rule};
pub use rollout::{Attentions, attention_rollout};
pub use staircase::{Staircase, path_differences};
