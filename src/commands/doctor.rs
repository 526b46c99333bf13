//! `iapo doctor`: what this machine has, which profile fits, what is missing and how to get it. What the
//! paper's scale needs is what `iapo plan` says.

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, ExitCode};

use results::Machine;
use serde::Serialize;

use super::output::{Form, print, within};
use super::recipe::recipe_folder;
use super::{battery, plan};
use replicate::compute::DeviceName;
use replicate::plan::{Card, Plan, Workload};
use replicate::profile::Profile;

/// What this machine has, what fits, what is missing and how to get it.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The device that `--check` opens: `cpu`, `cuda` or `cuda:N`.
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: DeviceName,
    /// `text`, or `json`: machine, free disk, profiles with whether they fit, and what is missing.
    #[arg(long, value_enum, default_value_t = Form::Text)]
    format: Form,
    /// Also opens the device, allocates and multiplies on it.
    #[arg(long)]
    check: bool,
}

const GIB: u64 = 1 << 30;

/// Memory and free disk that the micro profile needs, with room; measured peaks are smaller.
const MICRO: (u64, u64) = (2 * GIB, GIB);

/// Memory and disk of the paper's scale: two checkpoints of 7 and 16 GB, their copies in f32 while
/// loading, and six data sets with images.
const PAPER: (u64, u64) = (64 * GIB, 120 * GIB);

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let card = memory_of_cards();
    let machine = Machine::detect();
    let found = Diagnosis::new(&machine, free_disk(Path::new(".")), card)?;
    match args.format {
        Form::Text => print(&within(&found.text()))?,
        Form::Json => print(&format!("{}\n", serde_json::to_string_pretty(&found)?))?,
    }
    if !args.check {
        return Ok(ExitCode::SUCCESS);
    }
    battery::run(battery::Args::of_device(args.device))
}

/// The memory of the smallest card, bytes, asked of `nvidia-smi`, which comes with the driver; `None`
/// where there is none.
pub(super) fn memory_of_cards() -> Option<u64> {
    let output = Command::new("nvidia-smi")
        .args(["--query-gpu=memory.total", "--format=csv,noheader,nounits"])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mebibytes = text.lines().map(|line| line.trim().parse::<u64>());
    let smallest = mebibytes
        .collect::<Result<Vec<_>, _>>()
        .ok()?
        .into_iter()
        .min()?;
    Some(smallest << 20)
}

/// The plan of one of the paper's profiles on one card.
pub(super) fn plan_of(
    profile: &Profile,
    arms: &[String],
    checkpoints: &Path,
    memory: u64,
) -> anyhow::Result<Plan> {
    let config = |name: &str| plan::config(checkpoints, name);
    Ok(Plan::new(
        profile,
        arms,
        &config(&profile.checkpoints.student)?,
        &config(&profile.checkpoints.teacher)?,
        Workload::of(profile),
        Card {
            count: 1,
            memory,
            ..Card::h100()
        },
    ))
}

/// Free bytes where the runs will be written, asked of `df`: the standard library cannot tell.
fn free_disk(folder: &Path) -> Option<u64> {
    let output = Command::new("df").arg("-Pk").arg(folder).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let kib: u64 = text
        .lines()
        .nth(1)?
        .split_whitespace()
        .nth(3)?
        .parse()
        .ok()?;
    Some(kib * 1024)
}

/// The paper's profiles.
const PAPERS: [&str; 2] = ["paper", "paper-full"];

/// A profile on this machine.
#[derive(Serialize)]
struct Fit {
    profile: &'static str,
    fits: bool,
    command: String,
    /// Of an H100, where it needs a card.
    #[serde(skip_serializing_if = "Option::is_none")]
    hours: Option<f64>,
}

/// What was found.
#[derive(Serialize)]
struct Diagnosis<'a> {
    machine: &'a Machine,
    free_disk_bytes: Option<u64>,
    /// Of the smallest card.
    card_bytes: Option<u64>,
    profiles: Vec<Fit>,
    missing: Vec<String>,
}

fn size(bytes: Option<u64>) -> String {
    bytes.map_or("unknown".to_string(), |bytes| {
        format!("{:.1} GiB", bytes as f64 / GIB as f64)
    })
}

