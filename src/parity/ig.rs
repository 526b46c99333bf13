//! Integrated gradients of a response's log-probability with respect to the prompt's embeddings.
//!
//! The baseline is zero; the response's embeddings and all positions are fixed. Methods are named
//! `gausslegendre`, `riemann_middle`, `riemann_trapezoid` (Captum's) or `converged_glN` (Gauss-
//! Legendre of N nodes), followed by the number of nodes.

use anyhow::{Context, Result, bail};
use attribution::{
    Attribution, Baseline, BlockMass, Blocks, Distribution, Method, Path, Quadrature, Rule,
};
use candle_core::{DType, Device, Tensor, Var};
use fused_ops::AttentionLayout;
use qwen2_5_vl::{Grid, Model, Positions};
use serde_json::Value;

use super::blocks;
use super::checks::{Checks, to_f64, to_i64};
use super::folder::{Folder, Loaded, Tensors, number_of, numbers_of, strings_of};
use super::grads::head;
use super::tolerances::Tolerance;

pub const INDEX: &str = "ig/ig.json";

/// Tokens that are evaluated together; bounds memory, and nothing else.
const TOKENS_PER_BATCH: usize = 2048;

pub fn run(folder: &Folder, loaded: &mut Loaded, checks: &mut Checks<'_>) -> Result<()> {
    let file = format!("ig/{}.safetensors", loaded.name);
    if !folder.exists(&file) {
        return Ok(());
    }
    checks.case(&file, |checks| {
        let tensors = folder.tensors(&file)?;
        let index = folder.json(INDEX)?;
        let own = &index[&loaded.name];
        let results = own["results"].as_object();
        let methods: Vec<&String> = results
            .into_iter()
            .flat_map(|results| results.keys())
            .collect();
        let wanted = checks.wants_any(&file, tensors.keys().filter(|key| key.starts_with("out.")))
            || methods.iter().any(|method| {
                ["block_mass", "weights_sum", "signed_block_sum"]
                    .iter()
                    .any(|what| checks.wants(INDEX, &key_of(&loaded.name, method, what)))
            });
        if !wanted {
            return Ok(());
        }
        let images = strings_of(&index["images"])?;
        let grids = tensors.grids()?;
        let model = loaded.model()?.detached()?;
        let features = if grids.is_empty() {
            None
        } else {
            let pixels = folder.pixel_values(&images, &grids)?;
            Some(model.encode_images(&pixels, &grids)?.detach())
        };
        let subject = Subject::new(&model, &tensors, features.as_ref(), &grids)?;
        fixed(&subject, &tensors, &grids, checks)?;
        nodes(&tensors, checks)?;
        recorded(&tensors, &loaded.name, own, checks)?;
        let mut methods: Vec<String> = methods.into_iter().cloned().collect();
        for prefix in ["out.scores.", "out.attr."] {
            methods.extend(tensors.under(prefix).map(|(method, _)| method.to_owned()));
        }
        methods.sort();
        methods.dedup();
        for method in methods {
            attributions(&subject, &tensors, &loaded.name, own, &method, checks)?;
        }
        Ok(())
    })
}

/// The function that is attributed.
struct Subject<'a> {
    model: &'a Model,
    head: Tensor,
    /// `(prompt, hidden)`.
    prompt: Tensor,
    /// `(response, hidden)`.
    response: Tensor,
    response_ids: Vec<u32>,
    positions: Positions,
}

impl<'a> Subject<'a> {
    fn new(
        model: &'a Model,
        tensors: &Tensors,
        features: Option<&Tensor>,
        grids: &[Grid],
    ) -> Result<Self> {
        let mut ids = tensors.ids("in.prompt_ids")?;
        let prompt = ids.len();
        let response_ids = tensors.ids("in.response_ids")?;
        ids.extend(&response_ids);
        let embeddings = model.embed(&ids, features)?.detach();
        Ok(Self {
            model,
            head: head(model)?.as_detached_tensor(),
            prompt: embeddings.narrow(0, 0, prompt)?.contiguous()?,
            response: embeddings
                .narrow(0, prompt, response_ids.len())?
                .contiguous()?,
            response_ids,
            positions: model.positions(&ids, grids)?,
        })
    }

    /// Log-probabilities of the response's tokens after each of several prompts:
    /// `(nodes, prompt, hidden)` to `(nodes, response)`.
    fn log_probs(&self, prompts: &Tensor) -> candle_core::Result<Tensor> {
        let (count, prompt, hidden) = prompts.dims3()?;
        let response = self.response_ids.len();
        let whole = prompt + response;
        let responses = self
            .response
            .unsqueeze(0)?
            .expand((count, response, hidden))?;
        let packed = Tensor::cat(&[prompts, &responses], 1)?.reshape((count * whole, hidden))?;
        let positions = Positions::concat(std::iter::repeat_n(&self.positions, count));
        let layout = AttentionLayout::causal(&vec![whole; count]);
        let states = self
            .model
            .hidden(&packed, &positions, &layout)
            .map_err(candle_core::Error::wrap)?
            .reshape((count, whole, hidden))?
            .narrow(1, prompt - 1, response)?
            .contiguous()?
            .reshape((count * response, hidden))?;
        let targets = self.response_ids.repeat(count);
        let scored = fused_ops::token_log_probs(&states, &self.head, &targets, 1.0, &[])
            .map_err(candle_core::Error::wrap)?;
        scored.log_probs.reshape((count, response))
    }

