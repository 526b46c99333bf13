//! The methods behind one interface, so that an experiment can name one.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::blocks::Blocks;
use crate::error::{Error, Result};
use crate::gradients::{gradient_x_input, integrated_gradients, values};
use crate::occlusion::occlusion;
use crate::quadrature::Quadrature;
use crate::rollout::{Attentions, attention_rollout};
use crate::staircase::{Staircase, path_differences};

/// What is attributed: embedding matrices `(nodes, tokens, hidden)` to values `(nodes)`.
pub type AttributedFunction<'a> = dyn FnMut(&Tensor) -> candle_core::Result<Tensor> + 'a;

/// An attribution to the tokens of a prompt.
#[derive(Clone, Debug)]
pub struct Attribution {
    /// One score a token.
    pub scores: Vec<f32>,
    /// The scores before the sum over the hidden dimension: `(tokens, hidden)`, f32, CPU; `None`
    /// for methods that have no such parts.
    pub elements: Option<Tensor>,
    /// `f` at the input.
    pub f_input: f64,
    /// `f` at the baseline.
    pub f_baseline: f64,
    /// Completeness gap `Σ scores − (f_input − f_baseline)`, in `f`'s unit (nats for
    /// log-probabilities). Integrated gradients converge to 0; for occlusion it is the interaction
    /// between blocks; rollout does not strive for completeness at all.
    pub gap: f64,
    /// `|gap| / |f_input − f_baseline|`; `None` where that difference is 0.
    pub relative_gap: Option<f64>,
    /// Points at which `f` was evaluated, a measure of cost.
    pub forward_points: usize,
    /// Points at which its gradient was.
    pub gradient_points: usize,
}

impl Attribution {
    pub(crate) fn new(scores: &[f64], f_input: f64, f_baseline: f64) -> Self {
        let difference = f_input - f_baseline;
        let gap = scores.iter().sum::<f64>() - difference;
        Attribution {
            scores: scores.iter().map(|&score| score as f32).collect(),
            elements: None,
            f_input,
            f_baseline,
            gap,
            relative_gap: (difference != 0.0).then(|| gap.abs() / difference.abs()),
            forward_points: 0,
            gradient_points: 0,
        }
    }
}

/// How to attribute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "method", deny_unknown_fields)]
pub enum Method {
    /// [`integrated_gradients`] from the request's baseline.
    IntegratedGradients {
        /// The rule for the path integral.
        quadrature: Quadrature,
    },
    /// [`path_differences`] from the request's baseline: the same integral, for blocks alone.
    PathDifferences {
        /// Where the differences are taken.
        staircase: Staircase,
    },
    /// [`gradient_x_input`]; the request's baseline is not used.
    GradientXInput,
    /// [`occlusion`] of each block by the request's baseline: leave one block out.
    Occlusion,
    /// [`attention_rollout`] of the request's attention matrices.
    AttentionRollout,
}

/// What a [`Method`] works on.
pub struct AttributionRequest<'a> {
    /// The prompt's input embeddings `(tokens, hidden)`.
    pub input: &'a Tensor,
    /// Where attribution starts, `(tokens, hidden)`: see [`crate::Baseline`].
    pub baseline: &'a Tensor,
    /// The block of each token.
    pub blocks: &'a Blocks,
    /// Points that are evaluated together, at least 1; bounds memory.
    pub nodes_per_batch: usize,
    /// Attention matrices at the input, for [`Method::AttentionRollout`] alone.
    pub attentions: Option<Attentions<'a>>,
}

impl Method {
    /// Attributes `f` at the request's input.
    ///
    /// # Errors
    /// As the method's own function; rollout without attention matrices.
    pub fn attribute(
        &self,
        request: &AttributionRequest<'_>,
        f: &mut AttributedFunction<'_>,
    ) -> Result<Attribution> {
        let &AttributionRequest {
            input,
            baseline,
            blocks,
            nodes_per_batch,
            attentions,
        } = request;
        match self {
            Method::IntegratedGradients { quadrature } => {
                integrated_gradients(input, baseline, quadrature, nodes_per_batch, f)
            }
            Method::PathDifferences { staircase } => {
                path_differences(input, baseline, blocks, staircase, nodes_per_batch, f)
            }
            Method::GradientXInput => gradient_x_input(input, f),
            Method::Occlusion => occlusion(input, baseline, blocks, nodes_per_batch, f),
            Method::AttentionRollout => {
                let attentions = attentions.ok_or(Error::NoAttentions)?;
                let scores = attention_rollout(attentions, blocks.tokens())?;
                let ends = values(&[baseline.clone(), input.clone()], nodes_per_batch, f)?;
                let mut result = Attribution::new(&scores, ends[1], ends[0]);
                result.forward_points = 2;
                Ok(result)
            }
        }
    }
}
