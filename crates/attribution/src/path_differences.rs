//! Integrated gradients of whole blocks without a gradient: differences of `F` along the path.
//!
//! For the path `γ(α) = e' + α (e − e')` the signed mass of block b is
//! `A_b = Σ_{i in b} IG_i = ∫₀¹ ∂F/∂α_b dα`, where `α_b` moves block b alone. With levels
//! `0 = a_0 < … < a_n = 1` the blocks rise from `a_k` to `a_{k+1}` one after the other, and
//!
//! ```text
//! A_b ≈ Σ_k F(after b's rise to a_{k+1}) − F(before it)
//! ```
//!
//! The sum over blocks telescopes: the completeness gap is that of rounding for any `n`. What is left
//! is an error of the division among blocks, since those that rise later see the others higher; every
//! other step goes through the blocks in the reverse order, which cancels its first order.
//! `n · blocks + 1` values of `F` serve all blocks, and no backward pass is needed. The path with one
//! step is a sum of occlusions in a row. Source: the path integral of Sundararajan, Taly and Yan 2017
//! (arXiv 1703.01365), §3; Aumann and Shapley 1974 for players that join in small portions.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::functions::{AttributedFunctions, checked_values};
use crate::path::{Path, Point};
use crate::result::{Attribution, Completeness, Scores, narrowed};

/// The levels of the path: level `k` is `(k / steps)^exponent`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Levels {
    /// Steps from baseline to input, at least 1; an even number cancels the order of the blocks.
    pub steps: usize,
    /// 1 spaces the levels evenly, 3 closer to the baseline, which serves a zero baseline.
    pub exponent: f64,
}

impl Levels {
    /// Whether they lead anywhere.
    pub(crate) fn check(self) -> Result<()> {
        if self.steps == 0 {
            return Err(Error::Setting {
                what: "steps",
                why: "0 steps lead nowhere: give at least 1".into(),
            });
        }
        if !(self.exponent > 0.0 && self.exponent.is_finite()) {
            return Err(Error::Setting {
                what: "exponent",
                why: format!(
                    "{} is not a positive number; 1 spaces evenly",
                    self.exponent
                ),
            });
        }
        Ok(())
    }

    /// For every rise in order the level that is reached and which of `blocks` blocks reaches it.
    fn rises(self, blocks: usize) -> impl Iterator<Item = (f64, usize)> {
        (0..self.steps).flat_map(move |step| {
            let level = libm::pow((step + 1) as f64 / self.steps as f64, self.exponent);
            (0..blocks).map(move |turn| {
                let block = match step % 2 {
                    0 => turn,
                    _ => blocks - 1 - turn,
                };
                (level, block)
            })
        })
    }
}

/// The masses of blocks by differences along every path, for every call. Empty blocks get no step of
/// their own.
pub(crate) fn path_differences<F: AttributedFunctions>(
    paths: &[Path],
    levels: Levels,
    functions: &mut F,
) -> std::result::Result<Vec<Vec<Attribution>>, F::Error> {
    levels.check()?;
    let occupied: Vec<Vec<usize>> = paths.iter().map(|path| path.blocks().occupied()).collect();
    let mut points = Vec::new();
    for (path, occupied) in occupied.iter().enumerate() {
        let mut shares = vec![0.0; paths[path].blocks().count()];
        points.push(Point {
            path,
            shares: shares.clone(),
        });
        for (level, block) in levels.rises(occupied.len()) {
            shares[occupied[block]] = level;
            points.push(Point {
                path,
                shares: shares.clone(),
            });
        }
    }
    let mut values = checked_values(functions, paths, &points)?.into_iter();
    let mut found = Vec::with_capacity(paths.len());
    for (path, occupied) in paths.iter().zip(&occupied) {
        let count = 1 + levels.steps * occupied.len();
        let values: Vec<Vec<f64>> = values.by_ref().take(count).collect();
        let calls = values.first().map_or(0, Vec::len);
        let own = (0..calls).map(|call| {
            let values: Vec<f64> = values.iter().map(|at_point| at_point[call]).collect();
            let masses = masses(levels, occupied, path.blocks().count(), &values);
            attribution(&masses, &values).map_err(F::Error::from)
        });
        found.push(own.collect::<std::result::Result<Vec<_>, _>>()?);
    }
    Ok(found)
}

