//! `iapo study`: the cells of the study, as jobs that any number of processes work on.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};

use anyhow::{Context, bail};
use replicate::compute::{Compute, DeviceName};
use replicate::progress::Progress;
use replicate::study::{
    CostEstimate, Costs, Counts, Ended, Freeze, Invocation, Job, Made, Phase, REPORT, State, Study,
    StudyCell, Workers, estimated_minutes, hyperqueue_command, make, pack, slurm_script, state,
    work, write_jobs, write_report,
};

use super::output::print;
use super::recipe::recipe_folder;

/// The cells of the study: makes those that are not there, or says what there is to make.
#[derive(clap::Args)]
pub struct Args {
    /// Only these parts.
    #[arg(long = "part", value_delimiter = ',', value_name = "A,B")]
    parts: Vec<String>,
    /// Processes side by side on this machine, each with one thread; one per core if not given.
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Says how many cells and minutes there are, and makes nothing.
    #[arg(long, conflicts_with = "status")]
    dry_run: bool,
    /// Says what is done, running, failed and missing, and makes nothing.
    #[arg(long)]
    status: bool,
    /// Writes report.md from the finished cells, and makes nothing.
    #[arg(long, conflicts_with_all = ["status", "dry_run"])]
    report: bool,
    /// With --report: compares with the report that is there instead of writing it.
    #[arg(long, requires = "report")]
    check: bool,
    /// Compresses the finished cells for a repository, and makes nothing.
    #[arg(long, conflicts_with_all = ["status", "dry_run", "report"])]
    pack: bool,
    /// Where runs go. Finished ones are left as they are.
    #[arg(long, value_name = "DIR", default_value = "results/study")]
    out: PathBuf,
    /// What runs the jobs.
    #[arg(long, value_enum, default_value_t)]
    engine: Engine,
    /// The folder with preregistration.toml, parts.toml, profile.toml and costs.toml;
    /// `replicate/study` if not given.
    #[arg(long, value_name = "DIR")]
    study: Option<PathBuf>,
    /// The folder that the profile's checkpoints are relative to.
    #[arg(long, value_name = "DIR", default_value_os_t = recipe_folder())]
    checkpoints: PathBuf,
    /// One job, a line of jobs.jsonl: what the engines call.
    #[arg(long, hide = true, value_name = "LINE")]
    job: Option<String>,
}

/// What runs the jobs.
#[derive(Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Engine {
    /// Processes on this machine.
    #[default]
    Local,
    /// A HyperQueue server, through `hq`.
    Hq,
    /// Prints a script for sbatch.
    Slurm,
}

/// The exit code of a job that another process is at work on (EX_TEMPFAIL of sysexits.h).
const ELSEWHERE: u8 = 75;

