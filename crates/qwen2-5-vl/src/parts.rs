//! The parts of a model that can be frozen.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// A part of a model, as freezing knows it. Its text is `vision`, `merger`, `embeddings`,
/// `layers.N`, `norm` or `head`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ModelPart {
    /// The vision tower without its merger.
    Vision,
    /// What turns patches into tokens, after the vision tower.
    Merger,
    /// The token embedding; where it is tied, the output projection too.
    Embeddings,
    /// One decoder layer, from 0.
    Layer(usize),
    /// The norm before the output projection.
    FinalNorm,
    /// The output projection, where it is not tied.
    Head,
}

impl ModelPart {
    /// The part that a parameter belongs to, by its name on disk.
    pub fn of(name: &str) -> Option<ModelPart> {
        if name.starts_with("visual.merger.") {
            Some(ModelPart::Merger)
        } else if name.starts_with("visual.") {
            Some(ModelPart::Vision)
        } else if let Some(rest) = name.strip_prefix("model.layers.") {
            rest.split('.').next()?.parse().ok().map(ModelPart::Layer)
        } else if name.starts_with("model.embed_tokens.") {
            Some(ModelPart::Embeddings)
        } else if name.starts_with("model.norm.") {
            Some(ModelPart::FinalNorm)
        } else if name.starts_with("lm_head.") {
            Some(ModelPart::Head)
        } else {
            None
        }
    }
}

impl fmt::Display for ModelPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModelPart::Vision => f.write_str("vision"),
            ModelPart::Merger => f.write_str("merger"),
            ModelPart::Embeddings => f.write_str("embeddings"),
            ModelPart::Layer(index) => write!(f, "layers.{index}"),
            ModelPart::FinalNorm => f.write_str("norm"),
            ModelPart::Head => f.write_str("head"),
        }
    }
}

impl FromStr for ModelPart {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "vision" => Ok(ModelPart::Vision),
            "merger" => Ok(ModelPart::Merger),
            "embeddings" => Ok(ModelPart::Embeddings),
            "norm" => Ok(ModelPart::FinalNorm),
            "head" => Ok(ModelPart::Head),
            _ => text
                .strip_prefix("layers.")
                .and_then(|index| index.parse().ok())
                .map(ModelPart::Layer)
                .ok_or_else(|| {
                    Error::Argument(format!(
                        "{text:?} is no part of a model; expected vision, merger, embeddings, \
                         layers.N, norm or head"
                    ))
                }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_has_a_part_and_every_part_its_text() {
        let mut config = crate::config::tests::tiny();
        config.tie_word_embeddings = false;
        for name in crate::parameters::shapes(&config).keys() {
            let part = ModelPart::of(name).unwrap_or_else(|| panic!("{name}"));
            assert_eq!(part.to_string().parse::<ModelPart>().unwrap(), part);
        }
        assert_eq!(
            ModelPart::of("model.layers.12.mlp.up_proj.weight"),
            Some(ModelPart::Layer(12))
        );
        assert!("layers.x".parse::<ModelPart>().is_err());
    }
}
