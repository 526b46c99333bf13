//! The attribution of tool calls to the blocks of their prompt, and IAPO's penalty.
//!
//! `F = log p(call | prompt)`; each block b of the prompt gets a mass `A_b`, the masses are
//! normalised to a distribution over P, R, I, T, and
//! `r = r_outcome − λ · D(A_student ‖ A_teacher)` with both taken on the same prompt and call (IAPO,
//! arXiv 2606.11652). The methods are those of the `attribution` crate, which says where F or its
//! gradient is needed; here a model gives them. Values share one forward pass among all calls of a
//! prompt and the points of several prompts. For gradients a prompt is run once a node for all its calls,
//! several nodes a pass ([`crate::call_gradients`]).

use agent::Block;
use attribution::{
    Attentions, AttributedFunctions, Attribution, Blocks, Distribution, GradientSum, Node, Path,
    Point,
};
use baselines::attribution_settings::{AttributedTokens, AttributionSettings};
use candle_core::Tensor;
use fused_ops::{side_by_side, side_by_side_in_turn, threads};
use qwen2_5_vl::{Model, cut};

use crate::call_gradients::call_gradients;
pub use crate::called_prompt::{AttributedCall, CalledPrompt};
use crate::encoding::EncodedPrompt;
use crate::packing::{Packed, Tree};
use crate::policy::Budgets;
use crate::{Error, Result};

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
    /// Points of the path at which the model was evaluated.
    pub passes: usize,
}

