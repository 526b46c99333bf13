//! Faults by the hundred on the built command: `just soak [--kills N] [--seconds S]`.
//!
//! Kills at random moments, full and read-only disks, two processes on one folder, flipped bits,
//! shares of an evaluation whose server dies and errs, mutated inputs. Writes `results/reliability.md`, and ends with 1 if something fell.

mod damage;
mod experiment;
mod kills;
mod mutated;
mod report;
mod server;
mod shards;
mod storage;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use results::Machine;
use seeded_random::Stream;

use experiment::{Kind, command, numbers, run};
use report::Trials;

/// Faults on the built command, by seeded draws.
#[derive(Parser)]
struct Args {
    /// Kills, half of them of `replicate`, a quarter of `eval-all` and a quarter of its shares.
    #[arg(long, default_value_t = 200)]
    kills: usize,
    /// Bits flipped in each kind of file.
    #[arg(long, default_value_t = 8)]
    flips: usize,
    /// Seconds of mutated inputs for each entry point.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// The seed of all draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Only the shares of `eval-all`, printed and not written.
    #[arg(long)]
    shares_alone: bool,
    /// Be the chat server of the shares' trials, on this port, until the input ends.
    #[arg(long, hide = true, requires = "answers")]
    serve: Option<u16>,
    /// How that server answers.
    #[arg(long, hide = true)]
    answers: Option<String>,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    if let (Some(port), Some(answers)) = (args.serve, &args.answers) {
        server::play(port, answers)?;
        return Ok(ExitCode::SUCCESS);
    }
    let began = Instant::now();
    let stream = Stream::new(args.seed);
    let mut trials = Trials::default();
    if args.shares_alone {
        let mut draw = stream.purpose("shards").generator();
        shards::shards(args.kills, &mut draw, &mut trials)?;
        print!("{}", trials.markdown("--shares-alone", ""));
        return Ok(ended(trials.fallen()));
    }
    for kind in [Kind::Replicate, Kind::EvalAll] {
        let folder = tempfile::tempdir()?;
        let whole = folder.path().join("out");
        let started = Instant::now();
        let ended = run(command(kind, &whole)?)?;
        anyhow::ensure!(
            ended.status.success(),
            "{} failed undisturbed: {}",
            kind.name(),
            ended.last_lines()
        );
        let seconds = started.elapsed().as_secs_f64();
        let expected = numbers(&whole)?;
        eprintln!("{}: {seconds:.1} s undisturbed", kind.name());
        let mut draw = stream.purpose(kind.name()).generator();
        let count = match kind {
            Kind::Replicate => args.kills - 2 * (args.kills / 4),
            Kind::EvalAll => args.kills / 4,
        };
        kills::kills(kind, count, seconds, &expected, &mut draw, &mut trials)?;
        eprintln!(
            "{:.0} s: kills of {} done",
            began.elapsed().as_secs_f64(),
            kind.name()
        );
        storage::full_disk(kind, &expected, &mut trials)?;
        storage::full_files(kind, &expected, &mut trials)?;
        storage::read_only(kind, &whole, &mut trials)?;
        storage::two_processes(kind, &expected, &mut trials)?;
        eprintln!(
            "{:.0} s: disks of {} done",
            began.elapsed().as_secs_f64(),
            kind.name()
        );
        damage::finished(kind, &whole, &expected, args.flips, &mut draw, &mut trials)?;
        if kind == Kind::Replicate {
            damage::half(&expected, args.flips, &mut draw, &mut trials)?;
        }
        eprintln!(
            "{:.0} s: bits of {} done",
            began.elapsed().as_secs_f64(),
            kind.name()
        );
    }
    let mut draw = stream.purpose("shards").generator();
    shards::shards(args.kills / 4, &mut draw, &mut trials)?;
    eprintln!("{:.0} s: shares done", began.elapsed().as_secs_f64());
    let faults = began.elapsed().as_secs_f64();
    let mutated = mutated::run(args.seconds, args.seed)?;
    let machine = Machine::detect();
    let how = format!(
        "--kills {} --flips {} --seconds {} --seed {}; {} threads of {}, {faults:.0} s for the faults.",
        args.kills,
        args.flips,
        args.seconds,
        args.seed,
        machine.threads,
        machine.cpu.as_deref().unwrap_or("an unnamed processor"),
    );
    let report = trials.markdown(&how, &mutated.markdown);
    print!("{report}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("results/reliability.md");
    results::write_atomically(&path, report.as_bytes())?;
    Ok(ended(trials.fallen() + mutated.fallen))
}

fn ended(fallen: usize) -> ExitCode {
    match fallen {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
