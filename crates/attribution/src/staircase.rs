//! Integrated gradients of whole blocks without a gradient: differences of `f` along a staircase.
//!
//! For the path `γ(α) = e' + α (e − e')` the signed mass of block b is
//! `A_b = Σ_{i in b} IG_i = ∫₀¹ ∂f/∂α_b dα`, where `α_b` moves block b alone. With levels
//! `0 = a_0 < … < a_n = 1` the blocks climb from `a_k` to `a_{k+1}` one after the other, and
//!
//! ```text
//! A_b ≈ Σ_k f(after b's climb to a_{k+1}) − f(before it)
//! ```
//!
//! The sum over blocks telescopes: the completeness gap is 0 for any `n`. What is left is an error of
//! the division among blocks, since those that climb later see the others higher; every other step
//! climbs in the reverse order, which cancels its first order. `n · blocks + 1` values of `f` serve
//! all blocks, and no backward pass is needed. The path with one step is a sum of occlusions in a
//! row. Source: the path integral of Sundararajan, Taly and Yan 2017 (arXiv 1703.01365), §3; Aumann
//! and Shapley 1974 for players that join in small portions. Scores of single tokens are not known:
//! a block's mass is spread evenly over its tokens.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::blocks::Blocks;
use crate::error::{Error, Result};
use crate::gradients::{same_matrix, values};
use crate::method::{AttributedFunction, Attribution};

/// Where the stairs are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Staircase {
    /// Steps from baseline to input, at least 1; an even number cancels the order of the blocks.
    pub steps: usize,
    /// Level `k` is `(k / steps)^exponent`: 1 spaces them evenly, 3 closer to the baseline.
    pub exponent: f64,
}

impl Staircase {
    /// For every point of the path the share of the way that each of `blocks` blocks has gone, from
    /// all 0 to all 1; `steps * blocks + 1` points.
    ///
    /// # Errors
    /// No steps, or an exponent that is not a positive number.
    pub fn points(&self, blocks: usize) -> Result<Vec<Vec<f64>>> {
        if self.steps == 0 {
            return Err(Error::Setting {
                what: "staircase.steps",
                why: "0 steps lead nowhere: give at least 1".into(),
            });
        }
        if !(self.exponent > 0.0 && self.exponent.is_finite()) {
            return Err(Error::Setting {
                what: "staircase.exponent",
                why: format!(
                    "{} is not a positive number; 1 spaces evenly",
                    self.exponent
                ),
            });
        }
        let mut shares = vec![0.0; blocks];
        let mut points = vec![shares.clone()];
        for (step, block) in self.climbs(blocks) {
            let level = (step + 1) as f64 / self.steps as f64;
            shares[block] = libm::pow(level, self.exponent);
            points.push(shares.clone());
        }
        Ok(points)
    }

    /// The mass of every block, from the values of `f` at [`Staircase::points`].
    pub fn masses(&self, values: &[f64], blocks: usize) -> Vec<f64> {
        let mut masses = vec![0.0; blocks];
        for ((_, block), pair) in self.climbs(blocks).zip(values.windows(2)) {
            masses[block] += pair[1] - pair[0];
        }
        masses
    }

    /// Step and block of every climb in order.
    fn climbs(&self, blocks: usize) -> impl Iterator<Item = (usize, usize)> {
        (0..self.steps).flat_map(move |step| {
            (0..blocks).map(move |turn| {
                let block = match step % 2 {
                    0 => turn,
                    _ => blocks - 1 - turn,
                };
                (step, block)
            })
        })
    }
}

