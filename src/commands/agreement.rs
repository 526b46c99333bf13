//! `iapo agreement`: how far judges agree on the same completions.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::ensure;
use results::{Runs, agreement, agreement_table};
use serde_json::json;

use super::output::print;

/// How far judges agree on the same answers: percent, Cohen's κ, Krippendorff's α.
///
/// Each folder is an evaluation of the same completions by another judge or rubric: `eval-all
/// --completions DIR --out OTHER --judge …` judges those of DIR again without asking for them. A
/// verdict that was not had is missing, not a disagreement.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Folders that `eval-all --out` wrote, two or more
    #[arg(required = true, num_args = 2.., value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// table or json
    #[arg(long, value_enum, default_value_t = Form::Table)]
    format: Form,
}

/// The form of the agreement.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Table,
    Json,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    ensure!(args.runs.len() > 1, "give at least two runs to compare");
    let judged = args
        .runs
        .iter()
        .map(|folder| Runs::load(std::slice::from_ref(folder)))
        .collect::<results::Result<Vec<_>>>()?;
    let found = agreement(&judged);
    ensure!(
        found.iter().any(|own| own.answers > 0),
        "no answer has a verdict in all of these folders: give evaluations of the same completions, \
         which `eval-all --completions DIR` makes"
    );
    let scorers: Vec<String> = judged
        .iter()
        .map(|runs| {
            let names: BTreeSet<&str> = runs.records().map(|own| own.scorer.as_str()).collect();
            names.into_iter().collect::<Vec<_>>().join(", ")
        })
        .collect();
    print(&match args.format {
        Form::Json => {
            let all = json!({ "scorers": scorers, "agreement": found });
            format!("{}\n", serde_json::to_string_pretty(&all)?)
        }
        Form::Table => {
            let mut text = String::new();
            for (folder, scorer) in args.runs.iter().zip(&scorers) {
                text += &format!("{}: {scorer}\n", folder.display());
            }
            format!("{text}\n{}\n", agreement_table(&found))
        }
    })?;
    Ok(ExitCode::SUCCESS)
}
