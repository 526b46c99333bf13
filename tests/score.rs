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
