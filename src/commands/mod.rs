//! The subcommands, one file each.

mod agreement;
mod ask;
mod attribute;
mod battery;
mod check;
mod checkpoint;
mod compare;
mod doctor;
mod eval_all;
mod loopback;
mod micro;
mod output;
mod parity;
mod plan;
mod png;
mod pretrain;
mod recipe;
mod recorded;
mod replicate;
mod score;
#[cfg(feature = "local-judge")]
mod serve;
mod shell;
mod signals;
mod stand_ins;
mod study;
mod tables;
mod task;
mod tool;
mod view;
mod world;

use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Replicates IAPO (arXiv 2606.11652): GRPO for visual tool use, aligned to a teacher's attribution.
#[derive(Parser)]
#[command(name = "iapo", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// No progress on standard error: results, warnings and errors alone.
    #[arg(long, global = true)]
    quiet: bool,
}

#[derive(Subcommand)]
enum Command {
    Replicate(replicate::Args),
    Plan(plan::Args),
    Study(study::Args),
    EvalAll(eval_all::Args),
    Tables(tables::Args),
    Check(check::Args),
    View(view::Args),
    Compare(compare::Args),
    Agreement(agreement::Args),
    Score(score::Args),
    #[cfg(feature = "local-judge")]
    Serve(serve::Args),
    Tool(tool::Args),
    World(world::Args),
    Ask(ask::Args),
    Attribute(attribute::Args),
    Pretrain(pretrain::Args),
    StandIns(stand_ins::Args),
    Parity(parity::Args),
    Doctor(doctor::Args),
    Battery(battery::Args),
    Completions(shell::CompletionsArgs),
    Man(shell::ManArgs),
}

impl Cli {
    /// Whether candle's own products do the work: those of quantised weights.
    pub fn runs_on_candles_threads(&self) -> bool {
        #[cfg(feature = "local-judge")]
        return matches!(self.command, Command::Serve(_));
        #[cfg(not(feature = "local-judge"))]
        false
    }

    /// Runs the chosen subcommand.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if self.quiet {
            ::replicate::progress::silence();
        }
        match self.command {
            Command::Replicate(args) => replicate::run(args),
            Command::Plan(args) => plan::run(args),
            Command::Study(args) => study::run(args),
            Command::EvalAll(args) => eval_all::run(args),
            Command::Tables(args) => tables::run(args),
            Command::Check(args) => check::run(args),
            Command::View(args) => view::run(args),
            Command::Compare(args) => compare::run(args),
            Command::Agreement(args) => agreement::run(args),
            Command::Score(args) => score::run(args),
            #[cfg(feature = "local-judge")]
            Command::Serve(args) => serve::run(args),
            Command::Tool(args) => tool::run(args),
            Command::World(args) => world::run(args),
            Command::Ask(args) => ask::run(args),
            Command::Attribute(args) => attribute::run(args),
            Command::Pretrain(args) => pretrain::run(args),
            Command::StandIns(args) => stand_ins::run(args),
            Command::Parity(args) => parity::run(args),
            Command::Doctor(args) => doctor::run(args),
            Command::Battery(args) => battery::run(args),
            Command::Completions(args) => shell::completions::<Cli>(args),
            Command::Man(args) => shell::man::<Cli>(args),
        }
    }
}

/// A file's text without the byte order mark that some editors put before it.
fn read_text(path: &Path) -> std::io::Result<String> {
    let mut text = std::fs::read_to_string(path)?;
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    Ok(text)
}
