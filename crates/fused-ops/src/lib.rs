//! Differentiable CPU operators that candle lacks or does slowly.
//!
//! Every operator takes and returns candle tensors and takes part in candle's backward pass.
//! Contiguous-able f32 tensors on the CPU run fused kernels: vectorised (AVX-512, AVX2 + FMA or
//! portable, chosen at run time) and multi-threaded with rayon's pool. Their results do not depend
//! on the number of threads, the instruction set, the sizes of caches or the system's mathematics
//! library: one input gives the same bits on every machine. Every other device or dtype runs the composed, differentiable
//! version of the same operator ([`composed`]), which is also what the fused ones are tested
//! against.
//!
//! Sequences of different lengths are packed along the first dimension, never padded;
//! [`AttentionLayout`] says who sees whom.

#![warn(clippy::undocumented_unsafe_blocks)]

pub mod allocator;
mod attention;
mod blockwise;
mod chunked_log_probs;
pub mod composed;
#[cfg(any(test, feature = "cuda"))]
pub mod cuda;
mod embedding;
mod error;
mod feed_forward;
mod functions;
mod kept_layer;
mod kernels;
mod layout;
mod linear;
mod log_probs;
mod logits;
mod matmul;
mod norm;
mod packed_weight;
mod recomputed;
mod rotary;
mod rows;
mod segments;
mod self_attention;
mod swiglu;
mod threads;
mod tiles;
mod values;

pub use attention::attention;
pub use chunked_log_probs::LogitChunk;
pub use embedding::embedding;
pub use error::{Error, Result};
pub use feed_forward::{FeedForwardWeights, feed_forward};
pub use functions::{exp, gelu, log};
pub use kept_layer::KeptLayer;
pub use kernels::exp::exp_in_place;
pub use kernels::instruction_set::InstructionSet;
pub use layout::{AttentionLayout, QueryBlock, Segment};
pub use linear::linear;
pub use log_probs::{TokenLogProbs, token_log_probs};
pub use logits::logits;
pub use matmul::matmul;
pub use norm::rms_norm;
pub use packed_weight::PackedWeight;
pub use rotary::rotary;
pub use rows::write_rows;
pub use self_attention::{
    Projection, QueryTokens, SelfAttentionOptions, SelfAttentionWeights, self_attention,
};
pub use swiglu::swiglu;
pub use threads::{side_by_side, side_by_side_in_turn, threads};
#[cfg(feature = "cuda")]
pub use values::cuda_kernels;
pub use values::{composed_only, instruction_set};

/// The README's example is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
