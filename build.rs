//! Tells the command which commit it is built from: a manifest names that one, whatever the checkout
//! holds when the command runs.

use std::process::Command;

fn main() {
    let commit = commit().unwrap_or_default();
    println!("cargo:rustc-env=IAPO_COMMIT={commit}");
    for place in [
        ".git/HEAD",
        ".git/index",
        "Cargo.lock",
        "src",
        "crates",
        "benchmarks",
        "baselines",
        "results/src",
        "replicate/src",
        "replicate/profiles",
    ] {
        println!("cargo:rerun-if-changed={place}");
    }
}

/// The commit of the checkout, `-dirty` appended when sources have uncommitted changes; `None` outside
/// of a checkout or without git.
fn commit() -> Option<String> {
    let git = |arguments: &[&str]| -> Option<String> {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let head = git(&["rev-parse", "HEAD"])?;
    // Recorded runs and pages are not built in.
    let changes = git(&[
        "status",
        "--porcelain",
        "--untracked-files=no",
        "--",
        ":/*.rs",
        ":/*.toml",
        ":/Cargo.lock",
    ])?;
    Some(match changes.is_empty() {
        true => head,
        false => format!("{head}-dirty"),
    })
}
