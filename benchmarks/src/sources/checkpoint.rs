//! A checkpoint by name, the paper's models pinned.

use std::path::PathBuf;

use hub_files::{DownloadError, PinnedModel, checkpoint_folder};

/// The paper's models at commits that public code of others pins, read in 2026.
const PINNED: [PinnedModel<'static>; 2] = [
    PinnedModel {
        id: "Qwen/Qwen2.5-VL-3B-Instruct",
        commit: "66285546d2b821cf421d4f5eb2576359d3770cd3",
    },
    PinnedModel {
        id: "Qwen/Qwen2.5-VL-7B-Instruct",
        commit: "cc594898137f460bfe9f0759e9844b3ce807cfb5",
    },
];

/// The folder of the checkpoint `name`: the folder of that path where there is one, else the model
/// `ORG/NAME` or `ORG/NAME@REVISION` of the hub, downloaded once into `$IAPO_CACHE` (else
/// `~/.cache/iapo`).
///
/// # Errors
/// As [`checkpoint_folder`].
pub fn resolve(name: &str) -> Result<PathBuf, DownloadError> {
    checkpoint_folder(name, &PINNED, &cache()?.join("models"))
}

/// Where downloads of models are kept.
fn cache() -> Result<PathBuf, DownloadError> {
    if let Some(folder) = std::env::var_os("IAPO_CACHE").filter(|folder| !folder.is_empty()) {
        return Ok(PathBuf::from(folder));
    }
    std::env::home_dir()
        .map(|home| home.join(".cache").join("iapo"))
        .ok_or_else(|| {
            DownloadError::Download(
                "there is no home folder to keep models in; set IAPO_CACHE to a folder".to_owned(),
            )
        })
}
