//! `iapo parity DIR`: reference numerics, check by check.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use regex::Regex;
use replicate::compute::{Compute, DeviceName, WeightType};
use serde_json::json;

use super::output::Form;
use crate::parity::Check;

/// Compares our numbers with those of transformers, Captum and TRL, one line per check.
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
    /// Where models run, in f32: `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value_t)]
    device: DeviceName,
    /// `text`: a line for each check as it is made, and a verdict; `json`: one object, `passed` and `failed`
    /// (counts), `absent` (groups that the folder lacks), `checks`.
    #[arg(long, value_enum, default_value_t = Form::Text)]
    format: Form,
}

/// Runs the checks.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let compute = Compute::open(args.device, WeightType::F32)?;
    let mut out = std::io::stdout().lock();
    let mut made: Vec<Check> = Vec::new();
    let report = {
        let mut sink = |check: Check| match args.format {
            Form::Text => writeln!(out, "{check}"),
            Form::Json => {
                made.push(check);
                Ok(())
            }
        };
        crate::parity::run(&args.dir, &compute.device, args.only.as_ref(), &mut sink)?
    };
    let summary = report.summary;
    match args.format {
        Form::Text => {
            let all = summary.passed + summary.failed;
            let verdict = if summary.failed == 0 { "PASS" } else { "FAIL" };
            let absent = match report.absent.as_slice() {
                [] => String::new(),
                absent => format!("; not in this folder: {}", absent.join(", ")),
            };
            let passed = summary.passed;
            writeln!(out, "{verdict}: {passed} of {all} checks passed{absent}")
        }
        Form::Json => {
            let report = json!({
                "passed": summary.passed,
                "failed": summary.failed,
                "absent": report.absent,
                "checks": made,
            });
            writeln!(out, "{report:#}")
        }
    }
    .context("cannot write to the standard output")?;
    Ok(match summary.failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}
