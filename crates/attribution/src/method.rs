//! The methods behind one interface, so that an experiment can name one.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::functions::{AttributedFunctions, BatchedFunction, checked_values};
use crate::gradients::integrated_gradients;
use crate::occlusion::occlusion;
use crate::path::{Path, Point};
use crate::path_differences::{Levels, path_differences};
use crate::quadrature::{Quadrature, Rule};
use crate::result::{Attribution, Scores, narrowed};
use crate::rollout::attention_rollout;

/// How to attribute. What has no settings is a variant with no fields and not a bare one, because
/// serde lets unknown keys beside those pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "name", deny_unknown_fields)]
pub enum Method {
    /// Integrated gradients along the path, for every token.
    IntegratedGradients {
        /// The rule for the path integral.
        quadrature: Quadrature,
    },
    /// The same integral for whole blocks, by differences along the path: no backward pass.
    PathDifferences(Levels),
    /// Gradient times the way from the baseline, `(e_i − e'_i) · ∂F/∂e_i (e)`: integrated gradients
    /// with their one node at α = 1. From zero it is gradient times input.
    GradientXInput {},
    /// The drop of `F` when one block's embeddings become the baseline's.
    Occlusion {},
    /// What part of the attention of the call's positions reaches each token (Abnar and Zuidema
    /// 2020): where the model looks, not what speaks for the call. The baseline is not used.
    AttentionRollout {},
}

impl Method {
    /// Attributes every function of every path, `[path][call]`.
    ///
    /// # Errors
    /// Settings out of range, as [`Method::check`]; a non-finite value or gradient, a graph cut
    /// between embeddings and values; whatever `functions` return.
    pub fn attribute<F: AttributedFunctions>(
        &self,
        paths: &[Path],
        functions: &mut F,
    ) -> std::result::Result<Vec<Vec<Attribution>>, F::Error> {
        match self {
            Method::IntegratedGradients { quadrature } => {
                integrated_gradients(paths, quadrature, functions)
            }
            Method::PathDifferences(levels) => path_differences(paths, *levels, functions),
            Method::GradientXInput {} => integrated_gradients(paths, &AT_INPUT, functions),
            Method::Occlusion {} => occlusion(paths, functions),
            Method::AttentionRollout {} => rollout(paths, functions),
        }
    }

    /// Attributes one function of one prompt's embeddings: batches of matrices `(points, tokens,
    /// hidden)`, of at most `points_per_batch`, to values `(points)`.
    ///
    /// # Errors
    /// As [`Method::attribute`]; rollout, which needs more than a function.
    pub fn attribute_function(
        &self,
        path: &Path,
        points_per_batch: usize,
        function: impl FnMut(&Tensor) -> candle_core::Result<Tensor>,
    ) -> Result<Attribution> {
        let mut functions = BatchedFunction {
            points_per_batch,
            function,
        };
        let mut found = self.attribute(std::slice::from_ref(path), &mut functions)?;
        // One path with one function gives one attribution.
        Ok(found.swap_remove(0).swap_remove(0))
    }

    /// Whether the settings are in their range; errors name the setting.
    ///
    /// # Errors
    /// Too few nodes or steps, an impossible spacing.
    pub fn check(&self) -> Result<()> {
        match self {
            Method::IntegratedGradients { quadrature } => quadrature.nodes().map(|_| ()),
            Method::PathDifferences(levels) => levels.check(),
            Method::GradientXInput {} | Method::Occlusion {} | Method::AttentionRollout {} => {
                Ok(())
            }
        }
    }

    /// Whether it gives every token a score, and not blocks alone.
    pub fn scores_tokens(&self) -> bool {
        !matches!(self, Method::PathDifferences(_) | Method::Occlusion {})
    }
}

/// The one node of gradient times input.
const AT_INPUT: Quadrature = Quadrature::Riemann {
    rule: Rule::Right,
    nodes: 1,
};

/// Rollout for every call, with `F` at the input beside it.
fn rollout<F: AttributedFunctions>(
    paths: &[Path],
    functions: &mut F,
) -> std::result::Result<Vec<Vec<Attribution>>, F::Error> {
    let inputs: Vec<Point> = paths
        .iter()
        .enumerate()
        .map(|(path, own)| Point {
            path,
            shares: vec![1.0; own.blocks().count()],
        })
        .collect();
    let values = checked_values(functions, paths, &inputs)?;
    let mut found = Vec::with_capacity(paths.len());
    for (path, values) in values.into_iter().enumerate() {
        let mut own = Vec::with_capacity(values.len());
        for (call, f_input) in values.into_iter().enumerate() {
            let attentions = functions.attentions(path, call)?;
            let scores = attention_rollout(&attentions, paths[path].blocks().tokens())?;
            own.push(Attribution {
                scores: Scores::Tokens(narrowed(&scores, "token")?),
                elements: None,
                f_input,
                completeness: None,
                forward_points: 2,
                gradient_points: 0,
            });
        }
        found.push(own);
    }
    Ok(found)
}
