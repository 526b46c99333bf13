//! How a tool call is attributed to the blocks of its prompt: the form of IAPO's penalty.

use attribution::{Baseline, BlockMass, Divergence, Levels, Method, Quadrature};
use serde::{Deserialize, Serialize};

/// A form of attribution with every number that shapes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttributionSettings {
    /// What embeddings are compared with.
    pub baseline: Baseline,
    /// How the scores of a block become its mass.
    pub masses: BlockMass,
    /// Added to every block's share before they are normalised again: a divergence with an empty
    /// block stays finite.
    pub smoothing: f64,
    /// Which tokens of the call are attributed.
    pub tokens: AttributedTokens,
    /// How student and teacher are compared.
    pub divergence: Divergence,
    /// Tokens of one forward pass at most, where a single prompt with its calls is not longer. It
    /// bounds memory and changes no result but for the last bits, where sums of other shapes round
    /// differently.
    pub forward_tokens: usize,
    /// Tokens of one forward and backward pass, likewise. Small models are fastest where their
    /// activations stay in the second-level cache: 512 is 1.6 times as fast as 4,096 there.
    pub gradient_tokens: usize,
    /// The method with its own settings.
    pub method: Method,
}

/// Which tokens of a call are attributed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttributedTokens {
    /// Every token of the completion.
    All,
    /// Tool and names: no fence, no punctuation.
    Content,
}

/// Tokens of a pass that serve small models.
const FORWARD_TOKENS: usize = 4096;
const GRADIENT_TOKENS: usize = 512;

impl AttributionSettings {
    /// The paper's form, as far as known: integrated gradients from zero with absolute sums, of all
    /// tokens of the call, compared by KL. Nodes and smoothing are not told: 32 nodes, log-spaced,
    /// because a zero baseline meets RMS norms where they are steepest.
    pub fn paper() -> Self {
        AttributionSettings {
            baseline: Baseline::Zero,
            masses: BlockMass::Absolute,
            smoothing: 1e-3,
            tokens: AttributedTokens::All,
            divergence: Divergence::Kl,
            forward_tokens: FORWARD_TOKENS,
            gradient_tokens: GRADIENT_TOKENS,
            method: Method::IntegratedGradients {
                quadrature: Self::quadrature(Baseline::Zero, 32),
            },
        }
    }

    /// The form that told wrong calls from right ones best in the micro world: the drops of a
    /// call's tool and names without a block, where they are positive.
    pub fn occlusion() -> Self {
        AttributionSettings {
            masses: BlockMass::PositiveDrops,
            tokens: AttributedTokens::Content,
            divergence: Divergence::JensenShannon,
            method: Method::Occlusion {},
            ..Self::paper()
        }
    }

    /// A rule of `nodes` nodes that suits a baseline. From zero most of the change lies at small α:
    /// an eighth of the nodes on [0, 1e-4], the others log-spaced. From a mean the middle rule has
    /// half the gap of Gauss-Legendre at 16 nodes (results/attribution/nodes.md).
    pub fn quadrature(baseline: Baseline, nodes: usize) -> Quadrature {
        match baseline {
            Baseline::Zero => Quadrature::LogGaussLegendre {
                nodes,
                linear_nodes: (nodes / 8).max(1),
                start: 1e-4,
            },
            Baseline::BlockMean => Quadrature::Riemann {
                rule: attribution::Rule::Middle,
                nodes,
            },
        }
    }

    /// Levels of `steps` steps that suit a baseline: from zero they begin small, for the same reason.
    pub fn levels(baseline: Baseline, steps: usize) -> Levels {
        Levels {
            steps,
            exponent: match baseline {
                Baseline::Zero => 3.0,
                Baseline::BlockMean => 1.0,
            },
        }
    }

    /// Whether all numbers are in their range.
    ///
    /// # Errors
    /// Names the key as it is typed, where `section` is where these settings stand, and what to
    /// give instead.
    pub fn check(&self, section: &str) -> std::result::Result<(), String> {
        self.method
            .check()
            .map_err(|error| format!("{section}.method.{error}"))?;
        if !(self.smoothing >= 0.0 && self.smoothing.is_finite()) {
            return Err(format!(
                "{section}.smoothing is {}: expected a number from 0; 1e-3 is a good start",
                self.smoothing
            ));
        }
        for (key, tokens) in [
            ("forward_tokens", self.forward_tokens),
            ("gradient_tokens", self.gradient_tokens),
        ] {
            if tokens == 0 {
                return Err(format!("{section}.{key} is 0: expected at least 1"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_survive_a_profile() {
        for form in [
            AttributionSettings::paper(),
            AttributionSettings::occlusion(),
        ] {
            let text = toml::to_string_pretty(&form).unwrap();
            assert_eq!(toml::from_str::<AttributionSettings>(&text).unwrap(), form);
            form.check("attribution").unwrap();
        }
        insta::assert_snapshot!(toml::to_string_pretty(&AttributionSettings::paper()).unwrap());
    }

    #[test]
    fn every_key_is_checked_and_named_as_typed() {
        let text = toml::to_string(&AttributionSettings::paper()).unwrap();
        let found = |old: &str, new: &str| -> String {
            assert!(text.contains(old), "{old} in {text}");
            match toml::from_str::<AttributionSettings>(&text.replace(old, new)) {
                Ok(form) => form.check("arms.iapo.attribution").unwrap_err(),
                Err(error) => error.message().to_owned(),
            }
        };
        let errors = [
            found("nodes = 32", "nodes = 1"),
            found("linear_nodes = 4", "linear_nodes = 0"),
            found("start = 0.0001", "start = 1.0"),
            found("smoothing = 0.001", "smoothing = -1.0"),
            found("forward_tokens = 4096", "forward_tokens = 0"),
            found("tokens = \"all\"", "tokens = \"All\""),
            found("\"absolute\"", "\"positive_drops\""),
            found("\"kl\"", "\"jensen_shannon\""),
            found("\"zero\"", "\"mean\""),
            found("start = 0.0001", "start = 0.0001\nextra = 1"),
            found("\"integrated-gradients\"", "\"occlusion\""),
            found("\"integrated-gradients\"", "\"saliency\""),
        ];
        insta::assert_snapshot!(errors.join("\n"));
    }
}
