//! Where the recipe's own files are: profiles, base checkpoints, the study.

use std::path::{Path, PathBuf};

/// `replicate/` of the checkout that the command was built from, or of the current folder.
pub fn recipe_folder() -> PathBuf {
    let here = Path::new("replicate");
    match here.join("checkpoints").exists() {
        true => here.to_owned(),
        false => Path::new(env!("CARGO_MANIFEST_DIR")).join("replicate"),
    }
}
