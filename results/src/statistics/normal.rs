//! The level of all intervals and the quantiles of the normal distribution that go with it.

/// The level of every interval, two-sided.
pub const LEVEL: f64 = 0.95;

/// The standard normal's 97.5 % point: half the width of a 95 % interval in standard errors.
pub const Z_LEVEL: f64 = 1.959_963_984_540_054;

/// The standard normal's 80 % point: what a test of 80 % power adds to [`Z_LEVEL`].
pub const Z_POWER: f64 = 0.841_621_233_572_914_3;

/// The smallest true difference that a two-sided 5 % test of this standard error finds in 80 % of
/// repetitions: `(z_0.975 + z_0.8) · SE`, about 2.8 standard errors (Bloom 1995).
pub fn minimum_detectable_effect(standard_error: f64) -> f64 {
    (Z_LEVEL + Z_POWER) * standard_error
}
