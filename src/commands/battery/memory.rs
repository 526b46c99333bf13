//! Check 7: the memory of one forward and backward pass at growing lengths, beside the plan's.

use std::path::Path;

use anyhow::Context;
use candle_core::Tensor;
use fused_ops::AttentionLayout;
use grpo::Gradients;
use qwen2_5_vl::{LoraOptions, Model, Positions};
use replicate::compute::Compute;
use replicate::plan::{Card, Plan, Workload};
use replicate::profile::Profile;
use seeded_random::Stream;

use super::meter::{peak, seconds};
use super::{Compared, Figure, Found};

/// A pass of each length, with decoder layers run again and with all of them kept.
pub fn check(compute: &Compute, folder: &Path, short: bool) -> anyhow::Result<Found> {
    let on_processor = compute.device.is_cpu();
    // Without recompute a long pass fits no card. A processor's allocator does not give back what one pass
    // had, so only one can be seen.
    let passes: &[(usize, bool)] = match (short, on_processor) {
        (_, true) => &[(8192, false)],
        (true, false) => &[(512, true), (512, false)],
        (false, false) => &[
            (1024, false),
            (2048, false),
            (1024, true),
            (2048, true),
            (4096, true),
            (8192, true),
            (12288, true),
        ],
    };
    let mut found = Found::default();
    for &(tokens, recompute) in passes {
        let kept = if recompute {
            "layers run again"
        } else {
            "layers kept"
        };
        let name = format!("{tokens} tokens, {kept}");
        let profile = profile(compute, tokens, recompute)?;
        let mut model = Model::load(folder, &compute.device, compute.dtype)?;
        let planned = planned(&profile, &model)?;
        add_adapters(&mut model, &profile)?;
        if !on_processor {
            // The first pass makes what stays: a card's libraries.
            pass(&model, tokens, recompute)?;
        }
        let ((_, taken), held) = peak(&compute.device, || {
            seconds(&compute.device, || pass(&model, tokens, recompute))
        })?;
        let figure = |what, value, unit| Figure::new(format!("{name}: {what}"), value, unit);
        found.figures.extend([
            figure("planned", planned as f64 / 1e9, "GB"),
            figure("measured", held as f64 / 1e9, "GB"),
            figure("seconds", taken, "s"),
        ]);
        found.compared.push(Compared {
            name: format!("{name}: measured beside planned"),
            found: (held as f64 / planned as f64 - 1.0).abs(),
            // A processor's operators hold less than a card's, and its allocator more.
            allowed: if on_processor { 0.5 } else { 0.1 },
        });
    }
    Ok(found)
}

fn profile(compute: &Compute, tokens: usize, recompute: bool) -> anyhow::Result<Profile> {
    let weights = match compute.dtype {
        candle_core::DType::F32 => "f32",
        candle_core::DType::F16 => "f16",
        _ => "bf16",
    };
    let changes = [
        format!("compute.weights={weights}"),
        format!("compute.update_tokens={tokens}"),
        format!("compute.recompute={recompute}"),
    ];
    Ok(Profile::load("paper", &changes)?)
}

/// What the plan gives an update's pass: gradients and activations, logits, a tile of scores.
fn planned(profile: &Profile, model: &Model) -> anyhow::Result<u64> {
    let mut workload = Workload::of(profile);
    // A pass has the length that it is given.
    (workload.prompt_tokens, workload.image_patches) = (100, 64);
    let card = Card {
        count: 1,
        memory: 80_000_000_000,
        flops: 1e12,
        decoded: 1e3,
        price: 0.0,
    };
    let arms = ["vtool-r1".to_owned()];
    let config = model.config();
    let plan = Plan::new(profile, &arms, config, config, workload, card);
    let stage = plan.memory.iter().find(|own| own.stage == "vtool-r1");
    let stage = stage.context("the plan has no stage of vtool-r1")?;
    let parts = [
        "update: gradients and activations",
        "logits",
        "attention tile",
    ];
    Ok(parts.iter().map(|part| stage.part(part)).sum())
}

fn add_adapters(model: &mut Model, profile: &Profile) -> anyhow::Result<()> {
    let lora = profile.grpo.lora.as_ref();
    let lora = lora.context("profile paper has no [grpo.lora]")?;
    let options = LoraOptions {
        rank: lora.rank,
        alpha: lora.alpha,
        targets: lora.targets.clone(),
    };
    Ok(model.add_lora(&options, Stream::new(2))?)
}

/// The gradients of the mean log-probability of one sequence.
fn pass(model: &Model, tokens: usize, recompute: bool) -> anyhow::Result<Gradients> {
    let ids: Vec<u32> = (0..tokens as u32).map(|i| i * i % 251).collect();
    let positions = Positions::text(0, tokens);
    let layout = AttentionLayout::causal(&[tokens]);
    let loss = |hidden: &Tensor| -> candle_core::Result<Tensor> {
        let scored = model.token_log_probs(hidden, &ids, 1.0);
        scored
            .map_err(candle_core::Error::wrap)?
            .log_probs
            .mean_all()
    };
    let embeddings = model.embed(&ids, None)?;
    let store = match recompute {
        true => {
            model
                .backward_with_recompute(&embeddings, &positions, &layout, loss)?
                .1
        }
        false => loss(&model.hidden(&embeddings, &positions, &layout)?)?.backward()?,
    };
    let mut gradients = Gradients::new();
    gradients.accumulate(&model.trainable(), &store)?;
    Ok(gradients)
}
