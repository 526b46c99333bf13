//! `iapo parity DIR`: reference numerics, check by check.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use regex::Regex;

/// Compares our numbers with those of transformers, Captum and TRL, a line a check.
///
/// A file that the folder's manifest.json lists and that is missing or altered is a failed check.
/// Exits with 1 when a check fails, an error included.
#[derive(clap::Args)]
pub struct Args {
    /// A folder of the parity layout, such as golden/parity.
    dir: PathBuf,
    /// Only checks whose line (file and key) matches this regular expression.
    #[arg(long, value_name = "REGEX")]
    only: Option<Regex>,
}

/// Runs the checks.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    let report = crate::parity::run(&args.dir, args.only.as_ref(), &mut out)?;
    let summary = report.summary;
    let all = summary.passed + summary.failed;
    let verdict = if summary.failed == 0 { "PASS" } else { "FAIL" };
    let absent = match report.absent.as_slice() {
        [] => String::new(),
        absent => format!("; not in this folder: {}", absent.join(", ")),
    };
    writeln!(
        out,
        "{verdict}: {} of {all} checks passed{absent}",
        summary.passed
    )
    .context("cannot write to the standard output")?;
    Ok(if summary.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
