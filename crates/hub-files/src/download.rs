//! Brings files into a folder, or checks those that are there.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use backon::{BlockingRetryable, ExponentialBuilder};

use super::error::{DownloadError, Failure, io, problem};
use super::lock::{LOCK, Lock, Locked};
use super::repository::{Repository, is_commit};
use super::verify::{Checked, Listed, Measured};

/// Bytes asked for at once.
const RANGE: u64 = 32 << 20;

/// Attempts beyond the first, and the pause before the first of them; each pause is twice the last.
pub(crate) const RETRIES: usize = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Brings the files of `repository` that match one of `wanted` into `folder`, or checks those that
/// are there. In a pattern, one `*` stands for anything. `revision` is a commit, branch or tag of the
/// hub; without one, the newest commit is taken and the lock keeps it.
///
/// # Errors
/// [`DownloadError::Download`]: the host cannot be reached or lacks the files, a file is not what
/// the host or the lock says it is, the folder holds another commit, a path leads out of it. What
/// has arrived stays, and a repeated call goes on there. [`DownloadError::Io`] for the disk.
pub fn download(
    repository: &Repository<'_>,
    revision: Option<&str>,
    wanted: &[&str],
    folder: &Path,
) -> Result<(), DownloadError> {
    let id = repository.id();
    fs::create_dir_all(folder).map_err(|error| io(folder, error))?;
    let mut lock = Lock::open(folder)?;
    let known = lock.repositories.get(&id);
    if let Some(known) = known {
        check_all(&id, known, revision, wanted, folder)?;
    }
    let missing: Vec<&str> = wanted
        .iter()
        .copied()
        .filter(|&pattern| known.is_none_or(|known| !known.complete.contains(pattern)))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }

    let commit = match known {
        Some(known) => known.revision.clone(),
        None => {
            patiently(|| repository.commit(revision)).map_err(|failure| failed(&id, failure))?
        }
    };
    lock.of(&id).revision.clone_from(&commit);
    lock.save(folder)?;
    let listing = patiently(|| repository.list(&commit)).map_err(|failure| failed(&id, failure))?;
    let matching: Vec<&Listed> = listing
        .iter()
        .filter(|file| missing.iter().any(|pattern| matches(pattern, &file.path)))
        .collect();
    if matching.is_empty() {
        return Err(problem(format!(
            "{id} at {commit} has none of {}",
            missing.join(", ")
        )));
    }
    for listed in matching {
        if lock.of(&id).files.contains_key(&listed.path) {
            continue;
        }
        let checked = obtain(repository, &id, &commit, listed, folder)?;
        lock.of(&id).files.insert(listed.path.clone(), checked);
        lock.save(folder)?;
    }
    let complete = missing.iter().map(|&pattern| pattern.to_owned());
    lock.of(&id).complete.extend(complete);
    lock.save(folder)
}

/// Compares the files that are there with the lock.
fn check_all(
    id: &str,
    locked: &Locked,
    revision: Option<&str>,
    wanted: &[&str],
    folder: &Path,
) -> Result<(), DownloadError> {
    let pinned = revision.filter(|revision| is_commit(revision));
    if let Some(pinned) = pinned.filter(|pinned| *pinned != locked.revision) {
        return Err(problem(format!(
            "{}: it holds {id} at {}, wanted is {pinned}; name another folder, or delete this one",
            folder.display(),
            locked.revision
        )));
    }
    for (path, expected) in &locked.files {
        if !wanted.iter().any(|pattern| matches(pattern, path)) {
            continue;
        }
        let (file, _) = places(folder, path)?;
        if !file.is_file() {
            return Err(problem(format!(
                "{}: it is gone, but {LOCK} has it; delete {LOCK} to download it again",
                file.display()
            )));
        }
        let found = Measured::of(&file)?.checked;
        if found != *expected {
            return Err(problem(format!(
                "{}: {} bytes with SHA-256 {}, but {LOCK} says {} with {}; delete it and {LOCK} to \
                 download it again",
                file.display(),
                found.bytes,
                found.sha256,
                expected.bytes,
                expected.sha256
            )));
        }
    }
    Ok(())
}

