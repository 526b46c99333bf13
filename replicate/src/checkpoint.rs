//! Finished checkpoints: written whole, known by the hash of their weights, verified when read.

use std::path::Path;

use crate::policy::LocalPolicy;
use crate::{Error, Result, error};

/// The file beside a finished checkpoint that holds the hash of its weights.
const HASH_FILE: &str = "checkpoint.blake3";

/// Writes `<folder>/checkpoint`, which appears whole or not at all, and its hash beside it.
pub fn save(policy: &LocalPolicy, folder: &Path) -> Result<()> {
    let checkpoint = folder.join("checkpoint");
    let unfinished = folder.join("checkpoint.unfinished");
    if unfinished.exists() {
        std::fs::remove_dir_all(&unfinished).map_err(error::at(&unfinished))?;
    }
    policy.save(&unfinished)?;
    let hash = weights_hash(&unfinished)?;
    results::write_atomically(&folder.join(HASH_FILE), hash.as_bytes())?;
    std::fs::rename(&unfinished, &checkpoint).map_err(error::at(&checkpoint))?;
    Ok(())
}

/// Whether a stage's folder holds its finished checkpoint, whole.
///
/// # Errors
/// Weights that are not what was written.
pub fn is_finished(folder: &Path) -> Result<bool> {
    let checkpoint = folder.join("checkpoint");
    if !checkpoint.exists() {
        return Ok(false);
    }
    let file = folder.join(HASH_FILE);
    if !file.exists() {
        return Err(Error::RunDirectory {
            path: file,
            problem: format!(
                "is missing, so nobody knows whether {} is whole; delete that folder, and the same \
                 command with --resume makes the stage again",
                checkpoint.display()
            ),
        });
    }
    let expected = std::fs::read_to_string(&file).map_err(error::at(&file))?;
    let found = weights_hash(&checkpoint)?;
    if expected.trim() != found {
        return Err(Error::RunDirectory {
            problem: format!(
                "its weights have the hash {}, expected {}: the file is damaged; delete this folder, \
                 and the same command with --resume makes the stage again",
                &found[..16],
                &expected.trim().get(..16).unwrap_or_default()
            ),
            path: checkpoint,
        });
    }
    Ok(true)
}

/// BLAKE3 of a checkpoint's weights, whether in one file or in shards.
pub fn weights_hash(folder: &Path) -> Result<String> {
    Ok(qwen2_5_vl::weights_hash(folder)?)
}
