//! The attribution of tool calls to the blocks of their prompt, and IAPO's penalty.
//!
//! `F = log p(call | prompt)`; each block b of the prompt gets a mass `A_b`, the masses are
//! normalised to a distribution over P, R, I, T, and
//! `r = r_outcome − λ · D(A_student ‖ A_teacher)` with both taken on the same prompt and call (IAPO,
//! arXiv 2606.11652). The paper's form, as far as known, is
//! `method = "integrated-gradients", baseline = "zero", masses = "absolute", tokens = "all",
//! divergence = "kl"`. Deviations are the profile's other settings. Occlusion takes a block's
//! embeddings away instead of integrating; path differences integrate for whole blocks. Both need no
//! backward pass and share one forward pass among all calls of a prompt.

use agent::Block;
use attribution::{
    Attentions, Blocks, Distribution, Quadrature, Staircase, attention_rollout,
    integrated_gradients,
};
use candle_core::{DType, Tensor};
use fused_ops::side_by_side;
use qwen2_5_vl::Model;

use crate::Result;
use crate::packing::{Packed, Tree};
use crate::policy::{EncodedPrompt, LocalPolicy};
use baselines::attribution_settings::{AttributionSettings, Baseline, Method, Tokens};

/// Smoothing of block distributions; a divergence with an empty block stays finite.
const SMOOTHING: f64 = 1e-3;

/// Edited prompts of one pass: some thousand tokens with their calls.
const EDITED_PROMPTS: usize = 20;

/// Tokens of one forward and backward pass along the path: a small model's activations for so many
/// stay in the second-level cache, which is 1.6 times as fast as 4,096 of them.
const INTEGRATED_TOKENS: usize = 512;

/// A prompt with the distinct tool calls that were made on it.
pub struct CalledPrompt<'a> {
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
    /// Score of every token of the prompt; `None` for methods that know blocks alone.
    pub scores: Option<Vec<f32>>,
}

