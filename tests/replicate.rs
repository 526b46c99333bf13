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
        "iapo-occlusion",
        "distill",
    ] {
        assert!(text.contains(word), "the table lacks {word}:\n{text}");
    }

    let expected = hashes(&first);
    assert_eq!(expected.len(), 8);
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
        &["--resume", "--set", "arms.iapo.weight=0.9"],
    ));
    assert!(
        other.contains("another profile") && other.contains("arms.iapo.weight was 1.0, now 0.9"),
        "{other}"
    );
    // What another arm reads is no business of the recorded ones.
    succeed(smoke(
        &second,
        &[
            "--resume",
            "--arms",
            "torl",
            "--set",
            "arms.iapo.weight=0.9",
        ],
    ));
    assert_eq!(hashes(&second), expected);
    let lines: Vec<results::UpdateMetrics> =
        read_lines(&second.join("iapo/seed-0/metrics.jsonl")).unwrap();
    assert_eq!(lines.len(), 4);
    // Every arm alike tells how far it is from the teacher.
    for arm in ["vtool-r1", "iapo", "distill"] {
        let lines: Vec<results::UpdateMetrics> =
            read_lines(&second.join(arm).join("seed-0/metrics.jsonl")).unwrap();
        let alignment = lines[3]
            .alignment
            .expect("the last update measures the probe");
        assert!(alignment.n > 0 && alignment.right.is_finite(), "{arm}");
    }
}

/// Every arm that the profile knows trains, controls of the study included.
#[test]
fn every_arm_trains() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let arms = [
        "own-log-prob",
        "iapo-occlusion-self",
        "iapo-occlusion-wrong-teacher",
        "iapo-occlusion-shuffled",
        "random",
    ];
    let few = [
        "schedule.arm=1",
        "schedule.teacher=1",
        "schedule.cold_start=0",
        "evaluation.questions=2",
    ];
    let mut more = vec![
        "--arms".to_owned(),
        arms.join(","),
        "--first-seed".into(),
        "1000".into(),
    ];
    more.extend(
        few.iter()
            .flat_map(|set| ["--set".to_owned(), (*set).to_owned()]),
    );
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    succeed(smoke(&out, &more));
    for arm in arms {
        let folder = out.join(arm).join("seed-1000");
        let lines: Vec<results::UpdateMetrics> = read_lines(&folder.join("metrics.jsonl")).unwrap();
        assert_eq!(lines.len(), 1, "{arm}");
        let term: f64 = lines[0]
            .reward_parts
            .iter()
            .filter(|(part, _)| *part != "outcome")
            .map(|(_, v)| v)
            .sum();
        assert!(term.is_finite(), "{arm}");
    }
}

/// Damage to what a finished or half-finished run left is named, never trained on.
#[test]
fn a_flipped_bit_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let few = ["--arms", "vtool-r1", "--set", "evaluation.questions=2"];
    succeed(smoke(&out, &few));
    let again: Vec<&str> = few.iter().copied().chain(["--resume"]).collect();
    for stage in ["teacher/seed-0", "cold-start/seed-0", "vtool-r1/seed-0"] {
        let weights = out.join(stage).join("checkpoint/model.safetensors");
        let whole = std::fs::read(&weights).unwrap();
        let mut damaged = whole.clone();
        *damaged.last_mut().unwrap() ^= 0x40;
        std::fs::write(&weights, damaged).unwrap();
        let error = error_of(smoke(&out, &again));
        assert!(
            error.contains("damaged") && error.contains(stage),
            "{error}"
        );
        std::fs::write(&weights, whole).unwrap();
    }
    succeed(smoke(&out, &again));
}

#[test]
fn one_process_at_a_time_works_in_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    std::fs::create_dir_all(&out).unwrap();
    let held = std::fs::File::create(out.join("lock")).unwrap();
    held.lock().unwrap();
    let error = error_of(smoke(&out, &[]));
    assert!(error.contains("another process is at work"), "{error}");
}

#[test]
fn bad_input_is_an_error_that_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let missing = error_of(smoke(&out, &["--checkpoints", "does/not/exist"]));
    assert!(missing.contains("iapo pretrain"), "{missing}");
    let key = error_of(smoke(&out, &["--set", "grpo.sample=3"]));
    assert!(key.contains("unknown key"), "{key}");
    for wrong in [
        "arms.iapo.weight=nan",
        "arms.iapo.attribution.nodes=1",
        "grpo.clip_high=0",
        "grpo.kl_coefficient=-1",
        "rewards.iapo_weight=1",
    ] {
        let late = dir.path().join("late");
        let error = error_of(smoke(&late, &["--set", wrong]));
        let typed = wrong.split('=').next().unwrap();
        assert!(error.contains(typed), "{wrong}: {error}");
        assert!(!late.exists(), "{wrong} was met after work began");
    }
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
