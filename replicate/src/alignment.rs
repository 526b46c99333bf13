//! The attribution of tool calls to the blocks of their prompt, and IAPO's penalty.
//!
//! `F = log p(call | prompt)`; each block b of the prompt gets a mass `A_b`, the masses are
//! normalised to a distribution over P, R, I, T, and
//! `r = r_outcome − λ · D(A_student ‖ A_teacher)` with both taken on the same prompt and call (IAPO,
//! arXiv 2606.11652). The paper's form, as far as known, is
//! `method = "integrated-gradients", baseline = "zero", masses = "absolute", tokens = "all",
//! divergence = "kl"`. Deviations are the profile's other settings; occlusion takes a block's
//! embeddings away instead of integrating, needs no backward pass, and shares one forward pass
//! among all calls of a prompt.

use agent::Block;
use attribution::{
    Attentions, Blocks, Distribution, Quadrature, attention_rollout, integrated_gradients,
};
use candle_core::{DType, Tensor};
use fused_ops::side_by_side;
use qwen2_5_vl::Model;

use crate::Result;
use crate::packing::{Packed, Tree};
use crate::policy::EncodedPrompt;
use crate::profile::{self, Baseline, Method, Tokens};

/// Smoothing of block distributions; a divergence with an empty block stays finite.
const SMOOTHING: f64 = 1e-3;

/// Prompts whose blocks are occluded in one pass: some thousand tokens.
const OCCLUDED_PROMPTS: usize = 4;

/// A prompt with the distinct tool calls that were made on it.
pub struct Site<'a> {
    /// The prompt of the first turn.
    pub prompt: &'a EncodedPrompt,
    /// Distinct calls, as tokens.
    pub calls: Vec<&'a [u32]>,
    /// For each call, which of its tokens are content: tool and names.
    pub content: Vec<Vec<bool>>,
}

/// The attribution of one call.
#[derive(Clone, Debug)]
pub struct CallAttribution {
    /// Shares of P, R, I, T.
    pub shares: Distribution,
    /// |completeness gap| / |F(input) − F(baseline)|; `None` for occlusion and rollout.
    pub relative_gap: Option<f64>,
    /// F at the prompt: the log-probability of the attributed tokens.
    pub log_prob: f64,
    /// Score of every token of the prompt; `None` for occlusion, which knows blocks alone.
    pub scores: Option<Vec<f32>>,
}

