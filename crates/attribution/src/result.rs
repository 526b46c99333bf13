//! What every method gives.

use candle_core::Tensor;

use crate::blocks::{BlockMass, Blocks};
use crate::error::{Result, finite};

/// How much of a function's value came from where.
#[derive(Clone, Debug, PartialEq)]
pub enum Scores {
    /// One score per token, in `F`'s unit (nats for log-probabilities).
    Tokens(Vec<f32>),
    /// One score per block, empty ones included: the method does not look at single tokens.
    Blocks(Vec<f32>),
}

/// Whether scores add up to what they explain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Completeness {
    /// `F` at the baseline.
    pub f_baseline: f64,
    /// `Σ scores − (F(input) − F(baseline))`, in `F`'s unit: the error of the path integral.
    pub gap: f64,
    /// `|gap| / |F(input) − F(baseline)|`; `None` where that difference is 0.
    pub relative_gap: Option<f64>,
}

/// An attribution to a prompt.
#[derive(Clone, Debug)]
pub struct Attribution {
    /// The scores of tokens or of blocks.
    pub scores: Scores,
    /// The scores before the sum over the hidden dimension: `(tokens, hidden)`, f32, CPU; `None`
    /// for methods that have no such parts.
    pub elements: Option<Tensor>,
    /// `F` at the input.
    pub f_input: f64,
    /// The measured completeness; `None` for methods that do not strive for it: what occlusion's
    /// drops leave is the interaction of blocks, and rollout is not made of `F`.
    pub completeness: Option<Completeness>,
    /// Points at which `F` was evaluated, a measure of cost.
    pub forward_points: usize,
    /// Points at which its gradient was.
    pub gradient_points: usize,
}

impl Attribution {
    /// Mass of each of the prompt's blocks, not normalised: sums in f64, 0 for an empty block.
    ///
    /// # Errors
    /// Blocks of another prompt, or a non-finite score.
    pub fn masses(&self, blocks: &Blocks, mass: BlockMass) -> Result<Vec<f64>> {
        match &self.scores {
            Scores::Tokens(scores) => blocks.masses(scores, mass, None),
            Scores::Blocks(scores) => {
                let one_each = Blocks::new((0..blocks.count()).collect(), blocks.count())?;
                one_each.masses(scores, mass, None)
            }
        }
    }

    /// The relative completeness gap, where the method has one and it is defined.
    pub fn relative_gap(&self) -> Option<f64> {
        self.completeness.and_then(|found| found.relative_gap)
    }

    /// The scores of tokens; `None` for methods that know blocks alone.
    pub fn token_scores(&self) -> Option<&[f32]> {
        match &self.scores {
            Scores::Tokens(scores) => Some(scores),
            Scores::Blocks(_) => None,
        }
    }
}

impl Completeness {
    /// Measured on scores in f64.
    pub(crate) fn of(scores: &[f64], f_input: f64, f_baseline: f64) -> Self {
        let difference = f_input - f_baseline;
        let gap = scores.iter().sum::<f64>() - difference;
        Completeness {
            f_baseline,
            gap,
            relative_gap: (difference != 0.0).then(|| gap.abs() / difference.abs()),
        }
    }
}

/// Scores in f32, none of which is infinite or not a number.
pub(crate) fn narrowed(scores: &[f64], of: &str) -> Result<Vec<f32>> {
    let narrow = |(index, &score): (usize, &f64)| {
        finite(|| format!("the attribution of {of} {index}"), score).map(|score| score as f32)
    };
    scores.iter().enumerate().map(narrow).collect()
}