/// Attributes every call of every prompt under a model, which must be detached: gradients of
/// activations are all that is needed. `budgets` are those of the policy that made the calls.
///
/// # Errors
/// A call without tokens, a setting out of range, values that are not finite.
pub fn attribute(
    model: &Model,
    prompts: &[CalledPrompt<'_>],
    settings: &AttributionSettings,
    budgets: Budgets,
) -> Result<Vec<Vec<CallAttribution>>> {
    let paths = prompts
        .iter()
        .map(|called| {
            let input = embeddings(model, called.prompt)?;
            Ok(Path::new(
                &input,
                settings.baseline,
                blocks_of(called.prompt)?,
            )?)
        })
        .collect::<Result<Vec<_>>>()?;
    attribute_along(&paths, model, prompts, settings, budgets)
}

/// As [`attribute`], from the embeddings of other prompts of the same tokens, one for each: the same
/// prompt with a blurred image, for one. `settings.baseline` is not read.
///
/// # Errors
/// As [`attribute`]; prompts of other lengths.
pub fn attribute_from(
    starts: &[&EncodedPrompt],
    model: &Model,
    prompts: &[CalledPrompt<'_>],
    settings: &AttributionSettings,
    budgets: Budgets,
) -> Result<Vec<Vec<CallAttribution>>> {
    let paths = prompts
        .iter()
        .zip(starts)
        .map(|(called, start)| {
            let (start, input) = (embeddings(model, start)?, embeddings(model, called.prompt)?);
            Ok(Path::between(&start, &input, blocks_of(called.prompt)?)?)
        })
        .collect::<Result<Vec<_>>>()?;
    attribute_along(&paths, model, prompts, settings, budgets)
}

fn attribute_along(
    paths: &[Path],
    model: &Model,
    prompts: &[CalledPrompt<'_>],
    settings: &AttributionSettings,
    budgets: Budgets,
) -> Result<Vec<Vec<CallAttribution>>> {
    for (prompt, called) in prompts.iter().enumerate() {
        let empty = |call: &AttributedCall| call.token_ids.is_empty();
        if let Some(call) = called.calls.iter().position(empty) {
            return Err(Error::EmptyCall { prompt, call });
        }
    }
    let mut functions = CallLogProbs {
        model,
        prompts,
        settings,
        budgets,
    };
    let found = settings.method.attribute(paths, &mut functions)?;
    paths
        .iter()
        .zip(found)
        .map(|(path, calls)| {
            let calls = calls.into_iter();
            calls
                .map(|call| call_attribution(path.blocks(), call, settings))
                .collect()
        })
        .collect()
}

fn call_attribution(
    blocks: &Blocks,
    found: Attribution,
    settings: &AttributionSettings,
) -> Result<CallAttribution> {
    let masses = found.masses(blocks, settings.masses)?;
    Ok(CallAttribution {
        shares: Distribution::new(&masses, settings.smoothing)?,
        relative_gap: found.relative_gap(),
        log_prob: found.f_input,
        scores: found.token_scores().map(<[f32]>::to_vec),
        passes: found.forward_points,
    })
}

/// The input embeddings of a prompt, `(tokens, hidden)`.
fn embeddings(model: &Model, encoded: &EncodedPrompt) -> Result<Tensor> {
    let prompt = &encoded.prompt;
    Ok(model
        .embed(&prompt.input_ids, prompt.image_features.as_ref())?
        .detach())
}

/// The block of every token of a prompt.
fn blocks_of(encoded: &EncodedPrompt) -> Result<Blocks> {
    let labels = encoded.blocks.iter().map(|block| *block as usize);
    Ok(Blocks::new(labels.collect(), Block::ALL.len())?)
}

/// Passes that a thread has at least, where there are as many points.
const PASSES_OF_A_THREAD: usize = 4;

/// A model as attribution sees it: F of every call of every prompt.
struct CallLogProbs<'a> {
    model: &'a Model,
    prompts: &'a [CalledPrompt<'a>],
    settings: &'a AttributionSettings,
    budgets: Budgets,
}

impl AttributedFunctions for CallLogProbs<'_> {
    type Error = Error;

    fn values(&mut self, paths: &[Path], points: &[Point]) -> Result<Vec<Vec<f64>>> {
        let batches = self.batches(points);
        let found = side_by_side(self.model.device(), batches.len(), |index| {
            self.values_of(paths, batches[index])
        });
        let found = found.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(found.into_iter().flatten().collect())
    }

    fn gradients(&mut self, paths: &[Path], nodes: &[Node]) -> Result<Vec<Vec<GradientSum>>> {
        let with_calls = paths.iter().zip(self.prompts).enumerate();
        let with_calls = with_calls.filter(|(_, (_, called))| !called.calls.is_empty());
        let passes = with_calls.flat_map(|(index, (_, called))| {
            let nodes = nodes.chunks(self.nodes_per_pass(called, nodes.len()));
            nodes.map(move |nodes| (index, nodes))
        });
        let passes: Vec<(usize, &[Node])> = passes.collect();
        let sums = paths.iter().zip(self.prompts);
        let sums = sums.map(|(path, called)| vec![GradientSum::new(path); called.calls.len()]);
        let mut sums: Vec<Vec<GradientSum>> = sums.collect();
        side_by_side_in_turn(
            self.model.device(),
            passes.len(),
            |pass| {
                let (index, nodes) = passes[pass];
                let points = paths[index].along(nodes)?;
                let counts = |content| self.counts(content);
                call_gradients(self.model, &self.prompts[index], &points, counts)
            },
            |pass, found| -> Result<()> {
                let (index, nodes) = passes[pass];
                for (sum, own) in sums[index].iter_mut().zip(found?) {
                    sum.add_gradients(nodes, &own.values, &own.gradients)?;
                }
                Ok(())
            },
        )?;
        Ok(sums)
    }

    fn attentions(&mut self, path: usize, call: usize) -> Result<Attentions> {
        let called = &self.prompts[path];
        let tokens = called.calls[call].token_ids;
        let tree = Tree {
            prompt: &called.prompt.prompt,
            branches: vec![tokens],
        };
        let packed = Packed::new(self.model, &[tree])?;
        let embeddings = packed.embed(self.model)?;
        let layers = self
            .model
            .attentions(&embeddings, &packed.positions, &packed.layout)?;
        // The prompt's last position predicts the first token of the call.
        let first = called.prompt.blocks.len().saturating_sub(1);
        Ok(Attentions {
            layers,
            targets: first..first + tokens.len(),
        })
    }
}

