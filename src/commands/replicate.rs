//! `iapo replicate`: train, evaluate, table, verdict.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use super::doctor::{memory_of_cards, plan_of};
use super::output::{print, width, within};
use super::recipe::recipe_folder;
use super::signals::{self, OnSignal};
use benchmarks::TestSet;
use benchmarks::sources;
use replicate::compute::{Compute, DeviceName};
use replicate::deviations::deviations;
use replicate::plan::Plan;
use replicate::profile::{Profile, PromptWording};
use replicate::progress::Progress;
use replicate::stages::Replication;
use results::{Claim, Runs, Table, write_report};

/// Trains the arms, evaluates them on the six sets, and says whether the claim held.
#[derive(clap::Args, Clone)]
pub struct Args {
    /// `micro`, `smoke`, `paper` (one card of 80 GB; replicate/PAPER.md), `paper-full`, or a profile's
    /// file (see replicate/profiles).
    #[arg(long, default_value = "micro")]
    profile: String,
    /// Only these arms, tables `[arms.NAME]` of the profile: vtool-r1, torl, trm, iapo (the paper's
    /// form), iapo-occlusion, distill, or a control of the study.
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    arms: Option<Vec<String>>,
    /// Number of seeds, counted from the first.
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// The first seed.
    #[arg(long, value_name = "N")]
    first_seed: Option<u64>,
    /// Where runs go; `runs/<profile>` if not given.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with a run that was stopped, or widen a finished one by arms or seeds.
    #[arg(long)]
    resume: bool,
    /// Changes a setting of the profile, for example `--set arms.torl.penalty=0.5`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    changes: Vec<String>,
    /// Replicates once for each value of a setting, each into a folder of its own below --out, and
    /// compares them with the first, for example `--sweep grpo.learning_rate=1e-4,2e-4`.
    #[arg(long, value_name = "KEY=A,B,…")]
    sweep: Option<Sweep>,
    /// The folder with the questions, for profiles that load them; `hub` downloads what is missing into
    /// `hub-data`.
    #[arg(long, value_name = "DIR|hub")]
    data: Option<String>,
    /// Where models run: `cpu`, `cuda` or `cuda:N`.
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: DeviceName,
    /// The folder that the profile's checkpoints are relative to.
    #[arg(long, value_name = "DIR", default_value_os_t = recipe_folder())]
    checkpoints: PathBuf,
}

/// A setting with several values.
#[derive(Clone, Debug, PartialEq)]
struct Sweep {
    key: String,
    values: Vec<String>,
}

impl std::str::FromStr for Sweep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("expected KEY=A,B with two values or more, found '{text}'");
        let (key, values) = text.split_once('=').ok_or_else(expected)?;
        // Commas within brackets belong to a value.
        let mut depth = 0;
        let parts = values.split(|c: char| {
            depth += i32::from(matches!(c, '[' | '{')) - i32::from(matches!(c, ']' | '}'));
            c == ',' && depth == 0
        });
        let mut found: Vec<String> = Vec::new();
        for value in parts.map(str::trim) {
            if value.is_empty() || found.iter().any(|known| known == value) {
                return Err(expected());
            }
            found.push(value.to_owned());
        }
        match key.trim() {
            "" => Err(expected()),
            key if found.len() > 1 => Ok(Sweep {
                key: key.to_owned(),
                values: found,
            }),
            _ => Err(expected()),
        }
    }
}

impl Sweep {
    /// The name of the folder of a value.
    fn folder(&self, value: &str) -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let value: String = value
            .chars()
            .map(|c| if plain(c) { c } else { '-' })
            .collect();
        format!("{}-{value}", self.key)
    }
}

/// Where data of the hub are kept.
const HUB_DATA: &str = "hub-data";

