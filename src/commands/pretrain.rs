//! `iapo pretrain`: the micro base checkpoints again from nothing.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use replicate::pretrain::{pretrain, recipe::Recipe};
use replicate::profile::Profile;
use replicate::progress::Progress;

use super::signals::{self, OnSignal};

/// Makes the base checkpoints of the micro profile from nothing; goes on where it was stopped.
#[derive(clap::Args)]
pub struct Args {
    /// `micro`, or a recipe's file.
    #[arg(long, default_value = "micro")]
    profile: String,
    /// Where `student`, `teacher` and the states to resume from go.
    #[arg(long, default_value = "runs/pretrain-micro")]
    out: PathBuf,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let recipe = match args.profile.as_str() {
        "micro" => Recipe::micro()?,
        file => {
            let text = std::fs::read_to_string(file).with_context(|| {
                format!("{file}: neither `micro` nor a recipe's file; see replicate/profiles")
            })?;
            Recipe::parse(&text)?
        }
    };
    if args.out.is_file() {
        bail!("{}: is a file; --out names a folder", args.out.display());
    }
    signals::watch(
        OnSignal::AtOnce,
        format!(
            "what is saved in {} is whole: give the same command again",
            args.out.display()
        ),
    )?;
    let mut progress = Progress::new();
    let world = Profile::load("micro", &[])?.world;
    let world = world.context("the micro profile has no [world]")?;
    pretrain(
        &recipe,
        &world,
        &args.out,
        &mut |stage, step, steps, figures| {
            progress.report(stage, step, steps, figures);
        },
    )?;
    println!("student and teacher are in {}", args.out.display());
    Ok(ExitCode::SUCCESS)
}