    fn attribute(&self, quadrature: &Quadrature) -> Result<Attribution> {
        let whole = self.positions.len();
        let batch = (TOKENS_PER_BATCH / whole).max(1);
        // The reference's own labels of blocks come with its scores: here is one block.
        let one_block = Blocks::new(vec![0; self.prompt.dim(0)?], 1)?;
        let path = Path::new(&self.prompt, Baseline::Zero, one_block)?;
        let method = Method::IntegratedGradients {
            quadrature: quadrature.clone(),
        };
        Ok(method.attribute_function(&path, batch, |prompts| self.log_probs(prompts)?.sum(1))?)
    }
}

/// What does not depend on a method.
fn fixed(
    subject: &Subject<'_>,
    tensors: &Tensors,
    grids: &[Grid],
    checks: &mut Checks<'_>,
) -> Result<()> {
    let file = &tensors.file;
    let at_input = subject.prompt.unsqueeze(0)?;
    if let Some(reference) = tensors.find("in.position_ids") {
        let ours: Vec<i64> = (0..3)
            .flat_map(|axis| subject.positions.axis(axis))
            .map(|&at| i64::from(at))
            .collect();
        let key = format!("in.position_ids of {} images", grids.len());
        checks.exact_list(file, &key, &to_i64(reference)?, &ours)?;
    }
    for output in [
        "f_input",
        "f_baseline",
        "grad_at_input",
        "inputs_embeds",
        "response_logps",
    ] {
        let key = format!("out.{output}");
        let Some(reference) = tensors.find(&key).filter(|_| checks.wants(file, &key)) else {
            continue;
        };
        let ours = match output {
            "f_input" => subject.log_probs(&at_input)?.sum(1)?,
            "f_baseline" => subject.log_probs(&at_input.zeros_like()?)?.sum(1)?,
            "response_logps" => subject.log_probs(&at_input)?,
            "inputs_embeds" => {
                Tensor::cat(&[&subject.prompt, &subject.response], 0)?.unsqueeze(0)?
            }
            _ => {
                let leaf = Var::from_tensor(&at_input)?;
                let gradients = subject.log_probs(leaf.as_tensor())?.sum_all()?.backward()?;
                let gradient = gradients
                    .get(&leaf)
                    .context("no gradient reaches the embeddings")?;
                gradient.clone()
            }
        };
        checks.tensor(file, &key, reference, &ours, None)?;
    }
    Ok(())
}

/// The rules' points and weights.
fn nodes(tensors: &Tensors, checks: &mut Checks<'_>) -> Result<()> {
    for (what, of) in [
        (
            "alphas",
            (|node| node.alpha) as fn(&attribution::Node) -> f64,
        ),
        ("weights", |node| node.weight),
    ] {
        for (method, reference) in tensors.under(&format!("out.{what}.")) {
            let ours: Vec<f64> = quadrature_of(method)?.nodes()?.iter().map(of).collect();
            let ours = Tensor::new(ours, &Device::Cpu)?;
            let key = format!("out.{what}.{method}");
            checks.tensor(
                &tensors.file,
                &key,
                &reference.to_dtype(DType::F64)?,
                &ours,
                None,
            )?;
        }
    }
    Ok(())
}

/// `gausslegendre.8`, another of Captum's rules as `riemann_middle.8`, or `converged_gl2048`.
fn quadrature_of(method: &str) -> Result<Quadrature> {
    let (rule, nodes) = method
        .strip_prefix("converged_gl")
        .map(|nodes| ("gausslegendre", nodes))
        .or_else(|| method.rsplit_once('.'))
        .with_context(|| format!("{method} does not end in a number of nodes"))?;
    let nodes = nodes
        .parse()
        .with_context(|| format!("{method} has no number of nodes"))?;
    let rule = match rule {
        "gausslegendre" => return Ok(Quadrature::GaussLegendre { nodes }),
        "riemann_left" => Rule::Left,
        "riemann_right" => Rule::Right,
        "riemann_middle" => Rule::Middle,
        "riemann_trapezoid" => Rule::Trapezoid,
        other => bail!("the method {other} is none of Captum's five rules"),
    };
    Ok(Quadrature::Riemann { rule, nodes })
}

fn key_of(checkpoint: &str, method: &str, what: &str) -> String {
    format!("{checkpoint} {method} {what}")
}

