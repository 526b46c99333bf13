//! How a model is asked: wording of the prompt, what the second turn sees, how the tools draw.

use std::path::Path;

use agent::{EpisodeOptions, ObservationMode, PromptStyle};
use serde::{Deserialize, Serialize};
use visual_tools::Style;

/// The file of a checkpoint's folder that says how the model was trained to be asked. Checkpoints
/// from elsewhere have none and are asked in VTool-R1's words.
pub const EPISODE_FILE: &str = "episode.json";

/// A way to ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EpisodeStyle {
    /// The micro world's words; the edited figure replaces the original; one-pixel tools.
    Micro,
    /// VTool-R1's words; the edited figure comes after the original; ReFocus' tools.
    #[default]
    Vtool,
    /// The same with VTool-R1's own description of its tools, which the questions must bring.
    VtoolR1,
}

/// What [`EPISODE_FILE`] holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EpisodeFile {
    style: EpisodeStyle,
}

impl EpisodeStyle {
    /// As options of an episode.
    pub fn options(self) -> EpisodeOptions {
        match self {
            EpisodeStyle::Micro => EpisodeOptions {
                prompt: PromptStyle::Micro,
                observation: ObservationMode::Replace,
                tools: Style::micro(),
            },
            EpisodeStyle::Vtool => EpisodeOptions {
                prompt: PromptStyle::Vtool,
                observation: ObservationMode::Append,
                tools: Style::refocus(),
            },
            EpisodeStyle::VtoolR1 => EpisodeOptions {
                prompt: PromptStyle::VtoolR1,
                observation: ObservationMode::Append,
                tools: Style::refocus(),
            },
        }
    }

    /// What a checkpoint's folder says of itself.
    ///
    /// # Errors
    /// A file that cannot be read or says something else.
    pub fn of_checkpoint(folder: &Path) -> std::io::Result<Self> {
        let path = folder.join(EPISODE_FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(EpisodeStyle::default());
            }
            Err(error) => return Err(named(&path, error)),
        };
        let file: EpisodeFile = serde_json::from_str(&text).map_err(|error| {
            let why =
                format!("{error}; expected {{\"style\": \"micro\"}}, \"vtool\" or \"vtool-r1\"");
            named(
                &path,
                std::io::Error::new(std::io::ErrorKind::InvalidData, why),
            )
        })?;
        Ok(file.style)
    }

    /// The text of [`EPISODE_FILE`].
    pub fn to_json(self) -> String {
        serde_json::json!({ "style": self }).to_string() + "\n"
    }
}

fn named(path: &Path, error: std::io::Error) -> std::io::Error {
    std::io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_says_how_it_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let of = || EpisodeStyle::of_checkpoint(folder.path());
        assert_eq!(of().unwrap(), EpisodeStyle::Vtool);
        let file = folder.path().join(EPISODE_FILE);
        for style in [
            EpisodeStyle::Micro,
            EpisodeStyle::Vtool,
            EpisodeStyle::VtoolR1,
        ] {
            std::fs::write(&file, style.to_json()).unwrap();
            assert_eq!(of().unwrap(), style);
        }
        std::fs::write(&file, "{\"style\": \"tiny\"}").unwrap();
        let error = of().unwrap_err().to_string();
        assert!(
            error.contains("episode.json") && error.contains("\"micro\""),
            "{error}"
        );
    }
}
