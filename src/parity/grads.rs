//! The gradient of a supervised loss with respect to every parameter and to the input embeddings.
//!
//! The loss is the mean cross-entropy of the labelled tokens (label -100: not labelled), each
//! predicted from the token before it. Tied embeddings have one gradient.

use anyhow::{Context, Result, bail, ensure};
use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use fused_ops::AttentionLayout;
use qwen2_5_vl::{Grid, Model};

use super::checks::{Checks, to_i64};
use super::folder::{Folder, Loaded, Tensors, messages_of};

pub const INDEX: &str = "grads/grads.json";

pub fn run(folder: &Folder, loaded: &mut Loaded, checks: &mut Checks<'_>) -> Result<()> {
    let file = format!("grads/{}.safetensors", loaded.name);
    if !folder.exists(&file) {
        return Ok(());
    }
    checks.case(&file, |checks| {
        let tensors = folder.tensors(&file)?;
        if !checks.wants_any(&file, tensors.keys().filter(|key| key.starts_with("out."))) {
            return Ok(());
        }
        let index = folder.json(INDEX)?;
        let (_, images) = messages_of(&index[&loaded.name]["messages"])
            .with_context(|| format!("{INDEX} has no messages of {}", loaded.name))?;
        let grids = tensors.grids()?;
        let pixels = if grids.is_empty() {
            None
        } else {
            Some(folder.pixel_values(&images, &grids)?)
        };
        let example = Example {
            ids: tensors.ids("in.input_ids")?,
            labels: to_i64(tensors.get("in.labels")?)?,
            pixels,
            grids,
        };
        compare(loaded.model()?, &example, &tensors, checks)
    })
}

struct Example {
    ids: Vec<u32>,
    labels: Vec<i64>,
    pixels: Option<Tensor>,
    grids: Vec<Grid>,
}

fn compare(
    model: &Model,
    example: &Example,
    tensors: &Tensors,
    checks: &mut Checks<'_>,
) -> Result<()> {
    let file = &tensors.file;
    let features = match &example.pixels {
        Some(pixels) => Some(model.encode_images(pixels, &example.grids)?),
        None => None,
    };
    let embeddings = model.embed(&example.ids, features.as_ref())?;
    let loss = cross_entropy(model, example, &embeddings)?;
    let gradients = loss.backward()?;
    for (output, reference) in tensors.under("out.") {
        let key = format!("out.{output}");
        if !checks.wants(file, &key) {
            continue;
        }
        let ours = match output {
            "loss" => loss.reshape(reference.dims())?,
            "grad_inputs_embeds" => {
                // The embeddings as a leaf of their own: gradients inside a graph are not kept.
                let leaf = Var::from_tensor(&embeddings.detach())?;
                let gradients = cross_entropy(model, example, leaf.as_tensor())?.backward()?;
                let gradient = gradients
                    .get(&leaf)
                    .context("no gradient reaches the embeddings")?;
                gradient.reshape(reference.dims())?
            }
            other => match other.strip_prefix("grad.") {
                Some(name) => parameter_gradient(model, &gradients, name)?,
                None => bail!("there is nothing to compare {key} with"),
            },
        };
        checks.tensor(file, &key, reference, &ours, None)?;
    }
    let named = |name: &&str| tensors.find(&format!("out.grad.{name}")).is_some();
    let names = model.parameters().iter().map(|(name, _)| name);
    let unnamed: Vec<&str> = names.filter(|name| !named(name)).collect();
    checks.exact_list(file, "every parameter has a reference", &[], &unnamed)
}

fn parameter_gradient(model: &Model, gradients: &GradStore, name: &str) -> Result<Tensor> {
    let parameters = model.parameters();
    let parameter = parameters
        .get(name)
        .with_context(|| format!("the model has no parameter {name}"))?;
    let gradient = gradients.get(parameter.as_tensor());
    Ok(gradient
        .with_context(|| format!("no gradient reaches {name}"))?
        .clone())
}

/// Mean over the labelled tokens, as a scalar.
fn cross_entropy(model: &Model, example: &Example, embeddings: &Tensor) -> Result<Tensor> {
    let positions = model.positions(&example.ids, &example.grids)?;
    let layout = AttentionLayout::causal(&[example.ids.len()]);
    let hidden = model.hidden(embeddings, &positions, &layout)?;
    let labelled = (1..example.labels.len()).filter(|&at| example.labels[at] >= 0);
    let (before, targets): (Vec<u32>, Vec<u32>) = labelled
        .map(|at| (at as u32 - 1, example.labels[at] as u32))
        .unzip();
    ensure!(!targets.is_empty(), "no token is labelled");
    let before = Tensor::new(before, hidden.device())?;
    let hidden = hidden.index_select(&before, 0)?;
    let log_probs =
        fused_ops::token_log_probs(&hidden, head(model)?.as_tensor(), &targets, 1.0, &[])?;
    Ok(log_probs.log_probs.mean_all()?.neg()?)
}

/// The matrix that turns hidden states into scores; the token embeddings where they are tied.
pub fn head(model: &Model) -> Result<&Var> {
    let parameters = model.parameters();
    parameters
        .get("lm_head.weight")
        .or_else(|| parameters.get("model.embed_tokens.weight"))
        .context("the model has neither lm_head.weight nor model.embed_tokens.weight")
}
