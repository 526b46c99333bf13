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

/// The counted study's primary tests, as the report has them.
#[test]
fn the_first_screen_shows_the_studys_tests() {
    let readme = read("README.md");
    let report = read("results/study/report.md");
    let (_, tests) = report.split_once("## Primary tests").unwrap();
    let tests = tests.split("\n## ").next().unwrap();
    let rows: Vec<&str> = tests
        .lines()
        .filter(|line| line.starts_with("| H"))
        .collect();
    assert!(!rows.is_empty(), "the report has no primary test");
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let row = cells.join(" | ");
        assert!(
            readme.contains(row.trim()),
            "README.md lacks the row\n{row}"
        );
    }
}

/// The rows of the paper page that say what the plan says.
fn planned(profile: &str, memory: &str) -> Vec<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_iapo"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["plan", "--profile", profile, "--memory", memory])
        .args(["--format", "json"])
        .output()
        .unwrap();
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let number = |value: &serde_json::Value| value.as_f64().unwrap();
    let peak = |stage: &str| -> String {
        let stages = plan["memory"].as_array().unwrap();
        let Some(own) = stages.iter().find(|own| own["stage"] == stage) else {
            return String::new();
        };
        let parts = own["parts"].as_array().unwrap().iter();
        let (mut always, mut passing) = (0.0, 0.0f64);
        for part in parts {
            match part["always"].as_bool().unwrap() {
                true => always += number(&part["bytes"]),
                false => passing = passing.max(number(&part["bytes"])),
            }
        }
        format!("{:.0}", (always + passing) / 1e9)
    };
    let mut rows: Vec<String> = plan["time"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stage| {
            let name = stage["stage"].as_str().unwrap();
            let seconds: f64 = match &stage["update"]["seconds"] {
                serde_json::Value::Array(parts) => parts.iter().map(|p| number(&p[1])).sum(),
                _ => 0.0,
            };
            let update = match seconds {
                0.0 => String::new(),
                seconds => format!("{seconds:.0}"),
            };
            let (updates, hours) = (&stage["updates"], number(&stage["hours"]));
            format!(
                "| `{profile}` | {name} | {} | {updates} | {update} | {hours:.1} |",
                peak(name)
            )
        })
        .collect();
    rows.push(format!(
        "| `{profile}` | all | | | | {:.0} (cost {:.0}) |",
        number(&plan["hours"][0]),
        number(&plan["cost"])
    ));
    rows
}

#[test]
fn the_papers_page_says_what_the_plan_says() {
    let mut table = "| profile | stage | GB | updates | seconds an update | hours |\n".to_owned();
    table += "|---|---|---:|---:|---:|---:|\n";
    for (profile, memory) in [("paper", "80"), ("paper-full", "141")] {
        for row in planned(profile, memory) {
            table += &row;
            table.push('\n');
        }
    }
    let page = read("replicate/PAPER.md");
    let shown = page.split("<!-- plan -->\n").nth(1).unwrap();
    let shown = shown.split("<!-- /plan -->").next().unwrap();
    assert_eq!(
        shown.trim(),
        table.trim(),
        "replicate/PAPER.md should have\n{table}"
    );
}

/// What a page says lies in the repository does.
#[test]
fn the_files_that_pages_name_are_there() {
    let named = regex::Regex::new(
        r"`((?:benches|benchmarks|baselines|crates|golden|replicate|results|tests)/[\w./-]*\w)`|\]\(([\w./-]+)\)",
    )
    .unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut missing = Vec::new();
    for page in ["README.md", "ARCHITECTURE.md", "results/view/README.md"] {
        for found in named.captures_iter(&read(page)) {
            let path = found.get(1).or(found.get(2)).unwrap().as_str();
            if !root.join(path).exists() {
                missing.push(format!("{page}: {path}"));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}