impl<'a> Diagnosis<'a> {
    fn new(machine: &'a Machine, disk: Option<u64>, card: Option<u64>) -> anyhow::Result<Self> {
        let mut missing = Vec::new();
        let mut lacks = |needs: (u64, u64), profile: &str| {
            let before = missing.len();
            if machine.memory_bytes.is_some_and(|bytes| bytes < needs.0) {
                missing.push(format!(
                    "{profile}: {} of memory; close other programs or take a larger machine",
                    size(Some(needs.0))
                ));
            }
            if disk.is_some_and(|bytes| bytes < needs.1) {
                missing.push(format!(
                    "{profile}: {} of free disk; write elsewhere with --out DIR",
                    size(Some(needs.1))
                ));
            }
            missing.len() > before
        };
        let micro = !lacks(MICRO, "micro");
        let mut paper = !lacks(PAPER, "paper");
        let has_card = machine.cuda.as_ref().is_some_and(|cuda| cuda.devices > 0);
        let mut papers = Vec::new();
        for name in PAPERS {
            let profile = Profile::load(name, &[])?;
            let plan = plan_of(
                &profile,
                &profile.trained,
                &recipe_folder(),
                card.unwrap_or(0),
            )?;
            let needed = plan.needed() as f64 / 1e9;
            papers.push((
                name,
                has_card && card.is_some() && plan.fits(),
                plan.hours[0],
            ));
            if !has_card {
                missing.push(format!(
                    "{name}: a CUDA card of {needed:.0} GB and its driver (https://www.nvidia.com/drivers), then build with `--features cuda`"
                ));
            } else if card.is_none() {
                missing.push(format!(
                    "{name}: whether the card has {needed:.0} GB: nvidia-smi does not answer"
                ));
            } else if !plan.fits() {
                missing.push(format!(
                    "{name}: a card of {needed:.0} GB; `iapo plan --profile {name} --memory {:.0}` says what to change",
                    card.unwrap_or(0) as f64 / 1e9
                ));
            }
        }
        paper &= has_card;
        if machine.threads < 2 {
            missing
                .push("micro: a second core; it runs on one in about twice the time".to_string());
        }
        if machine.cpu_features.is_empty() {
            missing.push(
                "speed: AVX2, AVX-512 or NEON; the portable operators run instead".to_string(),
            );
        }
        let mut profiles: Vec<Fit> = [("smoke", " --profile smoke"), ("micro", "")]
            .map(|(profile, flag)| Fit {
                profile,
                fits: micro,
                command: format!("iapo replicate{flag}"),
                hours: None,
            })
            .into();
        profiles.extend(papers.into_iter().map(|(profile, card_fits, hours)| Fit {
            profile,
            fits: paper && card_fits,
            command: format!("iapo replicate --profile {profile} --data hub --device cuda"),
            hours: Some(hours),
        }));
        Ok(Diagnosis {
            machine,
            free_disk_bytes: disk,
            card_bytes: card,
            profiles,
            missing,
        })
    }

    fn text(&self) -> String {
        let machine = self.machine;
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<10} {value}");
        };
        line("system", machine.system.clone());
        line(
            "processor",
            format!(
                "{}, {} threads",
                machine.cpu.as_deref().unwrap_or("unknown"),
                machine.threads
            ),
        );
        let features = machine.cpu_features.join(", ");
        line(
            "vectors",
            if features.is_empty() {
                "none that the operators use".to_string()
            } else {
                features
            },
        );
        line("memory", size(machine.memory_bytes));
        line("free disk", size(self.free_disk_bytes));
        line(
            "CUDA",
            match &machine.cuda {
                None => "no driver found".to_string(),
                Some(cuda) => format!(
                    "driver {} ({}), {} devices",
                    cuda.driver.as_deref().unwrap_or("of unknown version"),
                    cuda.library.display(),
                    cuda.devices
                ),
            },
        );
        if self.card_bytes.is_some() {
            line("card", size(self.card_bytes));
        }
        text.push('\n');
        for fit in &self.profiles {
            let fits = if fit.fits { "fits" } else { "does not fit" };
            let hours = fit.hours.map_or(String::new(), |hours| {
                format!(", about {hours:.0} hours of an H100 (replicate/PAPER.md)")
            });
            let _ = writeln!(
                text,
                "profile {:<10}  {fits}: {}{hours}",
                fit.profile, fit.command
            );
        }
        if !self.missing.is_empty() {
            text.push_str("\nmissing\n");
            for what in &self.missing {
                let _ = writeln!(text, "  {what}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_laptop_and_a_machine_that_lacks_everything() {
        let laptop = Machine {
            system: "linux x86_64".to_string(),
            cpu: Some("Example CPU".to_string()),
            threads: 2,
            cpu_features: vec!["avx2".to_string(), "fma".to_string()],
            memory_bytes: Some(16 * GIB),
            cuda: None,
        };
        let bare = Machine {
            system: "linux riscv64".to_string(),
            threads: 1,
            memory_bytes: Some(GIB),
            ..Machine::default()
        };
        let server = Machine {
            memory_bytes: Some(256 * GIB),
            cuda: Some(results::Cuda {
                library: "/usr/lib/libcuda.so.1".into(),
                driver: Some("580.1".to_string()),
                devices: 1,
            }),
            ..laptop.clone()
        };
        let found = |machine, disk, card| Diagnosis::new(machine, Some(disk), card).unwrap();
        let texts = [
            found(&laptop, 50 * GIB, None),
            found(&bare, GIB / 2, None),
            found(&server, 500 * GIB, Some(24 * GIB)),
            found(&server, 500 * GIB, Some(80 * GIB)),
        ];
        let object = serde_json::to_value(&texts[3]).unwrap();
        assert_eq!(object["profiles"][2]["fits"], true);
        assert_eq!(object["machine"]["threads"], 2);
        let texts = texts.map(|found| found.text());
        insta::assert_snapshot!(texts.join("\n---\n\n"));
    }
}