/// Attributes every call of every site under a model, which must be detached: gradients of
/// activations are all that is needed.
pub fn attribute(
    model: &Model,
    sites: &[Site<'_>],
    settings: &profile::Attribution,
) -> Result<Vec<Vec<CallAttribution>>> {
    let device = model.device();
    match settings.method {
        Method::Occlusion => {
            let batches: Vec<&[Site]> = sites.chunks(OCCLUDED_PROMPTS).collect();
            let found = side_by_side(device, batches.len(), |index| {
                occlude(model, batches[index], settings)
            });
            let found = found.into_iter().collect::<Result<Vec<_>>>()?;
            Ok(found.into_iter().flatten().collect())
        }
        Method::IntegratedGradients => {
            let calls: Vec<(&Site, usize)> = sites
                .iter()
                .flat_map(|site| (0..site.calls.len()).map(move |call| (site, call)))
                .collect();
            let quadrature = settings.quadrature();
            let found = side_by_side(device, calls.len(), |index| {
                let (site, call) = calls[index];
                integrate(model, site, call, settings, &quadrature)
            });
            let mut found = found.into_iter();
            sites
                .iter()
                .map(|site| found.by_ref().take(site.calls.len()).collect())
                .collect()
        }
    }
}

/// Drops of every call's log-probability when one block's embeddings become the baseline: for each
/// site one tree with the prompt as it is and one for each block, each with all calls as branches.
fn occlude(
    model: &Model,
    sites: &[Site<'_>],
    settings: &profile::Attribution,
) -> Result<Vec<Vec<CallAttribution>>> {
    let variants = 1 + Block::ALL.len();
    let trees: Vec<Tree> = sites
        .iter()
        .flat_map(|site| {
            (0..variants).map(|_| Tree {
                prompt: &site.prompt.prompt,
                branches: site.calls.clone(),
            })
        })
        .collect();
    let packed = Packed::new(model, &trees)?;
    let embeddings = packed.embed(model)?;
    let (_, hidden) = embeddings.dims2()?;
    let mut values: Vec<f32> = embeddings.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    for (site, trees) in sites.iter().zip(packed.prompts.chunks(variants)) {
        for (block, tree) in Block::ALL.iter().zip(&trees[1..]) {
            let rows: Vec<usize> = site
                .prompt
                .blocks
                .iter()
                .enumerate()
                .filter(|(_, own)| *own == block)
                .map(|(token, _)| tree.start + token)
                .collect();
            replace_rows(&mut values, &rows, hidden, settings.baseline);
        }
    }
    let embeddings = Tensor::from_vec(values, embeddings.shape(), embeddings.device())?
        .to_dtype(embeddings.dtype())?;
    let scored = packed.log_probs(model, &embeddings, 1.0)?;
    let log_probs: Vec<f32> = scored.log_probs.to_vec1()?;

    let mut branch = 0;
    let mut found = Vec::with_capacity(sites.len());
    for site in sites {
        let calls = site.calls.len();
        let value = |variant: usize, call: usize| -> f64 {
            let range = packed.branches[branch + variant * calls + call].clone();
            selected(&log_probs[range], &site.content[call], settings.tokens)
                .map(f64::from)
                .sum()
        };
        let attributions = (0..calls)
            .map(|call| {
                let log_prob = value(0, call);
                let drops: Vec<f32> = (1..variants)
                    .map(|variant| (log_prob - value(variant, call)) as f32)
                    .collect();
                let blocks = Blocks::new((0..drops.len()).collect(), drops.len())?;
                let masses = blocks.masses(&drops, settings.masses, None)?;
                Ok(CallAttribution {
                    shares: Distribution::new(&masses, SMOOTHING)?,
                    relative_gap: None,
                    log_prob,
                    scores: None,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        branch += variants * calls;
        found.push(attributions);
    }
    Ok(found)
}

/// Integrated gradients of one call's log-probability over the prompt's embeddings, by a given
/// rule: `settings.nodes` is not read.
pub fn integrate(
    model: &Model,
    site: &Site<'_>,
    call: usize,
    settings: &profile::Attribution,
    quadrature: &Quadrature,
) -> Result<CallAttribution> {
    let baseline = match settings.baseline {
        Baseline::Zero => attribution::Baseline::Zero,
        Baseline::BlockMean => attribution::Baseline::BlockMean,
    };
    integrate_from(&baseline, model, site, call, settings, quadrature)
}

/// [`integrate`] from a baseline that no profile names: the embeddings of the same prompt with
/// blurred images, for one. `settings.baseline` is not read.
pub fn integrate_from(
    baseline: &attribution::Baseline,
    model: &Model,
    site: &Site<'_>,
    call: usize,
    settings: &profile::Attribution,
    quadrature: &Quadrature,
) -> Result<CallAttribution> {
    let prompt = &site.prompt.prompt;
    let tokens = site.calls[call];
    let blocks = blocks_of(site)?;
    let input = model
        .embed(&prompt.input_ids, prompt.image_features.as_ref())?
        .detach();
    let (length, hidden) = input.dims2()?;
    let baseline = baseline.tensor(&input, &blocks)?;
    let mut f = |points: &Tensor| -> candle_core::Result<Tensor> {
        let nodes = points.dim(0)?;
        let trees: Vec<Tree> = (0..nodes)
            .map(|_| Tree {
                prompt,
                branches: vec![tokens],
            })
            .collect();
        let values = || -> Result<Tensor> {
            let packed = Packed::new(model, &trees)?;
            let whole = packed.embed(model)?.detach();
            // Each copy of the prompt gets its own point of the path; the call stays.
            let mut parts = Vec::with_capacity(2 * nodes);
            for (node, range) in packed.prompts.iter().enumerate() {
                parts.push(points.get(node)?);
                let end = match packed.prompts.get(node + 1) {
                    Some(next) => next.start,
                    None => packed.input_ids.len(),
                };
                if end > range.end {
                    parts.push(whole.narrow(0, range.end, end - range.end)?);
                }
            }
            let embeddings = Tensor::cat(&parts, 0)?;
            let scored = packed.log_probs(model, &embeddings, 1.0)?;
            let weights: Vec<f32> = (0..tokens.len())
                .map(|token| match settings.tokens {
                    Tokens::All => 1.0,
                    Tokens::Content => f32::from(site.content[call][token]),
                })
                .collect();
            let weights = Tensor::from_vec(weights, (1, tokens.len()), points.device())?;
            let log_probs = scored.log_probs.reshape((nodes, tokens.len()))?;
            Ok(log_probs.broadcast_mul(&weights)?.sum(1)?)
        };
        values().map_err(candle_core::Error::wrap)
    };
    let nodes_per_batch = (4096 / (length + tokens.len())).max(1);
    let result = integrated_gradients(&input, &baseline, quadrature, nodes_per_batch, &mut f)?;
    debug_assert_eq!(result.scores.len() * hidden, length * hidden);
    let masses = blocks.masses(&result.scores, settings.masses, None)?;
    Ok(CallAttribution {
        shares: Distribution::new(&masses, SMOOTHING)?,
        relative_gap: result.relative_gap,
        log_prob: result.f_input,
        scores: Some(result.scores),
    })
}

/// Attention rollout of one call: what part of the attention of the positions that predict it
/// reaches each token of the prompt. It tells where the model looks, not what speaks for the call.
pub fn rollout(
    model: &Model,
    site: &Site<'_>,
    call: usize,
    settings: &profile::Attribution,
) -> Result<CallAttribution> {
    let tokens = site.calls[call];
    let packed = Packed::new(
        model,
        &[Tree {
            prompt: &site.prompt.prompt,
            branches: vec![tokens],
        }],
    )?;
    let embeddings = packed.embed(model)?;
    let layers = model.attentions(&embeddings, &packed.positions, &packed.layout)?;
    let blocks = blocks_of(site)?;
    // The prompt's last position predicts the first token of the call.
    let first_target = blocks.tokens().saturating_sub(1);
    let attentions = Attentions {
        layers: &layers,
        first_target,
        end_target: first_target + tokens.len(),
    };
    let scores: Vec<f32> = attention_rollout(attentions, blocks.tokens())?
        .into_iter()
        .map(|score| score as f32)
        .collect();
    let masses = blocks.masses(&scores, settings.masses, None)?;
    let scored = packed.log_probs(model, &embeddings, 1.0)?;
    let log_probs: Vec<f32> = scored.log_probs.to_vec1()?;
    Ok(CallAttribution {
        shares: Distribution::new(&masses, SMOOTHING)?,
        relative_gap: None,
        log_prob: selected(&log_probs, &site.content[call], settings.tokens)
            .map(f64::from)
            .sum(),
        scores: Some(scores),
    })
}

/// The block of every token of a site's prompt.
fn blocks_of(site: &Site<'_>) -> Result<Blocks> {
    let labels = site.prompt.blocks.iter().map(|block| *block as usize);
    Ok(Blocks::new(labels.collect(), Block::ALL.len())?)
}

fn selected<'a>(
    log_probs: &'a [f32],
    content: &'a [bool],
    tokens: Tokens,
) -> impl Iterator<Item = f32> + 'a {
    log_probs
        .iter()
        .zip(content)
        .filter(move |(_, content)| tokens == Tokens::All || **content)
        .map(|(log_prob, _)| *log_prob)
}

fn replace_rows(values: &mut [f32], rows: &[usize], hidden: usize, baseline: Baseline) {
    if rows.is_empty() {
        return;
    }
    let mut mean = vec![0f32; hidden];
    if baseline == Baseline::BlockMean {
        for &row in rows {
            for (sum, value) in mean.iter_mut().zip(&values[row * hidden..]) {
                *sum += value / rows.len() as f32;
            }
        }
    }
    for &row in rows {
        values[row * hidden..(row + 1) * hidden].copy_from_slice(&mean);
    }
}

/// Passes through a model that one call's attribution takes.
pub fn passes(settings: &profile::Attribution) -> usize {
    match settings.method {
        Method::Occlusion => 1 + Block::ALL.len(),
        Method::IntegratedGradients => settings.nodes,
    }
}
