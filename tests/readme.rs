//! The README's table is the recorded run's, and the recorded run's is what its records say.

use std::path::Path;
use std::process::Command;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_first_screen_shows_the_golden_table() {
    let table = read("golden/tables/micro.md");
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 8, "the golden table has rows");
    let readme = read("README.md");
    for row in rows {
        assert!(readme.contains(row), "README.md lacks the row\n{row}");
    }
}

#[test]
fn the_golden_table_follows_from_the_records() {
    let output = Command::new(env!("CARGO_BIN_EXE_iapo"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["tables", "results/runs/micro", "--check"])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
