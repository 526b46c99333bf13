//! The folder of an experiment: what it may hold, and who may work in it.
//!
//! `<out>/profile.toml`, `<out>/<arm>/seed-<n>/{settings.json,manifest.json,metrics.jsonl,
//! records.jsonl,checkpoint/}`; the cold start that a seed's arms share is in
//! `<out>/cold-start/seed-<n>/`. One process alone works in it.
//!
//! A cell of a study has its arm's run in such a folder, and the stages that it shares with other cells
//! in a folder that any number of processes work in: `<shared>/<stage>-<hash of its settings>/seed-<n>`.
//! Cells with the same hash share a stage, whichever part of the study they belong to; whoever needs it
//! first makes it and the others wait.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use results::{ArmName, Manifest, ProfileStamp, run_folder};

use crate::profile::{Profile, RunRole, differing_keys};
use crate::{Error, Result, error};

/// The file of a run that says what it is made with, from its first moment.
pub const SETTINGS: &str = "settings.json";

/// The folder of an experiment.
pub struct ExperimentFolder {
    root: PathBuf,
    access: Access,
}

/// Who works in a folder.
enum Access {
    /// This process alone, until the experiment ends.
    Alone { _lock: File },
    /// Several; the stages that they share are in a folder of their own.
    Shared(PathBuf),
}

/// Where a shared stage of these settings and this seed is, below the folder of shared stages.
pub fn shared_run(shared: &Path, kind: RunRole<'_>, profile: &Profile, seed: u64) -> PathBuf {
    let hash = profile.stamp(kind).hash;
    let stage = match kind {
        RunRole::Untrained => ArmName::UNTRAINED,
        RunRole::Teacher => ArmName::TEACHER,
        RunRole::ColdStart => COLD_START,
        RunRole::Arm(name) => name,
    };
    shared
        .join(format!("{stage}-{hash}"))
        .join(format!("seed-{seed}"))
}

const COLD_START: &str = "cold-start";

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
            access: Access::Alone { _lock: lock },
        })
    }

    /// The folder of a cell of a study, whose shared stages are in `shared`.
    pub fn of_cell(root: &Path, shared: &Path) -> Self {
        ExperimentFolder {
            root: root.to_owned(),
            access: Access::Shared(shared.to_owned()),
        }
    }

    /// Holds a stage that several processes may need, waiting for whoever makes it; nothing where this
    /// process is alone.
    pub fn hold(&self, profile: &Profile, kind: RunRole<'_>, seed: u64) -> Result<Option<File>> {
        match &self.access {
            Access::Alone { .. } => Ok(None),
            Access::Shared(_) => wait_for_lock(&self.run(profile, kind, seed)?).map(Some),
        }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a run.
    pub fn run(&self, profile: &Profile, kind: RunRole<'_>, seed: u64) -> Result<PathBuf> {
        Ok(match (kind, &self.access) {
            (RunRole::Arm(name), _) => run_folder(&self.root, &arm_name(name)?, seed),
            (_, Access::Shared(shared)) => shared_run(shared, kind, profile, seed),
            (RunRole::ColdStart, _) => self.root.join(COLD_START).join(format!("seed-{seed}")),
            (RunRole::Untrained, _) => run_folder(&self.root, &arm_name(ArmName::UNTRAINED)?, seed),
            (RunRole::Teacher, _) => run_folder(&self.root, &arm_name(ArmName::TEACHER)?, seed),
        })
    }

    /// Refuses a run's folder that was begun with other settings; whether it was begun.
    ///
    /// # Errors
    /// Names every key that differs, with both values.
    pub fn check(&self, profile: &Profile, kind: RunRole<'_>, seed: u64) -> Result<bool> {
        let folder = self.run(profile, kind, seed)?;
        let stamp = profile.stamp(kind);
        let (file, manifest) = (folder.join(SETTINGS), folder.join(results::MANIFEST));
        let known: ProfileStamp = if results::is_stored(&file) {
            results::read_json(&file)?
        } else if results::is_stored(&manifest) {
            // A finished run that was packed: its manifest says the same.
            let manifest: Manifest = results::read_json(&manifest)?;
            manifest.profile
        } else {
            return Ok(false);
        };
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
    pub fn begin(&self, profile: &Profile, kind: RunRole<'_>, seed: u64) -> Result<PathBuf> {
        let folder = self.run(profile, kind, seed)?;
        if !self.check(profile, kind, seed)? {
            std::fs::create_dir_all(&folder).map_err(error::at(&folder))?;
            results::write_json(&folder.join(SETTINGS), &profile.stamp(kind))?;
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
    try_lock(root)?.ok_or_else(|| {
        problem(
            root,
            "another process is at work in it; wait for it, or give another --out".into(),
        )
    })
}

/// The lock of a folder, which is made where it is not; `None` where another process has it. The
/// system takes it back when its holder ends, however it ends.
pub fn try_lock(folder: &Path) -> Result<Option<File>> {
    let (path, file) = lock_file(folder)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(error::at(&path)(source)),
    }
}

/// The lock of a folder, as soon as nobody else has it.
pub fn wait_for_lock(folder: &Path) -> Result<File> {
    if let Some(file) = try_lock(folder)? {
        return Ok(file);
    }
    eprintln!(
        "another process is at work in {}; waiting for it",
        folder.display()
    );
    let (path, file) = lock_file(folder)?;
    file.lock().map_err(error::at(&path))?;
    Ok(file)
}

/// Whether a process holds the lock of a folder.
pub fn is_locked(folder: &Path) -> Result<bool> {
    let path = folder.join(LOCK);
    if !path.exists() {
        return Ok(false);
    }
    let file = File::open(&path).map_err(error::at(&path))?;
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(source)) => Err(error::at(&path)(source)),
    }
}

fn lock_file(folder: &Path) -> Result<(PathBuf, File)> {
    std::fs::create_dir_all(folder).map_err(error::at(folder))?;
    let path = folder.join(LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(error::at(&path))?;
    Ok((path, file))
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
