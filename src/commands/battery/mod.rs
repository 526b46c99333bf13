//! `iapo battery`: the checks of a device that this binary can make alone. `benches/cuda/battery` runs
//! them in order beside those that need other programs.

mod device;
mod operators;
mod ratio;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use replicate::compute::{Compute, DeviceName, WeightType};
use serde_json::{Value, json};

use super::output::print;

/// Checks a device: that it opens and multiplies (`device`), that every operator and its gradient is
/// right on it and gives the same bits again (`operators`), that sampler and trainer see one
/// distribution (`ratio`). Writes what was found as JSON; fails where a check does.
#[derive(clap::Args)]
pub struct Args {
    /// Which check.
    check: CheckName,
    /// `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value_t)]
    device: DeviceName,
    /// Where the figures go.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Smaller sizes.
    #[arg(long)]
    short: bool,
    /// The checkpoint of `ratio`; the micro student if not given.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// The type of its weights.
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    weights: WeightType,
}

impl Args {
    /// Check 1 alone, for `iapo doctor --check`.
    pub fn of_device(device: DeviceName) -> Self {
        Args {
            check: CheckName::Device,
            device,
            out: None,
            short: true,
            model: None,
            weights: WeightType::F32,
        }
    }
}

/// A check of the battery.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum CheckName {
    /// Opens, allocates, multiplies.
    Device,
    /// Every operator, forward and backward, twice.
    Operators,
    /// The first step's importance ratio.
    Ratio,
}

/// One thing that was compared.
struct Compared {
    name: String,
    /// The largest difference, relative to the largest value.
    found: f64,
    allowed: f64,
}

impl Compared {
    fn passed(&self) -> bool {
        // Not a number passes nothing.
        self.found <= self.allowed
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name, "found": self.found, "allowed": self.allowed, "passed": self.passed(),
        })
    }
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let compute = Compute::open(args.device, args.weights)?;
    let found = match args.check {
        CheckName::Device => device::check(&compute.device, args.short)?,
        CheckName::Operators => operators::check(&compute.device, args.short)?,
        CheckName::Ratio => ratio::check(&compute, args.model.as_deref(), args.short)?,
    };
    let passed = found.iter().all(Compared::passed);
    let name = format!("{:?}", args.check).to_lowercase();
    let all: Vec<Value> = found.iter().map(Compared::json).collect();
    let report = json!({
        "check": name, "device": args.device.to_string(), "passed": passed, "found": all,
    });
    if let Some(out) = &args.out {
        results::write_json(out, &report)?;
    }
    let mut text = String::new();
    for one in &found {
        let verdict = if one.passed() { "passed" } else { "FAILED" };
        text += &format!(
            "{verdict}  {:<56} {:.2e} (allowed {:.0e})\n",
            one.name, one.found, one.allowed
        );
    }
    print(&text)?;
    if found.is_empty() {
        bail!("the check compared nothing");
    }
    Ok(match passed {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