/// The masses of blocks by differences of `f` along a staircase.
///
/// Shapes as in [`crate::integrated_gradients`]. Empty blocks get no step of their own.
///
/// # Errors
/// As [`Staircase::points`]; shapes or labels that do not match, a non-finite value, or whatever `f`
/// returns.
pub fn path_differences(
    input: &Tensor,
    baseline: &Tensor,
    blocks: &Blocks,
    staircase: &Staircase,
    nodes_per_batch: usize,
    f: &mut AttributedFunction<'_>,
) -> Result<Attribution> {
    let (tokens, _) = same_matrix(input, baseline)?;
    blocks.expect_tokens("input", tokens)?;
    let sizes = blocks.sizes();
    let occupied: Vec<usize> = (0..blocks.count()).filter(|&b| sizes[b] > 0).collect();
    let direction = (input - baseline)?;
    let points = staircase
        .points(occupied.len())?
        .iter()
        .map(|shares| {
            let mut of_block = vec![0.0; blocks.count()];
            for (&block, &share) in occupied.iter().zip(shares) {
                of_block[block] = share;
            }
            let rows: Vec<f64> = blocks.labels().iter().map(|&b| of_block[b]).collect();
            let rows = Tensor::from_vec(rows, (tokens, 1), input.device())?;
            let moved = direction.broadcast_mul(&rows.to_dtype(input.dtype())?)?;
            Ok((baseline + moved)?)
        })
        .collect::<Result<Vec<_>>>()?;
    let values = values(&points, nodes_per_batch, f)?;
    let mut shares = vec![0.0; blocks.count()];
    for (&block, mass) in occupied
        .iter()
        .zip(staircase.masses(&values, occupied.len()))
    {
        shares[block] = mass / sizes[block] as f64;
    }
    let scores: Vec<f64> = blocks.labels().iter().map(|&label| shares[label]).collect();
    let mut result = Attribution::new(&scores, values[values.len() - 1], values[0]);
    result.forward_points = points.len();
    Ok(result)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::{Quadrature, integrated_gradients};

    /// A function in which the blocks interact.
    fn f(x: &Tensor) -> candle_core::Result<Tensor> {
        let rows = x.sum(2)?;
        let product = (rows.narrow(1, 0, 1)? * rows.narrow(1, 2, 1)?)?;
        (product.squeeze(1)? + rows.sin()?.sum(1)?)? + rows.sum(1)?.tanh()?
    }

    fn example() -> (Tensor, Tensor, Blocks) {
        let input = Tensor::new(&[[1f32, 2.0], [0.5, -1.0], [0.25, 0.5]], &Device::Cpu).unwrap();
        let baseline = Tensor::new(&[[0f32, 0.5], [0.0, 0.0], [0.5, -0.5]], &Device::Cpu).unwrap();
        (input, baseline, Blocks::new(vec![0, 2, 3], 4).unwrap())
    }

    /// The scores of three tokens, a block each, and the gap.
    fn scores(steps: usize, exponent: f64) -> (Vec<f32>, f64) {
        let (input, baseline, blocks) = example();
        let staircase = Staircase { steps, exponent };
        let found = path_differences(&input, &baseline, &blocks, &staircase, 4, &mut |x| f(x));
        let found = found.unwrap();
        assert_eq!(found.forward_points, 3 * steps + 1);
        (found.scores, found.gap)
    }

    #[test]
    fn complete_with_any_number_of_steps_and_on_its_way_to_integrated_gradients() {
        let (input, baseline, _) = example();
        let quadrature = Quadrature::GaussLegendre { nodes: 32 };
        let exact = integrated_gradients(&input, &baseline, &quadrature, 8, &mut |x| f(x))
            .unwrap()
            .scores;
        for exponent in [1.0, 3.0] {
            let error = |steps| {
                let (scores, gap) = scores(steps, exponent);
                assert!(gap.abs() < 1e-5, "{steps} steps: gap {gap}");
                let errors = scores.iter().zip(&exact).map(|(a, b)| (a - b).abs());
                errors.fold(0.0, f32::max)
            };
            let errors = [2, 4, 8, 16].map(error);
            for pair in errors.windows(2) {
                // Second order: half the step, a quarter of the error.
                assert!(pair[1] < 0.4 * pair[0], "exponent {exponent}: {errors:?}");
            }
            assert!(errors[3] < 2e-2 && error(1) > errors[0], "{errors:?}");
        }
    }

    #[test]
    fn one_step_is_one_block_after_the_other() {
        let staircase = Staircase {
            steps: 2,
            exponent: 1.0,
        };
        let points = staircase.points(2).unwrap();
        let expected = [[0.0, 0.0], [0.5, 0.0], [0.5, 0.5], [0.5, 1.0], [1.0, 1.0]];
        assert_eq!(points, expected);
        let masses = staircase.masses(&[0.0, 1.0, 3.0, 6.0, 10.0], 2);
        assert_eq!(masses, [1.0 + 4.0, 2.0 + 3.0]);
    }

    #[test]
    fn impossible_stairs_are_errors() {
        for (steps, exponent, named) in [
            (0, 1.0, "steps"),
            (2, 0.0, "exponent"),
            (2, f64::NAN, "NaN"),
        ] {
            let error = Staircase { steps, exponent }.points(2).unwrap_err();
            assert!(error.to_string().contains(named), "{error}");
        }
    }
}
