//! The README's first screen is the recorded run's, and the recorded tables are what their records
//! say.

use std::path::Path;
use std::process::Command;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn tables(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_iapo"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["tables", "results/runs/micro"])
        .args(arguments)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_first_screen_shows_what_the_records_say() {
    let summary = tables(&["--format", "summary"]);
    assert_eq!(summary, read("golden/summaries/micro.md"));
    let readme = read("README.md");
    for row in summary.lines() {
        assert!(readme.contains(row), "README.md lacks the row\n{row}");
    }
}

#[test]
fn the_golden_table_follows_from_the_records() {
    tables(&["--check"]);
}

#[test]
fn the_recorded_report_shows_the_golden_table() {
    let report = read("results/runs/micro/report.md");
    for row in read("golden/tables/micro.md")
        .lines()
        .filter(|line| line.starts_with('|'))
    {
        assert!(
            report.contains(row),
            "results/runs/micro/report.md lacks the row\n{row}"
        );
    }
}
