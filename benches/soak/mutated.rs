//! The mutated inputs of `fuzz_stable`, each entry point in a process of its own with bounded memory.

use std::fmt::Write;
use std::process::Command;

use anyhow::Context;
use serde_json::Value;

const TARGETS: [&str; 11] = [
    "calls",
    "boxes",
    "rows",
    "replies",
    "images",
    "configurations",
    "templates",
    "profiles",
    "weights",
    "records",
    "own-questions",
];

/// kB of address space: what one input may make a command ask for.
const MEMORY: u64 = 4_000_000;

/// The section of the report, and how many findings there are.
pub struct Mutated {
    pub markdown: String,
    pub fallen: usize,
}

/// Runs every target for `seconds`.
pub fn run(seconds: u64, seed: u64) -> anyhow::Result<Mutated> {
    let harness = std::env::current_exe()?.with_file_name("fuzz_stable");
    let mut table = format!(
        "\n## Mutated inputs\n\n`fuzz_stable`, {seconds} s each: seeded mutations of good inputs. An input falls by a panic, an \
         abort, more than 2 s of processor time or {} GB of address space.\n\n| entry point | inputs | fell |\n|---|---|---|\n",
        MEMORY / 1_000_000
    );
    let mut findings = String::new();
    let mut fallen = 0;
    for target in TARGETS {
        let script = format!("ulimit -v {MEMORY}; exec \"$@\"");
        let output = Command::new("bash")
            .args(["-c", &script, "bash"])
            .arg(&harness)
            .args([
                "--target",
                target,
                "--seconds",
                &seconds.to_string(),
                "--seed",
                &seed.to_string(),
            ])
            .output()
            .with_context(|| format!("cannot start {}: use `just soak`", harness.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let found: Option<Value> = text
            .lines()
            .last()
            .and_then(|line| serde_json::from_str(line).ok());
        let (inputs, messages): (String, Vec<String>) = match found {
            Some(found) => (
                found["inputs"]
                    .as_u64()
                    .map_or("–".into(), |count| count.to_string()),
                found["findings"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|finding| finding["message"].as_str().unwrap_or_default().to_owned())
                    .collect(),
            ),
            None => {
                let error = String::from_utf8_lossy(&output.stderr);
                let last = error.trim().lines().last().unwrap_or_default();
                (
                    "–".into(),
                    vec![format!("ended with {}: {last}", output.status)],
                )
            }
        };
        eprintln!("{target}: {inputs} inputs, {} fell", messages.len());
        let _ = writeln!(table, "| {target} | {inputs} | {} |", messages.len());
        fallen += messages.len();
        for message in messages {
            let _ = writeln!(findings, "- {target}: {message}");
        }
    }
    if !findings.is_empty() {
        table.push('\n');
        table.push_str(&findings);
    }
    Ok(Mutated {
        markdown: table,
        fallen,
    })
}