/// What the index records of each method that rests on its points and scores alone: the sum of its
/// weights, and the signed sums of blocks.
fn recorded(
    tensors: &Tensors,
    checkpoint: &str,
    own: &Value,
    checks: &mut Checks<'_>,
) -> Result<()> {
    for (method, result) in own["results"].as_object().into_iter().flatten() {
        if let Some(expected) = result["weights_sum"].as_f64() {
            let nodes = quadrature_of(method)?.nodes()?;
            let sum: f64 = nodes.iter().map(|node| node.weight).sum();
            let key = key_of(checkpoint, method, "weights_sum");
            let tolerance = Tolerance {
                atol: 1e-12,
                rtol: 0.0,
            };
            checks.within(INDEX, &key, &[expected], &[sum], None, tolerance)?;
        }
        let scores = tensors.find(&format!("out.scores.{method}"));
        if let (Some(scores), false) = (scores, result["signed_block_sum"].is_null()) {
            let expected = numbers_of(&result["signed_block_sum"])?;
            let expected: Vec<f64> = expected.iter().map(|sum| sum.abs()).collect();
            let scores: Vec<f32> = to_f64(scores)?.iter().map(|&score| score as f32).collect();
            let blocks = Blocks::new(labels(tensors)?, expected.len())?;
            let signed = blocks.masses(&scores, BlockMass::Signed, None)?;
            let key = key_of(checkpoint, method, "signed_block_sum");
            // The reference summed its scores before it rounded them to f32.
            let tolerance = Tolerance {
                atol: 1e-5,
                rtol: 1e-5,
            };
            checks.within(INDEX, &key, &expected, &signed, None, tolerance)?;
        }
    }
    Ok(())
}

/// Scores, their parts, and block masses of one method.
fn attributions(
    subject: &Subject<'_>,
    tensors: &Tensors,
    checkpoint: &str,
    own: &Value,
    method: &str,
    checks: &mut Checks<'_>,
) -> Result<()> {
    let file = &tensors.file;
    let (scores, elements) = (format!("out.scores.{method}"), format!("out.attr.{method}"));
    let mass = key_of(checkpoint, method, "block_mass");
    if !(checks.wants_any(file, [scores.as_str(), &elements]) || checks.wants(INDEX, &mass)) {
        return Ok(());
    }
    let ours = subject.attribute(&quadrature_of(method)?)?;
    if let Some(reference) = tensors.find(&elements) {
        let parts = ours
            .elements
            .as_ref()
            .context("integrated gradients have parts")?;
        checks.tensor(
            file,
            &elements,
            reference,
            &parts.reshape(reference.dims())?,
            None,
        )?;
    }
    let Some(reference) = tensors.find(&scores) else {
        return Ok(());
    };
    let found = ours
        .token_scores()
        .context("integrated gradients score tokens")?;
    let found: Vec<f64> = found.iter().map(|&score| f64::from(score)).collect();
    checks.values(file, &scores, &to_f64(reference)?, &found, None)?;
    let expected = &own["results"][method]["block_mass"];
    if expected.is_null() {
        return Ok(());
    }
    let expected = numbers_of(expected)?;
    let masses = blocks::masses(&labels(tensors)?, expected.len(), &found)?;
    let shares = Distribution::new(&masses, 0.0)?;
    // What the scores' own tolerance can move a share by.
    let allowed = checks.tolerance(file, &scores);
    let total: f64 = masses.iter().sum();
    let atol = 2.0 * (allowed.atol * found.len() as f64 / total + allowed.rtol);
    let tolerance = Tolerance { atol, rtol: 0.0 };
    checks.within(INDEX, &mass, &expected, shares.shares(), None, tolerance)
}

fn labels(tensors: &Tensors) -> Result<Vec<usize>> {
    let labels = to_i64(tensors.get("in.block_labels")?)?;
    labels
        .into_iter()
        .map(|label| usize::try_from(label).context("a block label is negative"))
        .collect()
}

/// `divergences_A_vs_B` of `ig.json`, from the reference's own scores: the arithmetic alone.
pub fn divergences(folder: &Folder, checks: &mut Checks<'_>) -> Result<()> {
    let Some(index) = folder.json_if_any(INDEX)? else {
        return Ok(());
    };
    for (name, methods) in index.as_object().into_iter().flatten() {
        let Some(pair) = name
            .strip_prefix("divergences_")
            .and_then(|name| name.split_once("_vs_"))
        else {
            continue;
        };
        let pair = [pair.0, pair.1];
        checks.case(INDEX, |checks| {
            let blocks = strings_of(&index["blocks"])?.len();
            let eps = number_of(&index["eps"])?;
            for (method, expected) in methods.as_object().into_iter().flatten() {
                let mut masses = Vec::new();
                for checkpoint in pair {
                    let tensors = folder.tensors(&format!("ig/{checkpoint}.safetensors"))?;
                    let scores = to_f64(tensors.get(&format!("out.scores.{method}"))?)?;
                    masses.push(blocks::masses(&labels(&tensors)?, blocks, &scores)?);
                }
                let key = format!("{name} {method}");
                blocks::divergences(INDEX, &key, expected, pair, &masses, eps, checks)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}
