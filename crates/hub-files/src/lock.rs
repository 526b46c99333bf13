//! What a folder was downloaded from: `hub.lock.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::{DownloadError, io, problem};
use super::verify::Checked;

/// Its name in the folder.
pub(crate) const LOCK: &str = "hub.lock.json";

/// The repositories of a folder, by [`super::Repository::id`].
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lock {
    pub repositories: BTreeMap<String, Locked>,
}

/// One repository.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Locked {
    /// The commit that all its files are of.
    pub revision: String,
    /// The patterns all of whose files are here.
    pub complete: BTreeSet<String>,
    /// The files that are here.
    pub files: BTreeMap<String, Checked>,
}

impl Lock {
    /// The folder's lock; an empty one where there is none.
    pub fn open(folder: &Path) -> Result<Self, DownloadError> {
        let path = folder.join(LOCK);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                problem(format!(
                    "{}: {error}; delete it, then the files are checked against their hosts again",
                    path.display()
                ))
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Lock::default()),
            Err(error) => Err(io(&path, error)),
        }
    }

    /// A repository's entry, made if needed.
    pub fn of(&mut self, id: &str) -> &mut Locked {
        self.repositories.entry(id.to_owned()).or_default()
    }

    /// Writes it whole or not at all.
    pub fn save(&self, folder: &Path) -> Result<(), DownloadError> {
        let text = serde_json::to_vec_pretty(self).map_err(|error| problem(error.to_string()))?;
        let (path, part) = (folder.join(LOCK), folder.join(format!("{LOCK}.part")));
        fs::write(&part, text).map_err(|error| io(&part, error))?;
        fs::rename(&part, &path).map_err(|error| io(&path, error))
    }
}