/// One file, from the disk where it is already, else from its host.
fn obtain(
    repository: &Repository<'_>,
    id: &str,
    commit: &str,
    listed: &Listed,
    folder: &Path,
) -> Result<Checked, DownloadError> {
    let (target, part) = places(folder, &listed.path)?;
    if target.is_file() {
        let found = Measured::of(&target)?;
        return match found.fault(listed) {
            None => Ok(found.checked),
            Some(fault) => Err(problem(format!(
                "{}: it is not the file of {id} at {commit}: {fault}; move it away, then run again",
                target.display()
            ))),
        };
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(|error| io(parent, error))?;
    }
    let megabytes = listed.size as f64 / 1e6;
    eprintln!("{id}: {} ({megabytes:.1} MB)", listed.path);
    grow(repository, id, commit, listed, &part)?;
    let found = Measured::of(&part)?;
    if let Some(fault) = found.fault(listed) {
        fs::remove_file(&part).map_err(|error| io(&part, error))?;
        return Err(problem(format!(
            "{id}: {} arrived damaged: {fault}; run again to download it from its beginning",
            listed.path
        )));
    }
    fs::rename(&part, &target).map_err(|error| io(&target, error))?;
    Ok(found.checked)
}

/// Appends to `part` until it has all of the file's bytes.
fn grow(
    repository: &Repository<'_>,
    id: &str,
    commit: &str,
    listed: &Listed,
    part: &Path,
) -> Result<(), DownloadError> {
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(part)
        .map_err(|error| io(part, error))?;
    let mut arrived = file.metadata().map_err(|error| io(part, error))?.len();
    if arrived > listed.size {
        file.set_len(0).map_err(|error| io(part, error))?;
        arrived = 0;
    }
    let path = &listed.path;
    while arrived < listed.size {
        let range = arrived..(arrived + RANGE).min(listed.size);
        let asked = range.end - range.start;
        let bytes =
            patiently(|| repository.read(commit, path, range.clone())).map_err(|failure| {
                problem(format!(
                    "{id}: {path}: {}; run again, and it goes on at byte {arrived} of {}",
                    failure.reason, listed.size
                ))
            })?;
        let got = bytes.len() as u64;
        // A server without ranges sends the whole file.
        let whole = arrived == 0 && got == listed.size;
        if got == 0 || (got > asked && !whole) {
            return Err(problem(format!(
                "{id}: {path}: asked for {asked} bytes from byte {arrived} of {}, got {got}",
                listed.size
            )));
        }
        file.write_all(&bytes).map_err(|error| io(part, error))?;
        arrived += got;
    }
    Ok(())
}

/// Asks again after failures that may pass.
fn patiently<T>(ask: impl FnMut() -> Result<T, Failure>) -> Result<T, Failure> {
    let pauses = ExponentialBuilder::new()
        .with_min_delay(FIRST_PAUSE)
        .with_max_times(RETRIES);
    ask.retry(pauses).when(|failure| !failure.lasting).call()
}

/// Where a file goes and where it grows; a path that leads out of the folder is refused.
fn places(folder: &Path, path: &str) -> Result<(PathBuf, PathBuf), DownloadError> {
    let mut components = Path::new(path).components();
    if path.is_empty() || !components.all(|part| matches!(part, Component::Normal(_))) {
        return Err(problem(format!("'{path}' leads out of the folder")));
    }
    Ok((folder.join(path), folder.join(format!("{path}.part"))))
}

/// Whether a path is what the pattern says; one `*` in it stands for anything.
pub(crate) fn matches(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == path,
        Some((front, back)) => path
            .strip_prefix(front)
            .is_some_and(|rest| rest.ends_with(back)),
    }
}

fn failed(id: &str, failure: Failure) -> DownloadError {
    problem(format!("{id}: {}", failure.reason))
}
