//! Downloads of the six sets into a folder that [`super::load`] reads (feature `hub`).
//!
//! **This has never been run**: no hub could be reached where it was written. The
//! names come from the public code of the data sets' authors; which files a revision holds is
//! asked of the hub, and a file that is not there is an error that names it.
//!
//! A file arrives in ranges behind a `.part` file, so a broken download goes on where it stopped;
//! its SHA-256 is compared with the hub's before it gets its name. What was downloaded is written
//! to `hub.lock.json` (revision, size and SHA-256 of every file): later runs check files against
//! it and ask nobody, which is the offline mode.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use hf_hub::HFClientSync;
use hf_hub::repository::RepoTreeEntry;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::SourceError;
use crate::TestSet;

/// Bytes asked for at once.
const RANGE: u64 = 32 << 20;
const LOCK: &str = "hub.lock.json";

/// A data set on the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// Whose it is.
    pub owner: &'static str,
    /// Its name.
    pub name: &'static str,
    /// The commit. `None`: not known to us; the first download takes the newest and the lock file
    /// keeps it.
    pub revision: Option<&'static str>,
    /// The files wanted, by the beginning of their path.
    pub files: &'static [&'static str],
}

/// ReFocus: boxes and charts. Revision as recorded by public notes of others, read in 2026.
const REFOCUS: Pinned = Pinned {
    owner: "ReFocus",
    name: "ReFocus_Data",
    revision: Some("6af42739216fd58047121bb51dba683277cfdfe3"),
    files: &["chartQA_", "tablevqa", "table-vwtq", "data/test-", "images"],
};

/// CharXiv's images; its questions are in the repository of its code.
const CHARXIV: Pinned = Pinned {
    owner: "princeton-nlp",
    name: "CharXiv",
    revision: None,
    files: &["images.zip", "val"],
};

/// TableVQA-Bench: questions and images, without boxes.
const TABLES: Pinned = Pinned {
    owner: "terryoo",
    name: "TableVQA-Bench",
    revision: None,
    files: &["data/vwtq-", "data/vwtq_syn-", "data/vtabfact-"],
};

/// The data sets that `set` is made of.
pub fn repositories(set: TestSet) -> &'static [Pinned] {
    match set {
        TestSet::CharXiv => &[CHARXIV],
        TestSet::ChartQaHorizontal | TestSet::ChartQaVertical => &[REFOCUS],
        TestSet::Vwtq | TestSet::VwtqSyn | TestSet::VTabFact => &[REFOCUS, TABLES],
    }
}

/// What a folder was downloaded from.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Lock {
    repositories: BTreeMap<String, Locked>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Locked {
    revision: String,
    files: BTreeMap<String, Checked>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Checked {
    bytes: u64,
    sha256: String,
}

/// Brings the files of `set` into `folder`, or checks those that are there.
///
/// # Errors
/// [`SourceError::Hub`]: the hub cannot be reached or lacks a file, or a file is not what the hub
/// or the lock file says it is. [`SourceError::Io`] for the disk.
pub fn download(set: TestSet, folder: &Path) -> Result<(), SourceError> {
    let lock_path = folder.join(LOCK);
    let mut lock: Lock = match fs::read(&lock_path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| problem(format!("{}: {error}", lock_path.display())))?,
        Err(_) => Lock::default(),
    };
    for pinned in repositories(set) {
        let id = format!("{}/{}", pinned.owner, pinned.name);
        if let Some(locked) = lock.repositories.get(&id) {
            for (name, expected) in &locked.files {
                check(&folder.join(name), expected)?;
            }
            continue;
        }
        lock.repositories.insert(id, fetch(pinned, folder)?);
        let text = serde_json::to_vec_pretty(&lock).map_err(|error| problem(error.to_string()))?;
        let part = folder.join(format!("{LOCK}.part"));
        fs::write(&part, text).map_err(|error| io(&part, error))?;
        fs::rename(&part, &lock_path).map_err(|error| io(&lock_path, error))?;
    }
    Ok(())
}

