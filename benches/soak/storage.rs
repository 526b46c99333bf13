//! Disks that are full or read-only, and two processes on one folder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::experiment::{Ended, Kind, command, numbers, run, start};
use super::report::Trials;

/// kB that a disk has, one after the other: up to what a run needs.
const DISK: [u64; 22] = [
    4, 8, 16, 32, 64, 128, 512, 1024, 2048, 2816, 3072, 4096, 6144, 8192, 9216, 11264, 12288,
    14336, 16384, 20480, 24576, 65536,
];

/// kB that a file may have, one after the other: a state has 2.7 and 5.5 MB.
const FILE: [u64; 17] = [
    0, 1, 2, 3, 4, 8, 16, 64, 256, 1024, 2048, 2736, 3072, 4096, 5471, 8192, 65536,
];

/// A run on a disk that is made larger each time it is full.
pub fn full_disk(kind: Kind, expected: &[String], trials: &mut Trials) -> anyhow::Result<()> {
    let fault = format!("full disk under `{}`", kind.name());
    let folder = tempfile::tempdir()?;
    let Some(disk) = Disk::mount(folder.path(), DISK[0]) else {
        trials.add(&fault, "not tried: no disk may be mounted", None);
        return Ok(());
    };
    let out = folder.path().join("out");
    for kilobytes in DISK {
        disk.resize(kilobytes)?;
        let ended = run(command(kind, &out)?)?;
        if judge(&fault, &ended, &out, expected, trials)? {
            return Ok(());
        }
    }
    trials.add(
        &fault,
        "never finished",
        Some("a disk of 64 MB is not enough".into()),
    );
    Ok(())
}

/// A run whose files may grow to a limit that is raised each time it is met.
pub fn full_files(kind: Kind, expected: &[String], trials: &mut Trials) -> anyhow::Result<()> {
    let fault = format!("file limit under `{}`", kind.name());
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("out");
    for kilobytes in FILE {
        let plain = command(kind, &out)?;
        // What it says must not meet the limit too: it goes through a pipe.
        let script = format!(
            "trap '' XFSZ; (ulimit -f {kilobytes}; exec \"$@\") 2>&1 | cat; exit ${{PIPESTATUS[0]}}"
        );
        let mut limited = Command::new("bash");
        limited
            .args(["-c", &script, "bash"])
            .arg(plain.get_program())
            .args(plain.get_args());
        limited.current_dir(env!("CARGO_MANIFEST_DIR"));
        let ended = run(limited)?;
        if judge(&fault, &ended, &out, expected, trials)? {
            return Ok(());
        }
    }
    trials.add(
        &fault,
        "never finished",
        Some("files of 64 MB are not enough".into()),
    );
    Ok(())
}

/// Counts one end on a full disk; whether the run is finished.
fn judge(
    fault: &str,
    ended: &Ended,
    out: &Path,
    expected: &[String],
    trials: &mut Trials,
) -> anyhow::Result<bool> {
    if let Some(fell) = ended.fell() {
        trials.add(fault, "panic", Some(fell));
        return Ok(false);
    }
    if ended.status.success() {
        let (outcome, fell) = match numbers(out)? == expected {
            true => ("finished once there was room, same bytes", None),
            false => ("other bytes", Some(ended.last_lines())),
        };
        trials.add(fault, outcome, fell);
        return Ok(true);
    }
    let named = ended.error_names(&out.display().to_string());
    match named {
        true => trials.add(fault, "an error that names the file", None),
        false => trials.add(
            fault,
            "an error without a file's name",
            Some(ended.last_lines()),
        ),
    }
    Ok(false)
}

/// A small disk in memory, unmounted in the end.
struct Disk(PathBuf);

impl Disk {
    /// `None` where this process may not.
    fn mount(folder: &Path, kilobytes: u64) -> Option<Self> {
        let size = format!("size={kilobytes}k");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(folder)
            .output();
        mounted
            .is_ok_and(|mounted| mounted.status.success())
            .then(|| Disk(folder.to_owned()))
    }

    fn resize(&self, kilobytes: u64) -> anyhow::Result<()> {
        let options = format!("remount,size={kilobytes}k");
        let resized = Command::new("mount")
            .args(["-o", &options])
            .arg(&self.0)
            .status()?;
        anyhow::ensure!(resized.success(), "cannot resize {}", self.0.display());
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// A folder in which nothing can be written, new and with a finished run.
pub fn read_only(kind: Kind, finished: &Path, trials: &mut Trials) -> anyhow::Result<()> {
    let fault = format!("read-only folder under `{}`", kind.name());
    let folder = tempfile::tempdir()?;
    let Some(disk) = Disk::mount(folder.path(), 65536) else {
        trials.add(&fault, "not tried: no disk may be mounted", None);
        return Ok(());
    };
    let old = folder.path().join("old");
    super::damage::copy(finished, &old)?;
    let before = numbers(&old)?;
    let set = Command::new("mount")
        .args(["-o", "remount,ro"])
        .arg(&disk.0)
        .status()?;
    anyhow::ensure!(set.success(), "cannot make {} read-only", disk.0.display());
    for out in [folder.path().join("new"), old.clone()] {
        let ended = run(command(kind, &out)?)?;
        let named = ended.error_names(&out.display().to_string());
        match (ended.status.success(), named) {
            (false, true) => trials.add(&fault, "an error that names the file", ended.fell()),
            _ => trials.add(
                &fault,
                "no error, or one without a name",
                Some(ended.last_lines()),
            ),
        }
    }
    if numbers(&old)? != before {
        trials.add(
            &fault,
            "other bytes",
            Some("the finished run changed".into()),
        );
    }
    Ok(())
}

/// Two processes on one folder, the second a little later each time.
pub fn two_processes(kind: Kind, expected: &[String], trials: &mut Trials) -> anyhow::Result<()> {
    let fault = format!("two `{}` on one folder", kind.name());
    for delay in [0, 3, 10, 30, 300] {
        let folder = tempfile::tempdir()?;
        let out = folder.path().join("out");
        let first = start(command(kind, &out)?)?;
        std::thread::sleep(Duration::from_millis(delay));
        let second = run(command(kind, &out)?)?;
        let first = first.wait()?;
        let refused =
            |ended: &Ended| !ended.status.success() && ended.text.contains("another process");
        let one = (first.status.success() && refused(&second))
            || (second.status.success() && refused(&first));
        let fell = first.fell().or(second.fell());
        match one && numbers(&out)? == expected {
            true => trials.add(
                &fault,
                "one refused at once, the other finished, same bytes",
                fell,
            ),
            false => trials.add(
                &fault,
                "not one alone",
                Some(format!("{} | {}", first.last_lines(), second.last_lines())),
            ),
        }
    }
    Ok(())
}
