//! Whether the files of a run are those that its manifest tells of.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Error, Result};
use crate::files::write_json;
use crate::manifest::{FileStamp, Manifest};
use crate::record::Record;
use crate::run_kind::RunKind;
use crate::stored::{is_stored, read_stored};

/// The manifest's file name.
pub const MANIFEST: &str = "manifest.json";
/// The metrics' file name.
pub const METRICS: &str = "metrics.jsonl";
/// The records' file name.
pub const RECORDS: &str = "records.jsonl";
/// The file name of the episodes behind the records; kept compressed.
pub const EPISODES: &str = "episodes.jsonl";
/// The file name of validation episodes, kept compressed.
pub const VALIDATION: &str = "validation.jsonl";
/// The file name of sampled training groups, an episode a line; kept compressed.
pub const GROUPS: &str = "groups.jsonl";

/// What to do about a run that is not whole.
const ADVICE: &str = "evaluate this run again: delete its folder and run the same command with --resume, \
     or take the recorded file again";

/// Writes the manifest of a finished run, with the checksums of the files beside it.
/// After this the files are not changed; whoever adds to them clears `files` first.
pub fn write_manifest(folder: &Path, manifest: &mut Manifest) -> Result<()> {
    manifest.files.clear();
    for name in [RECORDS, METRICS, EPISODES, VALIDATION, GROUPS] {
        let path = folder.join(name);
        if is_stored(&path) {
            let stamp = FileStamp::of(&read_stored(&path)?);
            manifest.files.insert(name.to_string(), stamp);
        }
    }
    write_json(&folder.join(MANIFEST), manifest)
}

/// Compares the bytes of a file with what the manifest says; nothing where it says nothing.
pub(crate) fn check_bytes(path: &Path, bytes: &[u8], manifest: &Manifest) -> Result<()> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or("");
    let Some(stamp) = manifest.files.get(name) else {
        return Ok(());
    };
    let found = FileStamp::of(bytes);
    let damaged = |expected: String, found: String| Error::Damaged {
        path: path.to_path_buf(),
        expected,
        found,
        advice: ADVICE.to_string(),
    };
    if found.lines != stamp.lines {
        return Err(damaged(
            format!("{} lines, as the manifest says", stamp.lines),
            found.lines.to_string(),
        ));
    }
    if found.blake3 != stamp.blake3 {
        return Err(damaged(
            format!("BLAKE3 {}, as the manifest says", stamp.blake3),
            found.blake3,
        ));
    }
    Ok(())
}

/// Whether every file that the manifest stamps is there.
pub(crate) fn check_present(folder: &Path, manifest: &Manifest) -> Result<()> {
    for (name, stamp) in &manifest.files {
        let path = folder.join(name);
        if !is_stored(&path) {
            return Err(Error::Damaged {
                path,
                expected: format!("{} lines, as the manifest says", stamp.lines),
                found: "no such file".to_string(),
                advice: ADVICE.to_string(),
            });
        }
    }
    Ok(())
}

/// Compares the number of records by set with what the manifest says was asked. The manifest of an
/// unfinished evaluation of given models runs behind its records and is not compared.
pub(crate) fn check_counts(path: &Path, records: &[Record], manifest: &Manifest) -> Result<()> {
    if manifest.files.is_empty() && manifest.profile.name == RunKind::EVALUATION {
        return Ok(());
    }
    let mut found: BTreeMap<&str, u64> = BTreeMap::new();
    for record in records {
        *found.entry(&record.set).or_default() += 1;
    }
    for (set, &expected) in &manifest.questions {
        let found = found.get(set.as_str()).copied().unwrap_or(0);
        if found != expected {
            return Err(Error::Damaged {
                path: path.to_path_buf(),
                expected: format!("{expected} questions of {set}, as the manifest says"),
                found: found.to_string(),
                advice: ADVICE.to_string(),
            });
        }
    }
    Ok(())
}

/// Compares the files of a finished run with its manifest: before one is taken for done or added to.
///
/// # Errors
/// [`Error::Damaged`] with the file, what was expected and found, and what to do.
pub fn verify(folder: &Path, manifest: &Manifest) -> Result<()> {
    check_present(folder, manifest)?;
    for name in manifest.files.keys() {
        let path = folder.join(name);
        check_bytes(&path, &read_stored(&path)?, manifest)?;
    }
    Ok(())
}
