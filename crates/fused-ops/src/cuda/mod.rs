//! Kernels of our own for NVIDIA cards: attention over the runs of a layout (`attention.cu`), which the
//! blockwise operator of [`crate::composed`] is the reference of. The tests run their source on the
//! processor.

#[cfg(feature = "cuda")]
mod launch;
mod schedule;
#[cfg(test)]
mod tests;

#[cfg(feature = "cuda")]
pub use launch::attention;
