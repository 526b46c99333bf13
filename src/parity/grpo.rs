//! Advantages, GRPO losses of every kind and their gradients, and gradient accumulation.

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor, Var};
use grpo::{
    Clip, KlEstimator, KlPenalty, LossAggregation, LossInputs, LossOptions, LossOutput, RatioLevel,
    ScaleByStd, Totals, advantages_of_scored, loss,
};
use serde_json::Value;

use super::checks::{Checks, to_f64};
use super::folder::{Folder, Tensors, count_of, number_of};

pub const INDEX: &str = "grpo/grpo.json";

pub fn run(folder: &Folder, checks: &mut Checks<'_>) -> Result<()> {
    let Some(index) = folder.json_if_any(INDEX)? else {
        return Ok(());
    };
    for name in folder.names("grpo", ".safetensors")? {
        let file = format!("grpo/{name}.safetensors");
        checks.case(&file, |checks| {
            let tensors = folder.tensors(&file)?;
            if name == "advantages" {
                return advantages(&index, &tensors, checks);
            }
            Data::new(tensors, &folder.device)?.compare(&index, &name, checks)
        })?;
    }
    Ok(())
}

fn advantages(index: &Value, tensors: &Tensors, checks: &mut Checks<'_>) -> Result<()> {
    for case in index["advantages"].as_array().into_iter().flatten() {
        let name = case["case"].as_str().context("a case has no name")?;
        let size = count_of(&case["group_size"])?;
        let rewards = floats(tensors.get(&format!("{name}.in.rewards"))?)?;
        let groups: Vec<usize> = (0..rewards.len()).map(|sample| sample / size).collect();
        let prefix = format!("{name}.out.adv.");
        for (variant, reference) in tensors.under(&prefix) {
            let ours = advantages_of_scored(&rewards, &groups, scale_of(variant)?)?;
            let key = format!("{prefix}{variant}");
            checks.values(
                &tensors.file,
                &key,
                &to_f64(reference)?,
                &widened(&ours),
                None,
            )?;
        }
    }
    Ok(())
}

/// `group_eps1e-4`, `batch_eps1e-4` or `none`.
fn scale_of(variant: &str) -> Result<ScaleByStd> {
    let (by, eps) = variant.split_once("_eps").unwrap_or((variant, "0"));
    let eps = eps
        .parse()
        .with_context(|| format!("{variant} has no eps"))?;
    let floor = 0.0;
    Ok(match by {
        "group" => ScaleByStd::Group { eps, floor },
        "batch" => ScaleByStd::Batch { eps, floor },
        "none" => ScaleByStd::None,
        other => bail!("advantages by {other} are not known"),
    })
}

/// A padded batch, packed: every place is a token, and the mask says which count.
struct Data {
    tensors: Tensors,
    device: Device,
    log_probs: Vec<f32>,
    old: Vec<f32>,
    reference: Vec<f32>,
    advantages: Vec<f32>,
    sequence: Vec<usize>,
    mask: Vec<bool>,
    columns: usize,
}

impl Data {
    fn new(tensors: Tensors, device: &Device) -> Result<Self> {
        let get = |key: &str| floats(tensors.get(key)?);
        let columns = tensors.get("in.mask")?.dim(1)?;
        let mask: Vec<bool> = get("in.mask")?.into_iter().map(|m| m != 0.0).collect();
        Ok(Self {
            log_probs: get("out.logps")?,
            old: get("in.old_logps")?,
            reference: get("in.ref_logps")?,
            advantages: get("in.advantages")?,
            sequence: (0..mask.len()).map(|token| token / columns).collect(),
            mask,
            columns,
            tensors,
            device: device.clone(),
        })
    }