/// Brings what a profile asks of the hub, or checks what is there.
fn download(profile: &Profile) -> anyhow::Result<()> {
    let folder = Path::new(HUB_DATA);
    for set in TestSet::ALL {
        sources::download(set, folder)?;
    }
    sources::download_training(folder)?;
    let prompt = profile.data.as_ref().map(|data| data.prompt);
    if prompt == Some(PromptWording::VtoolR1) {
        sources::download_prompt(folder)?;
    }
    Ok(())
}

/// What is wrong with a card that a plan does not fit into.
fn too_small(plan: &Plan) -> Option<String> {
    let (stage, peak) = plan.largest().filter(|_| !plan.fits())?;
    Some(format!(
        "the stage {stage} of profile {} needs {:.1} GB at its worst moment, the card has {:.1}; any of \
         these makes it fit: {}; `iapo plan --profile {0}` says more",
        plan.profile,
        peak as f64 / 1e9,
        plan.card.memory as f64 / 1e9,
        plan.changes.join("; ")
    ))
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let out = match &args.out {
        Some(out) => out.clone(),
        None => Path::new("runs").join(Profile::load(&args.profile, &args.changes)?.name),
    };
    signals::watch(
        OnSignal::AfterStep,
        format!(
            "what is saved in {} is whole: give the same command with --resume",
            out.display()
        ),
    )?;
    let ended = match args.sweep.clone() {
        None => replicate(args, out)?,
        Some(sweep) => each(&args, &sweep, &out)?,
    };
    Ok(match ended {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(signals::STOPPED),
    })
}

/// Makes a replication for each value of a sweep and compares them; whether all came to their end.
fn each(args: &Args, sweep: &Sweep, out: &Path) -> anyhow::Result<bool> {
    let with = |value: &str| {
        let mut changes = args.changes.clone();
        changes.push(format!("{}={value}", sweep.key));
        changes
    };
    // All values are read before work is spent on the first.
    for value in &sweep.values {
        Profile::load(&args.profile, &with(value))?;
    }
    let mut folders = Vec::new();
    for value in &sweep.values {
        let folder = out.join(sweep.folder(value));
        print(&format!("{} = {value}\n", sweep.key))?;
        let own = Args {
            changes: with(value),
            // What is finished is read, what is not there is made.
            resume: args.resume && folder.exists(),
            ..args.clone()
        };
        if !replicate(own, folder.clone())? {
            return Ok(false);
        }
        folders.push(folder);
    }
    print(&format!("\n{}", super::compare::text(&folders)?))?;
    Ok(true)
}

