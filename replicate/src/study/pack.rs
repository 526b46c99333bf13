//! Finished cells in the form in which a repository keeps them: compressed, records as what differs
//! from the first cell of their variant and the first of their seed, metrics from the latter, settings
//! where no manifest says them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use results::{MANIFEST, METRICS, RECORDS};
use serde_json::Value;

use crate::Result;
use crate::stages::SETTINGS;

use super::cell::StudyCell;

/// Packs the runs of finished cells and the finished runs that they share. What is packed already is
/// left as it is.
///
/// # Errors
/// A file that cannot be read or written.
pub fn pack(cells: &[&StudyCell], out: &Path) -> Result<()> {
    // Runs that answer the same questions, by the folder of their variant or of their shared stage.
    let mut alike: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for cell in cells {
        for folder in [
            cell.folder(out),
            cell.teacher_folder(out),
            cell.cold_start_folder(out),
            cell.untrained_folder(out),
        ] {
            // A stage that is not finished goes on with its plain files. A cold start, which has no
            // manifest, is finished where a cell is that went on from it.
            let cold_start = folder == cell.cold_start_folder(out);
            let finished = cold_start || results::is_stored(&folder.join(MANIFEST));
            let of_stage = folder.parent().map(Path::to_path_buf).unwrap_or_default();
            let of_variant = cell.variant_folder(out);
            let group = match folder.starts_with(&of_variant) {
                true => of_variant,
                false => of_stage,
            };
            let known = alike.entry(group).or_default();
            if finished && !known.contains(&folder) {
                known.push(folder);
            }
        }
    }
    for folders in alike.into_values() {
        for (index, folder) in folders.iter().enumerate() {
            pack_beside(folder, &folders, &folders[..index.min(1)], RECORDS)?;
            pack_beside(folder, &folders, &[], METRICS)?;
            pack_settings(folder)?;
            results::pack(&folder.join(MANIFEST))?;
        }
    }
    Ok(())
}

/// Packs a file of a run by that of the first run of its seed, which went on from the same cold start, and
/// those of `more`.
fn pack_beside(
    folder: &Path,
    folders: &[PathBuf],
    more: &[PathBuf],
    name: &str,
) -> results::Result<()> {
    let of_seed = folders
        .iter()
        .find(|other| other.file_name() == folder.file_name())
        .filter(|&other| other != folder && !more.contains(other));
    let references: Vec<PathBuf> = of_seed
        .into_iter()
        .chain(more)
        .map(|other| other.join(name))
        .collect();
    let references: Vec<&Path> = references.iter().map(PathBuf::as_path).collect();
    results::pack_lines(&folder.join(name), &references)
}

/// Packs what a run was made with, or removes it where the run's manifest says the same.
fn pack_settings(folder: &Path) -> Result<()> {
    let (settings, manifest) = (folder.join(SETTINGS), folder.join(MANIFEST));
    if results::is_stored(&settings) && results::is_stored(&manifest) {
        let settings_of: Value = results::read_json(&settings)?;
        let manifest_of: Value = results::read_json(&manifest)?;
        if settings_of == manifest_of["profile"] {
            return Ok(results::remove_stored(&settings)?);
        }
    }
    Ok(results::pack(&settings)?)
}
