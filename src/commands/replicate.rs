//! `iapo replicate`: train, evaluate, table, verdict.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use replicate::compute::{Compute, DeviceName};
use replicate::deviations::deviations;
use replicate::profile::{Arm, Profile};
use replicate::progress::Progress;
use replicate::stages::Replication;
use results::{Format, Paper, Runs, Table, TableOptions, write_report};

/// Trains the arms, evaluates them on the six sets, and says whether the claim held.
#[derive(clap::Args)]
pub struct Args {
    /// `micro`, `smoke`, or a profile's file (see replicate/profiles).
    #[arg(long, default_value = "micro")]
    profile: String,
    /// Only these arms: vtool-r1, torl, trm, iapo, distill.
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    arms: Option<Vec<Arm>>,
    /// Number of seeds, counted from 0.
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// Where runs go; `runs/<profile>` if not given.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with a run that was stopped, or widen a finished one by arms or seeds.
    #[arg(long)]
    resume: bool,
    /// Changes a setting of the profile, for example `--set rewards.iapo_weight=0.3`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    changes: Vec<String>,
    /// Where models run: `cpu`, `cuda` or `cuda:N`.
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: DeviceName,
    /// The folder that the profile's checkpoints are relative to.
    #[arg(long, value_name = "DIR", default_value_os_t = recipe_folder())]
    checkpoints: PathBuf,
}

/// `replicate/` of the checkout that the command was built from, or of the current folder.
fn recipe_folder() -> PathBuf {
    let here = Path::new("replicate");
    match here.join("checkpoints").exists() {
        true => here.to_owned(),
        false => Path::new(env!("CARGO_MANIFEST_DIR")).join("replicate"),
    }
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut profile = Profile::load(&args.profile, &args.changes)?;
    if let Some(arms) = args.arms {
        profile.arms = arms;
    }
    if let Some(seeds) = args.seeds {
        anyhow::ensure!(seeds > 0, "--seeds 0: expected at least 1");
        profile.seeds = seeds;
    }
    let out = args
        .out
        .unwrap_or_else(|| Path::new("runs").join(&profile.name));
    let compute = Compute::open(args.device, profile.compute.weights)?;
    let replication = Replication::open(&profile, &args.checkpoints, &out, args.resume, compute)?;
    let schedule = &profile.schedule;
    let arms = profile.arms.len();
    let seeds = profile.seeds as usize;
    eprintln!(
        "profile {}: {} updates (teacher {}, then {seeds} seeds of a cold start of {} and {arms} arms \
         of {}), {} evaluations of {} questions, in {}; a stop is taken up with --resume",
        profile.name,
        schedule.teacher + seeds * (schedule.cold_start + arms * schedule.arm),
        schedule.teacher,
        schedule.cold_start,
        schedule.arm,
        2 + seeds * arms,
        6 * profile.evaluation.questions,
        out.display()
    );
    let started = Instant::now();
    let mut progress = Progress::new();
    let hashes = replication.run(&mut |stage, step, steps, figures| {
        progress.report(stage, step, steps, figures);
    })?;
    progress.finish();

    let runs = Runs::load(std::slice::from_ref(&out))?;
    let table = Table::new(&runs, &Paper::committed()?, &TableOptions::default());
    println!("{}", table.render(Format::Terminal));
    write_report(&out, &runs, &table, &deviations(&profile))?;
    for line in replication.gates()?.lines() {
        println!("{line}");
    }
    for (folder, hashes) in &hashes {
        println!("{} {}", hashes.records, folder.display());
    }
    println!(
        "{:.0} s; the report with curves is {}",
        started.elapsed().as_secs_f64(),
        out.join(results::REPORT).display()
    );
    Ok(ExitCode::SUCCESS)
}
