//! Check 6: the sampler's log-probabilities are the trainer's.

use std::path::Path;

use agent::{CompletionRequest, Policy, first_turn};
use anyhow::Context;
use benchmarks::data::Data;
use qwen2_5_vl::{PackedTurns, SampledTurn};
use replicate::compute::Compute;
use replicate::policy::LocalPolicy;
use replicate::profile::Profile;
use seeded_random::Stream;

use super::Compared;
use crate::commands::recipe::recipe_folder;

/// Mean and largest |p / p_sampled − 1| of the tokens of sampled first turns.
pub fn check(
    compute: &Compute,
    model: Option<&Path>,
    short: bool,
) -> anyhow::Result<Vec<Compared>> {
    let profile = Profile::load("micro", &[])?;
    let world = profile.world.context("the micro profile has no [world]")?;
    let data = Data::micro(world, 1);
    let own = recipe_folder().join("checkpoints/micro/student");
    let mut policy = LocalPolicy::load(model.unwrap_or(&own), compute, 24)?;
    policy.temperature = 1.0;
    let count = if short { 4 } else { 32 };
    let questions = data.training(&Stream::new(6), 0, count)?;
    let style = data.episodes().prompt;
    let conversations: Vec<_> = questions
        .items
        .iter()
        .map(|item| first_turn(&item.question.task, style))
        .collect();
    let requests: Vec<CompletionRequest> = conversations
        .iter()
        .flat_map(|conversation| {
            (0..8).map(move |seed| CompletionRequest::new(conversation, Some(seed)))
        })
        .collect();
    let sampled = policy
        .complete(&requests)?
        .into_iter()
        .collect::<replicate::Result<Vec<_>>>()?;
    let prompts = policy.encode(&conversations.iter().collect::<Vec<_>>())?;
    // As an update lays them out.
    let turns: Vec<SampledTurn> = prompts
        .iter()
        .zip(sampled.chunks(8))
        .flat_map(|(prompt, own)| {
            own.iter().map(|one| SampledTurn {
                prompt: &prompt.prompt,
                token_ids: &one.token_ids,
                follows: None,
            })
        })
        .collect();
    let trained = policy.model.detached()?;
    let packed = PackedTurns::new(&trained, &turns)?;
    let embeddings = packed.embed(&trained)?;
    let scored = packed.log_probs(&trained, &embeddings, 1.0)?;
    let scored: Vec<f32> = scored.log_probs.to_vec1()?;
    let ratios: Vec<f64> = sampled
        .iter()
        .flat_map(|one| &one.log_probs)
        .zip(&scored)
        .map(|(old, new)| (libm::exp(f64::from(*new) - f64::from(*old)) - 1.0).abs())
        .collect();
    let worst = |worst: f64, ratio: &f64| match ratio.is_nan() {
        true => f64::INFINITY,
        false => worst.max(*ratio),
    };
    // A bf16 logit of size 20 is off by up to 0.06.
    let (mean, largest) = match compute.dtype {
        candle_core::DType::F32 => (1e-4, 1e-2),
        _ => (2e-2, 1.0),
    };
    Ok(vec![
        Compared {
            name: format!("mean |ratio - 1| of {} tokens", ratios.len()),
            found: ratios.iter().sum::<f64>() / ratios.len().max(1) as f64,
            allowed: mean,
        },
        Compared {
            name: "largest |ratio - 1|".to_owned(),
            found: ratios.iter().fold(0.0, worst),
            allowed: largest,
        },
    ])
}