/// Attributes every call of every site under a model, which must be detached: gradients of
/// activations are all that is needed.
pub fn attribute(
    model: &Model,
    sites: &[CalledPrompt<'_>],
    settings: &AttributionSettings,
) -> Result<Vec<Vec<CallAttribution>>> {
    let device = model.device();
    match settings.method {
        Method::Occlusion | Method::PathDifferences => {
            let edits = Edits::of(settings)?;
            let sites_at_once = (EDITED_PROMPTS / edits.points.len()).max(1);
            let batches: Vec<&[CalledPrompt]> = sites.chunks(sites_at_once).collect();
            let found = side_by_side(device, batches.len(), |index| {
                edited(model, batches[index], settings, &edits)
            });
            let found = found.into_iter().collect::<Result<Vec<_>>>()?;
            Ok(found.into_iter().flatten().collect())
        }
        Method::IntegratedGradients => {
            let calls: Vec<(&CalledPrompt, usize)> = sites
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

/// Prompts with some blocks moved from the baseline towards the input, and how the values of F there
/// give the blocks' masses.
struct Edits {
    /// For every edited prompt the share of the way that P, R, I, T have gone; the last is the input.
    points: Vec<Vec<f64>>,
    /// The path of which they are points; `None` for occlusion, one block a point.
    staircase: Option<Staircase>,
}

impl Edits {
    fn of(settings: &AttributionSettings) -> Result<Self> {
        let blocks = Block::ALL.len();
        if settings.method == Method::PathDifferences {
            let staircase = settings.staircase();
            return Ok(Edits {
                points: staircase.points(blocks)?,
                staircase: Some(staircase),
            });
        }
        let without = |gone: usize| {
            let present = |block: usize| f64::from(u8::from(block != gone));
            (0..blocks).map(present).collect()
        };
        // No block has the number after the last one.
        Ok(Edits {
            points: (0..=blocks).map(without).collect(),
            staircase: None,
        })
    }

    fn masses(&self, values: &[f64]) -> Vec<f64> {
        let (at_input, others) = values.split_last().expect("there is at least the input");
        match &self.staircase {
            Some(staircase) => staircase.masses(values, Block::ALL.len()),
            None => others.iter().map(|value| at_input - value).collect(),
        }
    }
}

/// The masses of every call's blocks from the values of F at edited prompts: for each site one tree
/// a point, each with all calls as branches.
fn edited(
    model: &Model,
    sites: &[CalledPrompt<'_>],
    settings: &AttributionSettings,
    edits: &Edits,
) -> Result<Vec<Vec<CallAttribution>>> {
    let points = edits.points.len();
    let trees: Vec<Tree> = sites
        .iter()
        .flat_map(|site| {
            (0..points).map(|_| Tree {
                prompt: &site.prompt.prompt,
                branches: site.calls.clone(),
            })
        })
        .collect();
    let packed = Packed::new(model, &trees)?;
    let embeddings = packed.embed(model)?;
    let (_, hidden) = embeddings.dims2()?;
    let mut values: Vec<f32> = embeddings.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    for (site, trees) in sites.iter().zip(packed.prompts.chunks(points)) {
        for (shares, tree) in edits.points.iter().zip(trees) {
            for (block, &share) in Block::ALL.iter().zip(shares) {
                let rows: Vec<usize> = site
                    .prompt
                    .blocks
                    .iter()
                    .enumerate()
                    .filter(|(_, own)| *own == block)
                    .map(|(token, _)| tree.start + token)
                    .collect();
                move_rows(&mut values, &rows, hidden, settings.baseline, share as f32);
            }
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
        let value = |point: usize, call: usize| -> f64 {
            let range = packed.branches[branch + point * calls + call].clone();
            selected(&log_probs[range], &site.content[call], settings.tokens)
                .map(f64::from)
                .sum()
        };
        let attributions = (0..calls)
            .map(|call| {
                let values: Vec<f64> = (0..points).map(|point| value(point, call)).collect();
                let raw: Vec<f32> = edits.masses(&values).iter().map(|m| *m as f32).collect();
                let blocks = Blocks::new((0..raw.len()).collect(), raw.len())?;
                let masses = blocks.masses(&raw, settings.masses, None)?;
                Ok(CallAttribution {
                    shares: Distribution::new(&masses, SMOOTHING)?,
                    // The differences telescope.
                    relative_gap: edits.staircase.map(|_| 0.0),
                    log_prob: values[points - 1],
                    scores: None,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        branch += points * calls;
        found.push(attributions);
    }
    Ok(found)
}

/// Integrated gradients of one call's log-probability over the prompt's embeddings, by a given
/// rule: `settings.nodes` is not read.
pub fn integrate(
    model: &Model,
    site: &CalledPrompt<'_>,
    call: usize,
    settings: &AttributionSettings,
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
    site: &CalledPrompt<'_>,
    call: usize,
    settings: &AttributionSettings,
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
    let nodes_per_batch = (INTEGRATED_TOKENS / (length + tokens.len())).max(1);
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
    site: &CalledPrompt<'_>,
    call: usize,
    settings: &AttributionSettings,
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
fn blocks_of(site: &CalledPrompt<'_>) -> Result<Blocks> {
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

/// Puts rows at a share of the way from the baseline to what they are.
fn move_rows(values: &mut [f32], rows: &[usize], hidden: usize, baseline: Baseline, share: f32) {
    if rows.is_empty() || share == 1.0 {
        return;
    }
    let mut base = vec![0f32; hidden];
    if baseline == Baseline::BlockMean {
        for &row in rows {
            for (sum, value) in base.iter_mut().zip(&values[row * hidden..]) {
                *sum += value / rows.len() as f32;
            }
        }
    }
    for &row in rows {
        let row = &mut values[row * hidden..(row + 1) * hidden];
        for (value, base) in row.iter_mut().zip(&base) {
            *value = base + share * (*value - base);
        }
    }
}

/// Passes through a model that one call's attribution takes.
pub fn passes(settings: &AttributionSettings) -> usize {
    match settings.method {
        Method::Occlusion => 1 + Block::ALL.len(),
        Method::IntegratedGradients => settings.nodes,
        Method::PathDifferences => 1 + settings.nodes * Block::ALL.len(),
    }
}

/// Tool and names: the tokens of a call that differ between calls.
pub fn content_tokens(policy: &LocalPolicy, ids: &[u32]) -> Vec<bool> {
    ids.iter()
        .map(|id| {
            let text = policy.processor.decode(&[*id], true).unwrap_or_default();
            text.starts_with("focus_on_")
                || text.len() == 2 && text.chars().all(char::is_alphabetic)
        })
        .collect()
}
