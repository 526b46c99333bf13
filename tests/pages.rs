//! Pages that people follow: their commands are run as they stand there, in a pipe, 80 columns wide and
//! without colour.
#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use results::{RECORDS, Record, read_lines};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap()
}

/// The text of the fenced blocks of a language, from `after` on.
fn blocks<'p>(page: &'p str, language: &str, after: &str) -> Vec<&'p str> {
    let (_, page) = page.split_once(after).expect("the heading is there");
    page.split(&format!("```{language}\n"))
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect()
}

/// A folder that looks like a clone to what is named in pages, where new files go beside it.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        for name in ["replicate", "results", "golden"] {
            std::os::unix::fs::symlink(root().join(name), scratch.path().join(name)).unwrap();
        }
        Scratch(scratch)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs the lines of a console block; their outputs.
    fn run(&self, block: &str) -> Vec<String> {
        block.lines().map(|line| self.one(line)).collect()
    }

    fn one(&self, line: &str) -> String {
        let mut words = line.split_whitespace();
        assert_eq!(words.next(), Some("iapo"), "{line}");
        let output = Command::new(env!("CARGO_BIN_EXE_iapo"))
            .args(words)
            .current_dir(self.0.path())
            .env("COLUMNS", "80")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}\n{errors}");
        let said = String::from_utf8(output.stdout).unwrap();
        for text in [&said, &errors.into_owned()] {
            assert!(
                !text.contains('\u{1b}'),
                "no colour in a pipe: {line}\n{text}"
            );
        }
        said
    }

    fn records(&self, run: &str) -> Vec<Record> {
        read_lines(&self.path(run).join(RECORDS)).unwrap()
    }
}

#[test]
fn the_tour_of_the_readme() {
    let readme = page("README.md");
    let tour = blocks(&readme, "console", "## A tour")[0];
    let scratch = Scratch::new();
    for (line, said) in tour.lines().zip(scratch.run(tour)) {
        let wide = said.lines().find(|line| line.chars().count() > 80);
        assert_eq!(wide, None, "wider than 80 columns: {line}");
    }
    for made in [
        "runs/smoke/report.md",
        "runs/smoke/view.html",
        "runs/smoke/differences.svg",
        "runs/smoke-1/vtool-r1/seed-1/records.jsonl",
        "look/questions.jsonl",
    ] {
        assert!(scratch.path(made).is_file(), "{made}");
    }
    assert_eq!(scratch.records("runs/look/student/seed-0").len(), 20);
}

/// The world's questions from files are the world's questions.
#[test]
fn questions_of_ones_own_are_asked_as_their_page_says() {
    let scratch = Scratch::new();
    let own = page("benchmarks/OWN_QUESTIONS.md");
    let said = scratch.run(blocks(&own, "console", "# ")[0]);
    let table = &said[2];
    assert!(table.contains("questions of your own"), "{table}");
    scratch.one(
        "iapo eval-all --model replicate/checkpoints/micro/student --sets vwtq --limit 12 --out runs/world",
    );
    let answers = |run: &str| -> Vec<(String, String, Option<String>)> {
        let records = scratch.records(run).into_iter();
        let mut answers: Vec<_> = records
            .map(|record| (record.qa_id, record.prediction, record.call))
            .collect();
        answers.sort();
        answers
    };
    let own = answers("runs/mine/student/seed-0");
    assert_eq!(own.len(), 12);
    assert!(
        own.iter().any(|(_, _, call)| call.is_some()),
        "tools are called"
    );
    assert_eq!(own, answers("runs/world/student/seed-0"));
}

#[test]
fn a_model_of_ones_own_and_adapters_are_used_as_their_page_says() {
    let scratch = Scratch::new();
    let own = page("replicate/OWN_MODEL.md");
    std::fs::write(scratch.path("adapters.toml"), blocks(&own, "toml", "# ")[0]).unwrap();
    for block in blocks(&own, "console", "# ") {
        scratch.run(block);
    }
    let adapted = scratch.records("runs/adapted/checkpoint/seed-0");
    assert_eq!(adapted.len(), 12);
}

#[test]
fn the_page_of_a_new_reward_is_a_patch_of_what_is_there() {
    let own = page("baselines/OWN_REWARD.md");
    let dir = tempfile::tempdir().unwrap();
    let patch = dir.path().join("ran.diff");
    std::fs::write(&patch, blocks(&own, "diff", "# ")[0]).unwrap();
    let output = Command::new("git")
        .args(["apply", "--check"])
        .arg(&patch)
        .current_dir(root())
        .output();
    let Ok(output) = output else {
        eprintln!("skipped: there is no git");
        return;
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "the patch does not apply: {errors}"
    );
}
