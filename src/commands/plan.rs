//! `iapo plan`: what a profile costs, before anything is trained.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use qwen2_5_vl::Config;
use replicate::plan::{Card, Plan, Workload, published_config};
use replicate::profile::Profile;

use super::output::{print, within};
use super::recipe::recipe_folder;

/// What a profile costs: memory by part, tokens, arithmetic, hours; arithmetic alone, nothing is loaded
/// or trained. Fails where a stage does not fit the cards.
#[derive(clap::Args)]
pub struct Args {
    /// A profile's name or file.
    #[arg(long, default_value = "paper")]
    profile: String,
    /// Only these arms; those of the profile if not given.
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    arms: Option<Vec<String>>,
    /// Changes a setting of the profile.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    changes: Vec<String>,
    /// Cards; arms and seeds run side by side on them.
    #[arg(long, default_value_t = 1, value_name = "N")]
    gpus: usize,
    /// Memory of one card, GB (1e9 bytes).
    #[arg(long, default_value_t = Card::h100().memory as f64 / 1e9, value_name = "G")]
    memory: f64,
    /// TFLOP/s that a card sustains in matrix products; an H100 in bf16: a quarter of its peak.
    #[arg(long, default_value_t = Card::h100().flops / 1e12, value_name = "T")]
    tflops: f64,
    /// Tokens a second that a card generates, many episodes together.
    #[arg(long, default_value_t = Card::h100().decoded, value_name = "N")]
    decoded: f64,
    /// What an hour of one card costs.
    #[arg(long, default_value_t = Card::h100().price, value_name = "PRICE")]
    price: f64,
    /// Tokens of a prompt without its image; by the profile's wording if not given.
    #[arg(long, value_name = "N")]
    prompt_tokens: Option<usize>,
    /// Patches of an image.
    #[arg(long, value_name = "N")]
    image_patches: Option<usize>,
    /// `text` or `json`.
    #[arg(long, default_value = "text")]
    format: PlanFormat,
    /// The folder that the profile's checkpoints are relative to.
    #[arg(long, value_name = "DIR", default_value_os_t = recipe_folder())]
    checkpoints: PathBuf,
}

/// How a plan is shown.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum PlanFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    for (name, value) in [
        ("--gpus", args.gpus as f64),
        ("--memory", args.memory),
        ("--tflops", args.tflops),
        ("--decoded", args.decoded),
    ] {
        if !(value > 0.0 && value.is_finite()) {
            bail!("{name} is {value}: expected a number above 0");
        }
    }
    if !(args.price >= 0.0 && args.price.is_finite()) {
        bail!("--price is {}: expected a number, at least 0", args.price);
    }
    let profile = Profile::load(&args.profile, &args.changes)?;
    let arms = args.arms.unwrap_or_else(|| profile.trained.clone());
    if let Some(problem) = profile.trained_problem(&arms) {
        bail!("--arms: {problem}");
    }
    let mut workload = Workload::of(&profile);
    workload.prompt_tokens = args.prompt_tokens.unwrap_or(workload.prompt_tokens);
    workload.image_patches = args.image_patches.unwrap_or(workload.image_patches);
    let plan = Plan::new(
        &profile,
        &arms,
        &config(&args.checkpoints, &profile.checkpoints.student)?,
        &config(&args.checkpoints, &profile.checkpoints.teacher)?,
        workload,
        Card {
            count: args.gpus,
            memory: (args.memory * 1e9) as u64,
            flops: args.tflops * 1e12,
            decoded: args.decoded,
            price: args.price,
        },
    );
    print(&match args.format {
        PlanFormat::Text => within(&plan.to_text()),
        PlanFormat::Json => serde_json::to_string_pretty(&plan)? + "\n",
    })?;
    Ok(match plan.fits() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// The configuration of a checkpoint: from its folder, or, for the paper's models, as it is published.
pub(super) fn config(checkpoints: &Path, name: &str) -> anyhow::Result<Config> {
    let file = checkpoints.join(name).join("config.json");
    if file.exists() {
        return Ok(Config::load(&file)?);
    }
    published_config(name).with_context(|| {
        format!(
            "{}: no such file, and '{name}' is none of the paper's models, whose sizes are known; give \
             the checkpoint's folder with --checkpoints or --set",
            file.display()
        )
    })
}
