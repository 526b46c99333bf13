//! `iapo check`: whether recorded runs are whole.

use std::path::PathBuf;
use std::process::ExitCode;

use replicate::profile::Profile;
use results::{Finding, Level, check};

use super::output::{Form, print, within};

/// Whether recorded runs are whole: checksums, line counts, the same questions for every arm and
/// seed, profile known. One line per finding; exits with 1 if one of them is a fault.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Folders that `replicate --out`, `eval-all --out` or `study` wrote
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// text or json
    #[arg(long, value_enum, default_value_t = Form::Text)]
    format: Form,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let findings = check(&args.runs, &Profile::known_names());
    let faults = findings
        .iter()
        .filter(|one| one.level == Level::Fault)
        .count();
    print(&match args.format {
        Form::Json => format!("{}\n", serde_json::to_string_pretty(&findings)?),
        Form::Text => within(&text(&findings, faults)),
    })?;
    Ok(match faults {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn text(findings: &[Finding], faults: usize) -> String {
    let mut text: String = findings.iter().map(|one| format!("{one}\n")).collect();
    text.push_str(&match (findings.len(), faults) {
        (0, _) => "all files whole, all questions answered\n".to_owned(),
        (all, 0) => format!("{all} warnings, no fault\n"),
        (all, faults) => format!("{faults} faults, {} warnings\n", all - faults),
    });
    text
}
