//! Kills at random moments, resumed until the run is finished.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::bail;
use seeded_random::{Draw, Generator};

use super::experiment::{Ended, Kind, Running, command, numbers, run, start};
use super::report::Trials;

/// What a process is killed by.
pub const SIGNALS: [&str; 3] = ["KILL", "INT", "TERM"];

/// A run is finished after this many kills, and a new one begun.
const KILLS_OF_A_RUN: usize = 6;

/// Makes `kills` kills of a command that takes `seconds` and gives `expected`.
pub fn kills(
    kind: Kind,
    kills: usize,
    mut seconds: f64,
    expected: &[String],
    draw: &mut Generator,
    trials: &mut Trials,
) -> anyhow::Result<()> {
    let mut made = 0;
    while made < kills {
        let folder = tempfile::tempdir()?;
        let out = folder.path().join("out");
        for _ in 0..KILLS_OF_A_RUN.min(kills - made) {
            let signal = SIGNALS[draw.below(SIGNALS.len())];
            let fault = format!("SIG{signal} to `{}`", kind.name());
            let started = Instant::now();
            let mut running = start(command(kind, &out)?)?;
            // A third of the kills aims inside a write, the others at any moment.
            let aimed = draw.below(3) == 0;
            let delay = Duration::from_secs_f64(draw.unit() * seconds);
            let writes = draw.below(12);
            let finished = match aimed {
                true => until_write(&mut running, &out, writes)?,
                false => until(&mut running, delay)?,
            };
            if finished {
                let ended = running.wait()?;
                // The machine may be less busy than before.
                seconds = seconds.min(started.elapsed().as_secs_f64());
                match ended.status.success() {
                    true => trials.add(&fault, "finished before the signal", None),
                    false => {
                        trials.add(&fault, "failed before the signal", Some(ended.last_lines()))
                    }
                }
                break;
            }
            send(signal, &running)?;
            made += 1;
            // A second signal now and then.
            if signal != "KILL" && draw.below(3) == 0 {
                until(&mut running, Duration::from_millis(10))?;
                send(signal, &running)?;
            }
            let ended = running.wait()?;
            let advice = match kind {
                Kind::Replicate => "--resume",
                Kind::EvalAll => "same command",
            };
            let (outcome, fell) = after_signal(signal, &ended, advice);
            trials.add(&fault, outcome, fell);
        }
        let fault = format!("`{}` after its kills", kind.name());
        let ended = run(command(kind, &out)?)?;
        match ended.status.success() {
            false => trials.add(&fault, "could not go on", Some(ended.last_lines())),
            true if numbers(&out)? == expected => trials.add(&fault, "finished, same bytes", None),
            true => trials.add(&fault, "other bytes", Some(ended.last_lines())),
        }
    }
    Ok(())
}

/// How a process took a signal, and what was wrong with it: all but SIGKILL are to be answered with advice.
pub fn after_signal(signal: &str, ended: &Ended, advice: &str) -> (&'static str, Option<String>) {
    let (outcome, fell) = match (signal, ended.status.code()) {
        ("KILL", _) => ("ended", None),
        // The handler is set in the first milliseconds.
        (_, None) => ("ended before it had begun", None),
        (_, Some(0)) => ("finished all the same", None),
        (_, Some(_)) if ended.text.contains(advice) => ("ended, said how to go on", None),
        _ => ("ended, did not say how to go on", Some(ended.last_lines())),
    };
    (outcome, ended.fell().or(fell))
}

/// Waits; whether the process ended in that time.
fn until(running: &mut Running, delay: Duration) -> anyhow::Result<bool> {
    let started = Instant::now();
    while started.elapsed() < delay {
        if running.child.try_wait()?.is_some() {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(running.child.try_wait()?.is_some())
}

/// Waits until files have been half written `writes` times before; whether the process ended first.
fn until_write(running: &mut Running, out: &Path, mut writes: usize) -> anyhow::Result<bool> {
    let mut inside = false;
    loop {
        if running.child.try_wait()?.is_some() {
            return Ok(true);
        }
        let now = holds_partial(out);
        if now && !inside {
            if writes == 0 {
                return Ok(false);
            }
            writes -= 1;
        }
        inside = now;
    }
}

/// Whether something in the folder has the name of a file that is being written.
fn holds_partial(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return false;
    };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with(".partial-")
            || name.ends_with("unfinished")
            || (entry.path().is_dir() && holds_partial(&entry.path()))
    })
}

/// Sends a signal.
pub fn send(signal: &str, running: &Running) -> anyhow::Result<()> {
    let id = running.child.id();
    // It may have ended in this moment.
    let sent = Command::new("sh")
        .args(["-c", &format!("kill -{signal} {id} 2>/dev/null || true")])
        .status()?;
    match sent.success() {
        true => Ok(()),
        false => bail!("cannot send a signal: no `sh`?"),
    }
}
