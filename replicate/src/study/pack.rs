//! Finished cells in the form in which a repository keeps them: compressed, records as what differs
//! from the first cell of their variant and the first of their seed, settings where no
//! manifest says them.

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
            match index {
                0 => results::pack(&folder.join(RECORDS))?,
                _ => pack_beside(folder, &folders)?,
            }
            results::pack(&folder.join(METRICS))?;
            pack_settings(folder)?;
            results::pack(&folder.join(MANIFEST))?;
        }
    }
    Ok(())
}

/// Packs the records of a run, which is not the first, by those of the first and of the first that went
/// on from the same cold start.
fn pack_beside(folder: &Path, folders: &[PathBuf]) -> Result<()> {
    let first = folders[0].join(RECORDS);
    let of_seed = folders
        .iter()
        .find(|other| other.file_name() == folder.file_name())
        .filter(|&other| other != folder && *other != folders[0])
        .map(|other| other.join(RECORDS));
    let references: Vec<&Path> = of_seed
        .iter()
        .chain(std::iter::once(&first))
        .map(PathBuf::as_path)
        .collect();
    Ok(results::pack_records(&folder.join(RECORDS), &references)?)
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
