//! `iapo check` and `iapo tables` on recorded runs, whole and damaged, and where their output goes.

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn iapo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iapo"));
    command
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

fn text(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// A run of one recorded arm and seed in a folder of its own.
fn copy(out: &Path) {
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("results/runs/micro");
    let folder = out.join("iapo/seed-0");
    std::fs::create_dir_all(&folder).unwrap();
    let recorded = recorded.join("iapo/seed-0");
    std::fs::copy(recorded.join("manifest.json"), folder.join("manifest.json")).unwrap();
    // Plain, to be damaged.
    for name in [results::RECORDS, results::METRICS] {
        let text = results::read_stored(&recorded.join(name)).unwrap();
        std::fs::write(folder.join(name), text).unwrap();
    }
}

#[test]
fn the_recorded_run_is_whole() {
    let output = iapo(&["check", "results/runs/micro"]).output().unwrap();
    let (out, _) = text(&output);
    assert!(output.status.success(), "{out}");
    assert_eq!(out, "all files whole, all questions answered\n");
}

/// Kept cells of the study, whose records are told by other cells'.
#[test]
fn a_variant_of_the_study_is_whole() {
    let variant = "results/study/B-paper/main";
    let output = iapo(&["check", variant]).output().unwrap();
    let (out, _) = text(&output);
    assert!(output.status.success(), "{out}");
}

#[test]
fn a_damaged_run_is_named_by_check_and_refused_by_tables() {
    let out = tempfile::tempdir().unwrap();
    copy(out.path());
    let path = out.path().to_str().unwrap();
    assert!(iapo(&["check", path]).output().unwrap().status.success());
    let metrics = out.path().join("iapo/seed-0/metrics.jsonl");
    let lines = std::fs::read_to_string(&metrics).unwrap();
    std::fs::write(
        &metrics,
        lines.replacen("\"reward\":0.3", "\"reward\":0.4", 1),
    )
    .unwrap();
    let output = iapo(&["check", path, "--format", "json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(findings.as_array().unwrap().len(), 1);
    assert_eq!(findings[0]["level"], "fault");
    let message = findings[0]["message"].as_str().unwrap();
    assert!(message.contains("expected BLAKE3"), "{message}");
    let output = iapo(&["tables", path]).output().unwrap();
    let (_, error) = text(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        error.contains("metrics.jsonl: damaged: expected"),
        "{error}"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_output_is_an_error_and_a_closed_one_an_end() {
    for arguments in [
        ["tables", "results/runs/micro"],
        ["check", "results/runs/micro"],
    ] {
        let full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let output = iapo(&arguments).stdout(full).output().unwrap();
        let (_, error) = text(&output);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("cannot write to standard output"), "{error}");
        let mut child = iapo(&arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let (_, error) = text(&output);
        assert!(output.status.success(), "{error}");
    }
}

#[test]
fn runs_are_compared_by_question() {
    let recorded = "results/runs/micro";
    let out = tempfile::tempdir().unwrap();
    copy(out.path());
    let path = out.path().to_str().unwrap();
    let (table, _) = text(&iapo(&["compare", recorded, path]).output().unwrap());
    assert!(
        table.contains("against results/runs/micro: 1200 common questions")
            && table.contains("only in results/runs/micro: untrained, teacher, vtool-r1"),
        "{table}"
    );
    assert!(
        table.lines().skip(1).all(|line| line.len() <= 80),
        "{table}"
    );
    let output = iapo(&["compare", recorded, path, "--format", "json"]);
    let (json, _) = text(&{ output }.output().unwrap());
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let arm = &json[0]["arms"][0];
    assert_eq!(
        (&arm["arm"], &arm["flips"]["gained"]),
        (&"iapo".into(), &0.into())
    );
    let (csv, _) = text(
        &iapo(&["compare", path, path, "--format", "csv"])
            .output()
            .unwrap(),
    );
    let line = csv.lines().nth(1).unwrap();
    assert!(
        line.ends_with(",iapo,0.0000,0.0000,0.0000,1.0000,0,0,1200"),
        "{line}"
    );
    // One experiment alone has nothing beside it.
    let output = iapo(&["compare", path]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn shells_and_man_know_every_subcommand() {
    let (bash, _) = text(&iapo(&["completions", "bash"]).output().unwrap());
    let out = tempfile::tempdir().unwrap();
    let path = out.path().to_str().unwrap();
    let (pages, _) = text(&iapo(&["man", "--out", path]).output().unwrap());
    for name in ["replicate", "view", "compare", "tables", "doctor"] {
        assert!(bash.contains(name), "{name}");
        assert!(pages.contains(&format!("iapo-{name}.1")), "{pages}");
        let page = std::fs::read_to_string(out.path().join(format!("iapo-{name}.1"))).unwrap();
        assert!(page.contains(".SH OPTIONS"), "{page}");
    }
}
