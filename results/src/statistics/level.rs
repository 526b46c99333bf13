//! The level of all intervals and the quantile of the normal distribution that goes with it.

/// The level of every interval, two-sided.
pub const LEVEL: f64 = 0.95;

/// The standard normal's 97.5 % point: half the width of a 95 % interval in standard errors.
pub const Z_LEVEL: f64 = 1.959_963_984_540_054;
