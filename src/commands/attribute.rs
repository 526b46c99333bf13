//! `iapo attribute`: what of the prompt speaks for a tool call.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agent::first_turn;
use anyhow::{Context, ensure};
use qwen2_5_vl::Model;
use replicate::alignment::{Site, attribute};
use replicate::attribution_map::{AttributionMap, TokenScore};
use replicate::compute::{Compute, DeviceName, WeightType};
use replicate::policy::{EncodedPrompt, LocalPolicy};
use replicate::profile::{self, Baseline, Method, Tokens};
use replicate::training::content_tokens;
use serde_json::json;

use super::ask;

/// Attributes a model's tool call to the blocks, tokens and image patches of its prompt.
#[derive(clap::Args)]
pub struct Args {
    /// The checkpoint's folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Compares with this checkpoint on the same prompt and call.
    #[arg(long, value_name = "DIR")]
    teacher: Option<PathBuf>,
    /// The figure, PNG or JPEG.
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// Named boxes in pixels, as for `iapo ask`.
    #[arg(long, value_name = "FILE")]
    boxes: Option<PathBuf>,
    /// The completion to attribute, in place of the model's own greedy one.
    #[arg(long, value_name = "TEXT")]
    call: Option<String>,
    /// Quadrature nodes of integrated gradients.
    #[arg(long, default_value_t = 32)]
    nodes: usize,
    /// What embeddings are compared with: `zero` or `block-mean`.
    #[arg(long, default_value = "zero", value_parser = parse_baseline)]
    baseline: Baseline,
    /// Longest completion, tokens, when the model makes its own.
    #[arg(long, default_value_t = 64)]
    max_new_tokens: usize,
    /// Where the model runs: `cpu`, `cuda` or `cuda:N`.
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: DeviceName,
    /// The type of its weights: `f32`, `bf16` or `f16`.
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    weights: WeightType,
    /// The files `OUT.json` and `OUT.svg` (`OUT.teacher.svg` with a teacher).
    #[arg(long, default_value = "attribution", value_name = "OUT")]
    out: PathBuf,
    /// The question.
    question: String,
}

fn parse_baseline(text: &str) -> Result<Baseline, String> {
    match text {
        "zero" => Ok(Baseline::Zero),
        "block-mean" => Ok(Baseline::BlockMean),
        _ => Err("expected `zero` or `block-mean`".into()),
    }
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    ensure!(args.nodes > 0, "--nodes 0: expected at least 1");
    let task = ask::task(&args.image, args.boxes.as_deref(), &args.question)?;
    let compute = Compute::open(args.device, args.weights)?;
    let mut policy = LocalPolicy::load(&args.model, &compute, args.max_new_tokens)?;
    let options = ask::episode_options(&policy);
    let conversation = first_turn(&task, options.prompt);
    let call = match &args.call {
        Some(text) => {
            let mut ids = policy.processor.tokenizer().encode(text)?;
            ids.extend(policy.processor.stop_ids().first());
            ids
        }
        None => {
            let request = agent::Request {
                conversation: &conversation,
                seed: 0,
            };
            agent::Policy::complete(&mut policy, &[request])?
                .remove(0)?
                .token_ids
        }
    };
    ensure!(
        !call.is_empty(),
        "there is no token to attribute; give --call TEXT"
    );
    let settings = profile::Attribution {
        method: Method::IntegratedGradients,
        baseline: args.baseline,
        nodes: args.nodes,
        masses: attribution::Aggregation::Absolute,
        tokens: Tokens::All,
        divergence: attribution::Divergence::Kl,
    };
    let prompt = policy.encode(&[&conversation])?.remove(0);
    let own = map_of(
        &policy,
        &policy.model.detached()?,
        &prompt,
        &call,
        &settings,
    )?;
    show(&args.model, &own);
    let grid = prompt
        .prompt
        .grids
        .first()
        .context("the prompt has no image")?;
    let merge = policy.model.config().vision.spatial_merge_size;
    let cells = (grid.h / merge, grid.w / merge);
    let svg = own.to_svg(&task.image, cells)?;
    results::write_atomically(&args.out.with_extension("svg"), svg.as_bytes())?;

    let mut json = json!({ "model": own });
    if let Some(teacher) = &args.teacher {
        let mut other = LocalPolicy::load(teacher, &compute, args.max_new_tokens)?;
        let prompt = other.encode(&[&conversation])?.remove(0);
        let theirs = map_of(&other, &other.model.detached()?, &prompt, &call, &settings)?;
        show(teacher, &theirs);
        let distribution = |map: &AttributionMap| attribution::Distribution::new(&map.shares, 0.0);
        let divergence = settings
            .divergence
            .between(&distribution(&own)?, &distribution(&theirs)?)?;
        println!("KL(model, teacher) = {divergence:.4} nats");
        let svg = theirs.to_svg(&task.image, cells)?;
        results::write_atomically(&args.out.with_extension("teacher.svg"), svg.as_bytes())?;
        json["teacher"] = json!(theirs);
        json["divergence"] = json!(divergence);
    }
    results::write_json(&args.out.with_extension("json"), &json)?;
    println!("{} and .svg", args.out.with_extension("json").display());
    Ok(ExitCode::SUCCESS)
}

fn map_of(
    policy: &LocalPolicy,
    model: &Model,
    prompt: &EncodedPrompt,
    call: &[u32],
    settings: &profile::Attribution,
) -> anyhow::Result<AttributionMap> {
    let site = Site {
        prompt,
        calls: vec![call],
        content: vec![content_tokens(policy, call)],
    };
    let found = attribute(model, &[site], settings)?.remove(0).remove(0);
    let scores = found.scores.unwrap_or_default();
    let tokens = prompt
        .prompt
        .input_ids
        .iter()
        .zip(&prompt.blocks)
        .zip(scores)
        .map(|((id, block), score)| {
            Ok(TokenScore {
                text: policy.processor.decode(&[*id], false)?,
                block: *block,
                score,
            })
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    Ok(AttributionMap {
        call: policy.processor.decode(call, true)?,
        shares: found.shares.shares().to_vec(),
        relative_gap: found.relative_gap,
        log_prob: found.log_prob,
        tokens,
    })
}

fn show(model: &Path, map: &AttributionMap) {
    println!("{}: {}", model.display(), map.call.replace('\n', " "));
    let named = ["P context", "R request", "I image", "T tools"];
    for (name, share) in named.iter().zip(&map.shares) {
        println!("  {name:10} {share:.3}");
    }
    if let Some(gap) = map.relative_gap {
        println!("  completeness gap {:.1} %", 100.0 * gap);
    }
}
