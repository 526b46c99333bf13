//! Kernels over plain memory. They know nothing of tensors and check nothing: every caller in
//! this crate passes lengths that it has checked.

// Inner loops run over several arrays in lockstep, and a kernel takes its whole shape as numbers.
#![allow(clippy::needless_range_loop, clippy::too_many_arguments)]

pub(crate) mod attention;
mod dispatch;
pub(crate) mod elementwise;
pub(crate) mod exp;
pub(crate) mod gemm;
pub(crate) mod instruction_set;
pub(crate) mod log_probs;
pub(crate) mod memory;
pub(crate) mod norm;
mod portable;
pub(crate) mod simd;
pub(crate) mod softmax;
pub(crate) mod swiglu_slopes;
pub(crate) mod tile;
#[cfg(target_arch = "x86_64")]
mod x86;
