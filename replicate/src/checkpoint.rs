//! Finished checkpoints: written whole, known by the hash of their weights, verified when read.

use std::path::{Path, PathBuf};

use results::METRICS;

use crate::policy::LocalPolicy;
use crate::state::sync;
use crate::{Error, Result, error};

/// The file beside a finished checkpoint: the hash of its weights, then a line `HASH  NAME` for each of
/// its other files, and for the metrics of its training, all BLAKE3.
const HASH_FILE: &str = "checkpoint.blake3";

/// Writes `<folder>/checkpoint`, which appears whole or not at all, and its hash beside it. Both are on
/// the disk afterwards: states that could make them again may go. `metrics` are the folder's own, if the
/// training that made it wrote them there: the stages after it continue them.
pub fn save(policy: &LocalPolicy, folder: &Path, metrics: Option<&Path>) -> Result<()> {
    let checkpoint = folder.join("checkpoint");
    let unfinished = folder.join("checkpoint.unfinished");
    if unfinished.exists() {
        std::fs::remove_dir_all(&unfinished).map_err(error::at(&unfinished))?;
    }
    policy.save(&unfinished)?;
    let mut hashes = format!("{}\n", weights_hash(&unfinished)?);
    for name in other_files(&unfinished)? {
        let path = unfinished.join(&name);
        sync(&path)?;
        hashes.push_str(&format!("{}  {name}\n", file_hash(&path)?));
    }
    if let Some(metrics) = metrics {
        hashes.push_str(&format!("{}  {METRICS}\n", file_hash(metrics)?));
    }
    results::write_atomically(&folder.join(HASH_FILE), hashes.as_bytes())?;
    sync(&unfinished)?;
    std::fs::rename(&unfinished, &checkpoint).map_err(error::at(&checkpoint))?;
    sync(folder)
}

/// Whether a stage's folder holds its finished checkpoint, whole.
///
/// # Errors
/// Weights, other files or metrics that are not what was written.
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
    let text = std::fs::read_to_string(&file).map_err(error::at(&file))?;
    let mut lines = text.lines();
    let expected = lines.next().unwrap_or_default().trim();
    let found = weights_hash(&checkpoint)?;
    if expected != found {
        return Err(damaged("its weights have", &found, expected, checkpoint));
    }
    for line in lines {
        let (expected, name) = line.split_once("  ").unwrap_or(("", line));
        let found = match name {
            METRICS => file_hash(&folder.join(METRICS))?,
            _ => file_hash(&checkpoint.join(name))?,
        };
        if expected != found {
            return Err(damaged(
                &format!("{name} has"),
                &found,
                expected,
                checkpoint,
            ));
        }
    }
    Ok(true)
}

fn damaged(what: &str, found: &str, expected: &str, checkpoint: PathBuf) -> Error {
    Error::RunDirectory {
        problem: format!(
            "{what} the hash {}, expected {}: the file is damaged; delete this folder, and the same \
             command with --resume makes the stage again",
            found.get(..16).unwrap_or(found),
            expected.get(..16).unwrap_or(expected)
        ),
        path: checkpoint,
    }
}

/// The names of a checkpoint's files that hold no weights, in order.
fn other_files(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(error::at(folder))? {
        let path = entry.map_err(error::at(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.ends_with(".safetensors") {
            names.push(name.into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn file_hash(path: &Path) -> Result<String> {
    let bytes = results::read_stored(path)?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}

/// BLAKE3 of a checkpoint's weights, whether in one file or in shards.
pub fn weights_hash(folder: &Path) -> Result<String> {
    Ok(qwen2_5_vl::weights_hash(folder)?)
}
