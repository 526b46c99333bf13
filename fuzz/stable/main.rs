//! Mutated inputs on stable Rust: `cargo run --release --example fuzz_stable -- --seconds 20`.
//!
//! The targets of `fuzz_targets/` and more, driven by seeded mutations instead of coverage. An input
//! falls where it panics, aborts, or takes more than two seconds of processor time. The result is a JSON
//! line for each target on standard output; inputs that fell stay in `runs/fuzz`.

mod mutate;
mod stored;
mod targets;

use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use seeded_random::Stream;
use serde_json::json;

use mutate::Mutator;
use targets::{TARGETS, Target};

/// Seeded mutations over the entry points that read what others wrote.
#[derive(Parser)]
struct Args {
    /// Seconds for each target.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// This target alone.
    #[arg(long)]
    target: Option<String>,
    /// The seed of the mutations.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Processor seconds that one input may take.
const LONGEST: f64 = 2.0;

/// Different places of panics that are told of.
const MOST_FINDINGS: usize = 20;

fn main() -> ExitCode {
    let args = Args::parse();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("runs/fuzz");
    if let Err(error) = std::fs::create_dir_all(&folder) {
        eprintln!("error: cannot make {}: {error}", folder.display());
        return ExitCode::FAILURE;
    }
    let chosen: Vec<&Target> = TARGETS
        .iter()
        .filter(|target| {
            args.target
                .as_deref()
                .is_none_or(|name| name == target.name)
        })
        .collect();
    if chosen.is_empty() {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("error: --target is one of {}", names.join(", "));
        return ExitCode::FAILURE;
    }
    let fallen: usize = chosen
        .iter()
        .map(|target| fuzz(target, &args, &folder))
        .sum();
    match fallen {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// What a panic said, by the place where it was raised.
static PANIC: Mutex<String> = Mutex::new(String::new());

/// Runs one target; how many places fell.
fn fuzz(target: &Target, args: &Args, folder: &Path) -> usize {
    std::panic::set_hook(Box::new(|panic| {
        *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = panic.to_string();
    }));
    let current = folder.join(format!("{}-last", target.name));
    let mut last = match std::fs::File::create(&current) {
        Ok(last) => last,
        Err(error) => {
            eprintln!("error: cannot write {}: {error}", current.display());
            return 1;
        }
    };
    let watched = Arc::new(Mutex::new(None));
    watch(target.name, current.clone(), Arc::clone(&watched));
    let generator = Stream::new(args.seed).purpose(target.name).generator();
    let mut mutator = Mutator::new((target.seeds)(), generator);
    let mut run = (target.prepare)();
    let (mut inputs, mut findings) = (0_u64, Vec::<(String, PathBuf)>::new());
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(args.seconds) && findings.len() < MOST_FINDINGS {
        let input = mutator.next();
        // An abort leaves nothing else behind.
        let _ = last
            .rewind()
            .and_then(|()| last.write_all(&input))
            .and_then(|()| last.set_len(input.len() as u64));
        set(&watched, Some(processor_seconds()));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&input)));
        set(&watched, None);
        inputs += 1;
        if result.is_err() {
            let message = PANIC
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .replace('\n', " ");
            let place = |text: &str| text.split(": ").next().unwrap_or(text).to_owned();
            if findings
                .iter()
                .all(|(known, _)| place(known) != place(&message))
            {
                let file = folder.join(format!("{}-panic-{}", target.name, findings.len()));
                let _ = std::fs::copy(&current, &file);
                findings.push((message, file));
            }
        }
    }
    let _ = std::fs::remove_file(&current);
    let fallen: Vec<_> = findings
        .iter()
        .map(|(message, file)| json!({ "message": message, "input": file }))
        .collect();
    println!(
        "{}",
        json!({ "target": target.name, "inputs": inputs, "findings": fallen })
    );
    findings.len()
}

fn set(watched: &Mutex<Option<f64>>, value: Option<f64>) {
    *watched.lock().unwrap_or_else(PoisonError::into_inner) = value;
}

/// Ends the process when one input takes too long: nothing else ends a loop without an end.
fn watch(target: &'static str, current: PathBuf, watched: Arc<Mutex<Option<f64>>>) {
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_millis(100));
            let began = *watched.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = began.map_or(0.0, |began| processor_seconds() - began);
            if taken > LONGEST {
                let message = format!("takes more than {LONGEST} s");
                let finding = json!({ "message": message, "input": current });
                println!(
                    "{}",
                    json!({ "target": target, "inputs": null, "findings": [finding] })
                );
                std::process::exit(3);
            }
        }
    });
}

/// Processor time of this process, so that a busy machine is no finding; wall time where the system
/// does not tell.
fn processor_seconds() -> f64 {
    static STARTED: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanoseconds = text
        .split(' ')
        .next()
        .and_then(|field| field.parse::<f64>().ok());
    // The file tells of the first thread, which is the one that runs the target.
    nanoseconds.map_or_else(|| STARTED.elapsed().as_secs_f64(), |value| value / 1e9)
}