    fn compare(&self, index: &Value, name: &str, checks: &mut Checks<'_>) -> Result<()> {
        let own = |case: &&Value| case["data"] == name;
        let listed: Vec<&Value> = index["losses"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(own)
            .collect();
        let find = |what: &str, wanted: &dyn Fn(&str) -> bool| {
            let case = listed
                .iter()
                .find(|case| case["key"].as_str().is_some_and(wanted));
            case.with_context(|| format!("{INDEX} lists no loss of {name} for {what}"))
        };
        let rows = self.advantages.len();
        for (output, reference) in self.tensors.under("out.") {
            let key = format!("out.{output}");
            if !checks.wants(&self.tensors.file, &key) {
                continue;
            }
            let (kind, of) = output.split_once('.').unwrap_or((output, ""));
            let named =
                |wanted: &str| find(&key, &|key| key == wanted).and_then(|case| options(case));
            let whole = |options: &LossOptions| self.run(0..rows, options, None);
            let ours = match kind {
                "logps" => to_f64(&self.logits_and_log_probs()?.1)?,
                "ratio" | "k3_kl" | "per_token_loss" => {
                    let case = find(&key, &|key| key.contains(".token.") && key.ends_with(of))?;
                    let run = whole(&options(case)?)?.0;
                    widened(match kind {
                        "ratio" => &run.token_ratios,
                        "k3_kl" => &run.token_kl,
                        _ => &run.token_losses,
                    })
                }
                "loss" => to_f64(&whole(&named(of)?)?.0.loss)?,
                "loss_f64" => vec![whole(&named(of)?)?.0.metrics.loss],
                "grad_logps" => widened(&whole(&named(of)?)?.1),
                "grad_logits" => self.logits_gradient(&named(of)?)?,
                other => match micro_batches(other) {
                    Some((count, "loss")) => vec![self.accumulated_as(count, of, &listed)?.0],
                    Some((count, "grad_logps")) => self.accumulated_as(count, of, &listed)?.1,
                    _ => bail!("there is nothing to compare {key} with"),
                },
            };
            checks.values(&self.tensors.file, &key, &to_f64(reference)?, &ours, None)?;
        }
        for case in &listed {
            self.metrics(name, case, checks)?;
        }
        Ok(())
    }

    /// Loss and gradient with respect to the log-probabilities of some rows.
    fn run(
        &self,
        rows: std::ops::Range<usize>,
        options: &LossOptions,
        totals: Option<Totals>,
    ) -> Result<(LossOutput, Vec<f32>)> {
        let tokens = rows.start * self.columns..rows.end * self.columns;
        let log_probs = Var::new(&self.log_probs[tokens.clone()], &self.device)?;
        let of = self.sequence[tokens.clone()].iter();
        let sequence: Vec<usize> = of.map(|sequence| sequence - rows.start).collect();
        let inputs = LossInputs {
            log_probs: log_probs.as_tensor(),
            old: Some(&self.old[tokens.clone()]),
            reference: Some(&self.reference[tokens.clone()]),
            entropy: None,
            sequence: &sequence,
            advantages: &self.advantages[rows],
            mask: Some(&self.mask[tokens]),
            totals,
        };
        let output = loss(&inputs, options)?;
        let gradients = output.loss.backward()?;
        let gradient = gradients
            .get(&log_probs)
            .context("the loss has no gradient")?;
        let gradient = floats(gradient)?;
        Ok((output, gradient))
    }

    /// What micro-batches accumulate with the setting that their reference was made with. The folder
    /// names no more than the loss type `of` (or a whole key), so of the settings listed for it the
    /// one whose numbers are nearest to the reference counts.
    fn accumulated_as(&self, count: usize, of: &str, listed: &[&Value]) -> Result<(f64, Vec<f64>)> {
        let mut nearest: Option<(f64, (f64, Vec<f64>))> = None;
        for case in listed {
            if case["loss_type"] != of && case["key"] != of {
                continue;
            }
            let (value, gradient) = self.accumulated(count, case)?;
            let distance = self.distance(&format!("out.micro{count}_loss.{of}"), &[value])?
                + self.distance(&format!("out.micro{count}_grad_logps.{of}"), &gradient)?;
            if nearest.as_ref().is_none_or(|(least, _)| distance < *least) {
                nearest = Some((distance, (value, gradient)));
            }
        }
        let (_, found) = nearest.with_context(|| {
            format!(
                "{INDEX} lists no loss of type {of} for {}",
                self.tensors.file
            )
        })?;
        Ok(found)
    }

    /// Largest difference from a reference; 0 where the file has none.
    fn distance(&self, key: &str, ours: &[f64]) -> Result<f64> {
        let Some(reference) = self.tensors.find(key) else {
            return Ok(0.0);
        };
        let reference = to_f64(reference)?;
        let differences = reference.iter().zip(ours).map(|(r, o)| (r - o).abs());
        Ok(differences.fold(0.0, f64::max))
    }

    /// Loss and gradient over `count` micro-batches. TRL 1.16 divides `dapo` by the tokens of the
    /// whole batch; its other losses are means over a micro-batch, and the mean of those is taken
    /// (`_compute_loss` of `grpo_trainer.py`). With unequal micro-batches that is not the loss of
    /// the whole batch.
    fn accumulated(&self, count: usize, case: &Value) -> Result<(f64, Vec<f64>)> {
        let rows = self.advantages.len();
        ensure!(
            (1..=rows).contains(&count),
            "{rows} rows do not make {count} micro-batches"
        );
        let options = options(case)?;
        let (totals, factor) = if case["loss_type"] == "dapo" {
            let totals = Totals {
                tokens: self.mask.iter().filter(|&&counts| counts).count(),
                sequences: rows,
            };
            (Some(totals), 1.0)
        } else {
            (None, 1.0 / count as f64)
        };
        let (mut value, mut gradient) = (0.0, Vec::new());
        for part in 0..count {
            let part = rows * part / count..rows * (part + 1) / count;
            let (output, slopes) = self.run(part, &options, totals)?;
            value += factor * output.metrics.loss;
            gradient.extend(slopes.into_iter().map(|slope| factor * f64::from(slope)));
        }
        Ok((value, gradient))
    }

    /// The logits as a variable, and the log-probabilities of the ids from them. With the identity
    /// as head, hidden states are logits.
    fn logits_and_log_probs(&self) -> Result<(Var, Tensor)> {
        let logits = self.tensors.get("in.logits")?.flatten_to(1)?;
        let logits = Var::from_tensor(&logits.to_device(&self.device)?)?;
        let head = Tensor::eye(logits.dim(1)?, DType::F32, &self.device)?;
        let ids = self.tensors.ids("in.ids")?;
        let scored = fused_ops::token_log_probs(logits.as_tensor(), &head, &ids, 1.0, &[])?;
        Ok((logits, scored.log_probs))
    }

    /// The gradient of the loss with respect to the logits.
    fn logits_gradient(&self, options: &LossOptions) -> Result<Vec<f64>> {
        let (logits, log_probs) = self.logits_and_log_probs()?;
        let inputs = LossInputs {
            log_probs: &log_probs,
            old: Some(&self.old),
            reference: Some(&self.reference),
            entropy: None,
            sequence: &self.sequence,
            advantages: &self.advantages,
            mask: Some(&self.mask),
            totals: None,
        };
        let gradients = loss(&inputs, options)?.loss.backward()?;
        to_f64(
            gradients
                .get(&logits)
                .context("no gradient reaches the logits")?,
        )
    }

    /// The clip fractions and the KL that TRL logs.
    fn metrics(&self, name: &str, case: &Value, checks: &mut Checks<'_>) -> Result<()> {
        let key = case["key"].as_str().context("a loss has no key")?;
        let named = |metric: &str| format!("{name} {key} {metric}");
        let ours = self
            .run(0..self.advantages.len(), &options(case)?, None)?
            .0
            .metrics;
        for (metric, reference) in case["metrics"].as_object().into_iter().flatten() {
            let ours = match metric.as_str() {
                "clip_ratio/region_mean" => ours.clip_fraction,
                "clip_ratio/low_mean" => ours.clip_fraction_low,
                "clip_ratio/high_mean" => ours.clip_fraction_high,
                "kl" => ours.kl.context("the loss has no KL")?,
                // Extremes over processes: with one process they say nothing more.
                _ => continue,
            };
            checks.values(
                INDEX,
                &named(metric),
                &[number_of(reference)?],
                &[ours],
                None,
            )?;
        }
        Ok(())
    }
}

/// `micro2_loss` is the loss of 2 micro-batches.
fn micro_batches(kind: &str) -> Option<(usize, &str)> {
    let (count, what) = kind.strip_prefix("micro")?.split_once('_')?;
    Some((count.parse().ok()?, what))
}

fn options(case: &Value) -> Result<LossOptions> {
    let number = |key: &str| number_of(&case[key]);
    Ok(LossOptions {
        clip: Clip {
            low: number("eps_low")?,
            high: number("eps_high")?,
            dual: None,
        },
        ratio: match case["is_level"].as_str() {
            Some("token") => RatioLevel::Token,
            Some("sequence") => RatioLevel::Sequence,
            other => bail!("the importance sampling level {other:?} is not known"),
        },
        kl: Some(KlPenalty {
            estimator: KlEstimator::K3,
            coefficient: number("beta")?,
        }),
        aggregation: match case["loss_type"].as_str() {
            Some("grpo") => LossAggregation::SequenceMean,
            Some("bnpo" | "dapo") => LossAggregation::TokenMean,
            Some("dr_grpo") => LossAggregation::ConstantLength {
                max_tokens: count_of(&case["max_completion_length"])?,
            },
            other => bail!("the loss type {other:?} is not known"),
        },
    })
}

fn floats(tensor: &Tensor) -> Result<Vec<f32>> {
    let here = tensor.to_device(&Device::Cpu)?;
    Ok(here.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

fn widened(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}
