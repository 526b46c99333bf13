//! Flipped bits in every kind of file: named by an error, or without effect on the numbers.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use seeded_random::{Draw, Generator};

use super::experiment::{Kind, binary, command, numbers, run, start};
use super::report::Trials;

/// Files of a finished `replicate`, by kind.
const FINISHED: [(&str, &[&str]); 9] = [
    (
        "records",
        &[
            "untrained/seed-0/records.jsonl",
            "vtool-r1/seed-0/records.jsonl",
        ],
    ),
    (
        "metrics",
        &[
            "vtool-r1/seed-0/metrics.jsonl",
            "iapo-occlusion/seed-0/metrics.jsonl",
        ],
    ),
    (
        "manifest",
        &[
            "vtool-r1/seed-0/manifest.json",
            "untrained/seed-0/manifest.json",
        ],
    ),
    (
        "settings",
        &[
            "vtool-r1/seed-0/settings.json",
            "teacher/seed-0/settings.json",
        ],
    ),
    (
        "weights",
        &[
            "teacher/seed-0/checkpoint/model.safetensors",
            "cold-start/seed-0/checkpoint/model.safetensors",
        ],
    ),
    (
        "checkpoint's other files",
        &[
            "cold-start/seed-0/checkpoint/config.json",
            "cold-start/seed-0/checkpoint/tokenizer.json",
            "cold-start/seed-0/checkpoint/preprocessor_config.json",
            "teacher/seed-0/checkpoint/chat_template.jinja",
        ],
    ),
    (
        "checkpoint's hash",
        &[
            "vtool-r1/seed-0/checkpoint.blake3",
            "cold-start/seed-0/checkpoint.blake3",
        ],
    ),
    ("gates", &["gates.json"]),
    ("profile", &["profile.toml"]),
];

/// Files of a `replicate` that stopped in its first arm, by kind.
const HALF: [(&str, &[&str]); 6] = [
    (
        "state",
        &[
            "vtool-r1/seed-0/state/step-1/parameters.safetensors",
            "vtool-r1/seed-0/state/step-1/optimizer.safetensors",
        ],
    ),
    (
        "state's checksums",
        &["vtool-r1/seed-0/state/step-1/checksums.json"],
    ),
    (
        "metrics of an unfinished stage",
        &["vtool-r1/seed-0/metrics.jsonl"],
    ),
    (
        "metrics of the stage before",
        &["cold-start/seed-0/metrics.jsonl"],
    ),
    (
        "files of the checkpoint before",
        &[
            "cold-start/seed-0/checkpoint/config.json",
            "cold-start/seed-0/checkpoint/tokenizer.json",
            "cold-start/seed-0/checkpoint/preprocessor_config.json",
            "cold-start/seed-0/checkpoint/chat_template.jinja",
            "teacher/seed-0/checkpoint/config.json",
        ],
    ),
    (
        "settings of an unfinished stage",
        &["vtool-r1/seed-0/settings.json"],
    ),
];

/// Files of an `eval-all`, by kind.
const EVALUATED: [(&str, &[&str]); 3] = [
    ("records", &["student/seed-0/records.jsonl"]),
    ("completions", &["student/seed-0/completions.jsonl"]),
    ("manifest", &["student/seed-0/manifest.json"]),
];

/// What a table of a folder says, as JSON, or the error.
pub fn table(out: &Path) -> anyhow::Result<(bool, String)> {
    let mut tables = Command::new(binary()?);
    tables.arg("tables").arg(out).args(["--format", "json"]);
    let ended = run(tables)?;
    Ok((ended.status.success(), ended.text))
}

/// Flips `flips` bits in each kind of file of a finished run, one at a time.
pub fn finished(
    kind: Kind,
    whole: &Path,
    expected: &[String],
    flips: usize,
    draw: &mut Generator,
    trials: &mut Trials,
) -> anyhow::Result<()> {
    let kinds: &[(&str, &[&str])] = match kind {
        Kind::Replicate => &FINISHED,
        Kind::EvalAll => &EVALUATED,
    };
    let good = table(whole)?;
    for (name, files) in kinds {
        let fault = format!("a bit of {name}, finished `{}`", kind.name());
        for flip_index in 0..flips {
            let file = files[flip_index % files.len()];
            let folder = tempfile::tempdir()?;
            let out = folder.path().join("out");
            copy(whole, &out)?;
            let place = flip(&out.join(file), draw)?;
            let mut check = Command::new(binary()?);
            check.arg("check").arg(&out);
            let checked = run(check)?;
            let shown = table(&out)?;
            let resumed = run(command(kind, &out)?)?;
            let panics = checked.fell().or(resumed.fell());
            let named = [
                (!checked.status.success(), "`check`"),
                (!shown.0, "`tables`"),
                (!resumed.status.success(), "going on"),
            ];
            let named: Vec<&str> = named
                .iter()
                .filter(|(named, _)| *named)
                .map(|(_, by)| *by)
                .collect();
            // What was shown before, and what is there after going on.
            let same = (!shown.0 || shown.1 == good.1)
                && (!resumed.status.success()
                    || numbers(&out).is_ok_and(|found| found == expected));
            let (outcome, fell) = match (named.is_empty(), same) {
                (_, false) if !named.contains(&"`check`") => (
                    "other numbers, not named".to_owned(),
                    Some(format!("{file}, {place}")),
                ),
                (false, _) => (format!("named by {}", named.join(", ")), None),
                _ => ("without effect on the numbers".to_owned(), None),
            };
            trials.add(&fault, &outcome, panics.or(fell));
        }
    }
    Ok(())
}

/// Flips bits in what a run that stopped in its first arm left, and goes on with it.
pub fn half(
    expected: &[String],
    flips: usize,
    draw: &mut Generator,
    trials: &mut Trials,
) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let stopped = folder.path().join("stopped");
    let mut running = start(command(Kind::Replicate, &stopped)?)?;
    let state = stopped.join("vtool-r1/seed-0/state/step-1");
    let started = Instant::now();
    while !state.exists() && started.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_micros(200));
    }
    running.child.kill()?;
    running.wait()?;
    anyhow::ensure!(
        state.exists(),
        "the run ended before it could be stopped in its first arm"
    );
    for (name, files) in HALF {
        let fault = format!("a bit of {name}, stopped `replicate`");
        for flip_index in 0..flips {
            let file = files[flip_index % files.len()];
            let out = folder.path().join("out");
            copy(&stopped, &out)?;
            let place = flip(&out.join(file), draw)?;
            let ended = run(command(Kind::Replicate, &out)?)?;
            let same = ended.status.success() && numbers(&out)? == expected;
            let (outcome, fell) = match (ended.status.success(), same) {
                (false, _) => ("named by going on", ended.fell()),
                (true, true) => ("without effect on the numbers", None),
                (true, false) => ("other numbers, not named", Some(format!("{file}, {place}"))),
            };
            trials.add(&fault, outcome, fell);
            std::fs::remove_dir_all(&out)?;
        }
    }
    Ok(())
}

/// Flips one bit of a file; where.
fn flip(path: &Path, draw: &mut Generator) -> anyhow::Result<String> {
    let mut bytes = std::fs::read(path)?;
    let (at, bit) = (draw.below(bytes.len()), draw.below(8));
    bytes[at] ^= 1 << bit;
    std::fs::write(path, bytes)?;
    Ok(format!("byte {at}, bit {bit}"))
}

/// A folder with everything in it.
pub fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let path: PathBuf = entry?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        match path.is_dir() {
            true => copy(&path, &target)?,
            false => drop(std::fs::copy(&path, &target)?),
        }
    }
    Ok(())
}
