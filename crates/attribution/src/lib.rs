#![doc = include_str!("../README.md")]

mod baseline;
mod blocks;
mod divergence;
mod elements;
mod error;
mod functions;
mod gradients;
mod method;
mod occlusion;
mod path;
mod path_differences;
mod quadrature;
mod result;
mod rollout;

pub use baseline::Baseline;
pub use blocks::{BlockMass, Blocks};
pub use divergence::{Distribution, Divergence, jensen_shannon, kl, reverse_kl, total_variation};
pub use error::{Error, Result};
pub use functions::{AttributedFunctions, BatchedFunction, GradientSum};
pub use method::Method;
pub use path::{Path, Point};
pub use path_differences::Levels;
pub use quadrature::{Node, Quadrature, Rule};
pub use result::{Attribution, Completeness, Scores};
pub use rollout::{Attentions, attention_rollout};