/// Makes one replication, or goes on with it; whether it came to its end.
fn replicate(args: Args, out: PathBuf) -> anyhow::Result<bool> {
    let mut changes = args.changes;
    changes.extend(args.seeds.map(|seeds| format!("seeds={seeds}")));
    changes.extend(args.first_seed.map(|seed| format!("first_seed={seed}")));
    if let Some(folder) = &args.data {
        let folder = if folder == "hub" { HUB_DATA } else { folder };
        changes.push(format!("data.folder={folder:?}"));
    }
    let profile = Profile::load(&args.profile, &changes)?;
    let arms = args.arms.unwrap_or_else(|| profile.trained.clone());
    if let Some(problem) = profile.trained_problem(&arms) {
        anyhow::bail!("--arms: {problem}");
    }
    if args.data.as_deref() == Some("hub") {
        download(&profile)?;
    }
    let compute = Compute::open(args.device, profile.compute.weights)?;
    if args.device != DeviceName::Cpu
        && let Some(memory) = memory_of_cards()
        && let Some(problem) = too_small(&plan_of(&profile, &arms, &args.checkpoints, memory)?)
    {
        anyhow::bail!("--device {}: {problem}", args.device);
    }
    let replication = Replication::open(
        &profile,
        arms.clone(),
        &args.checkpoints,
        &out,
        args.resume,
        compute,
    )?;
    let schedule = &profile.schedule;
    let seeds = profile.seeds as usize;
    let updates_of = |arm: &String| profile.arms[arm].updates.unwrap_or(schedule.arm);
    let of_a_seed = schedule.cold_start + arms.iter().map(updates_of).sum::<usize>();
    eprintln!(
        "profile {}: {} updates (teacher {}, then {seeds} seeds of a cold start of {} and the arms {}), \
         {} evaluations, in {}; a stop is taken up with --resume",
        profile.name,
        schedule.teacher + seeds * of_a_seed,
        schedule.teacher,
        schedule.cold_start,
        arms.join(", "),
        2 + seeds * arms.len(),
        out.display()
    );
    let started = Instant::now();
    let mut progress = Progress::new();
    let hashes = replication.run(&mut |stage, step, steps, figures| {
        progress.report(stage, step, steps, figures);
    });
    progress.finish();
    let hashes = match hashes {
        Err(stopped @ replicate::Error::Stopped) => {
            eprintln!("{stopped}");
            return Ok(false);
        }
        hashes => hashes?,
    };

    let runs = Runs::load(std::slice::from_ref(&out))?;
    let table = Table::committed(&runs)?;
    let gates = replication
        .gates()?
        .map_or(Vec::new(), |gates| gates.lines());
    let deviations = deviations(&profile, &arms, replication.facts()?);
    write_report(&out, &runs, &table, &gates, &deviations)?;
    let mut text = format!("{}\n", table.for_terminal(width()));
    for line in &gates {
        text += &format!("{line}\n");
    }
    for (folder, hashes) in &hashes {
        text += &format!("{} {}\n", hashes.records, folder.display());
    }
    let out = out.display();
    text += &format!(
        "{:.0} s; the report with curves is {out}/{}; look at every answer with `iapo view {out} --open`\n",
        started.elapsed().as_secs_f64(),
        results::REPORT
    );
    // What was asked for comes last, where it is read first.
    if let Some(claim) = &table.claim {
        text += &format!("\n{}\n", claim.line());
        if let Some(line) = recorded(&profile.name)?.and_then(|known| claim.beside(&known)) {
            text += &format!("{line}\n");
        }
    }
    print(&within(&text))?;
    Ok(true)
}

/// The verdict of the run of a profile that is recorded in the checkout, if there is one.
fn recorded(profile: &str) -> anyhow::Result<Option<Claim>> {
    let folder = recipe_folder().join("../results/runs").join(profile);
    let runs = match Runs::load(&[folder]) {
        Ok(runs) => runs,
        // Most profiles have none, and of older runs only the report is kept.
        Err(results::Error::Io { .. } | results::Error::NoRuns { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let table = Table::committed(&runs)?;
    Ok(table.claim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_has_a_key_and_two_values() {
        let sweep: Sweep = "grpo.learning_rate = 1e-4, 2e-4".parse().unwrap();
        assert_eq!(sweep.key, "grpo.learning_rate");
        assert_eq!(sweep.values, ["1e-4", "2e-4"]);
        assert_eq!(sweep.folder("2e-4"), "grpo.learning_rate-2e-4");
        let sweep: Sweep = "world.difficulty.named=[2,4],[3,5]".parse().unwrap();
        assert_eq!(sweep.values, ["[2,4]", "[3,5]"]);
        assert_eq!(sweep.folder("[2,4]"), "world.difficulty.named--2-4-");
        for bad in ["", "key", "=1,2", "key=1", "key=1,,2", "key=1,1"] {
            let error = bad.parse::<Sweep>().unwrap_err();
            assert!(error.contains("expected KEY=A,B"), "{error}");
        }
    }

    #[test]
    fn a_card_that_is_too_small_is_refused_in_the_plans_words() {
        let profile = Profile::load("paper", &[]).unwrap();
        let of = |gigabytes: u64| {
            let plan = plan_of(
                &profile,
                &profile.trained,
                &recipe_folder(),
                gigabytes * 1_000_000_000,
            )
            .unwrap();
            too_small(&plan)
        };
        assert_eq!(of(80), None);
        insta::assert_snapshot!(of(40).unwrap());
    }
}