/// The mass of each of `blocks` blocks, of which some are occupied, from the values of `F` along the
/// path.
fn masses(levels: Levels, occupied: &[usize], blocks: usize, values: &[f64]) -> Vec<f64> {
    let mut masses = vec![0.0; blocks];
    for ((_, block), pair) in levels.rises(occupied.len()).zip(values.windows(2)) {
        masses[occupied[block]] += pair[1] - pair[0];
    }
    masses
}

fn attribution(masses: &[f64], values: &[f64]) -> Result<Attribution> {
    // There is at least the baseline.
    let (f_baseline, f_input) = (values[0], values[values.len() - 1]);
    Ok(Attribution {
        scores: Scores::Blocks(narrowed(masses, "block")?),
        elements: None,
        f_input,
        completeness: Some(Completeness::of(masses, f_input, f_baseline)),
        forward_points: values.len(),
        gradient_points: 0,
    })
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::blocks::Blocks;
    use crate::functions::BatchedFunction;
    use crate::gradients::integrated_gradients;
    use crate::quadrature::Quadrature;

    /// A function in which the blocks interact.
    fn f(x: &Tensor) -> candle_core::Result<Tensor> {
        let rows = x.sum(2)?;
        let product = (rows.narrow(1, 0, 1)? * rows.narrow(1, 2, 1)?)?;
        (product.squeeze(1)? + rows.sin()?.sum(1)?)? + rows.sum(1)?.tanh()?
    }

    fn example() -> [Path; 1] {
        let input = Tensor::new(&[[1f32, 2.0], [0.5, -1.0], [0.25, 0.5]], &Device::Cpu).unwrap();
        let baseline = Tensor::new(&[[0f32, 0.5], [0.0, 0.0], [0.5, -0.5]], &Device::Cpu).unwrap();
        let blocks = Blocks::new(vec![0, 2, 3], 4).unwrap();
        [Path::between(&baseline, &input, blocks).unwrap()]
    }

    fn functions() -> BatchedFunction<impl FnMut(&Tensor) -> candle_core::Result<Tensor>> {
        BatchedFunction {
            points_per_batch: 4,
            function: f,
        }
    }

    /// The scores of three blocks of a token each, and the gap.
    fn scores(steps: usize, exponent: f64) -> ([f32; 3], f64) {
        let levels = Levels { steps, exponent };
        let found = path_differences(&example(), levels, &mut functions()).unwrap();
        let found = &found[0][0];
        assert_eq!(found.forward_points, 3 * steps + 1);
        let Scores::Blocks(scores) = &found.scores else {
            panic!("{found:?}");
        };
        assert_eq!(scores[1], 0.0);
        let gap = found.completeness.unwrap().gap;
        ([scores[0], scores[2], scores[3]], gap)
    }

    #[test]
    fn complete_with_any_number_of_steps_and_on_its_way_to_integrated_gradients() {
        let quadrature = Quadrature::GaussLegendre { nodes: 32 };
        let exact = integrated_gradients(&example(), &quadrature, &mut functions()).unwrap();
        let exact = exact[0][0].token_scores().unwrap().to_vec();
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
    fn blocks_rise_one_after_the_other_and_back() {
        let levels = Levels {
            steps: 2,
            exponent: 1.0,
        };
        let rises: Vec<_> = levels.rises(2).collect();
        assert_eq!(rises, [(0.5, 0), (0.5, 1), (1.0, 1), (1.0, 0)]);
        let masses = masses(levels, &[0, 2], 3, &[0.0, 1.0, 3.0, 6.0, 10.0]);
        assert_eq!(masses, [1.0 + 4.0, 0.0, 2.0 + 3.0]);
    }

    #[test]
    fn impossible_levels_are_errors() {
        for (steps, exponent, named) in [
            (0, 1.0, "steps"),
            (2, 0.0, "exponent"),
            (2, f64::NAN, "NaN"),
        ] {
            let error = Levels { steps, exponent }.check().unwrap_err();
            assert!(error.to_string().contains(named), "{error}");
        }
    }
}
