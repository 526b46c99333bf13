//! The subcommands, one file each.

mod parity;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Replicates IAPO (arXiv 2606.11652): GRPO for visual tool use, aligned to a teacher's attribution.
#[derive(Parser)]
#[command(name = "iapo", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Parity(parity::Args),
}

impl Cli {
    /// Runs the chosen subcommand.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Parity(args) => parity::run(args),
        }
    }
}
