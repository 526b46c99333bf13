//! The folder of an experiment: what it may hold, and that one process alone works in it.
//!
//! `<out>/profile.toml`, `<out>/<arm>/seed-<n>/{settings.json,manifest.json,metrics.jsonl,
//! records.jsonl,checkpoint/}`; the cold start that a seed's arms share is in
//! `<out>/cold-start/seed-<n>/`.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use results::{ArmName, ProfileStamp, run_folder};

use crate::profile::{Profile, RunRole, differing_keys};
use crate::{Error, Result, error};

/// What a run's folder says of the settings that it is made with, from its first moment.
const SETTINGS: &str = "settings.json";

/// The folder of an experiment, held by this process.
pub struct ExperimentFolder {
    root: PathBuf,
    /// Held until the experiment ends.
    _lock: File,
}

impl ExperimentFolder {
    /// Opens a folder for this process alone: a new or empty one, or, with `resume`, one that was
    /// begun.
    ///
    /// # Errors
    /// A folder with something else in it, or with a run and no `resume`; another process at work in
    /// it; no permission.
    pub fn open(root: &Path, profile: &Profile, resume: bool) -> Result<Self> {
        std::fs::create_dir_all(root).map_err(error::at(root))?;
        let file = root.join("profile.toml");
        let occupied = || {
            problem(
                root,
                "is not empty and holds no run; give an empty or new folder as --out".into(),
            )
        };
        // In this order: another process makes its lock before anything else.
        if holds_anything(root)? && !root.join(LOCK).exists() && !file.exists() {
            return Err(occupied());
        }
        let lock = lock(root)?;
        let begun = file.exists();
        if !begun && holds_anything(root)? {
            return Err(occupied());
        }
        if begun && !resume {
            return Err(problem(
                root,
                "holds a run; add --resume to go on with it, or give another --out".into(),
            ));
        }
        results::write_atomically(&file, profile.to_toml().as_bytes())?;
        Ok(ExperimentFolder {
            root: root.to_owned(),
            _lock: lock,
        })
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a run.
    pub fn run(&self, kind: RunRole<'_>, seed: u64) -> Result<PathBuf> {
        Ok(match kind {
            RunRole::ColdStart => self.root.join("cold-start").join(format!("seed-{seed}")),
            RunRole::Untrained => run_folder(&self.root, &arm_name(ArmName::UNTRAINED)?, seed),
            RunRole::Teacher => run_folder(&self.root, &arm_name(ArmName::TEACHER)?, seed),
            RunRole::Arm(name) => run_folder(&self.root, &arm_name(name)?, seed),
        })
    }

    /// Refuses a run's folder that was begun with other settings; whether it was begun.
    ///
    /// # Errors
    /// Names every key that differs, with both values.
    pub fn check(&self, kind: RunRole<'_>, seed: u64, stamp: &ProfileStamp) -> Result<bool> {
        let folder = self.run(kind, seed)?;
        let file = folder.join(SETTINGS);
        if !file.exists() {
            return Ok(false);
        }
        let known: ProfileStamp = results::read_json(&file)?;
        if known.hash == stamp.hash {
            return Ok(true);
        }
        let differing = differing_keys(&known.resolved, &stamp.resolved);
        let differing = match differing.is_empty() {
            true => "the form of the settings".to_owned(),
            false => differing.join("; "),
        };
        Err(problem(
            &folder,
            format!(
                "was made with another profile: {differing}; give another --out, or set them back"
            ),
        ))
    }

    /// Writes what a run is made with, before anything else of it.
    pub fn begin(&self, kind: RunRole<'_>, seed: u64, stamp: &ProfileStamp) -> Result<PathBuf> {
        let folder = self.run(kind, seed)?;
        if !self.check(kind, seed, stamp)? {
            std::fs::create_dir_all(&folder).map_err(error::at(&folder))?;
            results::write_json(&folder.join(SETTINGS), stamp)?;
        }
        Ok(folder)
    }
}

fn holds_anything(root: &Path) -> Result<bool> {
    for entry in std::fs::read_dir(root).map_err(error::at(root))? {
        if entry.map_err(error::at(root))?.file_name() != LOCK {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The file that is locked.
const LOCK: &str = "lock";

fn lock(root: &Path) -> Result<File> {
    let path = root.join(LOCK);
    let file = File::create(&path).map_err(error::at(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(problem(
            root,
            "another process is at work in it; wait for it, or give another --out".into(),
        )),
        Err(TryLockError::Error(source)) => Err(error::at(&path)(source)),
    }
}

/// A name as the results know it.
pub fn arm_name(name: &str) -> Result<ArmName> {
    Ok(name.parse()?)
}

fn problem(path: &Path, problem: String) -> Error {
    Error::RunDirectory {
        path: path.to_owned(),
        problem,
    }
}
