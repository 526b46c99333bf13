//! The language model: processor, positions, residual stream, logits; alone and in padded batches.
//!
//! Rows of a batch run one by one and unpadded, so that a padded reference also proves that padding
//! does not matter; padded places get position 0 and are compared nowhere else.

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use fused_ops::AttentionLayout;
use qwen2_5_vl::{Grid, Model, Positions, read_image};
use serde_json::Value;

use super::checks::{Checks, to_i64};
use super::folder::{Folder, Loaded, Tensors, messages_of, strings_of};

pub const INDEX: &str = "model/cases.json";

pub fn run(folder: &Folder, loaded: &mut Loaded, checks: &mut Checks<'_>) -> Result<()> {
    let Some(index) = folder.json_if_any(INDEX)? else {
        return Ok(());
    };
    for (name, case) in index.as_object().into_iter().flatten() {
        let key = format!("{} {name}.input_ids", loaded.name);
        if !case["messages"].is_null() && checks.wants(INDEX, &key) {
            checks.case(INDEX, |checks| prompt(folder, loaded, &key, case, checks))?;
        }
    }
    for (file, images) in cases(folder, loaded)? {
        checks.case(&file, |checks| {
            let tensors = folder.tensors(&file)?;
            if checks.wants_any(&file, tensors.keys().filter(|key| is_forward(key))) {
                let case = ModelCase::new(folder, loaded, tensors, &images?)?;
                forward(loaded.model()?, &case, checks)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn is_forward(key: &str) -> bool {
    key.starts_with("out.") && !key.starts_with("out.gen_") && !key.ends_with(".valid")
}

/// The case files of a checkpoint and the images that each is about.
pub fn cases(folder: &Folder, loaded: &Loaded) -> Result<Vec<(String, Result<Vec<String>>)>> {
    let Some(index) = folder.json_if_any(INDEX)? else {
        return Ok(Vec::new());
    };
    let sub = format!("model/{}", loaded.name);
    let names = folder.names(&sub, ".safetensors")?;
    let case = |name: String| {
        let images = strings_of(&index[&name]["images"])
            .with_context(|| format!("{INDEX} names no images of {name}"));
        (format!("{sub}/{name}.safetensors"), images)
    };
    Ok(names.into_iter().map(case).collect())
}

/// Messages and images to ids.
fn prompt(
    folder: &Folder,
    loaded: &mut Loaded,
    key: &str,
    case: &Value,
    checks: &mut Checks<'_>,
) -> Result<()> {
    let (messages, images) = messages_of(&case["messages"])?;
    let images: Vec<_> = images
        .iter()
        .map(|image| Ok(read_image(&folder.image(image)?)?))
        .collect::<Result<_>>()?;
    let images: Vec<_> = images.iter().collect();
    let encoded = loaded.processor()?.encode(&messages, &images, true)?;
    let reference: Vec<u32> = serde_json::from_value(case["input_ids"].clone())?;
    checks.exact_list(INDEX, key, &reference, &encoded.input_ids)
}

/// One file of inputs and outputs, its rows without padding.
pub struct ModelCase {
    pub tensors: Tensors,
    pub rows: Vec<ModelRow>,
    /// Image features of all rows `(merged, hidden)`.
    features: Option<Tensor>,
    width: usize,
}

/// One sequence of a batch.
pub struct ModelRow {
    pub ids: Vec<u32>,
    pub grids: Vec<Grid>,
    pub features: Option<Tensor>,
    /// Places of padding before the sequence.
    left: usize,
}

impl ModelCase {
    pub fn new(
        folder: &Folder,
        loaded: &mut Loaded,
        tensors: Tensors,
        images: &[String],
    ) -> Result<Self> {
        let model = loaded.model()?;
        let grids = tensors.grids()?;
        let features = if grids.is_empty() {
            None
        } else {
            let pixels = folder.pixel_values(images, &grids)?;
            Some(model.encode_images(&pixels, &grids)?.detach())
        };
        let ids = tensors.ids("in.input_ids")?;
        let width = tensors.get("in.input_ids")?.dim(1)?;
        let mask = match tensors.find("in.attention_mask") {
            Some(mask) => to_i64(mask)?,
            None => vec![1; ids.len()],
        };
        let mut grids = grids.into_iter();
        let mut merged = 0;
        let mut rows = Vec::new();
        for (ids, mask) in ids.chunks(width).zip(mask.chunks(width)) {
            let left = mask.iter().take_while(|&&m| m == 0).count();
            let ids: Vec<u32> = ids
                .iter()
                .zip(mask)
                .filter(|(_, m)| **m != 0)
                .map(|(id, _)| *id)
                .collect();
            ensure!(
                mask[left..].iter().take_while(|&&m| m != 0).count() == ids.len(),
                "{}: a row's tokens do not stand together",
                tensors.file
            );
            let slots = ids
                .iter()
                .filter(|&&id| id == model.config().image_token_id)
                .count();
            let first = merged;
            let mut own = Vec::new();
            while merged - first < slots {
                let grid = grids
                    .next()
                    .context("there are fewer grids than image tokens need")?;
                merged += grid.tokens(model.config().vision.spatial_merge_size);
                own.push(grid);
            }
            let features = features.as_ref().filter(|_| slots > 0);
            rows.push(ModelRow {
                features: features.map(|f| f.narrow(0, first, slots)).transpose()?,
                ids,
                grids: own,
                left,
            });
        }
        Ok(Self {
            tensors,
            rows,
            features,
            width,
        })
    }

    /// Puts rows `(tokens, _)` back to their places among the padding: `(rows, width, _)`.
    fn padded(&self, rows: &[Tensor]) -> Result<Tensor> {
        let rows = rows.iter().zip(&self.rows).map(|(tensor, row)| {
            let right = self.width - row.left - row.ids.len();
            tensor.pad_with_zeros(0, row.left, right)
        });
        Ok(Tensor::stack(
            &rows.collect::<candle_core::Result<Vec<_>>>()?,
            0,
        )?)
    }
}

impl ModelRow {
    pub fn positions(&self, model: &Model) -> Result<Positions> {
        Ok(model.positions(&self.ids, &self.grids)?)
    }

    pub fn embeddings(&self, model: &Model) -> Result<Tensor> {
        Ok(model.embed(&self.ids, self.features.as_ref())?)
    }
}

fn forward(model: &Model, case: &ModelCase, checks: &mut Checks<'_>) -> Result<()> {
    let file = &case.tensors.file;
    let mut residuals: Vec<Vec<Tensor>> = Vec::new();
    let (mut hidden, mut logits, mut positions) = (Vec::new(), Vec::new(), Vec::new());
    for row in &case.rows {
        let (embeddings, at) = (row.embeddings(model)?, row.positions(model)?);
        let layout = AttentionLayout::causal(&[row.ids.len()]);
        let normed = model.hidden(&embeddings, &at, &layout)?;
        residuals.push(model.residuals(&embeddings, &at, &layout)?);
        logits.push(model.logits(&normed)?);
        hidden.push(normed);
        positions.push(at);
    }
    for (output, reference) in case.tensors.under("out.") {
        let key = format!("out.{output}");
        if !is_forward(&key) || !checks.wants(file, &key) {
            continue;
        }
        let ours = match output {
            "position_ids" => {
                let ours = padded_positions(case, &positions)?;
                checks.exact_list(file, &key, &to_i64(reference)?, &ours)?;
                continue;
            }
            "rope_deltas" => {
                let deltas: Vec<i64> = positions
                    .iter()
                    .map(|at| i64::from(at.next()) - at.len() as i64)
                    .collect();
                checks.exact_list(file, &key, &to_i64(reference)?, &deltas)?;
                continue;
            }
            "vision" => case.features.clone().context("the case has no images")?,
            "logits" => case.padded(&logits)?,
            "final_norm" => case.padded(&hidden)?,
            other => {
                let layer = other
                    .strip_prefix("hidden.")
                    .and_then(|layer| layer.parse::<usize>().ok());
                let rows = layer.and_then(|layer| {
                    residuals
                        .iter()
                        .map(|row| row.get(layer).cloned())
                        .collect::<Option<Vec<_>>>()
                });
                match rows {
                    Some(rows) => case.padded(&rows)?,
                    None => bail!("there is nothing to compare {key} with"),
                }
            }
        };
        let valid = case
            .tensors
            .find(&format!("{key}.valid"))
            .map(to_i64)
            .transpose()?;
        let valid: Option<Vec<bool>> = valid.map(|valid| valid.iter().map(|&v| v != 0).collect());
        checks.tensor(file, &key, reference, &ours, valid.as_deref())?;
    }
    Ok(())
}

/// `(3, rows, width)`, 0 at padding.
fn padded_positions(case: &ModelCase, positions: &[Positions]) -> Result<Vec<i64>> {
    let rows: Vec<Tensor> = positions
        .iter()
        .map(|at| {
            let axes = [at.axis(0), at.axis(1), at.axis(2)].concat();
            let axes = Tensor::from_vec(axes, (3, at.len()), &Device::Cpu)?;
            Ok(axes.to_dtype(DType::I64)?.t()?.contiguous()?)
        })
        .collect::<Result<_>>()?;
    to_i64(&case.padded(&rows)?.permute((2, 0, 1))?)
}
