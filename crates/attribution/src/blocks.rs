//! From token scores to block masses.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, finite};

/// How a block's token scores become its mass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlockMass {
    /// `Σ |score|`: the paper's `A_b = Σ_{i∈b} |IG_i|`.
    Absolute,
    /// `|Σ score|`: what the block moves in sum, whichever way.
    Signed,
    /// `max(Σ score, 0)`: what the block supports; meant for occlusion's drops.
    PositiveDrops,
}

/// The block of each token of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks {
    labels: Vec<usize>,
    count: usize,
}

impl Blocks {
    /// Labels in `0..count`, one a token; a block may be empty.
    ///
    /// # Errors
    /// A label that is not below `count`.
    pub fn new(labels: Vec<usize>, count: usize) -> Result<Self> {
        match labels.iter().position(|&label| label >= count) {
            Some(token) => Err(Error::Label {
                token,
                label: labels[token],
                count,
            }),
            None => Ok(Blocks { labels, count }),
        }
    }

    /// The labels, one a token.
    pub fn labels(&self) -> &[usize] {
        &self.labels
    }

    /// Number of blocks, empty ones included.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.labels.len()
    }

    /// Tokens of each block.
    pub fn sizes(&self) -> Vec<usize> {
        let mut sizes = vec![0; self.count];
        for &label in &self.labels {
            sizes[label] += 1;
        }
        sizes
    }

    /// The blocks that have tokens, ascending.
    pub(crate) fn occupied(&self) -> Vec<usize> {
        let sizes = self.sizes();
        (0..self.count).filter(|&block| sizes[block] > 0).collect()
    }

    /// Mass of each block, not normalised: sums in f64, 0 for an empty block. With `selected`, only
    /// tokens marked `true` count.
    ///
    /// # Errors
    /// Scores or selection of another length than the labels, or a non-finite score.
    pub fn masses(
        &self,
        scores: &[f32],
        aggregation: BlockMass,
        selected: Option<&[bool]>,
    ) -> Result<Vec<f64>> {
        self.expect_tokens("scores", scores.len())?;
        if let Some(selected) = selected {
            self.expect_tokens("selected", selected.len())?;
        }
        let mut masses = vec![0f64; self.count];
        for (token, (&score, &label)) in scores.iter().zip(&self.labels).enumerate() {
            if selected.is_some_and(|selected| !selected[token]) {
                continue;
            }
            let score = finite(|| format!("the score of token {token}"), f64::from(score))?;
            masses[label] += match aggregation {
                BlockMass::Absolute => score.abs(),
                BlockMass::Signed | BlockMass::PositiveDrops => score,
            };
        }
        for mass in &mut masses {
            *mass = match aggregation {
                BlockMass::Absolute => *mass,
                BlockMass::Signed => mass.abs(),
                BlockMass::PositiveDrops => mass.max(0.0),
            };
        }
        Ok(masses)
    }

    pub(crate) fn expect_tokens(&self, what: &'static str, found: usize) -> Result<()> {
        if found == self.tokens() {
            return Ok(());
        }
        Err(Error::Length {
            what,
            expected: self.tokens(),
            found,
        })
    }
}
