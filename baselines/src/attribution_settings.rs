//! How a tool call is attributed to the blocks of its prompt, and how two attributions are compared:
//! the form of IAPO's penalty.

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

    /// The rule that needs fewest nodes from zero, for a model whose first norm has its knee there
    /// (`qwen2_5_vl::Model::norm_knee`): sixteen rank calls as 32 log-spaced ones
    /// do (results/attribution/nodes.md).
    pub fn norm_midpoint(knee: f64, nodes: usize) -> Quadrature {
        Quadrature::NormMidpoint {
            nodes,
            knee,
            even: 0.7,
            start: knee / 500.0,
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

    /// Whether this is the form of the paper, whatever its rule of integration.
    pub fn is_papers_form(&self) -> bool {
        matches!(self.method, Method::IntegratedGradients { .. })
            && *self
                == AttributionSettings {
                    method: self.method.clone(),
                    ..Self::paper()
                }
    }

    /// What is wrong with the settings, by key, if anything is.
    pub fn problem(&self) -> Option<String> {
        if let Err(error) = self.method.check() {
            return Some(format!("method.{error}"));
        }
        (!(self.smoothing >= 0.0 && self.smoothing.is_finite())).then(|| {
            format!(
                "smoothing is {}: expected a number from 0; 1e-3 is a good start",
                self.smoothing
            )
        })
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
            let text = serde_json::to_string(&form).unwrap();
            let back: AttributionSettings = serde_json::from_str(&text).unwrap();
            assert_eq!(back, form, "{text}");
            assert_eq!(form.problem(), None);
        }
        assert!(AttributionSettings::paper().is_papers_form());
        assert!(!AttributionSettings::occlusion().is_papers_form());
    }

    /// What a profile's reader says of the paper's form with one thing changed.
    fn said_of(old: &str, new: &str) -> String {
        let text = serde_json::to_string(&AttributionSettings::paper()).unwrap();
        assert!(text.contains(old), "{old} in {text}");
        match serde_json::from_str::<AttributionSettings>(&text.replacen(old, new, 1)) {
            Ok(form) => form.problem().unwrap_or_default(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn numbers_out_of_range_are_named_by_key() {
        for (old, new, said) in [
            (
                r#""nodes":32"#,
                r#""nodes":1"#,
                "method.quadrature.linear_nodes: 4 of 1 nodes",
            ),
            (
                r#""linear_nodes":4"#,
                r#""linear_nodes":0"#,
                "method.quadrature.linear_nodes: 0 of",
            ),
            (
                r#""start":0.0001"#,
                r#""start":1.0"#,
                "method.quadrature.start: 1 is not inside",
            ),
            (
                r#""smoothing":0.001"#,
                r#""smoothing":-1.0"#,
                "smoothing is -1",
            ),
        ] {
            let found = said_of(old, new);
            assert!(found.starts_with(said), "{found}");
        }
    }

    #[test]
    fn one_spelling_and_no_unknown_key() {
        for (old, new, said) in [
            (r#""all""#, r#""All""#, "unknown variant `All`"),
            (
                r#""absolute""#,
                r#""positive_drops""#,
                "unknown variant `positive_drops`",
            ),
            (
                r#""kl""#,
                r#""jensen_shannon""#,
                "unknown variant `jensen_shannon`",
            ),
            (r#""zero""#, r#""mean""#, "unknown variant `mean`"),
            (
                r#""start":"#,
                r#""extra":1,"start":"#,
                "unknown field `extra`",
            ),
            (
                r#""smoothing""#,
                r#""extra":1,"smoothing""#,
                "unknown field `extra`",
            ),
            // The paper's rule of integration does not go with occlusion.
            (
                r#""integrated-gradients""#,
                r#""occlusion""#,
                "unknown field `quadrature`",
            ),
            (
                r#""integrated-gradients""#,
                r#""saliency""#,
                "unknown variant `saliency`",
            ),
        ] {
            let found = said_of(old, new);
            assert!(found.contains(said), "{found}");
        }
    }
}
