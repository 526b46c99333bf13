//! The whole experiment, far too short to learn: every stage and arm, twice, and through a kill.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use results::{Runs, read_lines, run_hashes};

fn iapo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iapo"));
    command
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

fn smoke(out: &Path, more: &[&str]) -> Command {
    let mut command = iapo(&["replicate", "--profile", "smoke", "--out"]);
    command.arg(out).args(more);
    command
}

fn succeed(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn error_of(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(!output.status.success(), "it should have failed");
    String::from_utf8(output.stderr).unwrap()
}

/// Relative folder and hashes of every run.
fn hashes(out: &Path) -> Vec<(PathBuf, String, String)> {
    let runs = Runs::load(&[out.to_owned()]).unwrap();
    let mut found: Vec<_> = runs
        .runs
        .iter()
        .map(|run| {
            let hashes = run_hashes(&run.folder).unwrap();
            let relative = run.folder.strip_prefix(out).unwrap().to_owned();
            (relative, hashes.records, hashes.metrics)
        })
        .collect();
    found.sort();
    found
}

#[test]
fn the_same_bytes_twice_and_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let first = dir.path().join("first");
    let output = succeed(smoke(&first, &[]));
    let text = String::from_utf8(output.stdout).unwrap();
    for word in [
        "untrained",
        "teacher",
        "vtool-r1",
        "torl",
        "trm",
        "iapo",
        "distill",
    ] {
        assert!(text.contains(word), "the table lacks {word}:\n{text}");
    }

    let expected = hashes(&first);
    assert_eq!(expected.len(), 7);
    let runs = Runs::load(std::slice::from_ref(&first)).unwrap();
    for run in &runs.runs {
        let mut sets: Vec<&str> = run.records.iter().map(|r| r.set.as_str()).collect();
        sets.sort();
        sets.dedup();
        assert_eq!(sets.len(), 6, "{}", run.folder.display());
        // The sampler and the trainer agree on what was sampled.
        for line in &run.metrics {
            assert!((line.ratio - 1.0).abs() < 1e-3, "ratio {}", line.ratio);
            assert_eq!(line.clip_fraction, 0.0);
        }
    }

    // One thread, and a kill in the middle of the first arm.
    let second = dir.path().join("second");
    let mut command = smoke(&second, &[]);
    command.env("RAYON_NUM_THREADS", "1");
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let state = second.join("vtool-r1/seed-0/state/step-1");
    let patience = Instant::now();
    while !state.exists() && patience.elapsed() < Duration::from_secs(600) {
        if child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!second.join("distill/seed-0/manifest.json").exists());
    let refused = error_of(smoke(&second, &[]));
    assert!(refused.contains("--resume"), "{refused}");
    succeed(smoke(&second, &["--resume"]));
    assert_eq!(hashes(&second), expected);

    // A finished run is widened, not redone; another profile's folder is refused.
    let other = error_of(smoke(
        &second,
        &["--resume", "--set", "rewards.iapo_weight=0.9"],
    ));
    assert!(other.contains("another profile"), "{other}");
    assert_eq!(hashes(&second), expected);
    let lines: Vec<results::UpdateMetrics> =
        read_lines(&second.join("iapo/seed-0/metrics.jsonl")).unwrap();
    assert_eq!(lines.len(), 4);
}

#[test]
fn bad_input_is_an_error_that_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let missing = error_of(smoke(&out, &["--checkpoints", "does/not/exist"]));
    assert!(missing.contains("iapo pretrain"), "{missing}");
    let key = error_of(smoke(&out, &["--set", "grpo.sample=3"]));
    assert!(key.contains("unknown key"), "{key}");
    let profile = error_of(iapo(&["replicate", "--profile", "mikro"]));
    assert!(profile.contains("micro, smoke"), "{profile}");
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let folder = error_of(smoke(&file.join("out"), &[]));
    assert!(folder.contains("file"), "{folder}");
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("precious"), "mine").unwrap();
    let occupied = error_of(smoke(&out, &[]));
    assert!(occupied.contains("not empty"), "{occupied}");

    // A damaged checkpoint.
    let broken = dir.path().join("checkpoints/micro");
    for role in ["student", "teacher"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("replicate/checkpoints/micro")
            .join(role);
        let to = broken.join(role);
        std::fs::create_dir_all(&to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
    let weights = broken.join("student/model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let mut command = smoke(&dir.path().join("damaged"), &["--checkpoints"]);
    command.arg(dir.path());
    let damaged = error_of(command);
    assert!(damaged.contains("model.safetensors"), "{damaged}");
}