/// A job may take this many times what is expected before Slurm ends it.
const PATIENCE: f64 = 6.0;

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let folder = args.study.clone();
    let folder = folder.unwrap_or_else(|| recipe_folder().join("study"));
    let study = Study::read(&folder)?;
    if let Some(line) = &args.job {
        return one_job(&args, &study, line);
    }
    let parts = study.named(&args.parts)?;
    let (freeze, not_frozen) = match study.freeze() {
        Ok(freeze) => (Some(freeze), None),
        Err(error) => (None, Some(error)),
    };
    if args.report {
        return report(&args, &study, freeze.as_ref());
    }
    let mut cells = study.cells(freeze.as_ref())?;
    cells.retain(|cell| parts.contains(&cell.part));
    let states: Vec<State> = cells
        .iter()
        .map(|cell| state(cell, &args.out, freeze.is_some()))
        .collect::<Result<_, _>>()?;
    if args.status {
        print(&status(&args.out, &cells, &states))?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.pack {
        let finished = cells.iter().zip(&states);
        let finished: Vec<&StudyCell> = finished
            .filter(|(_, state)| **state == State::Done)
            .map(|(cell, _)| cell)
            .collect();
        pack(&finished, &args.out)?;
        println!("{} finished cells are packed", finished.len());
        return Ok(ExitCode::SUCCESS);
    }
    let todo: Vec<&StudyCell> = cells
        .iter()
        .zip(&states)
        .filter(|(_, state)| !matches!(state, State::Done | State::Running))
        .map(|(cell, _)| cell)
        .collect();
    let to_make: Vec<StudyCell> = todo.iter().map(|cell| (*cell).clone()).collect();
    let estimates = Costs::read(&folder)?.estimate(&to_make, &args.out)?;
    let workers = args.workers.unwrap_or_else(cores).max(1);
    if args.dry_run {
        print(&dry_run(&todo, &estimates, workers))?;
        return Ok(ExitCode::SUCCESS);
    }
    if todo.is_empty() {
        println!("nothing to do: {} cells are there", cells.len());
        return Ok(ExitCode::SUCCESS);
    }
    let counted = todo.iter().any(|cell| cell.phase == Phase::Counted);
    if counted && let Some(error) = not_frozen {
        return Err(error.into());
    }
    let jobs: Vec<Job> = todo
        .iter()
        .zip(&estimates)
        .map(|(cell, estimate)| Job {
            cell: cell.id(),
            settings: cell.hash.clone(),
            seconds: estimate.seconds,
        })
        .collect();
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot make {}", args.out.display()))?;
    let call = Invocation {
        program: std::env::current_exe().context("the command does not know its own file")?,
        arguments: arguments(&args, &folder)?,
        out: absolute(&args.out)?,
    };
    write_jobs(&args.out, &jobs)?;
    announce(&jobs, workers, freeze.as_ref().filter(|_| counted));
    match args.engine {
        Engine::Local => local(&args.out, &jobs, &todo, &call, workers),
        Engine::Hq => hyperqueue(&call),
        Engine::Slurm => {
            let longest = jobs.iter().map(|job| job.seconds).fold(0.0, f64::max);
            let minutes = (longest * PATIENCE / 60.0).ceil().max(10.0) as u64;
            print!("{}", slurm_script(&call, jobs.len(), minutes));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Writes the report, or says where the one that is there differs.
fn report(args: &Args, study: &Study, freeze: Option<&Freeze>) -> anyhow::Result<ExitCode> {
    if !args.check {
        let path = write_report(study, freeze, &args.out)?;
        println!("{}", path.display());
        return Ok(ExitCode::SUCCESS);
    }
    let path = args.out.join(REPORT);
    let there = std::fs::read_to_string(&path)
        .with_context(|| format!("{}: no report to compare with", path.display()))?;
    let page = replicate::study::report(study, freeze, &args.out)?;
    for (name, svg) in &page.pictures {
        let path = args.out.join(name);
        let drawn = std::fs::read_to_string(&path).is_ok_and(|there| there == *svg);
        if !drawn {
            bail!(
                "{} is not the picture of what the runs say; `iapo study --report` draws it anew",
                path.display()
            );
        }
    }
    let found = page.text;
    if there == found {
        println!("{} is what the runs say", path.display());
        return Ok(ExitCode::SUCCESS);
    }
    let differing = there
        .lines()
        .zip(found.lines())
        .position(|(there, found)| there != found);
    let line = differing.unwrap_or_else(|| there.lines().count().min(found.lines().count()));
    let of = |text: &str| text.lines().nth(line).unwrap_or("nothing").to_owned();
    eprintln!("line {}: {}", line + 1, of(&there));
    eprintln!("the runs say: {}", of(&found));
    bail!(
        "{} is not what the runs say; `iapo study --report` writes it anew",
        path.display()
    )
}

/// The process of one job.
fn one_job(args: &Args, study: &Study, line: &str) -> anyhow::Result<ExitCode> {
    let weights = study_weights(study)?;
    let compute = Compute::open(DeviceName::Cpu, weights)?;
    let mut progress = Progress::new();
    let made = make(
        study,
        line,
        &args.out,
        &args.checkpoints,
        compute,
        &mut |stage, step, steps, figures| progress.report(stage, step, steps, figures),
    )?;
    progress.finish();
    Ok(match made {
        Made::Done => ExitCode::SUCCESS,
        Made::Elsewhere => ExitCode::from(ELSEWHERE),
    })
}

/// The type of weights, which all cells share.
fn study_weights(study: &Study) -> anyhow::Result<replicate::compute::WeightType> {
    let cells = study.cells(None)?;
    let first = cells.first().context("the study has no cell")?;
    Ok(first.profile.compute.weights)
}

/// The arguments of a job's process, all but the job.
fn arguments(args: &Args, folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut all = vec!["study".to_owned()];
    for (name, path) in [
        ("--study", folder),
        ("--out", args.out.as_path()),
        ("--checkpoints", args.checkpoints.as_path()),
    ] {
        all.push(name.to_owned());
        all.push(absolute(path)?.to_string_lossy().into_owned());
    }
    Ok(all)
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("{} is no path", path.display()))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn announce(jobs: &[Job], workers: usize, freeze: Option<&Freeze>) {
    eprintln!(
        "{} cells, about {:.0} min with {workers} workers; a stop is taken up by the same command",
        jobs.len(),
        estimated_minutes(jobs, workers)
    );
    if let Some(freeze) = freeze {
        eprintln!(
            "frozen by {}, so counted worlds have the seed {}",
            freeze.commit,
            freeze.world_seed()
        );
    }
}

fn local(
    out: &Path,
    jobs: &[Job],
    cells: &[&StudyCell],
    call: &Invocation,
    workers: usize,
) -> anyhow::Result<ExitCode> {
    let start = |job: &Job, log: std::fs::File| -> std::io::Result<Child> {
        let mut command = Command::new(&call.program);
        command
            .args(&call.arguments)
            .arg("--job")
            .arg(serde_json::to_string(job)?)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        if workers > 1 {
            command.env("RAYON_NUM_THREADS", "1");
        }
        command.spawn()
    };
    let ended = |status: ExitStatus| match status.code() {
        Some(0) => Ended::Done,
        Some(code) if code == i32::from(ELSEWHERE) => Ended::Elsewhere,
        _ => Ended::Failed(format!("its process ended with {status}; see log.txt")),
    };
    let workers = Workers {
        count: workers,
        start: &start,
        ended: &ended,
    };
    let summary = work(jobs, cells, out, &workers, &mut |line| eprintln!("{line}"))?;
    println!("{} cells made in {}", summary.done, out.display());
    if !summary.elsewhere.is_empty() {
        println!(
            "other processes are at work on {}",
            summary.elsewhere.join(", ")
        );
    }
    if summary.failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    for (cell, reason) in &summary.failed {
        eprintln!("failed: {cell}: {reason}");
    }
    bail!(
        "{} of {} cells failed; the same command makes them again",
        summary.failed.len(),
        jobs.len()
    )
}

fn hyperqueue(call: &Invocation) -> anyhow::Result<ExitCode> {
    let words = hyperqueue_command(call);
    let status = Command::new("hq").args(&words).status().with_context(|| {
        format!(
            "hq cannot be started: install HyperQueue, `hq server start`, `hq worker start`, then \
             this again; it would run: hq {}",
            words.join(" ")
        )
    })?;
    match status.success() {
        true => Ok(ExitCode::SUCCESS),
        false => bail!("hq ended with {status}; `iapo study --status` says what is missing"),
    }
}

/// The parts of cells that stand in order.
fn part_names(cells: &[&StudyCell]) -> Vec<String> {
    let mut names: Vec<String> = cells.iter().map(|cell| cell.part.clone()).collect();
    names.dedup();
    names
}

fn dry_run(cells: &[&StudyCell], estimates: &[CostEstimate], workers: usize) -> String {
    let mut text = String::new();
    let mut sum = CostEstimate::default();
    let _ = writeln!(text, "{:<12} {:>6} {:>8}", "part", "cells", "minutes");
    for part in part_names(cells) {
        let own = cells.iter().zip(estimates);
        let own: Vec<&CostEstimate> = own
            .filter(|(cell, _)| cell.part == part)
            .map(|(_, e)| e)
            .collect();
        let seconds: f64 = own.iter().map(|estimate| estimate.seconds).sum();
        sum.seconds += seconds;
        sum.measured += own.iter().map(|estimate| estimate.measured).sum::<f64>();
        let minutes = seconds / 60.0 / workers as f64;
        let _ = writeln!(text, "{part:<12} {:>6} {minutes:>8.0}", own.len());
    }
    let _ = writeln!(
        text,
        "{:<12} {:>6} {:>8.0}",
        "all",
        cells.len(),
        sum.seconds / 60.0 / workers as f64
    );
    let measured = match sum.seconds > 0.0 {
        true => 100.0 * sum.measured / sum.seconds,
        false => 0.0,
    };
    let _ = writeln!(
        text,
        "with {workers} workers of one thread; {measured:.0} % of it from runs that are there, the rest \
         from costs.toml"
    );
    text
}

fn status(out: &Path, cells: &[StudyCell], states: &[State]) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{:<12} {:>6} {:>6} {:>8} {:>7} {:>8} {:>8} {:>15}",
        "part", "cells", "done", "running", "failed", "missing", "damaged", "other settings"
    );
    let all: Vec<&StudyCell> = cells.iter().collect();
    let mut complete = true;
    for part in part_names(&all) {
        let mut counts = Counts::default();
        for (cell, state) in cells.iter().zip(states) {
            if cell.part == part {
                counts.add(*state);
            }
        }
        complete &= counts.done == counts.all();
        let _ = writeln!(
            text,
            "{part:<12} {:>6} {:>6} {:>8} {:>7} {:>8} {:>8} {:>15}",
            counts.all(),
            counts.done,
            counts.running,
            counts.failed,
            counts.missing,
            counts.damaged,
            counts.other_settings
        );
    }
    for (cell, state) in cells.iter().zip(states) {
        if *state == State::Failed {
            let file = cell.folder(out).join("error.txt");
            let reason = std::fs::read_to_string(&file).unwrap_or_default();
            let _ = writeln!(text, "failed: {}: {}", cell.id(), reason.trim());
        }
    }
    let _ = writeln!(
        text,
        "{}",
        if complete { "complete" } else { "not complete" }
    );
    text
}
