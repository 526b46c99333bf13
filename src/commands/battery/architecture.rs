//! Check 5: a checkpoint of the real architecture beside transformers, whose numbers
//! `benches/cuda/architecture.py` wrote.
//!
//! The reference is transformers in f32. What we compute in bf16 may be as far from it as transformers'
//! own bf16 is, and half as much again.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Context;
use candle_core::{DType, Device, Tensor, Var};
use fused_ops::AttentionLayout;
use qwen2_5_vl::{GenerationOptions, Grid, Model, Prompt};
use replicate::compute::Compute;

use super::{Compared, Found};

/// Relative to the root mean square of the reference, in f32: sums in another order.
const F32: f64 = 1e-3;

/// How much farther from f32 than transformers' bf16.
const BF16: f64 = 1.5;

/// Image features, last hidden states' scores, log-probabilities, the gradient of their sum with respect
/// to the input embeddings, and in f32 the greedy continuation.
pub fn check(compute: &Compute, folder: &Path, reference: &Path) -> anyhow::Result<Found> {
    let tensors = candle_core::safetensors::load(reference, &Device::Cpu)
        .with_context(|| format!("cannot read {}", reference.display()))?;
    let get = |key: &str| {
        let tensor = tensors.get(key);
        tensor.with_context(|| format!("{} has no tensor '{key}'", reference.display()))
    };
    let ids = |key: &str| -> anyhow::Result<Vec<u32>> {
        Ok(get(key)?.to_dtype(DType::U32)?.flatten_all()?.to_vec1()?)
    };
    let model = Model::load(folder, &compute.device, compute.dtype)?.detached()?;
    let grid = ids("in.image_grid_thw")?;
    let [t, h, w] = grid[..] else {
        anyhow::bail!(
            "in.image_grid_thw: expected one image, found {} numbers",
            grid.len()
        );
    };
    let grids = [Grid {
        t: t as usize,
        h: h as usize,
        w: w as usize,
    }];
    let pixels = get("in.pixel_values")?.to_device(&compute.device)?;
    let features = model.encode_images(&pixels, &grids)?;
    let input_ids = ids("in.input_ids")?;
    let embeddings = model.embed(&input_ids, Some(&features))?;
    let embeddings = Var::from_tensor(&embeddings.detach())?;
    let positions = model.positions(&input_ids, &grids)?;
    let layout = AttentionLayout::causal(&[input_ids.len()]);
    let hidden = model.hidden(&embeddings, &positions, &layout)?;
    let scored = get("out.f32.logits")?.dim(0)?;
    let last = hidden.narrow(0, input_ids.len() - 1 - scored, scored)?;
    let head = model.logits(&last)?;
    let targets = &input_ids[input_ids.len() - scored..];
    // transformers knows no tokens that generation never chooses.
    let log_probs = log_softmax(&head, targets)?;
    let gradients = log_probs.sum_all()?.backward()?;
    let gradient = gradients
        .get(&embeddings)
        .context("no gradient reaches the embeddings")?;
    let mut found = Found::default();
    let dtype = compute.dtype.as_str();
    for (name, ours) in [
        ("features", &features),
        ("logits", &head),
        ("log_probs", &log_probs),
        ("grad_inputs_embeds", gradient),
    ] {
        let expected = get(&format!("out.f32.{name}"))?;
        let allowed = match compute.dtype {
            DType::F32 => F32,
            _ => BF16 * distance(get(&format!("out.{dtype}.{name}"))?, expected)?,
        };
        found.compared.push(Compared {
            name: format!("{name} in {dtype}"),
            found: distance(ours, expected)?,
            allowed,
        });
    }
    if compute.dtype == DType::F32 {
        found
            .compared
            .push(greedy(&model, &input_ids, &features, &grids, &tensors)?);
    }
    Ok(found)
}

/// The log-probability of each target after its row of scores.
fn log_softmax(logits: &Tensor, targets: &[u32]) -> anyhow::Result<Tensor> {
    let logits = logits.to_dtype(DType::F32)?;
    let most = logits.max_keepdim(1)?.detach();
    let sums = logits.broadcast_sub(&most)?.exp()?.sum_keepdim(1)?.log()?;
    let targets = Tensor::new(targets, logits.device())?.unsqueeze(1)?;
    Ok((logits.gather(&targets, 1)? - (sums + most)?)?.squeeze(1)?)
}

/// Root mean square of the differences, relative to that of the reference.
fn distance(ours: &Tensor, expected: &Tensor) -> anyhow::Result<f64> {
    let flat = |tensor: &Tensor| -> anyhow::Result<Vec<f64>> {
        let here = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
        Ok(here.flatten_all()?.to_vec1()?)
    };
    let (ours, expected) = (flat(ours)?, flat(expected)?);
    if ours.len() != expected.len() {
        return Ok(f64::INFINITY);
    }
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let off = squares(&mut ours.iter().zip(&expected).map(|(a, b)| a - b));
    Ok((off / squares(&mut expected.iter().copied()).max(1e-300)).sqrt())
}

/// Greedy ids that differ from the reference's before its first close call.
fn greedy(
    model: &Model,
    input_ids: &[u32],
    features: &Tensor,
    grids: &[Grid],
    tensors: &HashMap<String, Tensor>,
) -> anyhow::Result<Compared> {
    let get = |key: &str| {
        tensors
            .get(key)
            .with_context(|| format!("no tensor '{key}'"))
    };
    let expected: Vec<u32> = get("out.greedy_ids")?.to_dtype(DType::U32)?.to_vec1()?;
    let margins: Vec<f32> = get("out.greedy_margins")?.to_dtype(DType::F32)?.to_vec1()?;
    // Beyond a step whose two best scores are this near, either may go on.
    let sure = margins.iter().take_while(|margin| **margin > 1e-2).count();
    let prompt = Prompt {
        input_ids: input_ids.to_vec(),
        image_features: Some(features.clone()),
        grids: grids.to_vec(),
    };
    let options = GenerationOptions {
        max_new_tokens: expected.len(),
        temperature: 0.0,
        top_p: None,
        repetition_penalty: None,
        stop_ids: Vec::new(),
    };
    let sampled = model.generate(&[prompt], &[vec![None]], &options)?;
    let ours = &sampled[0][0].token_ids;
    let differing = ours
        .iter()
        .zip(&expected)
        .take(sure)
        .filter(|(a, b)| a != b);
    Ok(Compared {
        name: format!("greedy ids that differ, of {sure}"),
        found: differing.count() as f64,
        allowed: 0.0,
    })
}
