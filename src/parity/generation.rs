//! Greedy generation, alone and in batches, with and without repetition penalty: ids exact.
//!
//! Two computations are compared with the reference: the generation itself (prefill, cache), and the
//! logits of one pass over prompt and reference ids. Our generation never samples vision tokens;
//! where the reference did, the most likely ids of that one pass are compared instead.

use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use fused_ops::AttentionLayout;
use qwen2_5_vl::{GenerationOptions, Model, Positions, Prompt};

use super::checks::{Checks, to_f64, to_i64};
use super::folder::{Folder, Loaded};
use super::model::{ModelCase, ModelRow, cases};

pub fn run(folder: &Folder, loaded: &mut Loaded, checks: &mut Checks<'_>) -> Result<()> {
    for (file, images) in cases(folder, loaded)? {
        checks.case(&file, |checks| {
            let tensors = folder.tensors(&file)?;
            let keys = tensors.keys().filter(|key| key.starts_with("out.gen_"));
            if !checks.wants_any(&file, keys) {
                return Ok(());
            }
            let case = ModelCase::new(folder, loaded, tensors, &images?)?;
            generations(loaded.model()?, &case, checks)
        })?;
    }
    Ok(())
}

fn generations(model: &Model, case: &ModelCase, checks: &mut Checks<'_>) -> Result<()> {
    let file = &case.tensors.file;
    for (output, reference) in case.tensors.under("out.gen_") {
        let key = format!("out.gen_{output}");
        if !checks.wants(file, &key) {
            continue;
        }
        if output == "logits" {
            let ids = to_i64(case.tensors.get("out.gen_ids")?)?;
            let rows = forced(model, case, &ids)?;
            checks.tensor(file, &key, reference, &Tensor::stack(&rows, 0)?, None)?;
            continue;
        }
        let penalty = match output {
            "ids" => None,
            other => Some(penalty_of(other).with_context(|| format!("unknown output {key}"))?),
        };
        let ids = to_i64(reference)?;
        let steps = reference.dim(1)?;
        let banned = model.config().vision_token_ids();
        let sampled_vision = ids
            .iter()
            .any(|id| banned.iter().any(|b| i64::from(*b) == *id));
        let ours = if sampled_vision {
            most_likely(model, case, &ids, penalty)?
        } else {
            generated(model, case, steps, penalty)?
        };
        checks.exact_list(file, &key, &ids, &ours)?;
    }
    Ok(())
}

/// `rp105_ids` is of a repetition penalty of 1.05.
fn penalty_of(output: &str) -> Option<f32> {
    let hundredths = output.strip_prefix("rp")?.strip_suffix("_ids")?;
    Some(hundredths.parse::<u16>().ok()? as f32 / 100.0)
}

/// The ids of our own generation, row by row.
fn generated(
    model: &Model,
    case: &ModelCase,
    steps: usize,
    penalty: Option<f32>,
) -> Result<Vec<i64>> {
    let prompts: Vec<Prompt> = case
        .rows
        .iter()
        .map(|row| Prompt {
            input_ids: row.ids.clone(),
            image_features: row.features.clone(),
            grids: row.grids.clone(),
        })
        .collect();
    let options = GenerationOptions {
        max_new_tokens: steps,
        temperature: 0.0,
        top_p: None,
        repetition_penalty: penalty,
        stop_ids: Vec::new(),
    };
    let seeds = vec![vec![None]; prompts.len()];
    let sampled = model.generate(&prompts, &seeds, &options)?;
    let ids = sampled
        .iter()
        .flatten()
        .flat_map(|sample| &sample.token_ids);
    Ok(ids.map(|&id| i64::from(id)).collect())
}

/// For each row the logits `(steps, vocab)` before each reference id, from one pass.
fn forced(model: &Model, case: &ModelCase, ids: &[i64]) -> Result<Vec<Tensor>> {
    let steps = ids.len() / case.rows.len().max(1);
    case.rows
        .iter()
        .zip(ids.chunks(steps))
        .map(|(row, ids)| forced_row(model, row, ids))
        .collect()
}

fn forced_row(model: &Model, row: &ModelRow, ids: &[i64]) -> Result<Tensor> {
    let table = model
        .parameters()
        .get("model.embed_tokens.weight")
        .context("the model has no token embeddings")?;
    let fed: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
    let Some((_, fed)) = fed.split_last() else {
        bail!("the reference generated nothing");
    };
    let mut positions = row.positions(model)?;
    positions.extend(&Positions::text(positions.next(), fed.len()));
    let mut embeddings = row.embeddings(model)?;
    if !fed.is_empty() {
        let generated = fused_ops::embedding(table.as_tensor(), fed)?;
        embeddings = Tensor::cat(&[&embeddings, &generated], 0)?;
    }
    let layout = AttentionLayout::causal(&[positions.len()]);
    let hidden = model.hidden(&embeddings, &positions, &layout)?;
    Ok(model.logits(&hidden.narrow(0, row.ids.len() - 1, ids.len())?)?)
}

/// The most likely id at each step of the reference's own sequence, after the penalty on ids that
/// were seen before.
fn most_likely(
    model: &Model,
    case: &ModelCase,
    ids: &[i64],
    penalty: Option<f32>,
) -> Result<Vec<i64>> {
    let steps = ids.len() / case.rows.len().max(1);
    let mut ours = Vec::new();
    for ((row, ids), logits) in case
        .rows
        .iter()
        .zip(ids.chunks(steps))
        .zip(forced(model, case, ids)?)
    {
        let vocab = logits.dim(1)?;
        let logits = to_f64(&logits)?;
        for (step, logits) in logits.chunks(vocab).enumerate() {
            let seen =
                |id: usize| row.ids.contains(&(id as u32)) || ids[..step].contains(&(id as i64));
            let score = |id: usize| match penalty.filter(|_| seen(id)).map(f64::from) {
                Some(penalty) if logits[id] > 0.0 => logits[id] / penalty,
                Some(penalty) => logits[id] * penalty,
                None => logits[id],
            };
            let best = (0..vocab).max_by(|&a, &b| score(a).total_cmp(&score(b)).then(b.cmp(&a)));
            ours.push(best.context("the vocabulary is empty")? as i64);
        }
    }
    Ok(ours)
}
