//! How attributions are taken and compared: part of the settings of the methods that align them.

use attribution::{BlockMass, Divergence, Quadrature, Rule, Staircase};
use serde::{Deserialize, Serialize};

/// How a tool call is attributed to the blocks of its prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttributionSettings {
    /// Integrated gradients, for tokens or for whole blocks, or occlusion of a block.
    pub method: Method,
    /// What embeddings are compared with.
    pub baseline: Baseline,
    /// Quadrature nodes of integrated gradients; steps of path differences.
    pub nodes: usize,
    /// How the scores of a block become its mass.
    pub masses: BlockMass,
    /// Which tokens of the call are attributed.
    pub tokens: Tokens,
    /// How student and teacher are compared.
    pub divergence: Divergence,
}

impl AttributionSettings {
    /// The paper's form, as far as it is known, with 32 nodes.
    pub fn paper() -> Self {
        AttributionSettings {
            method: Method::IntegratedGradients,
            baseline: Baseline::Zero,
            nodes: 32,
            masses: BlockMass::Absolute,
            tokens: Tokens::All,
            divergence: Divergence::Kl,
        }
    }

    /// The rule of integrated gradients.
    pub fn quadrature(&self) -> Quadrature {
        let nodes = self.nodes;
        match self.baseline {
            // A zero baseline meets RMS norms where they are steepest: most of F's change lies at
            // small α, so an eighth of the nodes serves [0, 1e-4] and the others are log-spaced.
            Baseline::Zero => {
                let linear_nodes = (nodes / 8).max(1);
                Quadrature::LogGaussLegendre {
                    nodes: nodes.saturating_sub(linear_nodes),
                    linear_nodes,
                    start: 1e-4,
                }
            }
            // Half the gap of Gauss-Legendre at 16 nodes (results/attribution/nodes.md).
            Baseline::BlockMean => Quadrature::Riemann {
                rule: Rule::Middle,
                nodes,
            },
        }
    }

    /// The path of path differences; from zero the steps begin small, for the same reason.
    pub fn staircase(&self) -> Staircase {
        Staircase {
            steps: self.nodes,
            exponent: match self.baseline {
                Baseline::Zero => 3.0,
                Baseline::BlockMean => 1.0,
            },
        }
    }

    /// Whether this is the form of the paper, whatever the number of nodes.
    pub fn is_papers_form(&self) -> bool {
        *self
            == AttributionSettings {
                nodes: self.nodes,
                ..Self::paper()
            }
    }

    /// What is wrong with the settings, by key, if anything is.
    pub fn problem(&self) -> Option<String> {
        self.nodes_problem()
            .map(|why| format!("nodes is {}: {why}", self.nodes))
    }

    /// Why there are too few nodes, if there are.
    pub fn nodes_problem(&self) -> Option<&'static str> {
        match (self.method, self.baseline) {
            (Method::IntegratedGradients, Baseline::Zero) if self.nodes < 2 => Some(
                "a zero baseline needs at least 2 nodes, one on [0, 1e-4], where most of the change \
                 can lie, and one on the rest of the path; 32 are a good start",
            ),
            _ if self.nodes < 1 => Some("expected at least 1"),
            _ => None,
        }
    }
}

/// How attribution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Integrated gradients over input embeddings (the paper's).
    IntegratedGradients,
    /// The same integral for whole blocks, by differences along the path: no backward pass.
    PathDifferences,
    /// The drop of the log-probability when a block's embeddings become the baseline.
    Occlusion,
}

/// What embeddings are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Baseline {
    /// Zero (the paper's, as far as known).
    Zero,
    /// The mean embedding of the block.
    BlockMean,
}

/// Which tokens of a call are attributed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tokens {
    /// Every token of the completion.
    All,
    /// Tool and names: no fence, no punctuation.
    Content,
}
