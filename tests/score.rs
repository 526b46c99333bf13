//! `iapo score`: where the rows and the accuracy go.

use std::process::{Command, Output};

fn score(predictions: &str, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_iapo"))
        .args(["score", "--set", "vtabfact", "--predictions", predictions])
        .args(more)
        .output()
        .unwrap()
}

#[test]
fn without_out_the_rows_go_to_the_standard_output() {
    let folder = tempfile::tempdir().unwrap();
    let given = folder.path().join("in.jsonl");
    std::fs::write(&given, "\u{feff}{\"gt\":1,\"pred\":\"True\"}\n").unwrap();
    let (given, out) = (given.to_str().unwrap(), folder.path().join("out.jsonl"));
    let rows = "{\"gt\":1,\"pred\":\"True\",\"score\":1,\"reason\":\"equal\"}\n";
    for more in [Vec::new(), vec!["--out", "/dev/stdout"]] {
        let output = score(given, &more);
        assert!(output.status.success());
        assert_eq!(String::from_utf8(output.stdout).unwrap(), rows);
        let accuracy = String::from_utf8(output.stderr).unwrap();
        assert!(
            accuracy.starts_with("vtabfact: accuracy 100.00 %"),
            "{accuracy}"
        );
    }
    let output = score(given, &["--out", out.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(&out).unwrap(), rows);
    let accuracy = String::from_utf8(output.stdout).unwrap();
    assert!(
        accuracy.starts_with("vtabfact: accuracy 100.00 %"),
        "{accuracy}"
    );
}

/// Scores `rows` and returns whether that succeeded, with what was said.
fn run(set: &str, rows: &str, more: &[&str]) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    let (given, out) = (
        folder.path().join("in.jsonl"),
        folder.path().join("out.jsonl"),
    );
    std::fs::write(&given, rows).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_iapo"))
        .args([
            "score",
            "--set",
            set,
            "--predictions",
            given.to_str().unwrap(),
        ])
        .args(["--out", out.to_str().unwrap()])
        .args(more)
        .output()
        .unwrap();
    let told = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(told).unwrap())
}

#[test]
fn a_file_without_a_single_verdict_is_a_failure() {
    let objects = "{\"gt\":\"5\",\"pred\":{\"answer\":\"5\"}}\n{\"gt\":\"5\",\"pred\":[\"5\"]}\n";
    let (success, told) = run("vwtq", objects, &[]);
    assert!(!success && told.contains("none of 2 rows"), "{told}");
    assert!(told.contains("prediction_is_no_text: 2"), "{told}");
    // Asked for, the crash of the official program is a verdict.
    let (success, told) = run("vwtq", objects, &["--crash-is-wrong"]);
    assert!(success && told.contains("accuracy 0.00 %"), "{told}");
    let (success, told) = run("vwtq", "", &[]);
    assert!(!success && told.contains("none of 0 rows"), "{told}");
    // One verdict is enough.
    let (success, _) = run(
        "vwtq",
        &format!("{objects}{{\"gt\":\"5\",\"pred\":\"6\"}}\n"),
        &[],
    );
    assert!(success);
}

#[test]
fn a_row_without_a_gold_ends_the_run_with_its_line() {
    let (success, told) = run("vwtq", "{\"gt\":null,\"pred\":\"5\"}\n", &[]);
    assert!(
        !success && told.contains("line 1: `gt`: the gold must be"),
        "{told}"
    );
    let (success, told) = run("vwtq", "{\"gt\":\"5\",\"pred\":NaN}\n", &[]);
    assert!(
        !success && told.contains("NaN is no JSON; write null"),
        "{told}"
    );
}

#[test]
fn years_have_a_line_of_their_own() {
    let rows = "{\"gt\":\"2010\",\"pred\":\"2008\"}\n{\"gt\":\"100\",\"pred\":\"104\"}\n";
    let (success, told) = run("chartqa-v-bar", rows, &[]);
    assert!(success && told.contains("accuracy 100.00 %"), "{told}");
    assert!(
        told.contains("with years exact: accuracy 50.00 %, 1 right"),
        "{told}"
    );
}
