//! `iapo battery`: the checks of a device that this binary can make alone. `benches/cuda/battery` runs
//! them in order beside those that need other programs.

mod architecture;
mod attention;
mod device;
mod generation;
mod memory;
mod meter;
mod operators;
mod ratio;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use replicate::compute::{Compute, DeviceName, WeightType};
use serde_json::{Value, json};

use super::output::print;

/// Checks a device, and a checkpoint on it. Writes what was found as JSON; fails where a check does.
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
    /// The checkpoint; `ratio` takes the micro student if none is given, `device`, `operators` and
    /// `attention` need none.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// The type of its weights.
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    weights: WeightType,
    /// What transformers found, for `architecture`: benches/cuda/architecture.py writes it.
    #[arg(long, value_name = "FILE")]
    reference: Option<PathBuf>,
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
            reference: None,
        }
    }
}

/// A check of the battery.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum CheckName {
    /// Opens, allocates, multiplies.
    Device,
    /// Every operator and its gradient is right, and has the same bits again.
    Operators,
    /// A checkpoint's numbers are transformers'.
    Architecture,
    /// Sampler and trainer see one distribution: the first step's importance ratio.
    Ratio,
    /// The memory of a training pass at growing lengths, beside the plan's.
    Memory,
    /// How fast attention is.
    Attention,
    /// How fast turns are sampled.
    Generation,
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

/// One thing that was measured and has no bound.
struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
}

impl Figure {
    fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        let name = name.into();
        Figure { name, value, unit }
    }

    fn json(&self) -> Value {
        json!({ "name": self.name, "value": self.value, "unit": self.unit })
    }
}

/// What a check found.
#[derive(Default)]
struct Found {
    compared: Vec<Compared>,
    figures: Vec<Figure>,
}

impl From<Vec<Compared>> for Found {
    fn from(compared: Vec<Compared>) -> Self {
        Found {
            compared,
            figures: Vec::new(),
        }
    }
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let compute = Compute::open(args.device, args.weights)?;
    let device = &compute.device;
    let model = args.model.as_deref();
    let checkpoint = || model.context("this check needs a checkpoint: give --model DIR");
    let found: Found = match args.check {
        CheckName::Device => device::check(device, args.short)?.into(),
        CheckName::Operators => operators::check(device, args.short)?.into(),
        CheckName::Architecture => {
            let reference = args.reference.as_deref();
            let reference = reference.context("this check needs --reference FILE")?;
            architecture::check(&compute, checkpoint()?, reference)?
        }
        CheckName::Ratio => ratio::check(&compute, model, args.short)?.into(),
        CheckName::Memory => memory::check(&compute, checkpoint()?, args.short)?,
        CheckName::Attention => attention::check(device, compute.dtype, args.short)?,
        CheckName::Generation => generation::check(&compute, checkpoint()?, args.short)?,
    };
    let passed = found.compared.iter().all(Compared::passed);
    let name = format!("{:?}", args.check).to_lowercase();
    let compared: Vec<Value> = found.compared.iter().map(Compared::json).collect();
    let figures: Vec<Value> = found.figures.iter().map(Figure::json).collect();
    let report = json!({
        "check": name, "device": args.device.to_string(), "weights": args.weights, "passed": passed,
        "found": compared, "figures": figures,
    });
    if let Some(out) = &args.out {
        results::write_json(out, &report)?;
    }
    let mut text = String::new();
    for figure in &found.figures {
        text += &format!(
            "{:<64} {:>10.4} {}\n",
            figure.name, figure.value, figure.unit
        );
    }
    for one in &found.compared {
        let verdict = if one.passed() { "passed" } else { "FAILED" };
        text += &format!(
            "{verdict}  {:<56} {:.2e} (allowed {:.0e})\n",
            one.name, one.found, one.allowed
        );
    }
    print(&text)?;
    ensure!(
        !(found.compared.is_empty() && found.figures.is_empty()),
        "the check compared nothing"
    );
    Ok(match passed {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