impl CallLogProbs<'_> {
    /// Points in order, cut where the tokens of a pass would grow too many. On a processor every thread
    /// has some passes: none waits long for another, and what a pass holds stays in the caches.
    fn batches<'p>(&self, points: &'p [Point]) -> Vec<&'p [Point]> {
        let tokens: Vec<usize> = self
            .prompts
            .iter()
            .map(|called| {
                let calls = called.calls.iter().map(|call| call.token_ids.len());
                called.prompt.blocks.len() + calls.sum::<usize>()
            })
            .collect();
        let all: usize = points.iter().map(|point| tokens[point.path]).sum();
        let shared_out = match self.model.device().is_cpu() {
            true => all.div_ceil(PASSES_OF_A_THREAD * threads()),
            false => all,
        };
        let most = self.budgets.attribution_tokens.min(shared_out);
        cut(points, most, |point| tokens[point.path])
    }

    /// F of all calls at every point, in one pass: one tree per point, each with all calls as branches.
    fn values_of(&self, paths: &[Path], points: &[Point]) -> Result<Vec<Vec<f64>>> {
        let called: Vec<&CalledPrompt> = points
            .iter()
            .map(|point| &self.prompts[point.path])
            .collect();
        let trees: Vec<Tree> = called
            .iter()
            .map(|called| Tree {
                prompt: &called.prompt.prompt,
                branches: called.calls.iter().map(|call| call.token_ids).collect(),
            })
            .collect();
        let packed = Packed::new(self.model, &trees)?;
        let prompts = points
            .iter()
            .map(|point| Ok(paths[point.path].at(&point.shares)?))
            .collect::<Result<Vec<_>>>()?;
        let embeddings = self.with_prompts(&packed, &prompts)?;
        let scored = packed.log_probs(self.model, &embeddings, 1.0)?;
        let log_probs: Vec<f32> = scored.log_probs.to_vec1()?;
        let mut branches = packed.branches.into_iter();
        let sum = |(call, range): (&AttributedCall, std::ops::Range<usize>)| -> f64 {
            let tokens = log_probs[range].iter().zip(&call.content);
            tokens
                .filter(|(_, content)| self.counts(**content))
                .map(|(log_prob, _)| f64::from(*log_prob))
                .sum()
        };
        Ok(called
            .into_iter()
            .map(|called| {
                let calls = called.calls.iter();
                calls.zip(branches.by_ref()).map(sum).collect()
            })
            .collect())
    }

    /// Nodes of a prompt's path that are run together. On a processor the calls of a prompt go back
    /// through it together and each counts, and nodes are left for every thread.
    fn nodes_per_pass(&self, called: &CalledPrompt<'_>, nodes: usize) -> usize {
        // The last token of the prompt is run with a call.
        let before = called.prompt.blocks.len().saturating_sub(1);
        let calls = called.calls.iter();
        let lengths = calls.map(|call| before + call.token_ids.len());
        let (tokens, most) = match self.model.device().is_cpu() {
            true => {
                let all = self.prompts.len() * nodes;
                (lengths.sum(), all.div_ceil(threads()))
            }
            false => (lengths.max().unwrap_or(0), nodes),
        };
        let room = self.budgets.attribution_gradient_tokens / tokens.max(1);
        room.min(most).max(1)
    }

    /// The input embeddings of packed trees with those of the prompts given, `(tokens, hidden)` for
    /// each tree; the calls keep their own.
    fn with_prompts(&self, packed: &Packed, prompts: &[Tensor]) -> Result<Tensor> {
        let whole = packed.embed(self.model)?.detach();
        let mut parts = Vec::with_capacity(2 * prompts.len());
        for (index, (prompt, range)) in prompts.iter().zip(&packed.prompts).enumerate() {
            parts.push(prompt.clone());
            let end = match packed.prompts.get(index + 1) {
                Some(next) => next.start,
                None => packed.input_ids.len(),
            };
            if end > range.end {
                parts.push(whole.narrow(0, range.end, end - range.end)?);
            }
        }
        Ok(Tensor::cat(&parts, 0)?)
    }

    /// Whether a token of a call is attributed.
    fn counts(&self, content: bool) -> bool {
        content || self.settings.tokens == AttributedTokens::All
    }
}