fn fetch(pinned: &Pinned, folder: &Path) -> Result<Locked, SourceError> {
    let hub =
        |error: hf_hub::HFError| problem(format!("{}/{}: {error}", pinned.owner, pinned.name));
    let client = HFClientSync::new().map_err(hub)?;
    let repository = client.dataset(pinned.owner, pinned.name);
    let revision = match pinned.revision {
        Some(revision) => revision.to_owned(),
        None => {
            let info = repository.info().send().map_err(hub)?;
            match info {
                hf_hub::repository::RepoInfo::Dataset(info) => info.sha,
                _ => None,
            }
            .ok_or_else(|| {
                problem(format!(
                    "{}/{}: it names no commit",
                    pinned.owner, pinned.name
                ))
            })?
        }
    };
    let tree = repository
        .list_tree()
        .recursive(true)
        .revision(revision.as_str())
        .send()
        .map_err(hub)?;
    let mut files = BTreeMap::new();
    for wanted in pinned.files {
        for entry in &tree {
            let RepoTreeEntry::File {
                path, size, lfs, ..
            } = entry
            else {
                continue;
            };
            if !path.starts_with(wanted) {
                continue;
            }
            let (target, part) = places(folder, path)?;
            let mut arrived = part.metadata().map_or(0, |metadata| metadata.len());
            if target.is_file() {
                arrived = *size;
            }
            while arrived < *size {
                let bytes = repository
                    .download_file_to_bytes()
                    .filename(path.as_str())
                    .revision(revision.as_str())
                    .range(arrived..(arrived + RANGE).min(*size))
                    .send()
                    .map_err(hub)?;
                if bytes.is_empty() {
                    return Err(problem(format!(
                        "{path}: it ends at byte {arrived} of {size}"
                    )));
                }
                OpenOptions::new()
                    .append(true)
                    .create(true)
                    .open(&part)
                    .and_then(|mut file| file.write_all(&bytes))
                    .map_err(|error| io(&part, error))?;
                arrived += bytes.len() as u64;
            }
            if !target.is_file() {
                if *size == 0 {
                    File::create(&part).map_err(|error| io(&part, error))?;
                }
                fs::rename(&part, &target).map_err(|error| io(&target, error))?;
            }
            let found = measure(&target)?;
            let expected = lfs.as_ref().and_then(|lfs| lfs.sha256.as_deref());
            if found.bytes != *size || expected.is_some_and(|expected| expected != found.sha256) {
                fs::remove_file(&target).map_err(|error| io(&target, error))?;
                return Err(problem(format!(
                    "{path}: {} bytes with SHA-256 {} arrived, the hub has {size} with {}; run again",
                    found.bytes,
                    found.sha256,
                    expected.unwrap_or("none given"),
                )));
            }
            files.insert(path.clone(), found);
        }
    }
    if files.is_empty() {
        return Err(problem(format!(
            "{}/{} at {revision} has none of {}",
            pinned.owner,
            pinned.name,
            pinned.files.join(", ")
        )));
    }
    Ok(Locked { revision, files })
}

/// Where a file goes and where it grows; a path that leads out of the folder is refused.
fn places(folder: &Path, path: &str) -> Result<(PathBuf, PathBuf), SourceError> {
    let inside = Path::new(path)
        .components()
        .all(|component| matches!(component, std::path::Component::Normal(_)));
    if !inside {
        return Err(problem(format!("{path}: it leads out of the folder")));
    }
    let target = folder.join(path);
    let part = folder.join(format!("{path}.part"));
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(|error| io(parent, error))?;
    }
    Ok((target, part))
}

fn check(file: &Path, expected: &Checked) -> Result<(), SourceError> {
    let found = measure(file)?;
    if found == *expected {
        return Ok(());
    }
    Err(problem(format!(
        "{}: {} bytes with SHA-256 {}, but {LOCK} says {} with {}; delete both to download again",
        file.display(),
        found.bytes,
        found.sha256,
        expected.bytes,
        expected.sha256
    )))
}

fn measure(file: &Path) -> Result<Checked, SourceError> {
    let mut opened = File::open(file).map_err(|error| io(file, error))?;
    let (mut hasher, mut bytes) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = opened.read(&mut buffer).map_err(|error| io(file, error))?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        bytes += read as u64;
    }
    let sha256 = hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(Checked { bytes, sha256 })
}

fn problem(text: String) -> SourceError {
    SourceError::Hub(text)
}

fn io(file: &Path, source: std::io::Error) -> SourceError {
    SourceError::Io {
        file: file.to_owned(),
        source,
    }
}
